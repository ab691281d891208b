"""Least-squares fits of two-dimensional Gaussians to many images at once, and the batched fit that does it."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

N_ITERATIONS = 60
CHUNK_VALUES = 2**22  # entries of one batch of Jacobians, 32 MiB

# values and derivatives of a model with given parameters on the grid of pixels
Evaluate = Callable[
    [Float[np.ndarray, "image parameter"], Float[np.ndarray, "2 pixel"]],
    tuple[Float[np.ndarray, "image pixel"], Float[np.ndarray, "image parameter pixel"]],
]


class GaussianFit(NamedTuple):
    """Fitted Gaussians: centres (y, x), widths along the major and the minor axis, direction of the major axis.

    `angle_rad` runs from the x axis towards the y axis, in [0, pi). `r2` is the share of the image's variance around
    zero that the fit explains. `converged` is false where no sensible Gaussian was found and the start is returned: the
    peak, with the width of a circle as large as the region above half the peak.
    """

    center_px: Float[np.ndarray, "image 2"]
    sigma_px: Float[np.ndarray, "image 2"]
    angle_rad: Float[np.ndarray, "image"]
    r2: Float[np.ndarray, "image"]
    converged: Bool[np.ndarray, "image"]


def fit_gaussians(
    images: Float[np.ndarray, "image height width"], peak_px: Float[np.ndarray, "image 2"]
) -> GaussianFit:
    """Fit amplitude, centre and full covariance to every image by Levenberg-Marquardt, started at the given peaks.

    Images must be positive around their peak; a weaker surround of the other sign stays in the residual.
    """
    n_chunk = max(1, CHUNK_VALUES // (6 * images[0].size)) if len(images) else 1
    parts = [
        _fit_chunk(images[first : first + n_chunk].astype(np.float64), peak_px[first : first + n_chunk])
        for first in range(0, len(images), n_chunk)
    ]
    if not parts:
        return GaussianFit(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0), np.zeros(0), np.zeros(0, bool))
    return GaussianFit(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _fit_chunk(images: Float[np.ndarray, "image height width"], peak_px: Float[np.ndarray, "image 2"]) -> GaussianFit:
    height, width = images.shape[1:]
    grid = pixel_grid(height, width)
    scale = np.abs(images).max(axis=(1, 2))
    flat = (images / np.where(scale > 0, scale, 1.0)[:, None, None]).reshape(len(images), -1)
    start = start_at_peak(flat, peak_px, (height, width))
    fitted = levenberg_marquardt(flat, start, grid, evaluate_gaussian)
    center, sigma, angle = geometry(fitted)
    largest = float(max(height, width))
    inside = ((center > -1) & (center < [height, width])).all(axis=1)
    sensible = inside & (fitted[:, 0] > 0) & (sigma > 0.2).all(axis=1) & (sigma < largest).all(axis=1)
    parameters = np.where(sensible[:, None], fitted, start)
    center, sigma, angle = geometry(parameters)
    residual = np.square(flat - evaluate_gaussian(parameters, grid)[0]).sum(axis=1)
    power = np.square(flat).sum(axis=1)
    r2 = 1 - np.divide(residual, power, out=np.ones_like(power), where=power > 0)
    return GaussianFit(center, sigma, angle, r2, sensible & (power > 0))


def pixel_grid(height: int, width: int) -> Float[np.ndarray, "2 pixel"]:
    """Return y and x of all pixels, row by row."""
    return np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij")).reshape(2, -1).astype(float)


def start_at_peak(
    flat: Float[np.ndarray, "image pixel"], peak_px: Float[np.ndarray, "image 2"], size: tuple[int, int]
) -> Float[np.ndarray, "image 6"]:
    """Start with a circle: a Gaussian of width s exceeds half its peak on an area of 2 pi ln(2) s^2."""
    row, column = np.rint(peak_px).astype(int).T
    peak = flat[np.arange(len(flat)), row * size[1] + column]
    area = (flat > 0.5 * np.maximum(peak, 1e-9)[:, None]).sum(axis=1)
    sigma = np.clip(np.sqrt(area / (2 * np.pi * np.log(2))), 0.7, min(size) / 3)
    zeros = np.zeros_like(sigma)
    return np.stack([np.maximum(peak, 0.1), *peak_px.T, -np.log(sigma), zeros, -np.log(sigma)], axis=1)


def evaluate_gaussian(
    parameters: Float[np.ndarray, "image 6"], grid: Float[np.ndarray, "2 pixel"]
) -> tuple[Float[np.ndarray, "image pixel"], Float[np.ndarray, "image 6 pixel"]]:
    """Return A exp(-|M d|^2 / 2) with M = [[e^p, q], [0, e^r]], d = (y - y0, x - x0), and its derivatives."""
    amplitude, y0, x0, p, q, r = (column[:, None] for column in parameters.T)
    p, r = np.exp(np.clip(p, -8, 3)), np.exp(np.clip(r, -8, 3))
    dy, dx = grid[0] - y0, grid[1] - x0
    first, second = p * dy + q * dx, r * dx
    shape = np.exp(-0.5 * (first**2 + second**2))
    value = amplitude * shape
    derivatives = [
        shape,
        value * first * p,
        value * (first * q + second * r),
        -value * first * p * dy,
        -value * first * dx,
        -value * second * r * dx,
    ]
    return value, np.stack(derivatives, axis=1)


def levenberg_marquardt(
    flat: Float[np.ndarray, "image pixel"],
    start: Float[np.ndarray, "image parameter"],
    grid: Float[np.ndarray, "2 pixel"],
    evaluate: Evaluate,
) -> Float[np.ndarray, "image parameter"]:
    """Return the parameters with the least squared error, of all images at once (Levenberg 1944, Marquardt 1963)."""
    unit = np.eye(start.shape[1])
    parameters, damping = start.copy(), np.full(len(flat), 1e-2)
    value, jacobian = evaluate(parameters, grid)
    cost = np.square(flat - value).sum(axis=1)
    for _ in range(N_ITERATIONS):
        gradient = np.einsum("ijk,ik->ij", jacobian, flat - value)
        curvature = np.einsum("ijk,ilk->ijl", jacobian, jacobian)
        diagonal = np.einsum("ijj->ij", curvature)
        system = curvature + (damping[:, None] * (diagonal + 1e-9))[:, :, None] * unit
        step = np.linalg.solve(system + 1e-12 * unit, gradient[..., None])[..., 0]
        trial = parameters + step
        trial_value, trial_jacobian = evaluate(trial, grid)
        trial_cost = np.square(flat - trial_value).sum(axis=1)
        better = trial_cost < cost
        parameters[better], value[better], jacobian[better] = trial[better], trial_value[better], trial_jacobian[better]
        improvement = np.where(better, cost - trial_cost, 0.0)
        cost = np.where(better, trial_cost, cost)
        damping = np.clip(np.where(better, damping / 5, damping * 4), 1e-9, 1e9)
        if (improvement <= 1e-10 * cost).all() and (damping > 1e-2).all():
            break
    return parameters


def geometry(
    parameters: Float[np.ndarray, "image parameter"],
) -> tuple[Float[np.ndarray, "image 2"], Float[np.ndarray, "image 2"], Float[np.ndarray, "image"]]:
    """Return centres, widths and direction of the Gaussian that the first six parameters describe."""
    root = np.zeros((len(parameters), 2, 2))
    root[:, 0, 0] = np.exp(np.clip(parameters[:, 3], -8, 3))
    root[:, 0, 1] = parameters[:, 4]
    root[:, 1, 1] = np.exp(np.clip(parameters[:, 5], -8, 3))
    precision, axes = np.linalg.eigh(np.einsum("iba,ibc->iac", root, root))
    # eigh sorts ascending: the smallest precision is the longest axis
    major = axes[:, :, 0]
    angle = np.arctan2(major[:, 0], major[:, 1]) % np.pi
    return parameters[:, 1:3].copy(), 1 / np.sqrt(np.maximum(precision, 1e-12)), angle
