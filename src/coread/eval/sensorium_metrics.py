"""The metrics of the SENSORIUM 2022 competition as published (Willeke et al. 2022), for comparison with its numbers.

They differ from `coread.eval.metrics` in three ways: both standard deviations of a correlation get `eps`, so that a
constant response scores 0 instead of nothing; every image has the same weight in the noise variance, however many
repeats it has; the explainable share of the variance may be negative. Where all images have the same number of repeats
and no neuron is silent, they agree. Absent repeats are NaN.
"""

import numpy as np
from jaxtyping import Float

from coread.eval.masked_statistics import masked_mean, masked_variance
from coread.eval.metrics import PerNeuron, Predictions, Repeats

EPS = 1e-8


def published_correlation(y1: np.ndarray, y2: np.ndarray, axis: int = -1, eps: float = EPS) -> np.ndarray:
    """Return mean[(y1 - mean) / (sd1 + eps) * (y2 - mean) / (sd2 + eps)] along `axis`, with population deviations.

    In the precision and the order of operations of the published function; NaN in one array stays NaN.

    >>> published_correlation(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0])).round(6)
    np.float64(1.0)
    """
    scores = (
        (values - values.mean(axis=axis, keepdims=True)) / (values.std(axis=axis, keepdims=True, ddof=0) + eps)
        for values in (y1, y2)
    )
    return (next(scores) * next(scores)).mean(axis=axis)


def published_single_trial_correlation(responses: Repeats, predictions: Predictions) -> PerNeuron:
    """Return the published correlation over all trials of a tier, `(image, repeat)` together.

    >>> responses = np.array([[[0.0], [1.0]], [[2.0], [3.0]]])
    >>> published_single_trial_correlation(responses, np.array([[0.0], [1.0]])).round(4)
    array([0.8944])
    """
    expanded = _expanded(predictions, responses)
    n_neurons = responses.shape[2]
    return _over_trials(responses.reshape(-1, n_neurons), expanded.reshape(-1, n_neurons))


def published_correlation_to_average(responses: Repeats, predictions: Predictions) -> PerNeuron:
    """Return the published correlation over images of the averages over repeats of responses and predictions.

    >>> responses = np.array([[[0.0], [1.0]], [[2.0], [3.0]]])
    >>> published_correlation_to_average(responses, np.array([[0.0], [1.0]])).round(4)
    array([1.])
    """
    averages = (masked_mean(values, 1) for values in (responses, _expanded(predictions, responses)))
    return _over_trials(*averages)


def published_explainable_variance(responses: Repeats) -> PerNeuron:
    """Return FEV = (total - noise) / total, which chooses the neurons whose FEVE counts (FEV >= 0.15).

    Total: variance of all trials; noise: mean over images of the variance over repeats; both with one degree of
    freedom less. An image shown once has no noise variance and is left out of the noise. NaN for a silent neuron.

    >>> published_explainable_variance(np.array([[[0.0], [1.0]], [[4.0], [5.0]]])).round(4)
    array([0.9118])
    """
    total, noise = _variances(responses)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, (total - noise) / total, np.nan)


def published_feve(responses: Repeats, predictions: Predictions) -> PerNeuron:
    """Return FEVE = 1 - (MSE - noise) / (total - noise); the MSE is over all trials, the variances as for FEV.

    NaN for a silent neuron; neither bounded below nor meaningful where total - noise is near 0.

    >>> responses = np.array([[[0.0], [1.0]], [[4.0], [5.0]], [[8.0], [9.0]]])
    >>> published_feve(responses, np.array([[0.5], [4.5], [8.5]])).round(2)
    array([1.02])
    """
    total, noise = _variances(responses)
    error = masked_mean(np.square(responses - _expanded(predictions, responses)), (0, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, 1 - (error - noise) / (total - noise), np.nan)


def _variances(responses: Repeats) -> tuple[PerNeuron, PerNeuron]:
    return masked_variance(responses, (0, 1)), masked_mean(masked_variance(responses, 1), 0)


def _expanded(predictions: Predictions, responses: Repeats) -> Repeats:
    """Return predictions as (image, repeat, neuron), NaN where the response is absent."""
    predictions = predictions[:, None] if predictions.ndim == 2 else predictions
    return np.where(np.isfinite(responses), predictions, np.nan)


def _over_trials(y1: Float[np.ndarray, "trial neuron"], y2: Float[np.ndarray, "trial neuron"]) -> PerNeuron:
    """Correlate over the trials that exist: those of all neurons together where they have the same gaps."""
    valid = np.isfinite(y1) & np.isfinite(y2)
    if (valid == valid[:, :1]).all():
        return published_correlation(y1[valid[:, 0]], y2[valid[:, 0]], axis=0)
    deviations = (
        np.where(valid, values, np.nan) - masked_mean(np.where(valid, values, np.nan), 0) for values in (y1, y2)
    )
    scores = [values / (np.sqrt(masked_mean(np.square(values), 0)) + EPS) for values in deviations]
    return masked_mean(scores[0] * scores[1], 0)
