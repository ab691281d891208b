"""The experiment: most exciting or most suppressing stimuli of single neurons."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from coread.insilico.experiment import ExperimentResult, Quantity
from coread.insilico.local_response import LocalPopulation
from coread.insilico.population import Population
from coread.insilico.stimulus_optimization import optima
from coread.insilico.stimulus_optimization.optimization_stopper import OptimizationStopper
from coread.insilico.stimulus_optimization.optimizer import OptimizerInit, Rules
from coread.insilico.stimulus_optimization.population_optimizer import Optima, optimize_neurons
from coread.insilico.stimulus_optimization.regularizer import StimulusPostprocessor, StimulusRegularizationLoss
from coread.insilico.stimulus_optimization.stimulus_search import StimulusSearch
from coread.plotting.optimized import draw_optima, draw_responses
from coread.plotting.style import Drawing

BY_MEMBER = ("centre_y_px", "centre_x_px", "radius_px", "peak_latency_s")


class MostExcitingStimulus:
    """Stimuli that raise (`sign` 1) or lower (-1) the response of each neuron most (Walker et al. 2019, Höfling 2024).

    A stimulus is as long as one response needs: the lag of the model and the window in which the response is averaged.
    The optimum is that of the ensemble's mean response, the best of `n_starts` starts from noise.

    Args:
        sign: 1 for most exciting, -1 for most suppressing.
        window_s: bins over which the response is averaged, in seconds; 0 for a single bin.
        rms_sd: root mean square of a stimulus over whole frames, in standard deviations of the training stimulus.
        contrast_limit: largest absolute contrast.
        n_starts: number of starts from noise of the same root mean square.
        seed: of the noise.
        tolerance: share of a readout's mask that may lie outside of the patch that is computed.
        member_optima: whether every member's own optimum is sought too, to tell how much members agree.
        certain_cosine: mean cosine between members' optima (between starts where there is one member) from which on a
            stimulus counts as certain; where neither is known, none does.
        smoothing_px: applied only to find centre pixel and sign of the spatial part.
        optimizer: from a list of tensors to an optimiser; its learning rate is the length of a step over the norm.
        stopper: when a neuron's optimisation ends.
        regularizers: penalties, in recorded units of the response, on stimuli in contrast.
        postprocessors: applied after every step, before norm and contrast are bounded.
        gradient_processors: applied to the gradient, before it is scaled.

    """

    def __init__(
        self,
        sign: int,
        window_s: float,
        rms_sd: float,
        contrast_limit: float,
        n_starts: int,
        seed: int,
        tolerance: float,
        member_optima: bool,
        certain_cosine: float,
        smoothing_px: float,
        optimizer: OptimizerInit,
        stopper: OptimizationStopper,
        regularizers: Sequence[StimulusRegularizationLoss],
        postprocessors: Sequence[StimulusPostprocessor],
        gradient_processors: Sequence[StimulusPostprocessor],
    ):
        if sign not in (1, -1):
            raise ValueError(f"sign must be 1 (most exciting) or -1 (most suppressing), got {sign}")
        self.sign, self.tolerance = sign, tolerance
        self.member_optima, self.certain_cosine, self.smoothing_px = member_optima, certain_cosine, smoothing_px
        rules = Rules(optimizer, stopper, list(regularizers), list(postprocessors), list(gradient_processors))
        self.search = StimulusSearch(rules, window_s, rms_sd, contrast_limit, n_starts, seed)

    def run(self, population: Population, neurons: Int[np.ndarray, "neuron"]) -> ExperimentResult:
        """Return stimuli, their parts and the table of numbers for some neurons."""
        bin_s = 1 / population.rate_hz
        found = self.optimize(population, neurons)
        stimulus = found.stimulus.cpu().numpy()
        parts = optima.describe(stimulus, bin_s, self.smoothing_px)
        responses = optima.responses_to(population, stimulus, neurons)
        measured = [
            self._responses(population, neurons, responses),
            self._starts(found),
            optima.in_space(parts.table, population),
            self._of_members(population, neurons, bin_s),
        ]
        table = optima.beside_recorded(population, neurons, pd.concat(measured, axis=1))
        agreement = table["member_cosine"].fillna(table["start_cosine"])
        table["is_certain"] = agreement >= self.certain_cosine
        arrays = {
            "stimulus": Quantity(stimulus, ("neuron", "channel", "time", "height", "width"), "contrast"),
            "spatial": Quantity(parts.spatial, ("neuron", "channel", "height", "width")),
            "temporal": Quantity(parts.temporal[..., ::-1].copy(), ("neuron", "channel", "time"), "contrast"),
            "member_response": Quantity(responses.T.copy(), ("neuron", "member"), population.unit),
            "pixel_size": optima.pixel_size(population),
        }
        return ExperimentResult(table, arrays, optima.stimulus_axes(population, stimulus.shape[2]))

    def optimize(
        self, population: Population, neurons: Int[np.ndarray, "neuron"], n_starts: int | None = None
    ) -> Optima:
        """Return the optima of some neurons; `n_starts` overrides the number of starts."""
        starts = self.search.starts(population)[:n_starts]
        responses = LocalPopulation(population, starts.shape[2], tolerance=self.tolerance)
        target = torch.as_tensor(np.asarray(neurons))[:, None]
        rules = self.search.bounded_rules(population)
        return optimize_neurons(responses, population, target, rules, starts, sign=self.sign)

    def _responses(
        self, population: Population, neurons: Int[np.ndarray, "neuron"], responses: Float[np.ndarray, "member neuron"]
    ) -> pd.DataFrame:
        grey = population.respond(torch.zeros(1, *self.search.shape(population))).mean(dim=2)[:, 0]
        baseline = grey.cpu().numpy()[:, neurons]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = responses.mean(axis=0) / baseline.mean(axis=0)
        columns = optima.over_members("response", responses) | optima.over_members("baseline", baseline)
        return pd.DataFrame(columns | {"response_ratio": ratio})

    def _starts(self, found: Optima) -> pd.DataFrame:
        values = found.start_values.cpu().numpy()
        width = values.max(axis=1) - values.min(axis=1)
        return pd.DataFrame(
            {
                "n_iterations": found.n_iterations.cpu().numpy(),
                "start_cosine": found.start_cosine.cpu().numpy(),
                "start_response_range": width if values.shape[1] > 1 else np.full(len(width), np.nan),
            }
        )

    def _of_members(self, population: Population, neurons: Int[np.ndarray, "neuron"], bin_s: float) -> pd.DataFrame:
        """Return how much the members' own optima agree; NaN for one member or where they are not sought."""
        if population.n_members < 2 or not self.member_optima:
            missing = np.full(len(neurons), np.nan)
            names = ["member_cosine", *[f"{name}_sd_members" for name in BY_MEMBER]]
            return pd.DataFrame(dict.fromkeys(names, missing))
        single = [Population([model], population.session) for model in population.models]
        stimuli = np.stack([self.optimize(one, neurons, n_starts=1).stimulus.cpu().numpy() for one in single])
        tables = [optima.describe(stimulus, bin_s, self.smoothing_px).table for stimulus in stimuli]
        spreads = {
            f"{name}_sd_members": optima.spread_of_members(np.stack([table[name].to_numpy(float) for table in tables]))
            for name in BY_MEMBER
        }
        return pd.DataFrame({"member_cosine": optima.member_cosine(stimuli)} | spreads)

    def draw(self, results: Mapping[str, ExperimentResult]) -> Mapping[str, Drawing]:
        """Return a gallery of the stimuli, and what they do to the responses."""
        kind = "exciting" if self.sign > 0 else "suppressing"
        return {
            f"most_{kind}_stimuli": draw_optima(results, kind),
            f"most_{kind}_responses": draw_responses(results, kind, self.certain_cosine),
        }
