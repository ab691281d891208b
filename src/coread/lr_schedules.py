"""Learning-rate schedules by their published names, each made for an optimiser and a number of steps.

Every function takes `(optimizer, total_steps, ...)`, as the training calls it, and tells when it is to be stepped.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch.optim import Optimizer
from torch.optim import lr_scheduler as torch_schedules
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

Interval = Literal["step", "epoch"]
# whether more is better, of the scores that every training logs
HIGHER_IS_BETTER = {"val_correlation": True, "val_loss": False, "train_loss": False}


class Schedule(NamedTuple):
    """A scheduler and when it is stepped: after every optimiser step or epoch; `monitor` is the score it watches."""

    scheduler: LRScheduler
    interval: Interval
    monitor: str | None = None


def warmup_cosine(
    optimizer: Optimizer,
    total_steps: int,
    max_lr: float,
    pct_start: float = 0.1,
    div_factor: float = 25.0,
    final_div_factor: float = 1000.0,
) -> OneCycleLR:
    """Rise to `max_lr` during the first `pct_start` of all steps, then fall along a cosine to almost nothing.

    PyTorch's one-cycle schedule (Smith & Topin 2018) without its cycle of momentum. It divides by
    `pct_start * total_steps - 1`, so the one length where that is zero gets a step more.
    """
    steps = total_steps + 1 if abs(pct_start * total_steps - 1) < 1e-9 else total_steps
    return OneCycleLR(
        optimizer,
        max_lr,
        total_steps=steps,
        pct_start=pct_start,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
        cycle_momentum=False,
    )


def one_cycle_lr(
    optimizer: Optimizer,
    total_steps: int,
    max_lr: float,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Schedule:
    """One-cycle policy (Smith & Topin 2018): rise to `max_lr`, fall along a cosine, momentum the other way round."""
    steps = total_steps + 1 if abs(pct_start * total_steps - 1) < 1e-9 else total_steps
    scheduler = OneCycleLR(
        optimizer,
        max_lr,
        total_steps=steps,
        pct_start=pct_start,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
        cycle_momentum=any("momentum" in group or "betas" in group for group in optimizer.param_groups),
    )
    return Schedule(scheduler, "step")


def cosine_annealing_lr(
    optimizer: Optimizer,
    total_steps: int,
    T_max: int | None = None,  # noqa: N803 (the published name)
    eta_min: float = 1e-6,
) -> Schedule:
    """Fall along half a cosine to `eta_min` within `T_max` epochs, by default within the whole training."""
    if T_max is None:
        return Schedule(torch_schedules.CosineAnnealingLR(optimizer, max(total_steps, 1), eta_min), "step")
    return Schedule(torch_schedules.CosineAnnealingLR(optimizer, T_max, eta_min), "epoch")


def cosine_annealing_warm_restarts(
    optimizer: Optimizer,
    total_steps: int,
    T_0: int = 10,  # noqa: N803 (the published name)
    T_mult: int = 2,  # noqa: N803
    eta_min: float = 1e-6,
) -> Schedule:
    """Fall along half a cosine in `T_0` epochs, start again, each time `T_mult` as long (Loshchilov & Hutter 2017)."""
    return Schedule(torch_schedules.CosineAnnealingWarmRestarts(optimizer, T_0, T_mult, eta_min), "epoch")


def exponential_lr(optimizer: Optimizer, total_steps: int, gamma: float = 0.95) -> Schedule:
    """Multiply by `gamma` after every epoch."""
    return Schedule(torch_schedules.ExponentialLR(optimizer, gamma), "epoch")


def multi_step_lr(
    optimizer: Optimizer, total_steps: int, milestones: Sequence[int] = (30, 60, 90), gamma: float = 0.1
) -> Schedule:
    """Multiply by `gamma` after each of the epochs `milestones`."""
    return Schedule(torch_schedules.MultiStepLR(optimizer, list(milestones), gamma), "epoch")


def step_lr(optimizer: Optimizer, total_steps: int, step_size: int = 10, gamma: float = 0.1) -> Schedule:
    """Multiply by `gamma` after every `step_size` epochs."""
    return Schedule(torch_schedules.StepLR(optimizer, step_size, gamma), "epoch")


def constant_lr(optimizer: Optimizer, total_steps: int) -> Schedule:
    """Leave the learning rate as it is."""
    return Schedule(torch_schedules.LambdaLR(optimizer, lambda _: 1.0), "epoch")


def reduce_lr_on_plateau(
    optimizer: Optimizer,
    total_steps: int,
    monitor: str = "val_correlation",
    mode: Literal["min", "max"] | None = None,
    factor: float = 0.3,
    patience: int = 5,
    threshold: float = 0.0005,
    threshold_mode: Literal["rel", "abs"] = "abs",
    cooldown: int = 0,
    min_lr: float | None = None,
    eps: float = 1e-8,
) -> Schedule:
    """Multiply by `factor` when `monitor` has not improved for more than `patience` validations.

    `mode` None follows from the monitor. `min_lr` None allows three reductions. Raises ValueError for a mode that does
    not fit the monitor, or for none where the monitor's is unknown.
    """
    higher = HIGHER_IS_BETTER.get(monitor)
    if higher is None and mode is None:
        raise ValueError(f"lr_scheduler.monitor {monitor!r} needs lr_scheduler.mode: max if more is better, else min")
    fitting: Literal["min", "max"] = "max" if (mode == "max" if higher is None else higher) else "min"
    if mode not in (None, fitting):
        raise ValueError(f"lr_scheduler.mode {mode!r} does not fit lr_scheduler.monitor {monitor!r}: use {fitting}")
    lowest = [group["lr"] * factor**3 for group in optimizer.param_groups] if min_lr is None else min_lr
    scheduler = torch_schedules.ReduceLROnPlateau(
        optimizer, fitting, factor, patience, threshold, threshold_mode, cooldown, lowest, eps
    )
    return Schedule(scheduler, "epoch", monitor)
