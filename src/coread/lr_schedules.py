"""Learning-rate schedules that are stepped after every batch."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR


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
