"""What every neuron responds to around one stimulus: gradients of responses in a window, and perturbed responses."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from coread.eval.predictions import evaluating
from coread.insilico.population import Population
from coread.models.typical_context import respond_typically

GRADIENT_VALUES = 2**22  # stimulus values whose gradients are computed at once

Respond = Callable[[Float[Tensor, "stimulus channel time height width"]], Float[Tensor, "stimulus time_out neuron"]]


def member_responder(population: Population, member: int) -> Respond:
    """Return a function from contrasts to one member's responses in recorded units, through which gradients flow.

    It leaves the mode of the model alone: call it within `evaluating`.
    """
    model = population.models[member]
    (std, mean), (own_std, own_mean) = (
        (float(each.data_info.get("stim_std", 1.0)), float(each.data_info.get("stim_mean", 0.0)))
        for each in (population.models[0], model)
    )
    scale = population.scales()[member]

    def respond(
        contrast: Float[Tensor, "stimulus channel time height width"],
    ) -> Float[Tensor, "stimulus time_out neuron"]:
        shown = (population.normalised(contrast) * std + mean - own_mean) / own_std
        return respond_typically(model, shown, population.session) * scale

    return respond


def window_gradients(
    respond: Respond,
    stimuli: Float[Tensor, "stimulus channel time height width"],
    neurons: Int[Tensor, " chosen"],
    window: slice,
    frames: slice,
    batch_size: int | None = None,
) -> tuple[Float[Tensor, "chosen stimulus channel height width"], Float[Tensor, "stimulus time_out neuron"]]:
    """Return the gradient of each chosen neuron's response summed over `window`, summed over `frames`; and responses.

    `window` slices the bins of the output, `frames` those of the stimulus. All chosen neurons share one forward pass
    over a batch of stimuli; a backward pass carries as many of them as memory allows. The gradient that is summed over
    frames is the one with respect to an image that is added to all of them. Weights get no gradients.
    """
    size = batch_size or max(1, GRADIENT_VALUES // stimuli[0].numel())
    parts = [_gradients_of_batch(respond, batch, neurons, window, frames) for batch in stimuli.split(size)]
    gradients, responses = zip(*parts, strict=True)
    return torch.cat(gradients, dim=1), torch.cat(responses)


def _gradients_of_batch(
    respond: Respond, stimuli: Tensor, neurons: Int[Tensor, " chosen"], window: slice, frames: slice
) -> tuple[Tensor, Tensor]:
    shown = torch.zeros(stimuli.shape[2], device=stimuli.device)
    shown[frames] = 1.0
    with torch.enable_grad():
        added = torch.zeros_like(stimuli[:, :, 0]).requires_grad_()
        response = respond(stimuli.detach() + added[:, :, None] * shown[:, None, None])
        own = response[:, window, neurons].sum(dim=(0, 1))  # the stimuli of a batch do not interact
    n_at_once = max(1, GRADIENT_VALUES // stimuli.numel())
    chosen = torch.eye(len(neurons), dtype=own.dtype, device=own.device).split(n_at_once)
    parts = [torch.autograd.grad(own, added, rows, retain_graph=True, is_grads_batched=True)[0] for rows in chosen]
    return torch.cat(parts), response.detach()


def member_gradients(
    population: Population,
    stimuli: Float[Tensor, "stimulus channel time height width"],
    neurons: Int[np.ndarray, "chosen"],
    window: slice,
    frames: slice,
) -> tuple[
    Float32[np.ndarray, "member chosen stimulus channel height width"],
    Float32[np.ndarray, "member stimulus time_out chosen"],
]:
    """Return `window_gradients` of every member, per contrast and in recorded units, and the neurons' responses."""
    gradients, responses = [], []
    chosen = torch.as_tensor(neurons, device=population.device)
    for member, model in enumerate(population.models):
        with evaluating(model):
            found = window_gradients(
                member_responder(population, member), stimuli.to(population.device), chosen, window, frames
            )
        gradients.append(found[0].cpu().numpy())
        responses.append(found[1][..., chosen].cpu().numpy())
    return np.stack(gradients), np.stack(responses)


def neuron_blocks(
    neurons: Int[np.ndarray, "chosen"], values_each: int, values_at_once: int = 2**26
) -> Iterator[Int[np.ndarray, "block"]]:
    """Yield as many neurons at a time as keep `values_each` numbers apiece in memory."""
    size = max(1, values_at_once // max(1, values_each))
    for start in range(0, len(neurons), size):
        yield neurons[start : start + size]


def bins_of(population: Population, seconds: float) -> int:
    """Return how many bins a time takes, at least one; models of single images, which have no lag, take one.

    Raises ValueError where the model does not know the rate of its bins.
    """
    if population.lag == 0:
        return 1
    if not np.isfinite(population.rate_hz):
        raise ValueError(f"session {population.session!r}: the model does not know its rate_hz, so no time in seconds")
    return max(1, round(seconds * population.rate_hz))
