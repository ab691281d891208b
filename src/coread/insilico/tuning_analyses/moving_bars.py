"""Responses to bars that move across the screen: direction and orientation selectivity."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from coread.data_io.artificial_stimuli import generate_moving_bar, parameter_grid
from coread.insilico.experiment import ExperimentResult, Quantity
from coread.insilico.population import Population
from coread.insilico.tuning_analyses.angles import add_preferred_angles
from coread.insilico.tuning_analyses.curves import Fitted, fit_directions
from coread.insilico.tuning_analyses.indices import opposite_direction_index, orthogonal_orientation_index
from coread.insilico.tuning_analyses.member_table import MemberTable, responds
from coread.insilico.tuning_analyses.permutation import direction_permutation_test
from coread.insilico.tuning_analyses.responses import (
    after_grey,
    bins_per_second,
    demand_memory,
    grey_response,
    pixel_size,
    respond_to,
    stimulus_shape,
)
from coread.plotting.style import Drawing
from coread.plotting.tuning import draw_polar_gallery
from coread.plotting.tuning_summary import Measure, draw_histograms

POLARITIES = (1.0, -1.0)  # bright and dark bars


class MovingBarTuning:
    """Responses to bright and dark bars that cross the whole screen in all directions at all speeds.

    The response to a bar is its peak over time above that to grey: it does not depend on when the bar passes a
    receptive field. A neuron is described at the polarity and speed of its largest response in the ensemble; the others
    are the repeats of the permutation test.

    Args:
        directions_deg: of motion, evenly spaced, counter-clockwise from rightwards.
        speeds: in `length_unit` per second.
        width: of the bars along their motion, in `length_unit`.
        length_unit: px, um or deg.
        contrast: of bright bars; dark ones have its negative.
        min_response: share of the response to grey by which a neuron's response must change to count as one.
        min_selectivity: smallest vector sum at which a neuron prefers an orientation (or a direction); others have NaN.
        reliable_correlation: smallest mean correlation between members' responses of reliable neurons.
        n_permutations: of directions in the test of direction selectivity.
        seed: of the permutations.

    """

    def __init__(
        self,
        directions_deg: Sequence[float],
        speeds: Sequence[float],
        width: float,
        length_unit: str,
        contrast: float,
        min_response: float,
        min_selectivity: float,
        reliable_correlation: float,
        n_permutations: int,
        seed: int,
    ) -> None:
        self.directions_deg = np.asarray(directions_deg, float)
        self.speeds, self.width, self.length_unit = np.asarray(speeds, float), width, length_unit
        self.contrast, self.min_response, self.min_selectivity = contrast, min_response, min_selectivity
        self.reliable_correlation, self.n_permutations, self.seed = reliable_correlation, n_permutations, seed

    def run(self, population: Population, neurons: Int[np.ndarray, "neuron"]) -> ExperimentResult:
        """Return direction tuning with its fit, and a table of indices; raises ValueError for image models."""
        demand_memory(population, "responses to moving bars")
        peaks = self._peaks(population, neurons)
        baseline = grey_response(population, neurons)
        change = peaks - baseline[:, :, None, None, None]
        responding = responds(np.nanmax(change, axis=(2, 3, 4)), baseline, self.min_response)
        best = np.nanargmax(change[0].max(axis=-1).reshape(len(neurons), -1), axis=1)
        curves = change.reshape(*change.shape[:2], -1, len(self.directions_deg))[:, np.arange(len(neurons)), best]
        curves = np.where(responding[..., None], curves, np.nan)
        fit = fit_directions(curves.reshape(-1, curves.shape[-1]), self.directions_deg)
        table = MemberTable(population, neurons)
        table.judge(responding, peaks, self.reliable_correlation)
        polarity, speed = np.unravel_index(best, change.shape[2:4])
        table.note("bar_polarity", np.array(POLARITIES)[polarity].astype(int))
        table.note(f"best_speed_{self.length_unit}_per_s", self.speeds[speed])
        repeats = np.where(responding[0][:, None, None], change[0].reshape(len(neurons), -1, curves.shape[-1]), np.nan)
        self._fill(table, curves, fit)
        table.note("dsi_p", direction_permutation_test(repeats, self.directions_deg, self.n_permutations, self.seed))
        unit = population.unit
        arrays = {
            "bar_responses": Quantity(peaks[0], ("neuron", "polarity", "speed", "direction_deg"), unit),
            "direction_tuning": Quantity(curves[0], ("neuron", "direction_deg"), unit),
            "direction_tuning_members": Quantity(
                curves[1:].swapaxes(0, 1), ("neuron", "member", "direction_deg"), unit
            ),
            "direction_tuning_fit": Quantity(fit.curve[: len(neurons)], ("neuron", "direction_deg_fine"), unit),
        }
        axes = {
            "direction_deg": Quantity(self.directions_deg, ("direction_deg",), "deg"),
            "direction_deg_fine": Quantity(fit.fine, ("direction_deg_fine",), "deg"),
            "speed": Quantity(self.speeds, ("speed",), f"{self.length_unit} / s"),
            "polarity": Quantity(np.array(POLARITIES), ("polarity",)),
        }
        return ExperimentResult(table.frame(), arrays | table.members(), axes)

    def _peaks(
        self, population: Population, neurons: Int[np.ndarray, "neuron"]
    ) -> Float[np.ndarray, "row neuron polarity speed direction"]:
        """Return the largest response to every bar; slow bars take longer, so speeds are shown one by one.

        Bars that would jump over pixels are NaN; raises ValueError if all would.
        """
        rate, size = bins_per_second(population), pixel_size(population, self.length_unit)
        can_show = self.speeds / rate <= max(self.width, size)
        if not can_show.any():
            raise ValueError(
                f"no bar can be shown: at {rate:g} bins per second bars of width {self.width:g} jump over pixels at "
                f"speeds of {self.speeds.tolist()} {self.length_unit} / s"
            )
        way = np.hypot(*population.frame_shape[1:]) * size + self.width
        grid = parameter_grid(polarity=POLARITIES, direction=self.directions_deg)
        parts = []
        for speed in self.speeds[can_show]:
            n_bins = int(np.ceil(way / speed * rate)) + population.lag

            def make(index: Int[np.ndarray, "stimulus"], speed: float = speed, n_bins: int = n_bins) -> Tensor:
                bars = generate_moving_bar(
                    stimulus_shape(population, len(index), n_bins),
                    grid["direction"][index],
                    speed,
                    self.width,
                    contrast=self.contrast * grid["polarity"][index],
                    rate_hz=rate,
                    pixel_size=size,
                )
                return after_grey(population, bars)

            parts.append(respond_to(population, neurons, len(grid["direction"]), make, _largest))
        shown = np.stack(parts, axis=2)
        shown = shown.reshape(*shown.shape[:3], len(POLARITIES), len(self.directions_deg)).swapaxes(2, 3)
        peaks = np.full((*shown.shape[:3], len(self.speeds), shown.shape[-1]), np.nan)
        peaks[:, :, :, can_show] = shown
        return peaks

    def _fill(self, table: MemberTable, curves: Float[np.ndarray, "row neuron direction"], fit: Fitted) -> None:
        flat = curves.reshape(-1, curves.shape[-1])
        table.add("osi", orthogonal_orientation_index(flat, self.directions_deg).reshape(table.shape))
        table.add("dsi", opposite_direction_index(flat, self.directions_deg).reshape(table.shape))
        add_preferred_angles(table, curves, self.directions_deg, fit, self.min_selectivity, directions=True)

    def draw(self, results: Mapping[str, ExperimentResult]) -> Mapping[str, Drawing]:
        """Return polar plots and histograms of the indices."""
        return {
            "direction_tuning": draw_polar_gallery(results, "direction_tuning", "direction_deg", "dsi_vector"),
            "summary": draw_histograms(
                results,
                (
                    Measure("dsi_vector", "direction selectivity (1 - circ. var.)", (0.0, 1.0)),
                    Measure("osi_vector", "orientation selectivity (1 - circ. var.)", (0.0, 1.0)),
                    Measure("preferred_direction_deg", "preferred direction (deg)", (0.0, 360.0), is_angle=True),
                ),
                "Tuning to moving bars",
            ),
        }


def _largest(responses: Tensor, index: Int[np.ndarray, "stimulus"]) -> Tensor:
    return responses.amax(dim=2)
