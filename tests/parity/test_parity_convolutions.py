"""The convolution layers compute what the published ones do."""

from collections.abc import Callable

import pytest
from torch import Tensor

from coread.modules.layers.convolutions import CONVOLUTION_TYPES


@pytest.mark.parametrize("name", sorted(CONVOLUTION_TYPES))
def test_output_and_gradients_match(name: str, load_case: Callable, assert_matches: Callable[[Tensor, Tensor], None]):
    kwargs, state, case = load_case(f"conv_{name}")
    layer = CONVOLUTION_TYPES[name](**kwargs)
    assert set(layer.state_dict()) == set(state)
    layer.load_state_dict(state)
    x = case["x"].clone().requires_grad_()
    y = layer(x)
    assert_matches(y, case["y"])
    y.square().sum().backward()
    assert_matches(x.grad, case["grad_x"])
    for parameter, value in layer.named_parameters():
        assert_matches(value.grad, case[f"grad/{parameter}"])
