"""What the filters of known cells say of their tuning: Fourier transforms at drifting gratings, no stimulus is shown.

A linear filter answers a drifting grating with a sinusoid whose complex amplitude is the filter's Fourier transform at
the grating; the nonlinearity is applied to one cycle of it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from coread.data_io.simulate.known_cells import POLARITIES, CenterSurroundCell, GaborCell, KnownCells

N_PHASES = 64  # of a grating's cycle
CONTRAST = 1.0  # of the gratings
DIRECTIONS_DEG = np.arange(0, 360, 20.0)
SPATIAL_CYC_PX = np.geomspace(0.03, 0.4, 12)
TEMPORAL_HZ = np.geomspace(0.7, 12.0, 8)
N_ZOOMS, ZOOM_POINTS = 12, np.array([-1.0, -0.5, 0.0, 0.5, 1.0])


Measure = Callable[[KnownCells, "Gratings", float], np.ndarray]  # of responses to gratings, (neuron, grating)


class Gratings(NamedTuple):
    """Drifting gratings per cell: direction of motion (0: rightwards, 90: upwards) and frequencies."""

    direction_deg: Float[np.ndarray, "neuron grating"]
    spatial_cyc_px: Float[np.ndarray, "neuron grating"]
    temporal_hz: Float[np.ndarray, "neuron grating"]


def grating_cycle(
    cells: KnownCells, gratings: Gratings, contrast: float = CONTRAST
) -> Float[np.ndarray, "neuron grating phase"]:
    """Return every cell's expected spike count per bin over one cycle of each of its gratings, in the steady state."""
    filters = cells.filters.sum(axis=3)  # the same grating in all channels
    _, _, n_lags, height, width = filters.shape
    angle = np.deg2rad(gratings.direction_deg)
    y, x = (np.arange(size)[None, None] for size in (height, width))
    turns = 2 * np.pi * gratings.spatial_cyc_px[:, :, None]
    along_y = np.exp(-1j * turns * np.sin(angle)[:, :, None] * y)  # rows count downwards
    along_x = np.exp(1j * turns * np.cos(angle)[:, :, None] * x)
    back = np.exp(2j * np.pi * gratings.temporal_hz[:, :, None] * np.arange(n_lags) / cells.rate_hz)
    amplitude = np.einsum("nklyx,ngl,ngy,ngx->nkg", filters, back, along_y, along_x, optimize=True)
    phase = np.exp(-2j * np.pi * np.arange(N_PHASES) / N_PHASES)
    return cells.respond_to_drive(contrast * (amplitude[..., None] * phase).real)


def evoked_mean(
    cells: KnownCells, gratings: Gratings, contrast: float = CONTRAST
) -> Float[np.ndarray, "neuron grating"]:
    """Return F0: the mean response to gratings over a cycle, less the response to mean grey."""
    grey = cells.respond_to_drive(np.zeros(cells.filters.shape[:2]))
    return grating_cycle(cells, gratings, contrast).mean(axis=-1) - grey[:, None]


def modulation(
    cells: KnownCells, gratings: Gratings, contrast: float = CONTRAST
) -> Float[np.ndarray, "neuron grating"]:
    """Return F1: the amplitude with which gratings modulate the response at their own frequency."""
    turn = np.exp(2j * np.pi * np.arange(N_PHASES) / N_PHASES)
    return 2 * np.abs((grating_cycle(cells, gratings, contrast) * turn).mean(axis=-1))


def preferred_gratings(cells: KnownCells, contrast: float = CONTRAST) -> Gratings:
    """Return the drifting grating with the largest mean response of every cell, (neuron, 1), found on finer grids."""
    n_cells = len(cells.filters)
    mesh = np.meshgrid(DIRECTIONS_DEG, SPATIAL_CYC_PX, TEMPORAL_HZ, indexing="ij")
    every = Gratings(*(np.broadcast_to(axis.reshape(1, -1), (n_cells, axis.size)) for axis in mesh))
    best = _best(cells, every, contrast)
    steps = [
        np.diff(DIRECTIONS_DEG)[0],
        np.log(SPATIAL_CYC_PX[1] / SPATIAL_CYC_PX[0]),
        np.log(TEMPORAL_HZ[1] / TEMPORAL_HZ[0]),
    ]
    around = [axis.reshape(1, -1) for axis in np.meshgrid(*3 * [ZOOM_POINTS], indexing="ij")]
    for zoom in range(N_ZOOMS):
        direction, spatial, temporal = (step * 0.6**zoom * axis for step, axis in zip(steps, around, strict=True))
        finer = Gratings(
            best.direction_deg + direction, best.spatial_cyc_px * np.exp(spatial), best.temporal_hz * np.exp(temporal)
        )
        best = _best(cells, finer, contrast)
    return best._replace(direction_deg=best.direction_deg % 360)


