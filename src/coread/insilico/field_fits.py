"""Gaussian, difference-of-Gaussians and Gabor functions fitted to many receptive fields at once, with standard errors.

Least squares on all pixels; the standard errors are those of independent residuals of one variance, and Akaike's
information criterion says which function describes a field best (Akaike 1974, IEEE Transactions on Automatic Control
19:716). Difference of Gaussians: Rodieck 1965, Vision Research 5:583; Gabor functions of simple cells: Jones & Palmer
1987, Journal of Neurophysiology 58:1233.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from coread.insilico.gaussian_fit import (
    CHUNK_VALUES,
    Evaluate,
    evaluate_gaussian,
    geometry,
    levenberg_marquardt,
    pixel_grid,
    start_at_peak,
)

FFT_SIZE = 64  # of the padded spectrum in which a Gabor's frequency is sought
SURROUNDS = ((2.0, 0.3), (3.0, 0.05))  # starts: width relative to the centre's, amplitude relative to the centre's


@dataclass(frozen=True)
class FieldFit:
    """One function fitted to all images; `parameters` and their standard errors as the function takes them.

    `r2` is the share of each image's variance around zero that the fit explains, `aic` is up to a constant.
    """

    parameters: Float[np.ndarray, "image parameter"]
    errors: Float[np.ndarray, "image parameter"]
    covariance: Float[np.ndarray, "image parameter parameter"]
    r2: Float[np.ndarray, "image"]
    aic: Float[np.ndarray, "image"]
    sensible: Bool[np.ndarray, "image"]

    @property
    def center_px(self) -> Float[np.ndarray, "image 2"]:
        """(y, x) of the centre."""
        return self.parameters[:, 1:3]

    @property
    def center_se_px(self) -> Float[np.ndarray, "image 2"]:
        """Standard error of the centre."""
        return self.errors[:, 1:3]

    @property
    def sigma_px(self) -> Float[np.ndarray, "image"]:
        """Geometric mean of the widths of the Gaussian (of the centre, of the envelope)."""
        return np.sqrt(geometry(self.parameters)[1].prod(axis=1))

    @property
    def sigma_se_px(self) -> Float[np.ndarray, "image"]:
        """Its standard error: the logarithm is -(p + r) / 2 of the parameters p and r."""
        p, r = 3, 5
        variance = self.covariance[:, p, p] + self.covariance[:, r, r] + 2 * self.covariance[:, p, r]
        return self.sigma_px * np.sqrt(variance) / 2


def fit_fields(
    images: Float[np.ndarray, "image height width"], peak_px: Float[np.ndarray, "image 2"]
) -> dict[str, FieldFit]:
    """Return the fits of all functions by name (gaussian, dog, gabor), for images that are positive at their peaks."""
    n_chunk = max(1, CHUNK_VALUES // (9 * images[0].size)) if len(images) else 1
    chunks = [slice(first, first + n_chunk) for first in range(0, max(1, len(images)), n_chunk)]
    parts = [_fit_chunk(images[chunk].astype(np.float64), peak_px[chunk]) for chunk in chunks]
    names = ("parameters", "errors", "covariance", "r2", "aic", "sensible")
    return {
        kind: FieldFit(*(np.concatenate([getattr(part[kind], name) for part in parts]) for name in names))
        for kind in parts[0]
    }


def best_description(fits: Mapping[str, FieldFit]) -> np.ndarray:
    """Return the name of the function with the least AIC of those that make sense; "none" where none does."""
    names = np.array([*fits, "none"])
    aic = np.stack([np.where(fit.sensible, fit.aic, np.inf) for fit in fits.values()])
    return names[np.where(np.isfinite(aic).any(axis=0), aic.argmin(axis=0), len(fits))]


def _fit_chunk(
    images: Float[np.ndarray, "image height width"], peak_px: Float[np.ndarray, "image 2"]
) -> dict[str, FieldFit]:
    height, width = images.shape[1:]
    grid = pixel_grid(height, width)
    scale = np.abs(images).max(axis=(1, 2))
    scale = np.where(scale > 0, scale, 1.0)
    flat = (images / scale[:, None, None]).reshape(len(images), height * width)
    start = start_at_peak(flat, peak_px, (height, width))
    gaussian = levenberg_marquardt(flat, start, grid, evaluate_gaussian)
    starts: dict[str, tuple[Evaluate, list[np.ndarray]]] = {
        "gaussian": (evaluate_gaussian, [start]),
        "dog": (evaluate_dog, [_dog_start(gaussian, *surround) for surround in SURROUNDS]),
        "gabor": (evaluate_gabor, [_gabor_start(flat, (height, width), share) for share in (1.0, 0.6)]),
    }
    return {
        kind: _fit_best(flat, scale, grid, evaluate, guesses, (height, width))
        for kind, (evaluate, guesses) in starts.items()
    }


def _fit_best(
    flat: Float[np.ndarray, "image pixel"],
    scale: Float[np.ndarray, "image"],
    grid: Float[np.ndarray, "2 pixel"],
    evaluate: Evaluate,
    guesses: list[Float[np.ndarray, "image parameter"]],
    size: tuple[int, int],
) -> FieldFit:
    """Fit from several starts, keep the best of each image, and describe it."""
    tried = np.stack([levenberg_marquardt(flat, guess, grid, evaluate) for guess in guesses])
    costs = np.stack([np.square(flat - evaluate(fitted, grid)[0]).sum(axis=1) for fitted in tried])
    parameters = tried[costs.argmin(axis=0), np.arange(len(flat))]
    value, jacobian = evaluate(parameters, grid)
    residual = np.square(flat - value).sum(axis=1)
    n_pixels, n_parameters = flat.shape[1], parameters.shape[1]
    curvature = np.einsum("ijk,ilk->ijl", jacobian, jacobian)
    covariance = np.linalg.pinv(curvature, hermitian=True) * (residual / max(1, n_pixels - n_parameters))[:, None, None]
    power = np.square(flat).sum(axis=1)
    center, sigma, _ = geometry(parameters)
    inside = ((center > -1) & (center < size)).all(axis=1)
    sensible = inside & (sigma > 0.2).all(axis=1) & (sigma < max(size)).all(axis=1) & (power > 0)
    # a perfect fit has no finite criterion: rounding of the images is the least error there is
    least = np.maximum(residual, n_pixels * np.finfo(np.float32).eps ** 2)
    scaled = np.ones(n_parameters)[None].repeat(len(flat), axis=0)
    scaled[:, AMPLITUDES[evaluate]] = scale[:, None]
    covariance = covariance * scaled[:, :, None] * scaled[:, None, :]
    return FieldFit(
        parameters=parameters * scaled,
        errors=np.sqrt(np.maximum(np.einsum("ijj->ij", covariance), 0.0)),
        covariance=covariance,
        r2=1 - np.divide(residual, power, out=np.ones_like(power), where=power > 0),
        aic=n_pixels * np.log(least / n_pixels) + 2 * (n_parameters + 1),
        sensible=sensible,
    )


def evaluate_dog(
    parameters: Float[np.ndarray, "image 8"], grid: Float[np.ndarray, "2 pixel"]
) -> tuple[Float[np.ndarray, "image pixel"], Float[np.ndarray, "image 8 pixel"]]:
    """Return A exp(-e / 2) - B exp(-e / (2 s^2)) and its derivatives, e as in a Gaussian and s = 1 + exp(t).

    Parameters: those of the Gaussian of the centre, then B and t; the surround has its place and shape.
    """
    center, inner = evaluate_gaussian(parameters[:, :6], grid)
    ratio = surround_ratio(parameters)[:, None]
    # exp(-e / 2) is the derivative by the amplitude, and e its logarithm times -2
    exponent = np.minimum(-2 * np.log(np.maximum(inner[:, 0], np.finfo(float).tiny)), 2e3)
    shape = np.exp(-0.5 * exponent / ratio**2)
    surround = parameters[:, 6:7] * shape
    # the centre's derivatives are its value times those of the exponent, which the surround shares
    value = center[:, None]
    by_exponent = np.divide(inner[:, 1:], value, out=np.zeros_like(inner[:, 1:]), where=np.abs(value) > 1e-100)
    derivatives = [
        inner[:, :1],
        inner[:, 1:] - (surround / ratio**2)[:, None] * by_exponent,
        -shape[:, None],
        (-surround * exponent / ratio**3 * (ratio - 1))[:, None],
    ]
    return center - surround, np.concatenate(derivatives, axis=1)


def surround_ratio(parameters: Float[np.ndarray, "image 8"]) -> Float[np.ndarray, "image"]:
    """Return the width of the surround relative to the centre's."""
    return 1 + np.exp(np.clip(parameters[:, 7], -6, 3))


