"""Losses and roughness penalties compute what the published ones do."""

from collections.abc import Callable

import pytest
from torch import Tensor, nn

from coread.modules.layers.regularizers import FlatLaplaceL23dnorm, TimeLaplaceL23dnorm
from coread.modules.losses import CorrelationLoss3d, PoissonLoss3d

LOSSES = {
    "poisson": PoissonLoss3d(avg=False),
    "poisson_avg": PoissonLoss3d(),
    "poisson_per_neuron": PoissonLoss3d(per_neuron=True),
    "correlation": CorrelationLoss3d(avg=True),
}


@pytest.mark.parametrize("name", list(LOSSES))
def test_loss_matches(name: str, load_case: Callable, assert_matches: Callable[[Tensor, Tensor], None]):
    _, _, case = load_case("losses")
    assert_matches(LOSSES[name](case["prediction"], case["target"]), case[name])


@pytest.mark.parametrize(
    ("penalty", "weights", "value"),
    [
        (FlatLaplaceL23dnorm(padding=0), "spatial", "flat_laplace"),
        (TimeLaplaceL23dnorm(padding=0), "temporal", "time_laplace"),
    ],
)
def test_roughness_matches(
    penalty: nn.Module,
    weights: str,
    value: str,
    load_case: Callable,
    assert_matches: Callable[[Tensor, Tensor], None],
):
    _, _, case = load_case("laplace")
    assert_matches(penalty(case[weights]), case[value])
