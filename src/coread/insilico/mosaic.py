"""Mosaics: how regularly the receptive fields of one cell type tile visual space.

The regularity index is the mean distance to the nearest neighbour over its standard deviation (Waessle & Riemann 1978,
Proceedings of the Royal Society B 200:441): about 1.9 for places drawn at random. The coverage factor is the number of
receptive fields over each point, density times area (Waessle & Boycott 1991, Physiological Reviews 71:447).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy.spatial import ConvexHull, QhullError

from coread.insilico.experiment import ExperimentResult, Quantity
from coread.insilico.noise_sta import NoiseStream, sensitivity_maps
from coread.insilico.place_fits import place_of
from coread.insilico.population import Population
from coread.insilico.receptive_fields import own_gradients
from coread.insilico.separable import separate

if TYPE_CHECKING:
    from coread.plotting.style import Drawing

MIN_CELLS = 3  # of a mosaic: fewer have no hull
POLARITY_NAMES = {1: "ON", -1: "OFF", 0: "neither"}  # the mosaics of a session without cell types


@dataclass(frozen=True)
class Mosaic:
    """Places and sizes of model neurons in visual space; `configs/insilico/mosaic.yaml` explains each setting."""

    n_gradients: int
    contrast: float
    smoothing_px: float
    contour_sigma: float
    n_random: int
    seed: int

    def run(self, population: Population, neurons: Int[np.ndarray, "neuron"]) -> ExperimentResult:
        """Return the place of some neurons in the unit of the pixels' width: micrometres, degrees or pixels."""
        stream = NoiseStream(1, self.contrast, self.seed)
        maps = sensitivity_maps(stream, population, neurons, self.n_gradients).cpu().numpy()
        fit = place_of(maps, self.smoothing_px)
        unit, width = pixel_width(population)
        grey = torch.zeros(population.models[0].stimulus_shape(population.lag + 1), device=population.device)
        ((_, gradient),) = own_gradients(population.model, population.session, grey, neurons, len(neurons))
        polarity = separate(gradient.flip(2).movedim(1, 2).cpu().numpy(), self.smoothing_px).polarity
        table = population.neurons.iloc[np.asarray(neurons)].reset_index(drop=True)
        # places count from the middle of the frame, upwards and to the right
        height, wide = maps.shape[1:]
        table = table.assign(
            **{
                f"x_{unit}": (fit.center_px[:, 1] - (wide - 1) / 2) * width,
                f"y_{unit}": ((height - 1) / 2 - fit.center_px[:, 0]) * width,
                f"sigma_major_{unit}": fit.sigma_px[:, 0] * width,
                f"sigma_minor_{unit}": fit.sigma_px[:, 1] * width,
                "angle_deg": -np.rad2deg(fit.angle_rad) % 180,
                "polarity": polarity,
                "place_r2": fit.r2,
                "place_converged": fit.converged,
            }
        )
        frame = np.array([height, wide]) * width
        return ExperimentResult(table, {"frame": Quantity(frame, ("y_x",), unit)})

    def summarise(self, results: Mapping[str, ExperimentResult]) -> dict[str, ExperimentResult]:
        """Return the results with the mosaic of every cell type beside each of its neurons."""
        return {session: self._with_mosaics(result) for session, result in results.items()}

    def draw(self, results: Mapping[str, ExperimentResult]) -> Mapping[str, "Drawing"]:
        """Return the mosaics in visual space."""
        from coread.plotting.mosaic import draw_mosaics

        return {"mosaic": draw_mosaics(results)}

    def _with_mosaics(self, result: ExperimentResult) -> ExperimentResult:
        unit = result.arrays["frame"].unit
        table = result.table
        kind = cell_types(table)
        rows = []
        for name in sorted(set(kind)):
            chosen = (kind == name) & table["place_converged"].to_numpy(bool)
            places = table.loc[chosen, [f"x_{unit}", f"y_{unit}"]].to_numpy(float)
            sigma = table.loc[chosen, [f"sigma_major_{unit}", f"sigma_minor_{unit}"]].to_numpy(float)
            rows.append({"kind": name, **describe_mosaic(places, sigma, self.contour_sigma, self.n_random, self.seed)})
        of_kind = pd.DataFrame(rows).set_index("kind").loc[kind].reset_index(drop=True)
        of_neuron = {
            f"nearest_neighbour_{unit}": _nearest(table, kind, unit),
            **{f"mosaic_{name}": of_kind[name].to_numpy() for name in of_kind},
        }
        return replace(result, table=table.assign(**of_neuron))


