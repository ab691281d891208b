"""Responses to the full-field chirp of Baden et al. 2016."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from coread.data_io.artificial_stimuli import ChirpSegment, chirp_course, chirp_segments, generate_chirp
from coread.data_io.artificial_stimuli.chirp import MAX_FREQUENCY_HZ, RAMP_S, ramp_phase
from coread.insilico.experiment import ExperimentResult, Quantity
from coread.insilico.population import Population
from coread.insilico.tuning_analyses.indices import contrast_of_two, largest_rise, transience_index
from coread.insilico.tuning_analyses.member_table import MemberTable, responds
from coread.insilico.tuning_analyses.responses import (
    after_grey,
    bins_per_second,
    demand_memory,
    grey_response,
    respond_to,
    stimulus_shape,
)
from coread.plotting.style import Drawing
from coread.plotting.tuning import draw_trace_gallery
from coread.plotting.tuning_summary import Measure, draw_histograms


class ChirpResponses:
    """Responses to a step, a rising frequency and a rising contrast of the whole screen.

    The ON-OFF index compares the largest rise of the response in the bright step and in the dark one after it, as that
    of Baden et al. 2016 (Nature 529:345) compares responses to both. In `n_pieces` equal pieces of each ramp the
    response is fitted with the sine shown there: its amplitude over frequency and contrast.

    Args:
        contrast: factor on the contrasts of the chirp.
        n_pieces: of the frequency ramp and of the contrast ramp.
        late_s: end of the bright step over which the sustained response is averaged.
        min_response: share of the response to grey by which a neuron's response must change to count as one.
        reliable_correlation: smallest mean correlation between members' responses of reliable neurons.

    """

    def __init__(
        self, contrast: float, n_pieces: int, late_s: float, min_response: float, reliable_correlation: float
    ) -> None:
        self.contrast, self.n_pieces, self.late_s = contrast, n_pieces, late_s
        self.min_response, self.reliable_correlation = min_response, reliable_correlation

    def run(self, population: Population, neurons: Int[np.ndarray, "neuron"]) -> ExperimentResult:
        """Return responses (neuron, time) and a table of indices; raises ValueError for models of single images."""
        demand_memory(population, "responses to the chirp")
        rate = bins_per_second(population)
        course = chirp_course(rate).numpy() * self.contrast

        def make(index: Int[np.ndarray, "stimulus"]) -> Tensor:
            chirp = generate_chirp(stimulus_shape(population, len(index), len(course)), self.contrast, rate_hz=rate)
            return after_grey(population, chirp)

        def measure(responses: Tensor, index: Int[np.ndarray, "stimulus"]) -> Tensor:
            return responses.movedim(2, 3)

        responses = respond_to(population, neurons, 1, make, measure)[:, :, 0]
        baseline = grey_response(population, neurons)
        table = MemberTable(population, neurons)
        ramps = self._fill(table, responses, baseline, rate)
        pieces = (np.arange(self.n_pieces) + 0.5) / self.n_pieces
        arrays = {
            "chirp_responses": Quantity(responses[0], ("neuron", "time_s"), population.unit),
            "chirp_contrast": Quantity(course, ("time_s",)),
            "frequency_response": Quantity(ramps["frequency"][0], ("neuron", "frequency_hz"), population.unit),
            "contrast_response": Quantity(ramps["contrast"][0], ("neuron", "contrast"), population.unit),
        }
        axes = {
            "time_s": Quantity(np.arange(len(course)) / rate, ("time_s",), "s"),
            "frequency_hz": Quantity(MAX_FREQUENCY_HZ * pieces, ("frequency_hz",), "Hz"),
            "contrast": Quantity(self.contrast * pieces, ("contrast",)),
        }
        return ExperimentResult(table.frame(), arrays | table.members(), axes)

    def _fill(
        self,
        table: MemberTable,
        responses: Float[np.ndarray, "row neuron time"],
        baseline: Float[np.ndarray, "row neuron"],
        rate: float,
    ) -> dict[str, Float[np.ndarray, "row neuron piece"]]:
        """Add the indices, and return the amplitude of the response along both ramps."""
        segments = {segment.name: segment for segment in chirp_segments(rate)}
        change = responses - baseline[..., None]
        bright, dark = (change[..., segments[name].first : segments[name].stop] for name in ("bright", "dark_after"))
        on, off = largest_rise(bright), largest_rise(dark)
        responding = responds(change.max(axis=-1), baseline, self.min_response)
        table.judge(responding, responses, self.reliable_correlation)
        ramps = {name: ramp_amplitudes(responses, segments[name], self.n_pieces, rate) for name in RAMPS}
        transience = transience_index(bright.reshape(-1, bright.shape[-1]), max(1, round(self.late_s * rate)))
        columns = {
            "on_off_index": contrast_of_two(on, off),
            "on_transience_index": np.where(
                responds(on, baseline, self.min_response), transience.reshape(on.shape), np.nan
            ),
            "best_frequency_hz": MAX_FREQUENCY_HZ * (ramps["frequency"].argmax(axis=-1) + 0.5) / self.n_pieces,
            "contrast_gain": _slope(ramps["contrast"], self.contrast),
        }
        for name, values in columns.items():
            table.add(name, np.where(responding, values, np.nan))
        return ramps

    def draw(self, results: Mapping[str, ExperimentResult]) -> Mapping[str, Drawing]:
        """Return the responses over time under the course of the chirp, and histograms of the indices."""
        unit = next(iter(results.values())).arrays["chirp_responses"].unit
        traces = draw_trace_gallery(
            results, ("chirp_responses", "time_s"), ("time (s)", f"response ({unit})"), stimulus="chirp_contrast"
        )
        summary = draw_histograms(
            results,
            (
                Measure("on_off_index", "ON-OFF index (OFF: -1, ON: 1)", (-1.0, 1.0)),
                Measure("on_transience_index", "transience of the ON step", (0.0, 1.0)),
                Measure("best_frequency_hz", "frequency of the largest response (Hz)", (0.0, MAX_FREQUENCY_HZ)),
            ),
            "Responses to the chirp",
        )
        return {"responses": traces, "summary": summary}


RAMPS = ("frequency", "contrast")


def ramp_amplitudes(
    responses: Float[np.ndarray, "row neuron time"], segment: ChirpSegment, n_pieces: int, rate_hz: float
) -> Float[np.ndarray, "row neuron piece"]:
    """Return the amplitude of a response at the sine shown, in equal pieces of a ramp, by least squares.

    A piece also has a mean and a slope, so that slow drifts do not count. Raises ValueError for pieces too short.
    """
    n_bins = (segment.stop - segment.first) // n_pieces
    if n_bins < 5:
        raise ValueError(f"pieces of {n_bins} bins are too short: {n_pieces} of {RAMP_S:g} s at {rate_hz:g} Hz")
    seconds = torch.arange(segment.stop - segment.first, dtype=torch.float64) / rate_hz
    phase = ramp_phase(segment.name, seconds).numpy()[: n_bins * n_pieces].reshape(n_pieces, n_bins)
    line = np.broadcast_to(np.linspace(-1, 1, n_bins), phase.shape)
    design = np.stack([np.ones_like(phase), line, np.cos(phase), np.sin(phase)], axis=-1)
    weights = np.linalg.pinv(design, rcond=1e-2)[:, 2:]
    shown = responses[..., segment.first : segment.first + n_bins * n_pieces]
    parts = np.einsum("pkt,rnpt->rnpk", weights, shown.reshape(*shown.shape[:2], n_pieces, n_bins))
    return np.hypot(parts[..., 0], parts[..., 1])


def _slope(amplitude: Float[np.ndarray, "row neuron piece"], contrast: float) -> Float[np.ndarray, "row neuron"]:
    """Return the slope of a line through the origin: response amplitude per unit of contrast."""
    shown = contrast * (np.arange(amplitude.shape[-1]) + 0.5) / amplitude.shape[-1]
    return amplitude @ shown / (shown @ shown)
