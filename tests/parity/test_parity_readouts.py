"""The readouts of one session compute what the published ones do."""

from collections.abc import Callable

import pytest
from torch import Tensor

from coread.modules.readout.base import Readout
from coread.modules.readout.factorized import FactorizedReadout
from coread.modules.readout.factorized_gaussian import GaussianMaskReadout
from coread.modules.readout.gaussian import PointGaussianReadout

READOUTS: dict[str, Callable[..., Readout]] = {
    "factorized": FactorizedReadout,
    "gaussian_mask": GaussianMaskReadout,
    "point_gaussian": PointGaussianReadout,
}


@pytest.mark.parametrize("name", list(READOUTS))
@pytest.mark.parametrize("published_behaviour", [False, True])
def test_output_and_penalty_match(
    name: str,
    published_behaviour: bool,
    load_case: Callable,
    assert_matches: Callable[[Tensor, Tensor], None],
):
    kwargs, state, case = load_case(f"readout_{name}")
    readout = READOUTS[name](**kwargs, published_behaviour=published_behaviour)
    assert set(readout.state_dict()) == set(state)
    readout.load_state_dict(state)
    assert_matches(readout.eval()(case["x"]), case["y"])
    assert_matches(readout.regularizer(), case["regularizer"])
