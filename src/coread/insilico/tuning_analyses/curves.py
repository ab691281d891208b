"""Functions of tuning and their fits to many curves at once; preferred values come with the fit's r2 and errors.

Curves are scaled to a peak of 1 before they are fitted and amplitudes scaled back, so that units do not matter.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import erf

from coread.insilico.tuning_analyses.curve_fit import CurveFit, Function, fit_curves

SIZE_MODELS = ("ratio_of_gaussians", "difference_of_error_functions")
FINE_POINTS = 200  # of a fitted curve
SKEW_POINTS, BASE_POINTS = 7, 5  # fewest frequencies to which a skew and a constant part are fitted


class Fitted(NamedTuple):
    """A preferred value with its error, the width of the tuning, r2, and the fitted curve at `fine` points.

    `at_edge` marks preferred values at an end of what was shown: the true one may lie beyond.
    """

    preferred: Float[np.ndarray, "curve"]
    error: Float[np.ndarray, "curve"]
    width: Float[np.ndarray, "curve"]
    r2: Float[np.ndarray, "curve"]
    at_edge: Bool[np.ndarray, "curve"]
    fine: Float[np.ndarray, "fine"]
    curve: Float[np.ndarray, "curve fine"]


def double_von_mises(
    angles_deg: Float[np.ndarray, "point"], parameters: Float[np.ndarray, "curve 5"]
) -> Float[np.ndarray, "curve point"]:
    """Return b + A1 exp(k (cos(x - m) - 1)) + A2 exp(k (-cos(x - m) - 1)) (Swindale 1998, Biol Cybern 78:45).

    Parameters: b, A1, A2, k, and m in radians.
    """
    base, first, second, width, mean = (column[:, None] for column in parameters.T)
    cosine = np.cos(np.deg2rad(angles_deg) - mean)
    return base + first * np.exp(width * (cosine - 1)) + second * np.exp(width * (-cosine - 1))


def von_mises(
    angles_deg: Float[np.ndarray, "point"], parameters: Float[np.ndarray, "curve 4"]
) -> Float[np.ndarray, "curve point"]:
    """Return b + A exp(k (cos 2(x - m) - 1)), of orientation (Swindale 1998); parameters b, A, k, m in radians."""
    base, amplitude, width, mean = (column[:, None] for column in parameters.T)
    return base + amplitude * np.exp(width * (np.cos(2 * (np.deg2rad(angles_deg) - mean)) - 1))


def fit_directions(
    curves: Float[np.ndarray, "curve direction"], directions_deg: Float[np.ndarray, "direction"]
) -> Fitted:
    """Fit a double von Mises curve; preferred direction, its error and half width at half height in degrees.

    A peak narrower than the spacing of directions cannot be resolved and is not fitted.
    """
    scaled, scale = _scaled(curves)
    angles = np.deg2rad(directions_deg)
    peak = angles[_best(scaled)]
    doubled = np.angle(np.nan_to_num(np.maximum(scaled, 0)) @ np.exp(2j * angles)) / 2
    opposite = np.where(np.cos(doubled - peak) < 0, doubled + np.pi, doubled)
    low, height = np.nanmin(np.where(np.isfinite(scaled), scaled, np.inf), axis=1), np.ones(len(scaled))
    low = np.where(np.isfinite(low), low, 0.0)
    starts = np.stack(
        [
            np.stack([low, height - low, 0.3 * (height - low), np.full(len(scaled), width), mean], axis=1)
            for mean in (peak, opposite)
            for width in (1.0, 4.0)
        ]
    )
    narrowest = np.log(2) / (1 - np.cos(np.pi / len(angles)))
    fit = fit_curves(double_von_mises, directions_deg, scaled, starts, (-1, 0, 0, 0.1, -50), (1.5, 4, 4, narrowest, 50))
    _, first, second, width, mean = fit.parameters.T
    preferred = np.rad2deg(np.where(second > first, mean + np.pi, mean)) % 360
    fine = np.linspace(0, 360, FINE_POINTS)
    return Fitted(
        preferred,
        np.rad2deg(fit.standard_error[:, 4]),
        _half_width_deg(width),
        fit.r2,
        np.zeros(len(curves), bool),
        fine,
        double_von_mises(fine, fit.parameters) * scale[:, None],
    )


def fit_orientations(
    curves: Float[np.ndarray, "curve orientation"], orientations_deg: Float[np.ndarray, "orientation"]
) -> Fitted:
    """Fit a von Mises curve of period 180; preferred orientation, its error and half width in degrees."""
    scaled, scale = _scaled(curves)
    angles = np.deg2rad(orientations_deg)
    peak = angles[_best(scaled)]
    doubled = np.angle(np.nan_to_num(np.maximum(scaled, 0)) @ np.exp(2j * angles)) / 2
    zeros, ones = np.zeros(len(scaled)), np.ones(len(scaled))
    starts = np.stack(
        [np.stack([zeros, ones, width * ones, mean], axis=1) for mean in (peak, doubled) for width in (0.5, 3.0)]
    )
    narrowest = np.log(2) / (1 - np.cos(np.pi / len(angles)))
    fit = fit_curves(von_mises, orientations_deg, scaled, starts, (-1.5, 0, 0.1, -50), (1.5, 4, narrowest, 50))
    fine = np.linspace(0, 180, FINE_POINTS)
    return Fitted(
        np.rad2deg(fit.parameters[:, 3]) % 180,
        np.rad2deg(fit.standard_error[:, 3]),
        _half_width_deg(fit.parameters[:, 2]) / 2,
        fit.r2,
        np.zeros(len(curves), bool),
        fine,
        von_mises(fine, fit.parameters) * scale[:, None],
    )


def log_gaussian(
    frequency: Float[np.ndarray, "point"], parameters: Float[np.ndarray, "curve 5"]
) -> Float[np.ndarray, "curve point"]:
    """Return b + A exp(-d^2 / (2 (s + z d)^2)), d = log2 x - m (Priebe et al. 2006, J Neurosci 26:2941).

    Parameters: b, A, m, s and the skew z; the peak is at m whatever the skew.
    """
    base, amplitude, mean, width, skew = (column[:, None] for column in parameters.T)
    distance = np.log2(frequency) - mean
    return base + amplitude * np.exp(-(distance**2) / (2 * np.maximum(width + skew * distance, 0.05) ** 2))


def fit_frequencies(curves: Float[np.ndarray, "curve point"], frequency: Float[np.ndarray, "point"]) -> Fitted:
    """Fit a skewed Gaussian of the logarithm; preferred frequency, its error, and full width at half height in octaves.

    The preferred frequency lies within those shown, which are above 0. Fewer than SKEW_POINTS frequencies do not tell a
    skew, fewer than BASE_POINTS no constant part.
    """
    scaled, scale = _scaled(curves)
    octave = np.log2(frequency)
    ends = octave.min(), octave.max()
    zeros, ones = np.zeros(len(scaled)), np.ones(len(scaled))
    best = octave[_best(scaled)]
    starts = np.stack([np.stack([zeros, ones, best, width * ones, zeros], axis=1) for width in (0.5, 1.0, 2.0)])
    base, skew = 0.5 * (len(frequency) >= BASE_POINTS), 0.5 * (len(frequency) >= SKEW_POINTS)
    lower, upper = (-base, 0, ends[0], 0.2, -skew), (base, 4, ends[1], 6, skew)
    fit = fit_curves(log_gaussian, frequency, scaled, starts, lower, upper)
    mean, width, skewed = fit.parameters[:, 2], fit.parameters[:, 3], fit.parameters[:, 4]
    fine = 2 ** np.linspace(*ends, FINE_POINTS)
    # d / (s + z d) is plus and minus the root of 2 ln 2 at half height
    half = np.sqrt(2 * np.log(2))
    known = np.abs(half * skewed) < 1
    width_octaves = np.divide(2 * half * width, 1 - (half * skewed) ** 2, out=np.full(len(mean), np.nan), where=known)
    return Fitted(
        2**mean,
        2**mean * np.log(2) * fit.standard_error[:, 2],
        width_octaves,
        fit.r2,
        (np.abs(mean - ends[0]) < 1e-3) | (np.abs(mean - ends[1]) < 1e-3),
        fine,
        log_gaussian(fine, fit.parameters) * scale[:, None],
    )


def naka_rushton(
    contrast: Float[np.ndarray, "point"], parameters: Float[np.ndarray, "curve 4"]
) -> Float[np.ndarray, "curve point"]:
    """Return b + R c^n / (c^n + c50^n) (Naka & Rushton 1966, J Physiol 185:536; Albrecht & Hamilton 1982).

    Parameters: b, R, log2 c50, n.
    """
    base, largest, half, exponent = (column[:, None] for column in parameters.T)
    share = 1 / (1 + np.exp2(np.clip(exponent * (half - np.log2(np.maximum(contrast, 1e-6))), -60, 60)))
    return base + largest * share


def fit_contrasts(curves: Float[np.ndarray, "curve point"], contrast: Float[np.ndarray, "point"]) -> Fitted:
    """Fit the Naka-Rushton function; `preferred` is the semi-saturation contrast c50, `width` the exponent n."""
    scaled, scale = _scaled(curves)
    zeros, ones = np.zeros(len(scaled)), np.ones(len(scaled))
    starts = np.stack(
        [
            np.stack([zeros, ones, np.log2(half) * ones, exponent * ones], axis=1)
            for half in (0.2, 0.7)
            for exponent in (1.0, 3.0)
        ]
    )
    lowest = np.log2(contrast[contrast > 0].min()) - 2
    fit = fit_curves(naka_rushton, contrast, scaled, starts, (-0.5, 0, lowest, 0.3), (0.9, 20, 2, 10))
    fine = np.linspace(0, contrast.max(), FINE_POINTS)
    half = 2 ** fit.parameters[:, 2]
    return Fitted(
        half,
        half * np.log(2) * fit.standard_error[:, 2],
        fit.parameters[:, 3],
        fit.r2,
        half > contrast.max(),
        fine,
        naka_rushton(fine, fit.parameters) * scale[:, None],
    )


def ratio_of_gaussians(
    diameter: Float[np.ndarray, "point"], parameters: Float[np.ndarray, "curve 4"]
) -> Float[np.ndarray, "curve point"]:
    """Return kc erf(d / wc)^2 / (1 + ks erf(d / ws)^2) (Cavanaugh, Bair & Movshon 2002, J Neurophysiol 88:2530).

    Parameters: kc, log2 wc, ks, and log2 (ws / wc), at least 0.
    """
    gain, center, suppression, wider = (column[:, None] for column in parameters.T)
    excited = erf(diameter / 2**center) ** 2
    return gain * excited / (1 + suppression * erf(diameter / 2 ** (center + wider)) ** 2)


def difference_of_error_functions(
    diameter: Float[np.ndarray, "point"], parameters: Float[np.ndarray, "curve 4"]
) -> Float[np.ndarray, "curve point"]:
    """Return Ke erf(d / a) - Ki erf(d / b) (DeAngelis, Freeman & Ohzawa 1994, J Neurophysiol 71:347).

    Parameters: Ke, log2 a, Ki, and log2 (b / a), at least 0.
    """
    excitation, center, inhibition, wider = (column[:, None] for column in parameters.T)
    return excitation * erf(diameter / 2**center) - inhibition * erf(diameter / 2 ** (center + wider))


class SizeFit(NamedTuple):
    """Preferred diameter, suppression index of the fitted curve, and the fitted curves; see `Fitted`."""

    preferred: Float[np.ndarray, "curve"]
    center_error_octaves: Float[np.ndarray, "curve"]
    suppression: Float[np.ndarray, "curve"]
    r2: Float[np.ndarray, "curve"]
    at_edge: Bool[np.ndarray, "curve"]
    fine: Float[np.ndarray, "fine"]
    curve: Float[np.ndarray, "curve fine"]


def fit_sizes(curves: Float[np.ndarray, "curve size"], diameter: Float[np.ndarray, "size"], model: str) -> SizeFit:
    """Fit size tuning; the preferred diameter is the smallest that gives 99 % of the fitted curve's peak.

    Where growing stimuli never suppress, the response saturates and has no peak before the largest. Raises ValueError
    for an unknown model.
    """
    if model not in SIZE_MODELS:
        raise ValueError(f"a model of size tuning is one of {SIZE_MODELS}, found {model!r}")
    function: Function = ratio_of_gaussians if model == SIZE_MODELS[0] else difference_of_error_functions
    scaled, scale = _scaled(curves)
    best = np.log2(diameter[_best(scaled)])
    ones = np.ones(len(scaled))
    starts = np.stack(
        [
            np.stack([1.5 * ones, best - back, suppression * ones, wider * ones], axis=1)
            for back in (0.0, 1.0)
            for suppression, wider in ((0.1, 1.0), (0.9, 0.5), (0.9, 2.0))
        ]
    )
    smallest, largest = np.log2(diameter.min()) - 2, np.log2(diameter.max()) + 1
    fit: CurveFit = fit_curves(function, diameter, scaled, starts, (0, smallest, 0, 0), (50, largest, 50, 5))
    fine = np.linspace(diameter.min(), diameter.max(), FINE_POINTS)
    fitted = function(fine, fit.parameters)
    peak = fitted.max(axis=1)
    reached = (fitted >= 0.99 * peak[:, None]).argmax(axis=1)
    known = np.isfinite(peak) & (peak > 0)
    suppression = np.divide(peak - fitted[:, -1], peak, out=np.full(len(peak), np.nan), where=known)
    return SizeFit(
        np.where(known, fine[reached], np.nan),
        fit.standard_error[:, 1],
        suppression,
        fit.r2,
        known & ((reached == 0) | (fitted.argmax(axis=1) == FINE_POINTS - 1)),
        fine,
        fitted * scale[:, None],
    )


def _scaled(curves: Float[np.ndarray, "curve point"]) -> tuple[np.ndarray, Float[np.ndarray, "curve"]]:
    """Return curves with a peak of 1 and their peaks; those that are nowhere above zero are NaN."""
    peak = np.where(np.isfinite(curves), curves, -np.inf).max(axis=1)
    scale = np.where(np.isfinite(peak) & (peak > 0), peak, np.nan)
    return curves / scale[:, None], scale


def _best(scaled: Float[np.ndarray, "curve point"]) -> np.ndarray:
    return np.where(np.isfinite(scaled), scaled, -np.inf).argmax(axis=1)


def _half_width_deg(concentration: Float[np.ndarray, "curve"]) -> Float[np.ndarray, "curve"]:
    """Return where exp(k (cos x - 1)) is one half; NaN for a curve so broad that it never falls that far."""
    cosine = 1 - np.log(2) / concentration
    return np.rad2deg(np.arccos(np.where(cosine >= -1, cosine, np.nan)))
