"""The core computes what the published one does, and its state dict loads."""

from collections.abc import Callable

import pytest
from torch import Tensor

from coread.modules.core import SimpleCoreWrapper


@pytest.mark.parametrize(
    ("name", "published_behaviour"),
    [("core_custom_separable", False), ("core_custom_separable", True), ("core_separable", True)],
)
def test_output_and_penalty_match(
    name: str, published_behaviour: bool, load_case: Callable, assert_matches: Callable[[Tensor, Tensor], None]
):
    kwargs, state, case = load_case(name)
    core = SimpleCoreWrapper(**kwargs, published_behaviour=published_behaviour)
    assert set(core.state_dict()) == set(state)
    core.load_state_dict(state)
    assert_matches(core.eval()(case["x"]), case["y_eval"])
    assert_matches(core.train()(case["x"]), case["y_train"])
    assert_matches(core.regularizer(), case["regularizer"])
