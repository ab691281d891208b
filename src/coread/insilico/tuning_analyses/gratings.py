"""Tuning to gratings: orientation, direction, spatial and temporal frequency, contrast, and phase (F1 / F0)."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from coread.insilico.experiment import ExperimentResult, Quantity
from coread.insilico.population import Population
from coread.insilico.tuning_analyses.angles import add_preferred_angles
from coread.insilico.tuning_analyses.curves import (
    Fitted,
    fit_contrasts,
    fit_directions,
    fit_frequencies,
    fit_orientations,
)
from coread.insilico.tuning_analyses.grating_grid import (
    GratingGrid,
    GratingResponses,
    Variants,
    best_gratings,
    evoked,
)
from coread.insilico.tuning_analyses.indices import (
    contrast_of_two,
    modulation_ratio,
)
from coread.insilico.tuning_analyses.member_table import MemberTable, responds
from coread.insilico.tuning_analyses.permutation import direction_permutation_test
from coread.insilico.tuning_analyses.responses import is_memoryless
from coread.plotting.style import Drawing
from coread.plotting.tuning import draw_curve_gallery, draw_polar_gallery
from coread.plotting.tuning_summary import Measure, draw_histograms

DIRECTION, SPATIAL, TEMPORAL = "direction_deg", "spatial_frequency_cyc_px", "temporal_frequency_hz"
CONTRAST = "contrast"
TURNS_DEG = np.array([0.0, 90.0, 180.0, 270.0])
GOOD_R2 = 0.5  # of a fit: below, the best grating shown stands in for the preferred one
AXIS_LABELS = {
    SPATIAL: "spatial frequency (cycles / px)",
    TEMPORAL: "temporal frequency (Hz)",
    CONTRAST: "contrast",
}
AXIS_UNITS = {DIRECTION: "deg", SPATIAL: "cycles / px", TEMPORAL: "Hz", CONTRAST: ""}
SUMMARY = (
    Measure("osi_vector", "orientation selectivity (1 - circ. var.)", (0.0, 1.0)),
    Measure("dsi_vector", "direction selectivity (1 - circ. var.)", (0.0, 1.0)),
    Measure("preferred_orientation_deg", "preferred orientation (deg)", (0.0, 180.0), is_angle=True),
    Measure("preferred_spatial_frequency_cyc_px", "preferred spatial frequency (cycles / px)", None),
    Measure("preferred_temporal_frequency_hz", "preferred temporal frequency (Hz)", None),
    Measure("f1_f0", "F1 / F0 (above 1: simple)", (0.0, 2.0)),
)


class _Curve(NamedTuple):
    """A tuning curve through each neuron's best grating, NaN where it does not respond; fits of all rows."""

    points: Float[np.ndarray, "point"]
    values: Float[np.ndarray, "row neuron point"]
    fit: Fitted


class _Found(NamedTuple):
    """Responses to the grid, what they are measured by per neuron (F0 or F1), and which neurons respond."""

    shown: GratingResponses
    response: Float[np.ndarray, "row neuron direction spatial temporal"]
    measure: np.ndarray
    responding: Bool[np.ndarray, "row neuron"]

    def alike(
        self, values: Float[np.ndarray, "row neuron variant 2"]
    ) -> tuple[Float[np.ndarray, "row neuron variant"], Float[np.ndarray, "row neuron variant"]]:
        """Return responses to further gratings, measured like those to the grid, and F1 / F0."""
        known = self.responding[..., None]
        f0 = np.where(known, values[..., 0] - self.shown.baseline[..., None], np.nan)
        f1 = np.where(known, values[..., 1], np.nan)
        return np.where((self.measure == "F1")[:, None], f1, f0), modulation_ratio(f1, f0)


