"""Spatial and temporal filters of spike-triggered averages, for models that do not learn their filters.

The conventions are those of Sridhar et al. (2025): the frame of the average with the largest variance over pixels is
fitted by an elliptical Gaussian, which within some standard deviations is the spatial filter; the time course at its
centre is the temporal filter; both have length 1.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32
from scipy.optimize import curve_fit

from coread.data_io.sta import StaError
from coread.insilico.gaussian_fit import fit_gaussians

MIN_SIGMA_PX = 0.5
MAX_EVALUATIONS = 5000


class StaFilters(NamedTuple):
    """Filters of neurons; those of neurons whose average is empty or not finite are zero and not `usable`.

    Along frame the oldest comes first, so that a cross-correlation with the stimulus is the response. `center_px` is
    (y, x).
    """

    spatial: Float32[np.ndarray, "neuron height width"]
    temporal: Float32[np.ndarray, "neuron frame"]
    center_px: Float[np.ndarray, "neuron 2"]
    usable: Bool[np.ndarray, "neuron"]


class _Ellipses(NamedTuple):
    """Gaussians: centre (y, x), two widths, and the angle of the first width's axis from the x axis towards y."""

    center: Float[np.ndarray, "neuron 2"]
    sigma: Float[np.ndarray, "neuron 2"]
    angle: Float[np.ndarray, "neuron"]


def extract_filters(
    sta: Float[np.ndarray, "neuron frame height width"],
    temporal_crop_frames: int | None = None,
    sigma_contour: float = 3.0,
) -> StaFilters:
    """Return the filters of averages whose last frame is the current one; `temporal_crop_frames` keeps the newest.

    A spatial filter is positive; whether the cell prefers light or dark is in the sign of its temporal filter.
    """
    n_neurons, n_frames, height, width = sta.shape
    kept = n_frames if temporal_crop_frames is None else min(temporal_crop_frames, n_frames)
    usable = np.isfinite(sta).all(axis=(1, 2, 3)) & (np.abs(np.nan_to_num(sta)).max(axis=(1, 2, 3)) > 0)
    spatial = np.zeros((n_neurons, height, width), np.float32)
    temporal = np.zeros((n_neurons, kept), np.float32)
    center = np.tile([(height - 1) / 2, (width - 1) / 2], (n_neurons, 1))
    if usable.any():
        averages = sta[usable].astype(np.float64)
        peak = averages.var(axis=(2, 3)).argmax(axis=1)
        ellipses = _fit(averages[np.arange(len(averages)), peak])
        spatial[usable] = _unit(_masked_gaussians(ellipses, (height, width), sigma_contour))
        row, column = np.rint(ellipses.center).astype(int).clip(0, [height - 1, width - 1]).T
        temporal[usable] = _unit(averages[np.arange(len(averages)), :, row, column][:, n_frames - kept :])
        center[usable] = ellipses.center
    return StaFilters(spatial, temporal, center, usable)


def load_sta(
    path: Path, frame_size: tuple[int, int] | None = None, flip_sta: bool = False
) -> Float[np.ndarray, "frame height width"]:
    """Read an average (frame, height, width), the current frame last, from a NumPy file.

    `flip_sta` mirrors it along the width; a larger one is cut to the centre of `frame_size` (height, width). Raises
    StaError that names the file.
    """
    try:
        sta = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise StaError(f"{path}: not a readable array ({error})") from error
    if sta.ndim != 3 or not np.issubdtype(sta.dtype, np.number):
        raise StaError(f"{path}: expected numbers (frame, height, width), found {sta.dtype} {sta.shape}")
    sta = sta[:, :, ::-1] if flip_sta else sta
    if frame_size is None:
        return sta
    top, left = (sta.shape[1] - frame_size[0]) // 2, (sta.shape[2] - frame_size[1]) // 2
    if min(top, left) < 0:
        raise StaError(f"{path}: the average is {sta.shape[1:]}, smaller than the stimulus {tuple(frame_size)}")
    return sta[:, top : top + frame_size[0], left : left + frame_size[1]]