def evaluate_gabor(
    parameters: Float[np.ndarray, "image 9"], grid: Float[np.ndarray, "2 pixel"]
) -> tuple[Float[np.ndarray, "image pixel"], Float[np.ndarray, "image 9 pixel"]]:
    """Return a Gaussian times cos(2 pi (fy dy + fx dx) + phase), and its derivatives.

    Parameters: those of the Gaussian, then fy and fx in cycles per pixel and the phase at the centre.
    """
    envelope, inner = evaluate_gaussian(parameters[:, :6], grid)
    fy, fx, phase = (column[:, None] for column in parameters[:, 6:].T)
    dy, dx = grid[0] - parameters[:, 1:2], grid[1] - parameters[:, 2:3]
    angle = 2 * np.pi * (fy * dy + fx * dx) + phase
    wave, slope = np.cos(angle), -envelope * np.sin(angle)
    derivatives = inner * wave[:, None]
    derivatives[:, 1] -= 2 * np.pi * fy * slope
    derivatives[:, 2] -= 2 * np.pi * fx * slope
    carrier = np.stack([2 * np.pi * dy * slope, 2 * np.pi * dx * slope, slope], axis=1)
    return envelope * wave, np.concatenate([derivatives, carrier], axis=1)


# which parameters are in the units of the image
AMPLITUDES: dict[Evaluate, list[int]] = {evaluate_gaussian: [0], evaluate_dog: [0, 6], evaluate_gabor: [0]}