def _best(cells: KnownCells, gratings: Gratings, contrast: float) -> Gratings:
    chosen = evoked_mean(cells, gratings, contrast).argmax(axis=1)[:, None]
    return Gratings(*(np.take_along_axis(values, chosen, axis=1) for values in gratings))


def direction_selectivity(
    cells: KnownCells, preferred: Gratings, measure: Measure = evoked_mean, contrast: float = CONTRAST
) -> Float[np.ndarray, "neuron"]:
    """Return (R_preferred - R_opposite) / (R_preferred + R_opposite) of F0 (`evoked_mean`) or F1 (`modulation`)."""
    opposite = preferred._replace(direction_deg=preferred.direction_deg + 180)
    own, other = (measure(cells, gratings, contrast)[:, 0] for gratings in (preferred, opposite))
    return (own - other) / (own + other)


def linear_filters(cells: KnownCells) -> Float[np.ndarray, "neuron lag channel height width"]:
    """Return the filter of every cell that has a single one, zeros for the others."""
    return np.where(cells.linear[:, None, None, None, None], cells.filters[:, 0], 0.0)


def filter_subspaces(cells: KnownCells) -> Float[np.ndarray, "neuron subunit lag channel height width"]:
    """Return orthonormal bases of what the cells' filters span; zeros where that is one dimension only."""
    flat = cells.filters.reshape(*cells.filters.shape[:2], -1)
    _, strength, basis = np.linalg.svd(flat, full_matrices=False)
    kept = strength > 1e-6 * strength[:, :1]
    return np.where(kept[:, :, None], basis, 0.0).reshape(cells.filters.shape)


def truth_table(cells: KnownCells, contrast: float = CONTRAST) -> pd.DataFrame:
    """Return one row per cell; NaN where a cell has no such preference.

    Columns: neuron, unit_id, cell_type, truth_linear, truth_center_y_px, truth_center_x_px, truth_polarity (1 ON, -1
    OFF, 0 ON-OFF), truth_orientation_deg (of the bars; 0 horizontal, 90 vertical), truth_direction_deg (of motion; 0
    rightwards, 90 upwards), truth_spatial_frequency_cyc_px, truth_temporal_frequency_hz, truth_dsi (of the mean
    response above grey), truth_dsi_f1 (of the modulation), truth_color_angle_deg (of the weights of channels 0 and 1).
    """
    best = preferred_gratings(cells, contrast)
    gabor = np.array([isinstance(cell, GaborCell) for cell in cells.cells])
    moving = np.array([isinstance(cell, GaborCell) and cell.motion for cell in cells.cells])
    centers = np.array([list(cell.center_px) for cell in cells.cells], float)
    weights = np.array([list(cell.channel_weights)[:2] for cell in cells.cells], float)
    polarity = np.array([_polarity(cell) for cell in cells.cells])
    # the sign of a pair of weights belongs to the polarity: that of the channel with more weight is positive
    stronger = np.take_along_axis(weights, np.abs(weights).argmax(axis=1)[:, None], axis=1)
    weights = weights * np.sign(stronger)
    columns: dict[str, Any] = {
        "neuron": range(len(gabor)),
        "unit_id": cells.unit_ids,
        "cell_type": [cell.cell_type for cell in cells.cells],
        "truth_linear": cells.linear,
        "truth_center_y_px": centers[:, 0],
        "truth_center_x_px": centers[:, 1],
        "truth_polarity": polarity,
        "truth_orientation_deg": np.where(gabor, (best.direction_deg[:, 0] + 90) % 180, np.nan),
        "truth_direction_deg": np.where(moving, best.direction_deg[:, 0], np.nan),
        "truth_spatial_frequency_cyc_px": np.where(gabor, best.spatial_cyc_px[:, 0], np.nan),
        "truth_temporal_frequency_hz": np.where(gabor, best.temporal_hz[:, 0], np.nan),
        "truth_dsi": np.where(gabor, direction_selectivity(cells, best, evoked_mean, contrast), np.nan),
        "truth_dsi_f1": np.where(gabor, direction_selectivity(cells, best, modulation, contrast), np.nan),
        "truth_color_angle_deg": np.rad2deg(np.arctan2(weights[:, 1], weights[:, 0])),
    }
    return pd.DataFrame(columns)


def _polarity(cell: CenterSurroundCell | GaborCell) -> float:
    return POLARITIES[cell.polarity] if isinstance(cell, CenterSurroundCell) else np.nan