def _fit(frames: Float[np.ndarray, "neuron height width"]) -> _Ellipses:
    """Fit all frames at once, and one by one, within bounds, those whose best Gaussian is no receptive field."""
    size = np.array(frames.shape[1:])
    flat = np.abs(frames).reshape(len(frames), -1).argmax(axis=1)
    peak = np.stack(np.unravel_index(flat, frames.shape[1:]), axis=1)
    polarity = np.sign(frames.reshape(len(frames), -1)[np.arange(len(frames)), flat])
    fit = fit_gaussians(frames * polarity[:, None, None], peak.astype(np.float64))
    fitted = _Ellipses(fit.center_px.copy(), fit.sigma_px.copy(), fit.angle_rad.copy())
    inside = ((fitted.center >= 0) & (fitted.center <= size - 1)).all(axis=1)
    good = (
        fit.converged & inside & (fitted.sigma >= MIN_SIGMA_PX).all(axis=1) & (fitted.sigma <= size.max()).all(axis=1)
    )
    for neuron in np.flatnonzero(~good):
        fitted.center[neuron], fitted.sigma[neuron], fitted.angle[neuron] = _fit_within_bounds(
            frames[neuron] * polarity[neuron], peak[neuron]
        )
    return fitted


def _fit_within_bounds(
    frame: Float[np.ndarray, "height width"], peak: Float[np.ndarray, "2"]
) -> tuple[Float[np.ndarray, "2"], Float[np.ndarray, "2"], float]:
    """Fit one frame with the centre inside it and widths of at least half a pixel; the start where that fails."""
    height, width = frame.shape
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij")).reshape(2, -1).astype(float)

    def gaussian(
        pixels: np.ndarray, y: float, x: float, first: float, second: float, angle: float, amplitude: float
    ) -> np.ndarray:
        ellipse = _Ellipses(np.array([[y, x]]), np.array([[first, second]]), np.array([angle]))
        return amplitude * np.exp(-0.5 * _squared_distance(ellipse, pixels)[0])

    sigma = min(height, width) / 6
    start = [*peak, max(sigma, MIN_SIGMA_PX), max(sigma, MIN_SIGMA_PX), 0.0, frame[tuple(peak)]]
    lower = [0, 0, MIN_SIGMA_PX, MIN_SIGMA_PX, -np.pi, -np.inf]
    upper = [max(height - 1, 1e-6), max(width - 1, 1e-6), width, height, np.pi, np.inf]
    try:
        best, _ = curve_fit(gaussian, grid, frame.ravel(), p0=start, bounds=(lower, upper), maxfev=MAX_EVALUATIONS)
    except (RuntimeError, ValueError):
        best = np.array(start)
    return best[:2], best[2:4], float(best[4])


def _squared_distance(ellipses: _Ellipses, pixels: Float[np.ndarray, "2 pixel"]) -> Float[np.ndarray, "neuron pixel"]:
    """Return the squared distance of pixels (y, x) from the centres, in standard deviations."""
    dy, dx = (pixels[axis] - ellipses.center[:, axis, None] for axis in (0, 1))
    cos, sin = np.cos(ellipses.angle)[:, None], np.sin(ellipses.angle)[:, None]
    along, across = cos * dx + sin * dy, cos * dy - sin * dx
    return np.square(along / ellipses.sigma[:, :1]) + np.square(across / ellipses.sigma[:, 1:])


def _masked_gaussians(
    ellipses: _Ellipses, size: tuple[int, int], sigma_contour: float
) -> Float[np.ndarray, "neuron height width"]:
    grid = np.stack(np.meshgrid(np.arange(size[0]), np.arange(size[1]), indexing="ij")).reshape(2, -1).astype(float)
    squared = _squared_distance(ellipses, grid)
    values = np.where(squared <= sigma_contour**2, np.exp(-0.5 * squared), 0.0)
    return values.reshape(-1, *size)


def _unit(filters: Float[np.ndarray, "neuron *shape"]) -> Float[np.ndarray, "neuron *shape"]:
    """Return filters of length 1; those that are zero stay zero."""
    norm = np.linalg.norm(filters.reshape(len(filters), -1), axis=1)
    return filters / np.where(norm > 0, norm, 1.0).reshape(-1, *[1] * (filters.ndim - 1))