def pixel_width(population: Population) -> tuple[str, float]:
    """Return unit and width of a pixel: micrometres where known, otherwise degrees, otherwise one pixel."""
    if population.pixel_um is not None:
        return "um", float(population.pixel_um)
    return ("px", 1.0) if population.pixel_deg is None else ("deg", float(population.pixel_deg))


def cell_types(table: pd.DataFrame) -> np.ndarray:
    """Return the cell type of every neuron; its polarity where the recording knows no types."""
    if "cell_type" not in table:
        return table["polarity"].map(POLARITY_NAMES).to_numpy(str)
    return table["cell_type"].astype(str).to_numpy()


def nearest_neighbours(places: Float[np.ndarray, "*set cell 2"]) -> Float[np.ndarray, "*set cell"]:
    """Return the distance of every place to the nearest other one of its set; NaN for one alone."""
    n_cells = places.shape[-2]
    if n_cells < 2:
        return np.full(places.shape[:-1], np.nan)
    distance = np.linalg.norm(places[..., :, None, :] - places[..., None, :, :], axis=-1)
    return (distance + np.where(np.eye(n_cells, dtype=bool), np.inf, 0.0)).min(axis=-1)


def regularity_index(places: Float[np.ndarray, "*set cell 2"]) -> Float[np.ndarray, "*set"]:
    """Return mean over standard deviation of the distances to nearest neighbours; NaN for fewer than 3 places."""
    if places.shape[-2] < MIN_CELLS:
        return np.full(places.shape[:-2], np.nan)
    nearest = nearest_neighbours(places)
    spread = nearest.std(axis=-1, ddof=1)
    return np.divide(nearest.mean(axis=-1), spread, out=np.full(spread.shape, np.inf), where=spread > 0)


def describe_mosaic(
    places: Float[np.ndarray, "cell 2"],
    sigma: Float[np.ndarray, "cell 2"],
    contour_sigma: float,
    n_random: int,
    seed: int,
) -> dict[str, float]:
    """Return number, regularity_index with its p among random places, coverage_factor and density of a mosaic.

    Random places are uniform in the convex hull of the mosaic, which is also the area that the density refers to. The
    area of a receptive field is that of its ellipse at `contour_sigma` standard deviations. NaN for fewer than 3 cells.
    """
    empty = dict.fromkeys(("regularity_index", "regularity_p", "coverage_factor", "density"), np.nan)
    if len(places) < MIN_CELLS:
        return {"n": float(len(places)), **empty}
    try:
        hull = ConvexHull(places)
    except QhullError:  # all on one line
        return {"n": float(len(places)), **empty}
    index = float(regularity_index(places))
    by_chance = regularity_index(_uniform_in(hull, (n_random, len(places)), np.random.default_rng(seed)))
    area = np.pi * contour_sigma**2 * sigma.prod(axis=1)
    density = len(places) / hull.volume  # of a hull in two dimensions: its area
    return {
        "n": float(len(places)),
        "regularity_index": index,
        "regularity_p": float((1 + (by_chance >= index).sum()) / (1 + n_random)),
        "coverage_factor": float(density * area.mean()),
        "density": float(density),
    }


def _uniform_in(hull: ConvexHull, shape: tuple[int, int], rng: np.random.Generator) -> Float[np.ndarray, "set cell 2"]:
    """Return uniform places in a convex hull: in the triangles of a fan, drawn by their areas."""
    corners = hull.points[hull.vertices]
    origin, a, b = corners[0], corners[1:-1], corners[2:]
    first, second = a - origin, b - origin
    area = np.abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0])
    triangle = rng.choice(len(area), size=shape, p=area / area.sum())
    u, v = rng.random((2, *shape))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    return origin + u[..., None] * first[triangle] + v[..., None] * second[triangle]


def _nearest(table: pd.DataFrame, kind: np.ndarray, unit: str) -> Float[np.ndarray, "neuron"]:
    """Return the distance of every neuron to the nearest one of its type."""
    distance = np.full(len(table), np.nan)
    placed = table["place_converged"].to_numpy(bool)
    for name in set(kind):
        chosen = np.flatnonzero((kind == name) & placed)
        distance[chosen] = nearest_neighbours(table.iloc[chosen][[f"x_{unit}", f"y_{unit}"]].to_numpy(float))
    return distance