def _dog_start(gaussian: Float[np.ndarray, "image 6"], ratio: float, weight: float) -> Float[np.ndarray, "image 8"]:
    extra = np.stack([weight * gaussian[:, 0], np.full(len(gaussian), np.log(ratio - 1))], axis=1)
    return np.concatenate([gaussian, extra], axis=1)


def _gabor_start(
    flat: Float[np.ndarray, "image pixel"], size: tuple[int, int], share: float
) -> Float[np.ndarray, "image 9"]:
    """Start at the peak of the spectrum, with the centre of gravity and the width of the squared image.

    The square of a Gaussian of width s has the width s / sqrt(2); `share` makes the start narrower.
    """
    height, width = size
    grid = pixel_grid(height, width)
    power = np.square(flat)
    total = np.maximum(power.sum(axis=1), np.finfo(float).tiny)
    center = np.einsum("np,ap->na", power, grid) / total[:, None]
    offset = grid[None] - center[:, :, None]
    spread = np.sqrt(np.einsum("np,nap->n", power, np.square(offset)) / total / 2)
    sigma = np.clip(share * np.sqrt(2) * spread, 0.7, max(size))
    spectrum = np.fft.fft2(flat.reshape(-1, height, width), s=(FFT_SIZE, FFT_SIZE))[:, :, : FFT_SIZE // 2]
    row, column = np.unravel_index(
        np.abs(spectrum).reshape(len(flat), FFT_SIZE * FFT_SIZE // 2).argmax(axis=1), spectrum.shape[1:]
    )
    fy, fx = np.fft.fftfreq(FFT_SIZE)[row], column / FFT_SIZE
    at_peak = spectrum[np.arange(len(flat)), row, column]
    phase = np.angle(at_peak) + 2 * np.pi * (fy * center[:, 0] + fx * center[:, 1])
    zeros = np.zeros(len(flat))
    gaussian = [np.abs(flat).max(axis=1), *center.T, -np.log(sigma), zeros, -np.log(sigma)]
    return np.stack([*gaussian, fy, fx, phase], axis=1)


def gabor_frequency(fit: FieldFit) -> tuple[Float[np.ndarray, "image"], Float[np.ndarray, "image"]]:
    """Return the spatial frequency in cycles per pixel and its standard error."""
    vector = fit.parameters[:, 6:8]
    frequency = np.linalg.norm(vector, axis=1)
    unit = vector / np.maximum(frequency, 1e-12)[:, None]
    variance = np.einsum("na,nab,nb->n", unit, fit.covariance[:, 6:8, 6:8], unit)
    return frequency, np.sqrt(np.maximum(variance, 0.0))


def gabor_orientation(fit: FieldFit) -> tuple[Float[np.ndarray, "image"], Float[np.ndarray, "image"]]:
    """Return the orientation of the stripes in degrees counter-clockwise from horizontal, [0, 180), and its error."""
    fy, fx = fit.parameters[:, 6], fit.parameters[:, 7]
    across = np.rad2deg(np.arctan2(-fy, fx))  # rows count downwards
    squared = np.maximum(fy**2 + fx**2, 1e-24)
    slope = np.stack([-fx, fy], axis=1) / squared[:, None]
    variance = np.einsum("na,nab,nb->n", slope, fit.covariance[:, 6:8, 6:8], slope)
    return (across + 90) % 180, np.rad2deg(np.sqrt(np.maximum(variance, 0.0)))
