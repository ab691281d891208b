"""When optimisations end."""

import sys

import pytest

from coread.insilico.stimulus_optimization.optimization_stopper import EarlyStopper, OptimizationStopper

RISES, FALLS = [1.0, 1.1, 1.2, 1.3], [1.0, 0.9, 0.8, 0.7]


@pytest.mark.parametrize(
    ("min_delta", "patience", "losses", "answers"),
    [
        (0.0, 1, [1.0], [False]),
        (0.0, 1, RISES, [False, True, True, True]),
        (0.0, 1, FALLS, [False] * 4),
        (0.0, 3, RISES, [False, False, False, True]),
        (0.0, 3, FALLS, [False] * 4),
        (0.0, 3, [1.0, 0.9, 0.8, 0.7, 0.8, 0.9, 1.0, 1.1], [False] * 6 + [True, True]),
        (0.1, 1, [1.0, 1.01, 1.09, 1.15, 0.9, 1.01], [False, False, False, True, False, True]),
        (0.0, 2, [1.0, 1.0, 1.0, 1.0], [False] * 4),  # a plateau goes on
    ],
)
def test_published_rule(min_delta: float, patience: int, losses: list[float], answers: list[bool]) -> None:
    stopper = EarlyStopper(min_delta=min_delta, patience=patience)
    assert [stopper.early_stop(loss) for loss in losses] == answers


def test_documented_rule_counts_iterations_without_a_gain() -> None:
    stopper = OptimizationStopper(max_iterations=200, patience=2)
    assert stopper.max_iterations == 200
    assert [stopper.early_stop(loss) for loss in (1.0, 0.9, 0.9, 0.95)] == [False, False, False, True]


def test_small_gains_count_once_they_have_added_up() -> None:
    stopper = OptimizationStopper(None, patience=3, min_share=0.1)
    losses = [-1.0, -1.04, -1.08, -1.12, -1.16, -1.2, -1.21]
    assert [stopper.early_stop(loss) for loss in losses] == [False, False, False, False, False, False, True]


def test_without_patience_only_the_number_of_iterations_counts() -> None:
    stopper = OptimizationStopper(max_iterations=3)
    assert not any(stopper.early_stop(loss) for loss in RISES)
    assert OptimizationStopper(None).max_iterations == sys.maxsize
    with pytest.raises(ValueError, match="at least 1"):
        OptimizationStopper(5, patience=0)
