"""Responses to contrasts of two stimulus channels: preference for a channel, and opponency of both."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from coread.data_io.artificial_stimuli import channel_contrast_grid, generate_flashes
from coread.insilico.experiment import ExperimentResult, Quantity
from coread.insilico.population import Population
from coread.insilico.tuning_analyses.indices import contrast_of_two
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
from coread.plotting.tuning_summary import Measure, draw_histograms, draw_image_gallery


class ChannelContrastTuning:
    """Responses to full-field flashes with every pair of contrasts of the first and the second channel.

    The response is the largest change within the flash. The channel preference is (R_1 - R_2) / (R_1 + R_2) of the
    largest responses to either channel alone, as the spectral contrast of Szatko et al. 2020 (Nature Communications
    11:3481). The gradient (g_1, g_2) of the response over contrasts is that of the plane fitted to the grid; the
    opponency -2 g_1 g_2 / (g_1^2 + g_2^2) is 1 where the channels drive a neuron against each other with equal weight,
    -1 where they do so together, and 0 where one does not matter.

    Args:
        contrasts: of each channel; 0 must be among them.
        duration_s: of a flash.
        min_response: share of the response to grey by which a neuron's response must change to count as one.
        reliable_correlation: smallest mean correlation between members' responses of reliable neurons.

    """

    def __init__(
        self, contrasts: Sequence[float], duration_s: float, min_response: float, reliable_correlation: float
    ) -> None:
        self.contrasts = np.unique(np.asarray(contrasts, float))
        if 0.0 not in self.contrasts:
            raise ValueError(f"contrasts of the channels need 0, to show one channel alone; found {list(contrasts)}")
        self.duration_s, self.min_response = duration_s, min_response
        self.reliable_correlation = reliable_correlation

    def run(self, population: Population, neurons: Int[np.ndarray, "neuron"]) -> ExperimentResult:
        """Return responses (neuron, contrast_1, contrast_2); raises ValueError for other than two channels."""
        if (n_channels := population.frame_shape[0]) != 2:
            raise ValueError(f"contrasts of two channels need a model of two channels, this one has {n_channels}")
        memoryless = is_memoryless(population)
        n_bins = 1 if memoryless else max(1, round(self.duration_s * bins_per_second(population)))
        pairs = channel_contrast_grid(self.contrasts, self.contrasts)

        def make(index: Int[np.ndarray, "stimulus"]) -> Tensor:
            return after_grey(population, generate_flashes(stimulus_shape(population, 1, n_bins), pairs[index]))

        def measure(responses: Tensor, index: Int[np.ndarray, "stimulus"]) -> Tensor:
            return responses.amax(dim=2)

        peaks = respond_to(population, neurons, len(pairs), make, measure)
        baseline = grey_response(population, neurons)
        n_each = len(self.contrasts)
        change = (peaks - baseline[..., None]).reshape(*baseline.shape, n_each, n_each)
        table = MemberTable(population, neurons)
        gradient = self._fill(table, change, baseline)
        unit = population.unit
        arrays = {
            "channel_responses": Quantity(change[0], ("neuron", "contrast_1", "contrast_2"), unit),
            "channel_gradient": Quantity(gradient[0], ("neuron", "channel"), f"{unit} / contrast"),
        }
        axes = {name: Quantity(self.contrasts, (name,)) for name in ("contrast_1", "contrast_2")}
        return ExperimentResult(table.frame(), arrays | table.members(), axes)

    def _fill(
        self,
        table: MemberTable,
        change: Float[np.ndarray, "row neuron contrast_1 contrast_2"],
        baseline: Float[np.ndarray, "row neuron"],
    ) -> Float[np.ndarray, "row neuron 2"]:
        flat = change.reshape(*baseline.shape, -1)
        responding = responds(flat.max(axis=-1), baseline, self.min_response)
        table.judge(responding, flat, self.reliable_correlation)
        zero = int(np.flatnonzero(self.contrasts == 0)[0])
        alone = change[..., zero].max(axis=-1), change[..., zero, :].max(axis=-1)
        gradient = self._gradient(change)
        first, second = gradient[..., 0], gradient[..., 1]
        strength = np.square(gradient).sum(axis=-1)
        opponency = np.divide(-2 * first * second, strength, out=np.full(strength.shape, np.nan), where=strength > 0)
        angle = np.rad2deg(np.arctan2(second, first))
        table.add("channel_preference", np.where(responding, contrast_of_two(*alone), np.nan))
        table.add("opponency", np.where(responding, opponency, np.nan))
        table.add("gradient_angle_deg", np.where(responding, angle % 360, np.nan), 360.0)
        return gradient

    def _gradient(
        self, change: Float[np.ndarray, "row neuron contrast_1 contrast_2"]
    ) -> Float[np.ndarray, "row neuron 2"]:
        """Return the slopes of the plane of least squares over the grid, whose axes are independent of each other."""
        centred = self.contrasts - self.contrasts.mean()
        scale = np.square(centred).sum() * len(centred)
        slopes = np.einsum("rnij,i->rn", change, centred), np.einsum("rnij,j->rn", change, centred)
        return np.stack(slopes, axis=-1) / scale

    def draw(self, results: Mapping[str, ExperimentResult]) -> Mapping[str, Drawing]:
        """Return the responses over the grid of contrasts, and histograms of the indices."""
        low, high = float(self.contrasts.min()), float(self.contrasts.max())
        turned = {
            session: ExperimentResult(
                result.table,
                {"map": Quantity(result.arrays["channel_responses"].data.swapaxes(1, 2), ("neuron", "row", "column"))},
            )
            for session, result in results.items()
        }
        return {
            "channel_responses": draw_image_gallery(
                turned,
                "map",
                "Change of the response over contrasts of both channels",
                extent=(low, high, low, high),
                labels=("contrast of the first channel", "contrast of the second channel"),
            ),
            "summary": draw_histograms(
                results,
                (
                    Measure("channel_preference", "preference (second: -1, first: 1)", (-1.0, 1.0)),
                    Measure("opponency", "opponency (together: -1, opposed: 1)", (-1.0, 1.0)),
                    Measure("gradient_angle_deg", "angle of the gradient (deg)", (0.0, 360.0), is_angle=True),
                ),
                "Responses to contrasts of two channels",
            ),
        }
