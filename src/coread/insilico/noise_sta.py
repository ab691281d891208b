"""White noise shown to model neurons in pieces, their spike-triggered averages, and where they are sensitive at all.

The spike-triggered average of a response r to white noise s is E[r s] / E[r] (Chichilnisky 2001, Network 12:199). A
model has no limit to the noise it can be shown; what is kept of it is made anew, piece by piece, whenever it is needed.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from coread.insilico.population import Population
from coread.insilico.receptive_fields import own_gradients

# pieces from these numbers on: those that test what the others found, and those at which gradients are taken
FRESH, GRADIENTS = 10**6, 2 * 10**6


@dataclass(frozen=True)
class NoiseStream:
    """Gaussian white noise in pieces of `n_bins` responses: contrasts with deviation `contrast`, cut off at -1 and 1.

    Piece i of a stream is drawn from (seed, i), whoever asks for it and in which order.
    """

    n_bins: int
    contrast: float
    seed: int

    def piece(self, population: Population, number: int) -> Float[Tensor, "channel time height width"]:
        """Return one piece: `n_bins` plus the lag of the model frames."""
        channels, height, width = population.frame_shape
        drawn = np.random.SeedSequence([self.seed, number]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(drawn >> 1))
        shape = (channels, population.lag + self.n_bins, height, width)
        return (self.contrast * torch.randn(shape, generator=generator)).clamp(-1, 1).to(population.device)

    def responses(
        self, population: Population, neurons: Int[np.ndarray, "neuron"], numbers: range
    ) -> Float[Tensor, "unit piece bin"]:
        """Return the responses to some pieces: of the ensemble's mean, then of each member if there are several.

        Units are neurons of the ensemble, neurons of the first member, and so on.
        """
        chosen = torch.tensor(neurons, device=population.device)
        shown = (population.respond(self.piece(population, number)[None]) for number in numbers)
        pieces = [with_members(responses[:, 0, :, chosen]) for responses in shown]
        return torch.stack(pieces, dim=1).permute(0, 3, 1, 2).flatten(0, 1)


def with_members(values: Float[Tensor, "member *shape"]) -> Float[Tensor, "source *shape"]:
    """Return the mean over members first, then the members if there are several."""
    return values if len(values) == 1 else torch.cat([values.mean(dim=0, keepdim=True), values])


def relative_weights(responses: Float[Tensor, "unit piece bin"]) -> Float[Tensor, "unit piece bin"]:
    """Return responses relative to their mean, minus one; zero for a unit that does not respond."""
    mean = responses.mean(dim=(1, 2), keepdim=True)
    return torch.where(mean > 0, responses / mean - 1, 0.0)


def lagged(stimulus: Float[Tensor, "*shape time"], lag_bin: int, n_bins: int) -> Float[Tensor, "*shape bin"]:
    """Return the frames that lie `lag_bin` bins before each of the `n_bins` last frames."""
    first = stimulus.shape[-1] - n_bins - lag_bin
    return stimulus[..., first : first + n_bins]


def spike_triggered_averages(
    stream: NoiseStream, population: Population, weights: Float[Tensor, "unit piece bin"]
) -> Float[Tensor, "half unit lag_bin channel height width"]:
    """Return the spike-triggered averages of the even and of the odd pieces, in contrast; the current bin first."""
    n_units, n_pieces, n_bins = weights.shape
    channels, height, width = population.frame_shape
    total = torch.zeros(2, n_units, population.lag + 1, channels * height * width, device=weights.device)
    for number in range(n_pieces):
        stimulus = stream.piece(population, number).movedim(1, -1).flatten(0, -2)
        for lag_bin in range(population.lag + 1):
            total[number % 2, :, lag_bin] += weights[:, number] @ lagged(stimulus, lag_bin, n_bins).T
    counts = torch.tensor([(n_pieces + 1) // 2, n_pieces // 2], device=weights.device).clamp_min(1) * n_bins
    return (total / counts[:, None, None, None]).unflatten(-1, (channels, height, width))


def sensitivity_maps(
    stream: NoiseStream,
    population: Population,
    neurons: Int[np.ndarray, "neuron"],
    n_samples: int,
    batch_size: int = 64,
) -> Float[Tensor, "neuron height width"]:
    """Return the root of the mean squared gradient of each response, over noise, channels and lags.

    Cells without a linear receptive field have one here: squaring a gradient forgets its sign (the active subspace of
    Constantine 2015 is spanned by the same gradients).
    """
    _, height, width = population.frame_shape
    pieces = [stream.piece(population, GRADIENTS + sample)[:, : population.lag + 1] for sample in range(n_samples)]
    references = population.normalised(torch.stack(pieces))
    total = torch.zeros(len(neurons), height, width, device=population.device)
    for place, gradient in own_gradients(population.model, population.session, references, neurons, batch_size):
        total.index_add_(0, place, gradient.square().sum(dim=(1, 2)))
    return (total / n_samples).sqrt()


def sta_strength(
    halves: Float[Tensor, "half unit lag_bin channel height width"], contrast: float
) -> Float[Tensor, " unit"]:
    """Return the length of the spike-triggered average in deviations of the noise, free of its noise.

    It is the root of the product of two independent averages, with the sign of the product: around 0 for a flat one.
    """
    product = (halves[0] * halves[1]).flatten(1).sum(dim=1) / contrast**2
    return product.sign() * product.abs().sqrt()
