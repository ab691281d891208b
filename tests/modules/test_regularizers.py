import math

import pytest
import torch

from coread.modules.layers.reducers import WeightedChannelSumLayer
from coread.modules.layers.regularizers import (
    FlatLaplaceL23dnorm,
    LaplaceL2norm,
    TimeLaplaceL23dnorm,
    group_sparsity,
    temporal_smoothing,
)


def test_golden_numbers():
    delta = torch.zeros(1, 1, 1, 5, 5)
    delta[..., 2, 2] = 1
    assert float(FlatLaplaceL23dnorm(padding=0)(delta)) == pytest.approx(19.99998, abs=1e-5)
    assert float(group_sparsity(torch.ones(2, 3, 1, 4, 4))) == pytest.approx(2 * math.sqrt(3), abs=1e-5)
    ones = torch.ones(16, 2, 7)
    assert float(temporal_smoothing(ones, ones)) == pytest.approx(8.991111, abs=1e-5)


def test_roughness_does_not_depend_on_the_scale():
    weights = torch.randn(3, 2, 1, 6, 5)
    for penalty, w in ((FlatLaplaceL23dnorm(), weights), (LaplaceL2norm(), weights.squeeze(2))):
        torch.testing.assert_close(penalty(w), penalty(100 * w), rtol=1e-5, atol=0)
    traces = torch.randn(3, 2, 8, 1, 1)
    torch.testing.assert_close(TimeLaplaceL23dnorm()(traces), TimeLaplaceL23dnorm()(100 * traces), rtol=1e-5, atol=0)


def test_roughness_in_time_is_a_ratio_of_squares():
    trace = torch.tensor([0.0, 1.0, 3.0, 2.0, -1.0])  # second differences 1, -3, -2, whose sum is not their power
    found = TimeLaplaceL23dnorm(padding=0)(trace.view(1, 1, 5, 1, 1))
    assert float(found) == pytest.approx((1 + 9 + 4) / (1 + 9 + 4 + 1), rel=1e-5)


def test_group_sparsity_is_finite_at_zero():
    weights = torch.zeros(2, 3, 1, 2, 2, requires_grad=True)
    group_sparsity(weights).backward()
    assert weights.grad is not None
    assert torch.isfinite(weights.grad).all()


def test_wrong_shapes_are_errors():
    with pytest.raises(ValueError, match="height, width"):
        FlatLaplaceL23dnorm()(torch.zeros(1, 1, 2, 3, 3))
    with pytest.raises(ValueError, match="time, 1, 1"):
        TimeLaplaceL23dnorm()(torch.zeros(1, 1, 2, 3, 3))


def test_weighted_channel_sum():
    x = torch.ones(1, 2, 5, 4, 3)
    x[:, 1] = 3
    layer = WeightedChannelSumLayer((5, 7))
    torch.testing.assert_close(layer(x), torch.full((1, 1, 5, 4, 3), 26.0))
    assert layer(x[:, :1]) is not None
    with pytest.raises(ValueError, match="2 channel weights"):
        layer(torch.ones(1, 3, 5, 4, 3))
