"""Optimal stimuli of many targets at once: every item of a batch is one target and one start."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from coread.insilico.frozen_model import frozen
from coread.insilico.local_response import LocalPopulation
from coread.insilico.population import Population
from coread.insilico.stimulus_optimization.optimizer import ItemObjective, Rules, ascend
from coread.insilico.stimulus_optimization.regularizer import ChangeNorm, ChangeNormJointlyClipRangeSeparately
from coread.insilico.stimulus_optimization.targets import OwnNeuron

BATCH_VALUES = 2**22  # values of the stimuli that are optimised at once


class Optima(NamedTuple):
    """The best of several starts for every target, in contrast.

    `start_values` are what the objective reached from each start. `start_cosine` is the mean cosine between the
    stimuli that any two starts lead to: 1 where they agree; NaN for a single start.
    """

    stimulus: Float[Tensor, "target channel time height width"]
    value: Float[Tensor, " target"]
    start_values: Float[Tensor, "target start"]
    start_cosine: Float[Tensor, " target"]
    n_iterations: Int[Tensor, " target"]


def noise_starts(
    shape: tuple[int, int, int, int], n_starts: int, seed: int
) -> Float[Tensor, "start channel time height width"]:
    """Return standard-normal noise to start from, the same for all targets."""
    return torch.randn(n_starts, *shape, generator=torch.Generator().manual_seed(seed))


def within_budget(rules: Rules, n_channels: int, norm: float, contrast_limit: float) -> Rules:
    """Return rules under which every stimulus has the norm `norm` and contrasts within the limit.

    The gradient is scaled to the same norm, so that the optimiser's learning rate is the length of a step relative to
    the norm, whatever the units of the response. With plain gradient ascent the stimulus of a linear-nonlinear cell
    becomes its filter; an optimiser that scales every pixel's step on its own (Adam) finds only the filter's signs.
    """
    bound = ChangeNormJointlyClipRangeSeparately([(-contrast_limit, contrast_limit)] * n_channels, norm)
    return rules._replace(
        postprocessors=[*rules.postprocessors, bound],
        gradient_processors=[*rules.gradient_processors, ChangeNorm(norm)],
    )


def optimize_neurons(
    responses: LocalPopulation,
    population: Population,
    neurons: Int[Tensor, "target neuron"],
    rules: Rules,
    starts: Float[Tensor, "start channel time height width"],
    *,
    sign: float = 1.0,
    shares: Float[Tensor, "target neuron"] | None = None,
    batch_values: int = BATCH_VALUES,
) -> Optima:
    """Return the stimuli that raise (`sign` 1) or lower (-1) the response of each target most.

    A target is one neuron or the mean of several, weighted by `shares`. Only what a target sees is computed
    (`LocalPopulation`); the rest of its stimulus is grey.
    """
    device = population.device
    neurons, starts = neurons.to(device), starts.to(device)
    shape = (len(neurons), starts.shape[1], *responses.in_size)
    optima = _empty(shape, len(starts), device)
    with frozen(*population.models):
        for chosen in _batches(responses, neurons, len(starts), batch_values):
            target = chosen.repeat_interleave(len(starts))
            own = responses.of(neurons[target], None if shares is None else shares[target.cpu()])
            begun = own.places.cut(starts.repeat(len(chosen), 1, 1, 1, 1))
            found, values, n_iterations = _optimize(OwnNeuron(own, sign), begun, rules)
            best = _fill(optima, chosen, found, values, n_iterations)
            optima.stimulus[chosen] = own.places.select(best).paste(own.places.select(best).clean(found[best]))
    return optima


def optimize_targets(
    objective: ItemObjective,
    n_targets: int,
    rules: Rules,
    starts: Float[Tensor, "start channel time height width"],
) -> Optima:
    """Return the stimuli that raise an objective most whose items are targets times starts, targets first.

    The models behind the objective are to be `frozen`.
    """
    optima = _empty((n_targets, *starts.shape[1:]), len(starts), starts.device)
    chosen = torch.arange(n_targets, device=starts.device)
    found, values, n_iterations = _optimize(objective, starts.repeat(n_targets, 1, 1, 1, 1), rules)
    best = _fill(optima, chosen, found, values, n_iterations)
    optima.stimulus[chosen] = found[best]
    return optima


def _empty(shape: tuple[int, ...], n_starts: int, device: torch.device) -> Optima:
    n_targets = shape[0]
    return Optima(
        torch.zeros(shape, device=device),
        torch.zeros(n_targets, device=device),
        torch.zeros(n_targets, n_starts, device=device),
        torch.full((n_targets,), torch.nan, device=device),
        torch.zeros(n_targets, dtype=torch.long, device=device),
    )


def _batches(
    responses: LocalPopulation, neurons: Int[Tensor, "target neuron"], n_starts: int, batch_values: int
) -> Iterator[Int[Tensor, " target"]]:
    """Yield targets whose patches have the same size, as many at once as there is room for."""
    for group in responses.groups(neurons):
        time, height, width = responses.of(neurons[group[:1]]).places.in_length
        at_once = max(1, batch_values // (n_starts * time * height * width))
        yield from group.split(at_once)


def _optimize(objective: ItemObjective, start: Tensor, rules: Rules) -> tuple[Tensor, Tensor, Tensor]:
    for processor in rules.postprocessors:
        start = processor.process(start)
    ascent = ascend(objective, start, rules)
    with torch.no_grad():
        return ascent.stimuli, objective(ascent.stimuli), ascent.n_iterations


def _fill(
    optima: Optima,
    chosen: Int[Tensor, " target"],
    found: Float[Tensor, "item channel time height width"],
    values: Float[Tensor, "item"],
    n_iterations: Int[Tensor, "item"],
) -> Int[Tensor, " target"]:
    """Note what the starts of some targets reached and return the item of each target's best start."""
    by_target = values.unflatten(0, (len(chosen), -1))
    n_starts = by_target.shape[1]
    best = by_target.argmax(dim=1) + n_starts * torch.arange(len(chosen), device=values.device)
    optima.start_values[chosen] = by_target
    optima.value[chosen] = values[best]
    optima.n_iterations[chosen] = n_iterations[best]
    if n_starts > 1:
        unit = torch.nn.functional.normalize(found.flatten(1), dim=1).unflatten(0, (len(chosen), n_starts))
        cosines = unit @ unit.transpose(1, 2)
        others = n_starts * (n_starts - 1)
        diagonal = cosines.diagonal(dim1=1, dim2=2).sum(dim=1)
        optima.start_cosine[chosen] = (cosines.sum(dim=(1, 2)) - diagonal) / others
    return best
