"""Responses of chosen neurons to many stimuli: stimuli are made, shown and measured in batches."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from coread.insilico.population import BATCH_VALUES, Population
from coread.insilico.tuning_analyses.member_table import with_ensemble

RESPONSE_VALUES = 2**25  # of responses kept at once

# from the numbers of stimuli to the stimuli (stimulus, channel, time, height, width)
Maker: TypeAlias = Callable[[Int[np.ndarray, "stimulus"]], Tensor]
# from responses (row, stimulus, time, neuron) to those stimuli to (row, stimulus, neuron, *value)
Measure: TypeAlias = Callable[[Tensor, Int[np.ndarray, "stimulus"]], Tensor]


def is_memoryless(population: Population) -> bool:
    """Return whether responses belong to single images: one bin per image, no time before it."""
    return population.lag == 0


def bins_per_second(population: Population) -> float:
    """Return the bins per second; raises ValueError for a model that does not know them."""
    if not np.isfinite(population.rate_hz):
        raise ValueError("stimuli in seconds and Hz need the bins per second, which the model does not know (rate_hz)")
    return population.rate_hz


def demand_memory(population: Population, what: str) -> None:
    """Raise ValueError for a model of responses to single images, which has no time course."""
    if is_memoryless(population):
        raise ValueError(f"{what} need a model that sees a movie; this one sees one image per bin (its lag is 0)")


def pixel_size(population: Population, unit: str) -> float:
    """Return the width of a pixel in a unit: px, um or deg; raises ValueError where the recording does not tell."""
    sizes = {"px": 1.0, "um": population.pixel_um, "deg": population.pixel_deg}
    if unit not in sizes:
        raise ValueError(f"length_unit is one of {sorted(sizes)}, found {unit!r}")
    size = sizes[unit]
    if not size:
        raise ValueError(f"length_unit {unit!r} needs the size of a pixel, which the recording does not tell; use px")
    return float(size)


def stimulus_shape(population: Population, n_stimuli: int, n_bins: int) -> tuple[int, int, int, int, int]:
    """Return the shape of stimuli of a number of bins."""
    channels, height, width = population.frame_shape
    return n_stimuli, channels, n_bins, height, width


def after_grey(
    population: Population, stimulus: Float[Tensor, "stimulus channel time height width"]
) -> Float[Tensor, "stimulus channel time_in height width"]:
    """Return a stimulus preceded by as many grey bins as the model looks back: its output then has the same bins."""
    shape = stimulus_shape(population, len(stimulus), population.lag)
    return torch.cat([stimulus.new_zeros(shape), stimulus], dim=2)


def respond_to(
    population: Population, neurons: Int[np.ndarray, "neuron"], n_stimuli: int, make: Maker, measure: Measure
) -> Float[np.ndarray, "row neuron stimulus *value"]:
    """Return what is measured of the responses of some neurons to every stimulus; rows as in `member_table`."""
    parts = []
    size = _at_once(population, make(np.arange(1)))
    for start in range(0, n_stimuli, size):
        index = np.arange(start, min(start + size, n_stimuli))
        parts.append(measure(_responses(population, neurons, make(index)), index).cpu())
    return torch.cat(parts, dim=1).movedim(2, 1).numpy()


def respond_own(
    population: Population,
    neurons: Int[np.ndarray, "neuron"],
    group: Int[np.ndarray, "neuron"],
    make: Maker,
    measure: Measure,
) -> Float[np.ndarray, "row neuron stimulus *value"]:
    """Return what is measured of every neuron's responses to the stimuli of its own group.

    `make` gets the numbers of groups and returns the stimuli of each, one group after the other, the same number for
    all; neurons of a group share them. `measure` gets the group of every stimulus.
    """
    groups, own = np.unique(group, return_inverse=True)
    first = make(groups[:1])
    n_each = len(first)
    size = max(1, _at_once(population, first) // n_each)
    parts, order = [], []
    for start in range(0, len(groups), size):
        shown = groups[start : start + size]
        chosen = np.flatnonzero((own >= start) & (own < start + len(shown)))
        values = measure(_responses(population, neurons[chosen], make(shown)), np.repeat(shown, n_each)).cpu().numpy()
        values = np.moveaxis(values, 2, 0)
        values = values.reshape(len(chosen), -1, len(shown), n_each, *values.shape[3:])
        parts.append(values[np.arange(len(chosen)), :, own[chosen] - start])
        order.append(chosen)
    return np.moveaxis(np.concatenate(parts)[np.argsort(np.concatenate(order))], 1, 0)


def grey_response(
    population: Population, neurons: Int[np.ndarray, "neuron"], settle_bins: int = 0
) -> Float[np.ndarray, "row neuron"]:
    """Return the response to a grey screen."""
    grey = torch.zeros(stimulus_shape(population, 1, population.lag + 1 + settle_bins))
    return _responses(population, neurons, grey)[:, 0, -1].cpu().numpy()


def _responses(
    population: Population, neurons: Int[np.ndarray, "neuron"], stimuli: Tensor
) -> Float[Tensor, "row stimulus time neuron"]:
    chosen = torch.as_tensor(neurons, device=population.device)
    return with_ensemble(population.respond(stimuli)[..., chosen].double())


def _at_once(population: Population, example: Tensor) -> int:
    """Return how many stimuli are made and answered at once."""
    n_out = population.n_members * population.n_neurons * example.shape[2]
    return max(1, min(BATCH_VALUES // int(np.prod(example.shape[1:])), RESPONSE_VALUES // n_out))
