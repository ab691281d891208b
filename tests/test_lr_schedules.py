"""Learning-rate schedules: their rates, when they are stepped, what they watch."""

from typing import Any

import pytest
import torch

from coread.lr_schedules import (
    Schedule,
    constant_lr,
    cosine_annealing_lr,
    cosine_annealing_warm_restarts,
    exponential_lr,
    multi_step_lr,
    one_cycle_lr,
    reduce_lr_on_plateau,
    step_lr,
    warmup_cosine,
)


def make_optimizer(rate: float = 1.0, kind: type[torch.optim.Optimizer] = torch.optim.SGD) -> torch.optim.Optimizer:
    return kind([torch.nn.Parameter(torch.zeros(1))], lr=rate)  # type: ignore[call-arg]


def rates(optimizer: torch.optim.Optimizer, schedule: Schedule, n: int) -> list[float]:
    """Return the learning rate before each of `n` steps of the schedule."""
    found = []
    for _ in range(n):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.scheduler.step()
    return found


@pytest.mark.parametrize("total_steps", [1, 2, 5, 9, 10, 11, 100])
def test_warmup_cosine_for_any_number_of_steps(total_steps):
    optimizer = make_optimizer()
    schedule = warmup_cosine(optimizer, total_steps, max_lr=0.5)
    rates = []
    for _ in range(total_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step() if len(rates) < total_steps else None
    assert all(0 < rate <= 0.5 for rate in rates)
    if total_steps == 100:
        assert rates[0] == pytest.approx(0.02)
        assert max(rates) == pytest.approx(0.5)
        assert rates.index(max(rates)) == 9
        assert rates[-1] == pytest.approx(0.02 / 1000)


@pytest.mark.parametrize(
    ("make", "arguments", "interval", "expected"),
    [
        (exponential_lr, {"gamma": 0.5}, "epoch", [1, 0.5, 0.25, 0.125]),
        (step_lr, {"step_size": 2, "gamma": 0.1}, "epoch", [1, 1, 0.1, 0.1, 0.01]),
        (multi_step_lr, {"milestones": [1, 3], "gamma": 0.1}, "epoch", [1, 0.1, 0.1, 0.01]),
        (constant_lr, {}, "epoch", [1, 1, 1]),
        (cosine_annealing_lr, {"T_max": 2, "eta_min": 0.0}, "epoch", [1, 0.5, 0]),
        (cosine_annealing_lr, {"eta_min": 0.0}, "step", [1, 0.5 * (1 + 3**0.5 / 2), 0.75, 0.5, 0.25]),
        (cosine_annealing_warm_restarts, {"T_0": 1, "T_mult": 2, "eta_min": 0.0}, "epoch", [1, 1, 0.5, 1]),
    ],
)
def test_published_schedules(make: Any, arguments: dict[str, Any], interval: str, expected: list[float]) -> None:
    optimizer = make_optimizer()
    schedule = make(optimizer, 6, **arguments)
    assert schedule.interval == interval
    assert rates(optimizer, schedule, len(expected)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_one_cycle_ends_after_all_steps_and_turns_the_momentum_round(kind: type[torch.optim.Optimizer]) -> None:
    optimizer = make_optimizer(kind=kind)
    found = rates(optimizer, one_cycle_lr(optimizer, 101, max_lr=0.5), 100)
    assert found[0] == pytest.approx(0.02)
    assert max(found) == pytest.approx(0.5, rel=1e-3)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.02 / 1e4)
    for total in (1, 2, 10, 11):  # lengths where a share of the steps is no whole number
        optimizer = make_optimizer(kind=kind)
        assert all(0 < rate <= 0.5 for rate in rates(optimizer, one_cycle_lr(optimizer, total + 1, 0.5), total))


def test_a_plateau_knows_whether_more_is_better() -> None:
    for monitor, mode in (("val_correlation", "max"), ("val_loss", "min")):
        optimizer = make_optimizer()
        schedule = reduce_lr_on_plateau(optimizer, 10, monitor, patience=1, factor=0.5)
        assert (schedule.scheduler.mode, schedule.monitor, schedule.interval) == (mode, monitor, "epoch")
        better = [1.0, 2.0, 3.0, 4.0] if mode == "max" else [4.0, 3.0, 2.0, 1.0]
        for score in better:
            schedule.scheduler.step(score)
        assert optimizer.param_groups[0]["lr"] == 1.0
        for score in reversed(better):
            schedule.scheduler.step(score)
        assert optimizer.param_groups[0]["lr"] == 0.25  # the best score was the last before
    with pytest.raises(ValueError, match=r"mode 'max' does not fit lr_scheduler.monitor 'val_loss': use min"):
        reduce_lr_on_plateau(make_optimizer(), 10, "val_loss", mode="max")
    with pytest.raises(ValueError, match=r"'mine' needs lr_scheduler.mode"):
        reduce_lr_on_plateau(make_optimizer(), 10, "mine")
    assert reduce_lr_on_plateau(make_optimizer(), 10, "mine", mode="max").scheduler.mode == "max"


def test_a_plateau_reduces_three_times_at_most() -> None:
    optimizer = make_optimizer(0.01)
    schedule = reduce_lr_on_plateau(optimizer, 10, patience=0, factor=0.3)
    for _ in range(12):
        schedule.scheduler.step(0.5)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * 0.3**3)
