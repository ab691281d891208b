"""Where a neuron is sensitive: Gaussians fitted to maps of sensitivity."""

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter

from coread.insilico.gaussian_fit import GaussianFit, fit_gaussians

SMALLEST_SIGMA_PX = 0.3  # what is narrower looks like a single pixel


def place_of(maps: Float[np.ndarray, "neuron height width"], smoothing_px: float) -> GaussianFit:
    """Return the Gaussian fitted to each map after smoothing, which is taken out of the widths again.

    The map of a Gabor function has several peaks, which smoothing joins; fits start at the centre of gravity of the
    squared map. `r2` is of the smoothed maps.
    """
    smooth = gaussian_filter(maps, sigma=(0, smoothing_px, smoothing_px), mode="constant")
    power = np.square(smooth, dtype=float)
    total = np.maximum(power.sum(axis=(1, 2)), np.finfo(float).tiny)
    grid = np.mgrid[: maps.shape[1], : maps.shape[2]]
    start = np.einsum("nyx,ayx->na", power, grid) / total[:, None]
    fit = fit_gaussians(smooth, start)
    sigma = np.sqrt(np.maximum(np.square(fit.sigma_px) - smoothing_px**2, SMALLEST_SIGMA_PX**2))
    return fit._replace(sigma_px=sigma)
