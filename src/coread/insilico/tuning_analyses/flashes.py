"""Responses to full-field flashes: ON and OFF, transient and sustained."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from coread.data_io.artificial_stimuli import generate_flashes
from coread.insilico.experiment import ExperimentResult, Quantity
from coread.insilico.population import Population
from coread.insilico.tuning_analyses.indices import contrast_of_two, transience_index
from coread.insilico.tuning_analyses.member_table import MemberTable, responds
from coread.insilico.tuning_analyses.responses import (
    after_grey,
    bins_per_second,
    grey_response,
    is_memoryless,
    respond_to,
    stimulus_shape,
)
from coread.plotting.style import Drawing
from coread.plotting.tuning import draw_trace_gallery
from coread.plotting.tuning_summary import Measure, draw_histograms

SIGNS = {"bright": 1.0, "dark": -1.0}


class FlashResponses:
    """Responses to a bright and a dark flash of the whole screen, out of and back to grey.

    The ON response is the largest change above grey while the screen is bright, the OFF response that while it is
    dark; the ON-OFF index is (ON - OFF) / (ON + OFF) (Baden et al. 2016, Nature 529:345). Transience and time to peak
    are those of the stronger of both. To models of single images a flash is one image, and there is no time.

    Args:
        contrast: of the flashes.
        before_s: grey that is shown in the figures before a flash.
        duration_s: of a flash.
        after_s: grey after it.
        late_s: end of a flash over which the sustained response is averaged.
        min_response: share of the response to grey by which a neuron's response must change to count as one.
        reliable_correlation: smallest mean correlation between members' responses of reliable neurons.

    """

    def __init__(
        self,
        contrast: float,
        before_s: float,
        duration_s: float,
        after_s: float,
        late_s: float,
        min_response: float,
        reliable_correlation: float,
    ) -> None:
        self.contrast, self.before_s, self.duration_s, self.after_s = contrast, before_s, duration_s, after_s
        self.late_s = late_s
        self.min_response, self.reliable_correlation = min_response, reliable_correlation

    def run(self, population: Population, neurons: Int[np.ndarray, "neuron"]) -> ExperimentResult:
        """Return responses (neuron, flash, time) and a table of the indices."""
        memoryless = is_memoryless(population)
        rate = 1.0 if memoryless else bins_per_second(population)
        seconds = (self.before_s, self.duration_s, self.after_s)
        before, shown, after = [0, 1, 0] if memoryless else [round(length_s * rate) for length_s in seconds]
        n_bins = before + shown + after
        contrasts = self.contrast * np.array(list(SIGNS.values()))

        def make(index: Int[np.ndarray, "stimulus"]) -> Tensor:
            shape = stimulus_shape(population, len(index), n_bins)
            flashes = generate_flashes(
                shape, contrasts[index], onset_s=before / rate, duration_s=shown / rate, rate_hz=rate
            )
            return after_grey(population, flashes)

        def measure(responses: Tensor, index: Int[np.ndarray, "stimulus"]) -> Tensor:
            return responses.movedim(2, 3)

        courses = respond_to(population, neurons, len(contrasts), make, measure)
        baseline = grey_response(population, neurons)
        during = courses[..., before : before + shown] - baseline[..., None, None]
        table = MemberTable(population, neurons)
        self._fill(table, during, courses, baseline, 0 if memoryless else rate)
        arrays = {"flash_responses": Quantity(courses[0], ("neuron", "flash", "time_s"), population.unit)}
        axes = {
            "flash": Quantity(np.array(list(SIGNS)), ("flash",)),
            "time_s": Quantity((np.arange(n_bins) - before) / rate, ("time_s",), "s"),
        }
        return ExperimentResult(table.frame(), arrays | table.members(), axes)

    def _fill(
        self,
        table: MemberTable,
        during: Float[np.ndarray, "row neuron flash time"],
        courses: Float[np.ndarray, "row neuron flash time_all"],
        baseline: Float[np.ndarray, "row neuron"],
        rate: float,
    ) -> None:
        """Add the indices; a `rate` of 0 stands for a model of single images."""
        peak = during.max(axis=-1)
        responding = responds(peak.max(axis=-1), baseline, self.min_response)
        table.judge(responding, courses, self.reliable_correlation)

        def known(values: np.ndarray) -> np.ndarray:
            return np.where(responding, values, np.nan)

        table.add("on_response", known(peak[..., 0]))
        table.add("off_response", known(peak[..., 1]))
        table.add("on_off_index", known(contrast_of_two(peak[..., 0], peak[..., 1])))
        stronger = np.where((peak[0, :, 0] >= peak[0, :, 1])[:, None], during[:, :, 0], during[:, :, 1])
        if rate:
            n_late = max(1, round(self.late_s * rate))
            transience = transience_index(stronger.reshape(-1, stronger.shape[-1]), n_late)
            table.add("transience_index", known(transience.reshape(stronger.shape[:2])))
            table.add("time_to_peak_s", known((stronger.argmax(axis=-1) + 1) / rate))

    def draw(self, results: Mapping[str, ExperimentResult]) -> Mapping[str, Drawing]:
        """Return the responses over time and histograms of the indices."""
        first = next(iter(results.values()))
        unit = first.arrays["flash_responses"].unit
        summary = draw_histograms(
            results,
            (
                Measure("on_off_index", "ON-OFF index (OFF: -1, ON: 1)", (-1.0, 1.0)),
                Measure("transience_index", "transience index", (0.0, 1.0)),
                Measure("time_to_peak_s", "time to peak (s)", None),
            ),
            "Responses to full-field flashes",
        )
        if len(first.axes["time_s"].data) == 1:
            return {"summary": summary}
        traces = draw_trace_gallery(
            results, ("flash_responses", "time_s"), ("time after onset (s)", f"response ({unit})"), names=list(SIGNS)
        )
        return {"summary": summary, "responses": traces}
