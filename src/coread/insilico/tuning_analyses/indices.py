"""Indices of tuning, for many curves at once; responses are above a baseline, and below it they count as zero.

An index is NaN where a curve is NaN or nowhere above zero. Points of a curve that are NaN were not shown.
"""

import numpy as np
from jaxtyping import Complex, Float


def vector_sum(
    responses: Float[np.ndarray, "curve angle"], angles_deg: Float[np.ndarray, "angle"], harmonic: int
) -> Complex[np.ndarray, "curve"]:
    """Return sum r exp(i harmonic angle) / sum r, of directions (harmonic 1) or orientations (harmonic 2)."""
    positive = np.maximum(responses, 0.0)
    return _ratio(positive @ np.exp(1j * harmonic * np.deg2rad(angles_deg)), positive.sum(axis=1))


def orientation_selectivity(
    responses: Float[np.ndarray, "curve angle"], angles_deg: Float[np.ndarray, "angle"]
) -> Float[np.ndarray, "curve"]:
    """Return |sum r exp(2 i angle)| / sum r, 1 - circular variance (Mazurek et al. 2014, Front Neural Circuits 8:92).

    0 is no selectivity, 1 a response to one orientation alone. Angles may be directions or orientations; they must be
    evenly spaced.
    """
    return np.abs(vector_sum(responses, angles_deg, 2))


def direction_selectivity(
    responses: Float[np.ndarray, "curve direction"], directions_deg: Float[np.ndarray, "direction"]
) -> Float[np.ndarray, "curve"]:
    """Return |sum r exp(i direction)| / sum r, 1 - direction circular variance (Mazurek et al. 2014)."""
    return np.abs(vector_sum(responses, directions_deg, 1))


def contrast_of_two(first: Float[np.ndarray, "*shape"], second: Float[np.ndarray, "*shape"]) -> np.ndarray:
    """Return (first - second) / (first + second) of what is above zero: -1 to 1, NaN where neither is."""
    a, b = np.maximum(first, 0.0), np.maximum(second, 0.0)
    return _ratio(a - b, a + b)


def opposite_direction_index(
    responses: Float[np.ndarray, "curve direction"], directions_deg: Float[np.ndarray, "direction"]
) -> Float[np.ndarray, "curve"]:
    """Return (R_preferred - R_opposite) / (R_preferred + R_opposite), the classical direction index.

    Mazurek et al. 2014 compare it with the vector sum; R_preferred is the largest response. NaN where the opposite of
    the preferred direction was not shown.
    """
    return _index_at(responses, directions_deg, (180.0,), 360.0)


def orthogonal_orientation_index(
    responses: Float[np.ndarray, "curve angle"], angles_deg: Float[np.ndarray, "angle"]
) -> Float[np.ndarray, "curve"]:
    """Return (R_preferred - R_orthogonal) / (R_preferred + R_orthogonal) (Niell & Stryker 2008, J Neurosci 28:7520).

    Of directions, R_orthogonal is the mean of both directions at right angles. NaN where they were not shown.
    """
    period = 360.0 if np.ptp(angles_deg) >= 180 else 180.0
    return _index_at(responses, angles_deg, (90.0, 270.0) if period > 180 else (90.0,), period)


def _index_at(
    responses: Float[np.ndarray, "curve angle"],
    angles_deg: Float[np.ndarray, "angle"],
    offsets_deg: tuple[float, ...],
    period: float,
) -> Float[np.ndarray, "curve"]:
    """Return the contrast between the largest response and the mean of those at some angles from it."""
    known = np.isfinite(responses).any(axis=1)
    best = np.where(known, np.nanargmax(np.where(known[:, None], responses, 0.0), axis=1), 0)
    rows = np.arange(len(responses))
    others = []
    for offset in offsets_deg:
        distance = np.abs((angles_deg[best] + offset)[:, None] - angles_deg) % period
        distance = np.minimum(distance, period - distance)
        nearest = distance.argmin(axis=1)
        others.append(np.where(distance.min(axis=1) < 1e-3, np.maximum(responses[rows, nearest], 0.0), np.nan))
    return contrast_of_two(responses[rows, best], np.mean(others, axis=0))


def modulation_ratio(f1: Float[np.ndarray, "*shape"], f0: Float[np.ndarray, "*shape"]) -> np.ndarray:
    """Return F1 / F0 at the best grating: above 1 simple, below 1 complex (Skottun et al. 1991, Vision Res 31:1079).

    F0 is the mean response above the response to grey, F1 the amplitude at the grating's frequency. Infinite where a
    grating modulates the response without raising its mean.
    """
    flat = np.where(f1 > 0, np.inf, np.nan)
    return np.divide(f1, f0, out=flat, where=f0 > 0)


def suppression_index(responses: Float[np.ndarray, "curve size"]) -> Float[np.ndarray, "curve"]:
    """Return (R_best - R_largest) / R_best over growing stimuli (Cavanaugh et al. 2002, J Neurophysiol 88:2530).

    0 is no suppression, 1 silence at the largest size shown, above 1 a response below the baseline.
    """
    shown = np.isfinite(responses).any(axis=0)
    if not shown.any():
        return np.full(len(responses), np.nan)
    best = responses[:, shown].max(axis=1)
    return _ratio(best - responses[:, shown][:, -1], best)


def largest_rise(course: Float[np.ndarray, "*curve time"]) -> Float[np.ndarray, "*curve"]:
    """Return how far a response rises above its lowest value before, at most: 0 where it only falls.

    What is left of a response to an earlier stimulus does not count.
    """
    return (course - np.minimum.accumulate(course, axis=-1)).max(axis=-1)


def transience_index(course: Float[np.ndarray, "curve time"], n_late: int) -> Float[np.ndarray, "curve"]:
    """Return 1 - (mean response at the end of a step) / (its peak); the last `n_late` bins are the end.

    0 is a response that lasts as long as the step, 1 one that is over before its end: the complement of the
    sustained over the peak response. Cleland, Dubin & Levick 1971 (J Physiol 217:473) introduced the distinction.
    """
    peak = course.max(axis=1)
    return 1.0 - _ratio(np.maximum(course[:, -n_late:].mean(axis=1), 0.0), peak)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return a ratio, NaN where the denominator is not above zero."""
    empty = np.full(numerator.shape, np.nan, dtype=numerator.dtype)
    return np.divide(numerator, denominator, out=empty, where=denominator > 0)
