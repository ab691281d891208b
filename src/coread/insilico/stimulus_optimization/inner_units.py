"""The experiment: most exciting stimuli of inner units, the channels of a layer at one pixel."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from coread.insilico.experiment import ExperimentResult, Quantity
from coread.insilico.frozen_model import frozen
from coread.insilico.population import Population
from coread.insilico.stimulus_optimization import optima
from coread.insilico.stimulus_optimization.optimization_stopper import OptimizationStopper
from coread.insilico.stimulus_optimization.optimizer import OptimizerInit, Rules
from coread.insilico.stimulus_optimization.population_optimizer import Optima, optimize_targets
from coread.insilico.stimulus_optimization.regularizer import StimulusPostprocessor, StimulusRegularizationLoss
from coread.insilico.stimulus_optimization.stimulus_search import StimulusSearch
from coread.insilico.stimulus_optimization.targets import InnerUnit
from coread.plotting.optimized import draw_unit_responses, draw_unit_stimuli
from coread.plotting.style import Drawing


class InnerUnitStimulus:
    """Stimuli that raise the output of every channel of a layer most, at its central pixel (Olah et al. 2017, Distill).

    Channels of different members have nothing to do with each other, so the units of all members stand side by side,
    called `member:channel`. The stimuli do not depend on which neurons are asked for; the table tells which unit's
    stimulus drives each neuron most.

    Args:
        layer: place in the model, joined by underscores: `core` for what the readouts see, `core_features_layer0`, ...
        window_s: bins over which the output is averaged, in seconds; 0 for a single bin.
        rms_sd: root mean square of a stimulus over whole frames, in standard deviations of the training stimulus.
        contrast_limit: largest absolute contrast.
        n_starts: number of starts from noise of the same root mean square.
        seed: of the noise.
        smoothing_px: applied only to find centre pixel and sign of the spatial part.
        optimizer: from a list of tensors to an optimiser; its learning rate is the length of a step over the norm.
        stopper: when a unit's optimisation ends.
        regularizers: penalties, in units of the layer's output, on stimuli in contrast.
        postprocessors: applied after every step, before norm and contrast are bounded.
        gradient_processors: applied to the gradient, before it is scaled.

    """

    def __init__(
        self,
        layer: str,
        window_s: float,
        rms_sd: float,
        contrast_limit: float,
        n_starts: int,
        seed: int,
        smoothing_px: float,
        optimizer: OptimizerInit,
        stopper: OptimizationStopper,
        regularizers: Sequence[StimulusRegularizationLoss],
        postprocessors: Sequence[StimulusPostprocessor],
        gradient_processors: Sequence[StimulusPostprocessor],
    ):
        self.layer, self.smoothing_px = layer, smoothing_px
        rules = Rules(optimizer, stopper, list(regularizers), list(postprocessors), list(gradient_processors))
        self.search = StimulusSearch(rules, window_s, rms_sd, contrast_limit, n_starts, seed)

    def run(self, population: Population, neurons: Int[np.ndarray, "neuron"]) -> ExperimentResult:
        """Return the stimuli of all units of all members, and what they do to some neurons."""
        single = [Population([model], population.session) for model in population.models]
        found = [self.optimize(one) for one in single]
        names = [f"{member}:{channel}" for member, one in enumerate(found) for channel in range(len(one.value))]
        joined = Optima(*(torch.cat(parts) for parts in zip(*found, strict=True)))
        stimulus = joined.stimulus.cpu().numpy()
        parts = optima.describe(stimulus, 1 / population.rate_hz, self.smoothing_px)
        responses = population.respond(joined.stimulus).mean(dim=2).cpu().numpy()[..., neurons]
        space = ("height", "width")
        arrays = {
            "stimulus": Quantity(stimulus, ("inner_unit", "channel", "time", *space), "contrast"),
            "spatial": Quantity(parts.spatial, ("inner_unit", "channel", *space)),
            "temporal": Quantity(parts.temporal[..., ::-1].copy(), ("inner_unit", "channel", "time"), "contrast"),
            "output": Quantity(joined.value.cpu().numpy(), ("inner_unit",)),
            "start_cosine": Quantity(joined.start_cosine.cpu().numpy(), ("inner_unit",)),
            "n_iterations": Quantity(joined.n_iterations.cpu().numpy(), ("inner_unit",)),
            "response": Quantity(responses.mean(axis=0).T.copy(), ("neuron", "inner_unit"), population.unit),
            "pixel_size": optima.pixel_size(population),
        }
        axes = optima.stimulus_axes(population, stimulus.shape[2])
        axes["inner_unit"] = Quantity(np.array(names), ("inner_unit",))
        return ExperimentResult(self._table(population, neurons, np.array(names), responses), arrays, axes)

    def optimize(self, population: Population) -> Optima:
        """Return the optima of the units of a population of one member; raises ValueError for no such layer."""
        n_bins, starts = self.search.window_bins(population), self.search.starts(population)
        model = population.models[0]
        with frozen(model):
            n_units = InnerUnit.count(model, self.layer, population.normalised(starts[:1]), population.session)
            units = torch.arange(n_units, device=population.device).repeat_interleave(len(starts))
            objective = InnerUnit(model, self.layer, units, n_bins, population.session, shown=population.normalised)
            starts = starts * _is_seen(objective, n_units, starts)
            return optimize_targets(objective, n_units, self.search.bounded_rules(population), starts)

    def _table(
        self,
        population: Population,
        neurons: Int[np.ndarray, "neuron"],
        names: np.ndarray,
        responses: Float[np.ndarray, "member inner_unit neuron"],
    ) -> pd.DataFrame:
        """Return the unit whose stimulus drives a neuron most, and the response to it."""
        best = responses.mean(axis=0).argmax(axis=0)
        of_best = responses[:, best, np.arange(responses.shape[2])]
        table = pd.DataFrame({"best_unit": names[best]} | optima.over_members("response", of_best))
        return optima.beside_recorded(population, neurons, table)

    def draw(self, results: Mapping[str, ExperimentResult]) -> Mapping[str, Drawing]:
        """Return the units' stimuli, and how neurons respond to them."""
        return {
            "inner_unit_stimuli": draw_unit_stimuli(results, self.layer),
            "inner_unit_responses": draw_unit_responses(results, self.layer),
        }


def _is_seen(
    objective: InnerUnit, n_units: int, starts: Float[Tensor, "start channel time height width"]
) -> Bool[Tensor, "channel time height width"]:
    """Return which values of a stimulus change any unit's output: what none of them sees stays grey."""
    shown = starts.repeat(n_units, 1, 1, 1, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(objective(shown).sum(), shown)
    return (gradient != 0).any(dim=0)
