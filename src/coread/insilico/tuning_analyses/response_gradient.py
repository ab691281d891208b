"""Response and its gradient over a grid of channel contrasts of a stimulus (Höfling et al. 2024, eLife 13:e86860)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from coread.eval.predictions import evaluating

BATCH_VALUES = 2**24  # stimulus values computed at once


def get_gradient_grid(
    stim: Float[Tensor, "1 channel time height width"],
    model_neuron: Any,
    n_channels: int = 2,
    start: float = -1.0,
    stop: float = 1.0,
    step_size: float = 0.1,
) -> tuple[np.ndarray, ...]:
    """Return responses and gradients where every channel of a stimulus is multiplied by a contrast of its own.

    `model_neuron` is an objective: it takes stimuli `(batch, channel, time, height, width)` and returns one score each
    (one that takes a single stimulus only and returns a scalar is asked point by point). The contrasts run from `start`
    to `stop`, both included where `step_size` divides the range.

    Returned are the gradient with respect to the contrasts `(channel, contrast, ..., contrast)`, the response
    `(contrast, ..., contrast)` with one axis per channel, the norm of the gradient, and for each channel its contrasts.
    Raises ValueError for a stimulus of another number of channels or an empty range.
    """
    if stim.dim() != 5 or stim.shape[:2] != (1, n_channels):
        raise ValueError(f"stim must be (1, {n_channels}, time, height, width), got {tuple(stim.shape)}")
    contrasts = _contrasts(start, stop, step_size)
    axes = [torch.as_tensor(contrasts, dtype=stim.dtype, device=stim.device)] * n_channels
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, n_channels)
    response, gradient = _contrast_gradients(stim.detach(), model_neuron, points)
    shape = (len(contrasts),) * n_channels
    grid = np.moveaxis(gradient.cpu().numpy().reshape(*shape, n_channels), -1, 0)
    return (
        grid,
        response.cpu().numpy().reshape(shape),
        np.linalg.norm(grid, axis=0),
        *(contrasts.copy() for _ in range(n_channels)),
    )


def _contrasts(start: float, stop: float, step_size: float) -> Float[np.ndarray, "contrast"]:
    if step_size <= 0 or stop < start:
        raise ValueError(f"contrasts need start <= stop and step_size > 0, got {start}, {stop}, {step_size}")
    n_steps = int(np.floor((stop - start) / step_size + 1e-6))  # of 0.3 / 0.1, which is 2.9999999999999996
    return start + step_size * np.arange(n_steps + 1)


def _contrast_gradients(
    stim: Float[Tensor, "1 channel time height width"], objective: Any, points: Float[Tensor, "point channel"]
) -> tuple[Float[Tensor, " point"], Float[Tensor, "point channel"]]:
    parts = []
    with _in_eval_mode(objective):
        for chunk in points.split(max(1, BATCH_VALUES // stim.numel())):
            with torch.enable_grad():
                contrast = chunk.clone().requires_grad_()
                response = _scores(objective, stim * contrast[:, :, None, None, None])
                gradient = torch.autograd.grad(response.sum(), contrast)[0]
            parts.append((response.detach(), gradient))
    responses, gradients = zip(*parts, strict=True)
    return torch.cat(responses), torch.cat(gradients)


def _scores(objective: Any, stimuli: Float[Tensor, "stimulus channel time height width"]) -> Float[Tensor, " stimulus"]:
    """Return an objective's score of every stimulus."""
    ask = objective if callable(objective) else objective.forward
    scores = ask(stimuli)
    if scores.shape == (len(stimuli),):
        return scores
    return torch.stack([ask(stimulus[None]).reshape(()) for stimulus in stimuli])


@contextmanager
def _in_eval_mode(objective: Any) -> Iterator[None]:
    """Put the model that an objective holds, if any, into eval mode for a while."""
    held: list[Any] = list(vars(objective).values()) if hasattr(objective, "__dict__") else []
    model = objective if isinstance(objective, nn.Module) else next((m for m in held if isinstance(m, nn.Module)), None)
    if model is None:
        yield
        return
    with evaluating(model):
        yield


def equalize_channels(
    stim: Float[Tensor, "batch channel time height width"], flip_green: bool = False
) -> Float[Tensor, "batch channel time height width"]:
    """Scale the channels of every stimulus to equal norms that keep the stimulus' norm; `flip_green` turns the first.

    Raises ValueError for an empty channel, which no factor can scale.
    """
    norms = stim.flatten(2).norm(dim=2)
    if (norms == 0).any():
        raise ValueError("a channel of the stimulus is zero everywhere and cannot be scaled")
    wanted = norms.norm(dim=1, keepdim=True) / np.sqrt(stim.shape[1])
    factor = wanted / norms
    if flip_green:
        factor = factor * torch.tensor([-1.0] + [1.0] * (stim.shape[1] - 1), dtype=stim.dtype, device=stim.device)
    return stim * factor[:, :, None, None, None]
