"""Where a neuron is sensitive: Gaussians fitted to maps of sensitivity."""

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter

from coread.insilico.gaussian_fit import GaussianFit, fit_gaussians


def place_of(
    maps: Float[np.ndarray, "neuron height width"], smoothing_px: float
) -> tuple[GaussianFit, Float[np.ndarray, "neuron height width"]]:
    """Return the Gaussian fitted to each smoothed map, and the smoothed maps.

    Fits start at the centre of gravity of the squared map, because the map of a Gabor function has several peaks. The
    widths are those of the smoothed map.
    """
    smooth = gaussian_filter(maps, sigma=(0, smoothing_px, smoothing_px), mode="constant")
    power = np.square(smooth, dtype=float)
    total = np.maximum(power.sum(axis=(1, 2)), np.finfo(float).tiny)
    grid = np.mgrid[: maps.shape[1], : maps.shape[2]]
    start = np.einsum("nyx,ayx->na", power, grid) / total[:, None]
    return fit_gaussians(smooth, start), smooth
