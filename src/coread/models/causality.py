"""Whether a model is causal: no prediction may depend on a later frame."""

import copy
import math
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from coread.models.typical_context import typical_context

if TYPE_CHECKING:
    from coread.models.core_readout import BaseCoreReadout

# of what the last bin depends on the stimulus, the share in which earlier bins may depend on the last frame by rounding
SEES_THE_FUTURE = 1e-6


def is_model_causal(model: "BaseCoreReadout", time_steps: int | None = None) -> bool:
    """Return whether predictions depend on the stimulus, and none but the last one on the last frame.

    One dependence is measured by the other, because an untrained model hardly depends on its stimulus. The first
    session whose predictions do so decides. What a model wants beside the stimulus is held at its mean in training.
    The model stays as it is: a copy is asked, in double precision where it can compute so.
    """
    steps = model.lag + 8 if time_steps is None else time_steps
    asked = copy.deepcopy(model).cpu().eval()
    with torch.random.fork_rng(devices=[]):
        try:
            return _is_causal(asked.double(), steps, torch.float64)
        except (RuntimeError, TypeError):  # some of its parts are single precision whatever its weights are
            return _is_causal(asked.float(), steps, torch.float32)


def _is_causal(model: "BaseCoreReadout", steps: int, dtype: torch.dtype) -> bool:
    stimulus = torch.randn(model.stimulus_shape(steps), generator=torch.Generator().manual_seed(0), dtype=dtype)
    answers = (_is_session_causal(model, session, stimulus) for session in model.readout.readout_keys())
    return next((answer for answer in answers if answer is not None), False)


def _is_session_causal(
    model: "BaseCoreReadout", session: str, stimulus: Float[Tensor, "1 channel time height width"]
) -> bool | None:
    """Return the answer for one session; None if its predictions do not depend on the stimulus."""
    twice = stimulus.repeat(2, 1, 1, 1, 1).requires_grad_()
    context = typical_context(model, session, len(twice), twice.shape[2])
    # numbers of trials stay integers
    context = {name: value.to(twice.dtype) if value.is_floating_point() else value for name, value in context.items()}
    with torch.enable_grad():
        output = model(twice, session, **context)
    if output.shape[1] != twice.shape[2] - model.lag:
        return False
    future, own = _gradients(output, twice)
    if own == 0 or not (math.isfinite(future) and math.isfinite(own)):  # behind a threshold, or where it has no slope
        with torch.no_grad():
            changed = torch.randn(twice.shape, generator=torch.Generator().manual_seed(2), dtype=twice.dtype)
            changed[0, :, :-1] = twice[0, :, :-1]
            difference = model(changed, session, **context) - output
        future, own = _largest(difference[0, :-1]), _largest(difference[1, -1])
    return future <= SEES_THE_FUTURE * own if own > 0 else None


def _gradients(
    output: Float[Tensor, "2 time_out neuron"], stimulus: Float[Tensor, "2 channel time height width"]
) -> tuple[float, float]:
    """Return the largest gradient of the earlier bins on the last frame, and of the last bin on the stimulus.

    The first copy of the stimulus is for the one, the second for the other.
    """
    if not output.requires_grad:
        return 0.0, 0.0
    # with weights under which bins and neurons do not cancel
    weighted = output * torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=output.dtype)
    both = weighted[0, :-1].sum() + weighted[1, -1].sum()
    (gradient,) = torch.autograd.grad(both, stimulus, materialize_grads=True)
    return _largest(gradient[0, :, -1]), _largest(gradient[1])


def _largest(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0