class GratingTuning:
    """Tuning of every neuron to full-field gratings.

    All directions are shown at all spatial and temporal frequencies. Each neuron's best grating is that of the largest
    response of the ensemble; its tuning curves go through it, and it is shown again at all `contrasts`. The indices
    that compare two directions, and F1 / F0, are measured at the preferred grating of the fits, turned by quarters of
    a circle: osi is (R_along - R_across) / (R_along + R_across) over both directions of an orientation (Niell & Stryker
    2008, J Neurosci 28:7520), dsi (R_preferred - R_opposite) / (R_preferred + R_opposite); osi_vector and dsi_vector
    are vector sums over all directions (Mazurek et al. 2014, Front Neural Circuits 8:92). To models of single images
    the gratings are static, directions are those of the axis across the stripes, and F1 is the modulation over phases.

    Args:
        grid: which gratings are shown.
        contrasts: of each neuron's best grating.
        measure: of the response: F0 (mean above grey) | F1 (modulation) | larger (of both, per neuron) |
            F0_unless_linear (F1 of neurons that hardly rectify).
        min_response: share of the response to grey by which a neuron's response must change to count as one.
        min_selectivity: smallest vector sum at which a neuron prefers an orientation (or a direction); others have NaN.
        reliable_correlation: smallest mean correlation between members' responses of reliable neurons.
        n_permutations: of directions in the test of direction selectivity.
        seed: of the permutations.

    """

    def __init__(
        self,
        grid: GratingGrid,
        contrasts: Sequence[float],
        measure: str,
        min_response: float,
        min_selectivity: float,
        reliable_correlation: float,
        n_permutations: int,
        seed: int,
    ) -> None:
        self.grid = grid
        self.contrasts = np.asarray(contrasts, float)
        self.measure = measure
        self.min_response, self.min_selectivity = min_response, min_selectivity
        self.reliable_correlation = reliable_correlation
        self.n_permutations, self.seed = n_permutations, seed

    def run(self, population: Population, neurons: Int[np.ndarray, "neuron"]) -> ExperimentResult:
        """Return tuning curves with their fits, and a table of indices and preferred values."""
        memoryless = is_memoryless(population)
        found = self._found(population, neurons)
        best, gratings = best_gratings(found.response[0], found.shown)
        curves = _curves_through(found, best, memoryless)
        contrasts = Variants(self.contrasts, np.zeros(len(self.contrasts)))
        contrast, _ = found.alike(self.grid.respond_own_gratings(population, neurons, gratings, contrasts))
        curves[CONTRAST] = _Curve(self.contrasts, contrast, fit_contrasts(_flat(contrast), self.contrasts))
        turned = Variants(np.full(len(TURNS_DEG), self.grid.contrast), TURNS_DEG)
        preferred = _preferred_gratings(gratings, curves)
        around, ratio = found.alike(self.grid.respond_own_gratings(population, neurons, preferred, turned))
        table = MemberTable(population, neurons)
        table.judge(found.responding, found.response, self.reliable_correlation)
        table.note("response_measure", found.measure)
        _add_angles(table, curves[DIRECTION], around, memoryless, self.min_selectivity)
        if not memoryless:
            table.note("dsi_p", self._direction_p(found, best))
        table.add("f1_f0", ratio[..., 0])
        _add_frequencies(table, curves, population)
        table.add("c50", curves[CONTRAST].fit.preferred.reshape(table.shape))
        table.add("contrast_exponent", curves[CONTRAST].fit.width.reshape(table.shape))
        _note_fit(table, "contrast", curves[CONTRAST].fit, "c50_fit_error")
        arrays = _arrays(found, curves, population.unit) | table.members()
        return ExperimentResult(table.frame(), arrays, _axes(curves, found.shown))

    def _found(self, population: Population, neurons: Int[np.ndarray, "neuron"]) -> "_Found":
        shown = self.grid.respond(population, neurons)
        response, measure = evoked(shown.f0, shown.f1, self.measure)
        peak = np.nanmax(response.reshape(*response.shape[:2], -1), axis=2)
        return _Found(shown, response, measure, responds(peak, shown.baseline, self.min_response))

    def _direction_p(self, found: "_Found", best: Int[np.ndarray, "neuron 3"]) -> Float[np.ndarray, "neuron"]:
        """Test the directions at the best spatial frequency; temporal frequencies are repeats."""
        repeats = found.response[0][np.arange(len(best)), :, best[:, 1]].swapaxes(1, 2)
        repeats = np.where(found.responding[0][:, None, None], repeats, np.nan)
        return direction_permutation_test(repeats, found.shown.directions_deg, self.n_permutations, self.seed)

    def draw(self, results: Mapping[str, ExperimentResult]) -> Mapping[str, Drawing]:
        """Return polar plots, histograms of the indices, and galleries of frequency and contrast tuning."""
        arrays = next(iter(results.values())).arrays
        drawings = {
            "direction_tuning": draw_polar_gallery(results, f"{DIRECTION}_tuning", DIRECTION, "dsi_vector"),
            "summary": draw_histograms(results, SUMMARY, "Tuning to full-field gratings"),
        }
        for axis, label in AXIS_LABELS.items():
            if (name := f"{axis}_tuning") in arrays:
                drawings[f"{axis}_tuning"] = draw_curve_gallery(
                    results, (name, axis), (label, f"response ({arrays[name].unit})"), logarithmic=axis != CONTRAST
                )
        return drawings


def _curves_through(found: _Found, best: Int[np.ndarray, "neuron 3"], memoryless: bool) -> dict[str, _Curve]:
    """Return the curves of direction and frequencies through each neuron's best grating, and their fits."""
    shown, response = found.shown, found.response
    every = np.arange(len(best))
    direction, spatial, temporal = best.T
    through = {
        DIRECTION: (shown.directions_deg, response[:, every, :, spatial, temporal].swapaxes(0, 1)),
        SPATIAL: (shown.spatial_cyc_px, response[:, every, direction, :, temporal].swapaxes(0, 1)),
        TEMPORAL: (shown.temporal_hz, response[:, every, direction, spatial, :]),
    }
    can_show = {
        DIRECTION: np.ones(len(shown.directions_deg), bool),
        SPATIAL: shown.can_space,
        TEMPORAL: shown.can_time & (shown.temporal_hz > 0),
    }
    curves = {}
    for name, (points, values) in through.items():
        if name == TEMPORAL and (memoryless or not can_show[name].any()):
            continue
        known = np.where(found.responding[..., None], values, np.nan)
        fit = fit_frequencies if name != DIRECTION else fit_orientations if memoryless else fit_directions
        curves[name] = _Curve(points, known, fit(_flat(known)[:, can_show[name]], points[can_show[name]]))
    return curves


