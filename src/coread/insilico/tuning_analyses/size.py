"""Size tuning and surround suppression: spots or gratings of growing size around each neuron's receptive field."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from coread.data_io.artificial_stimuli import generate_spots
from coread.insilico.experiment import ExperimentResult, Quantity
from coread.insilico.population import Population
from coread.insilico.receptive_field_places import locate_receptive_fields
from coread.insilico.tuning_analyses.curves import SizeFit, fit_sizes
from coread.insilico.tuning_analyses.grating_grid import GratingGrid, Variants, best_gratings, evoked
from coread.insilico.tuning_analyses.indices import suppression_index
from coread.insilico.tuning_analyses.member_table import MemberTable, responds
from coread.insilico.tuning_analyses.responses import (
    after_grey,
    bins_per_second,
    grey_response,
    is_memoryless,
    pixel_size,
    respond_own,
    stimulus_shape,
)
from coread.plotting.style import Drawing
from coread.plotting.tuning import draw_curve_gallery
from coread.plotting.tuning_summary import Measure, draw_histograms

STIMULI = ("spot", "grating")
POLARITIES = (1.0, -1.0)


class SizeTuning:
    """Responses to stimuli of growing diameter that are centred on each neuron's receptive field.

    Spots are flashed bright and dark, and each neuron is described by the polarity to which the ensemble responds
    more strongly; gratings have each neuron's preferred direction and frequencies, found with `grid`. Neurons whose
    centres agree share stimuli. Diameters beyond the longer side of the screen cannot be shown and are NaN.

    Args:
        stimulus: spot | grating.
        diameters: in `length_unit`, px, um or deg.
        length_unit: of the diameters.
        contrast: of the spots.
        duration_s: of the spots; their response is the largest change within it.
        grid: the gratings among which the preferred one is sought; its contrast is that of the patches too.
        size_model: of the fits: ratio_of_gaussians | difference_of_error_functions.
        center_noise_samples: samples of white noise at which gradients are taken to find the centres.
        center_noise_contrast: standard deviation of that noise.
        center_step_px: grid on which centres lie.
        min_response: share of the response to grey by which a neuron's response must change to count as one.
        reliable_correlation: smallest mean correlation between members' responses of reliable neurons.
        seed: of the noise.

    """

    def __init__(
        self,
        stimulus: str,
        diameters: Sequence[float],
        length_unit: str,
        contrast: float,
        duration_s: float,
        grid: GratingGrid,
        size_model: str,
        center_noise_samples: int,
        center_noise_contrast: float,
        center_step_px: float,
        min_response: float,
        reliable_correlation: float,
        seed: int,
    ) -> None:
        if stimulus not in STIMULI:
            raise ValueError(f"stimulus is one of {STIMULI}, found {stimulus!r}")
        self.stimulus, self.diameters, self.length_unit = stimulus, np.asarray(diameters, float), length_unit
        self.contrast, self.duration_s, self.grid, self.size_model = contrast, duration_s, grid, size_model
        self.center_noise_samples, self.center_noise_contrast = center_noise_samples, center_noise_contrast
        self.center_step_px, self.min_response = center_step_px, min_response
        self.reliable_correlation, self.seed = reliable_correlation, seed

    def run(self, population: Population, neurons: Int[np.ndarray, "neuron"]) -> ExperimentResult:
        """Return size tuning curves with their fits, and a table of preferred sizes and suppression indices."""
        centers = self._centers(population, neurons)
        diameters_px = self.diameters / pixel_size(population, self.length_unit)
        shown = (diameters_px >= 1) & (diameters_px <= max(population.frame_shape[1:]))
        if not shown.any():
            raise ValueError(f"none of the diameters is between a pixel and the screen: {diameters_px.tolist()} px")
        table = MemberTable(population, neurons)
        respond = self._spot_responses if self.stimulus == "spot" else self._grating_responses
        values, baseline = respond(population, neurons, centers, diameters_px[shown], table)
        peak = values.max(axis=2)
        responding = responds(peak, baseline, self.min_response)
        table.judge(responding, values, self.reliable_correlation)
        curves = np.full((*values.shape[:2], len(self.diameters)), np.nan)
        curves[..., shown] = np.where(responding[..., None], values, np.nan)
        fit = fit_sizes(curves[..., shown].reshape(-1, int(shown.sum())), self.diameters[shown], self.size_model)
        self._fill(table, curves, fit, centers, population)
        return ExperimentResult(table.frame(), _arrays(curves, fit, population.unit) | table.members(), self._axes(fit))

    def _centers(self, population: Population, neurons: Int[np.ndarray, "neuron"]) -> Float[np.ndarray, "neuron 2"]:
        """Return centres (y, x) in pixels from the middle of the screen, y upwards, on a grid so that neurons share."""
        height, width = population.frame_shape[1:]
        found = locate_receptive_fields(
            population, neurons, self.center_noise_samples, self.center_noise_contrast, self.seed
        ).center_px.clip(0, np.array([height, width]) - 1.0)
        from_middle = np.stack([(height - 1) / 2 - found[:, 0], found[:, 1] - (width - 1) / 2], axis=1)
        return np.round(from_middle / self.center_step_px) * self.center_step_px

    def _spot_responses(
        self,
        population: Population,
        neurons: Int[np.ndarray, "neuron"],
        centers: Float[np.ndarray, "neuron 2"],
        diameters_px: Float[np.ndarray, "size"],
        table: MemberTable,
    ) -> tuple[Float[np.ndarray, "row neuron size"], Float[np.ndarray, "row neuron"]]:
        """Return the largest change of the response during spots of the preferred polarity, and the one to grey."""
        places, group = np.unique(centers, axis=0, return_inverse=True)
        n_bins = 1 if is_memoryless(population) else max(1, round(self.duration_s * bins_per_second(population)))
        n_sizes = len(diameters_px)

        def make(groups: Int[np.ndarray, "group"]) -> Tensor:
            spots = generate_spots(
                stimulus_shape(population, 1, n_bins),
                np.tile(diameters_px, 2 * len(groups)),
                np.repeat(places[groups], 2 * n_sizes, axis=0),
                np.tile(self.contrast * np.repeat(POLARITIES, n_sizes), len(groups)),
            )
            return after_grey(population, spots)

        def measure(responses: Tensor, groups: Int[np.ndarray, "stimulus"]) -> Tensor:
            return responses.amax(dim=2)

        baseline = grey_response(population, neurons)
        values = respond_own(population, neurons, group.reshape(-1), make, measure) - baseline[..., None]
        values = values.reshape(*values.shape[:2], 2, n_sizes)
        bright = values[0].max(axis=2).argmax(axis=1) == 0
        table.note("spot_polarity", np.where(bright, 1, -1))
        return np.where(bright[:, None], values[:, :, 0], values[:, :, 1]), baseline

    def _grating_responses(
        self,
        population: Population,
        neurons: Int[np.ndarray, "neuron"],
        centers: Float[np.ndarray, "neuron 2"],
        diameters_px: Float[np.ndarray, "size"],
        table: MemberTable,
    ) -> tuple[Float[np.ndarray, "row neuron size"], Float[np.ndarray, "row neuron"]]:
        """Return the responses to patches of each neuron's preferred grating, and the one to grey."""
        shown = self.grid.respond(population, neurons)
        response, _ = evoked(shown.f0, shown.f1, "larger")
        _, best = best_gratings(response[0], shown)
        variants = Variants(np.full(len(diameters_px), self.grid.contrast), np.zeros(len(diameters_px)), diameters_px)
        values = self.grid.respond_own_gratings(population, neurons, best, variants, centers)
        curves, name = evoked(values[..., 0] - shown.baseline[..., None], values[..., 1], "larger")
        table.note("response_measure", name)
        return curves, shown.baseline

    def _fill(
        self,
        table: MemberTable,
        curves: Float[np.ndarray, "row neuron size"],
        fit: SizeFit,
        centers: Float[np.ndarray, "neuron 2"],
        population: Population,
    ) -> None:
        shape, unit = curves.shape[:2], self.length_unit
        height, width = population.frame_shape[1:]
        table.note("center_y_px", (height - 1) / 2 - centers[:, 0])
        table.note("center_x_px", (width - 1) / 2 + centers[:, 1])
        index = suppression_index(curves.reshape(-1, curves.shape[2]))
        table.add("suppression_index", index.reshape(shape))
        table.add("suppression_index_fit", fit.suppression.reshape(shape))
        preferred = fit.preferred.reshape(shape)
        table.add(f"preferred_diameter_{unit}", preferred)
        if unit == "px" and population.pixel_um:
            table.add("preferred_diameter_um", preferred * population.pixel_um)
        if unit == "px" and population.pixel_deg:
            table.add("preferred_diameter_deg", preferred * population.pixel_deg)
        table.note("center_width_fit_error_octaves", fit.center_error_octaves.reshape(shape)[0])
        table.note("size_r2", fit.r2.reshape(shape)[0])
        table.note("preferred_diameter_at_edge", fit.at_edge.reshape(shape)[0])

    def _axes(self, fit: SizeFit) -> dict[str, Quantity]:
        return {
            "diameter": Quantity(self.diameters, ("diameter",), self.length_unit),
            "diameter_fine": Quantity(fit.fine, ("diameter_fine",), self.length_unit),
        }

    def draw(self, results: Mapping[str, ExperimentResult]) -> Mapping[str, Drawing]:
        """Return a gallery of size tuning curves and histograms of preferred sizes and suppression."""
        unit = next(iter(results.values())).arrays["size_tuning"].unit
        length = self.length_unit.replace("um", "µm")
        return {
            "size_tuning": draw_curve_gallery(
                results,
                ("size_tuning", "diameter"),
                (f"diameter of the {self.stimulus} ({length})", f"response ({unit})"),
                logarithmic=False,
            ),
            "summary": draw_histograms(
                results,
                (
                    Measure("suppression_index", "suppression index", (0.0, 1.0)),
                    Measure(f"preferred_diameter_{self.length_unit}", f"preferred diameter ({length})", None),
                ),
                f"Size tuning to {self.stimulus}s around receptive fields",
            ),
        }


def _arrays(
    curves: Float[np.ndarray, "row neuron size"],
    fit: SizeFit,
    unit: str,
) -> dict[str, Quantity]:
    return {
        "size_tuning": Quantity(curves[0], ("neuron", "diameter"), unit),
        "size_tuning_members": Quantity(curves[1:].swapaxes(0, 1), ("neuron", "member", "diameter"), unit),
        "size_tuning_fit": Quantity(fit.curve[: curves.shape[1]], ("neuron", "diameter_fine"), unit),
    }