def _flat(values: Float[np.ndarray, "row neuron point"]) -> Float[np.ndarray, "curve point"]:
    return values.reshape(-1, values.shape[-1])


def _preferred_gratings(
    gratings: Float[np.ndarray, "neuron 3"], curves: Mapping[str, _Curve]
) -> Float[np.ndarray, "neuron 3"]:
    """Return each neuron's preferred grating by the ensemble's fits; the best of those shown where a fit is poor."""
    own = gratings.copy()
    for column, axis in enumerate((DIRECTION, SPATIAL, TEMPORAL)):
        if axis in curves:
            fit, n_neurons = curves[axis].fit, len(gratings)
            good = fit.r2[:n_neurons] >= GOOD_R2
            own[good, column] = fit.preferred[:n_neurons][good]
    return own


def _add_angles(
    table: MemberTable,
    curve: _Curve,
    around: Float[np.ndarray, "row neuron turn"],
    memoryless: bool,
    min_selectivity: float,
) -> None:
    """Add the indices: ratios at the preferred grating turned by quarters of a circle, vector sums of the curve."""
    ahead, left, back, right = np.moveaxis(np.maximum(around, 0.0), -1, 0)
    along, across = (ahead, left) if memoryless else ((ahead + back) / 2, (left + right) / 2)
    table.add("osi", contrast_of_two(along, across))
    if not memoryless:
        table.add("dsi", contrast_of_two(ahead, back))
    add_preferred_angles(table, curve.values, curve.points, curve.fit, min_selectivity, directions=not memoryless)
    table.add("tuning_half_width_deg", curve.fit.width.reshape(table.shape))


def _pixel_sizes(population: Population) -> dict[str, float]:
    """Return the width of a pixel by the unit of lengths, for those that are known."""
    sizes = {"cyc_px": 1.0, "cyc_mm": (population.pixel_um or 0) / 1000, "cyc_deg": population.pixel_deg or 0}
    return {unit: float(size) for unit, size in sizes.items() if size}


def _add_frequencies(table: MemberTable, curves: Mapping[str, _Curve], population: Population) -> None:
    """Add preferred frequencies in all units, bandwidths, and what tells how good the fits are."""
    for axis, sizes in ((SPATIAL, _pixel_sizes(population)), (TEMPORAL, {"hz": 1.0})):
        if axis in curves:
            name, own_unit = axis.removesuffix("_cyc_px").removesuffix("_hz"), next(iter(sizes))
            fit = curves[axis].fit
            for unit, size in sizes.items():
                table.add(f"preferred_{name}_{unit}", fit.preferred.reshape(table.shape) / size)
            table.add(f"{name}_bandwidth_octaves", fit.width.reshape(table.shape))
            _note_fit(table, name, fit, f"{name}_fit_error_{own_unit}")
            table.note(f"{name}_at_edge", fit.at_edge.reshape(table.shape)[0])


def _note_fit(table: MemberTable, name: str, fit: Fitted, error_name: str) -> None:
    """Add error and r2 of the fits to the ensemble's curves."""
    table.note(error_name, fit.error.reshape(table.shape)[0])
    table.note(f"{name}_r2", fit.r2.reshape(table.shape)[0])


def _arrays(found: _Found, curves: Mapping[str, _Curve], unit: str) -> dict[str, Quantity]:
    """Return responses to the grid and fitted curves of the ensemble, curves of the ensemble and of members."""
    arrays = {"grating_responses": Quantity(found.response[0], ("neuron", DIRECTION, SPATIAL, TEMPORAL), unit)}
    for axis, curve in curves.items():
        fitted = curve.fit.curve[: curve.values.shape[1]]
        arrays[f"{axis}_tuning"] = Quantity(curve.values[0], ("neuron", axis), unit)
        arrays[f"{axis}_tuning_members"] = Quantity(curve.values[1:].swapaxes(0, 1), ("neuron", "member", axis), unit)
        arrays[f"{axis}_tuning_fit"] = Quantity(fitted, ("neuron", f"{axis}_fine"), unit)
    return arrays


def _axes(curves: Mapping[str, _Curve], shown: GratingResponses) -> dict[str, Quantity]:
    axes = {TEMPORAL: Quantity(shown.temporal_hz, (TEMPORAL,), AXIS_UNITS[TEMPORAL])}
    for axis, curve in curves.items():
        axes[axis] = Quantity(curve.points, (axis,), AXIS_UNITS[axis])
        axes[f"{axis}_fine"] = Quantity(curve.fit.fine, (f"{axis}_fine",), AXIS_UNITS[axis])
    return axes
