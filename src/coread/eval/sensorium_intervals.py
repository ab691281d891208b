"""Intervals over repeats of the published formulas of SENSORIUM 2022 (`coread.eval.sensorium_metrics`)."""

import numpy as np
from jaxtyping import Bool, Float

from coread.eval.masked_statistics import masked_mean, positive_or_nan
from coread.eval.metrics import MAX_ELEMENTS, PerNeuron, Predictions, Repeats, correlation_to_average
from coread.eval.sensorium_metrics import (
    published_correlation_to_average,
    published_explainable_variance,
    published_feve,
)

SAME = 1e-6  # difference of correlations that their interval does not show

Interval = Float[np.ndarray, "2 neuron"]
Resampled = Float[np.ndarray, "sample neuron"]


def published_intervals(
    responses: Repeats, predictions: Predictions, n: int, rng: np.random.Generator, level: float = 0.95
) -> dict[str, Interval]:
    """Return the interval (low, high) of the published explainable_variance and feve, from `n` resamplings of repeats.

    As in `bootstrap_repeats`, and from the same draws for the same generator: a repeat drawn twice is never compared
    with itself, and the spread of the resampled scores is put around the published score of all repeats. NaN for a
    silent neuron, and of FEVE where there is no variance to explain.
    """
    predictions = predictions[:, None] if predictions.ndim == 2 else predictions
    n_repeats = responses.shape[1]
    weights = rng.multinomial(n_repeats, np.full(n_repeats, 1 / n_repeats), size=n).astype(np.float64)
    explainable, unexplained = _resampled_shares(responses, responses - predictions, weights)
    fev = published_explainable_variance(responses)
    with np.errstate(invalid="ignore", divide="ignore"):
        resampled_feve = 1 - unexplained / positive_or_nan(explainable)
    feve = np.where(fev > 0, published_feve(responses, predictions), np.nan)
    return {
        "explainable_variance": _around(fev, explainable, level),
        "feve": _around(feve, resampled_feve, level),
    }


def where_formulas_agree(responses: Repeats, predictions: Predictions, interval: Interval) -> Interval:
    """Return the interval of the exact correlation to the average where the published one is the same, else NaN."""
    published = published_correlation_to_average(responses, predictions)
    exact = correlation_to_average(responses, predictions)
    return np.where(np.abs(published - exact) <= SAME, interval, np.nan)


def _around(score: PerNeuron, resampled: Resampled, level: float) -> Interval:
    """Put the quantiles of resampled scores, relative to their mean, around the score; too few samples give NaN."""
    enough = np.isfinite(resampled).mean(axis=0) > 0.5
    filled = np.where(enough, resampled, 0.0)
    quantiles = np.nanquantile(filled, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.where(enough, score + quantiles - masked_mean(filled, 0), np.nan)


def _resampled_shares(
    responses: Repeats, errors: Repeats, weights: Float[np.ndarray, "sample repeat"]
) -> tuple[Resampled, Resampled]:
    """Return (total - noise) / total and (MSE - noise) / total for repeats that count as often as the weights say."""
    centered = responses - masked_mean(responses, (0, 1))  # sums of squares lose fewer digits
    valid = np.isfinite(centered)
    values = np.where(valid, centered, 0.0)
    count = weights @ valid.sum(axis=0)
    square, of_all = weights @ np.square(values).sum(axis=0), weights @ values.sum(axis=0)
    total = positive_or_nan((square - np.square(of_all) / positive_or_nan(count)) / positive_or_nan(count - 1))
    noise = _resampled_noise(values, valid, weights)
    error = weights @ np.nansum(np.square(errors), axis=0) / positive_or_nan(weights @ np.isfinite(errors).sum(axis=0))
    return (total - noise) / total, (error - noise) / total


def _resampled_noise(
    values: Repeats, valid: Bool[np.ndarray, "bin repeat neuron"], weights: Float[np.ndarray, "sample repeat"]
) -> Resampled:
    """Return the mean over bins of the variance over repeats (absent: 0), from pairs of different repeats."""
    n_bins, n_repeats, n_neurons = values.shape
    if (valid == valid[..., :1]).all():  # all neurons have the same gaps
        valid = valid[..., :1]
    noise = np.empty((len(weights), n_neurons))
    chunk = max(1, MAX_ELEMENTS // (n_bins * max(n_repeats, n_neurons)))
    for start in range(0, len(weights), chunk):
        drawn = weights[start : start + chunk]
        count = _of_bins(drawn, valid)
        pairs = np.square(count) - _of_bins(np.square(drawn), valid)
        of_bin = count * _of_bins(drawn, np.square(values)) - np.square(_of_bins(drawn, values))
        n_used = positive_or_nan((pairs > 0).sum(axis=1))
        noise[start : start + chunk] = np.where(pairs > 0, of_bin / np.maximum(pairs, 1), 0.0).sum(axis=1) / n_used
    return noise


def _of_bins(
    weights: Float[np.ndarray, "sample repeat"], values: Float[np.ndarray, "bin repeat neuron_or_1"]
) -> Float[np.ndarray, "sample bin neuron_or_1"]:
    """Sum values over repeats, each times its weight."""
    n_bins, n_repeats, n_neurons = values.shape
    return (weights @ values.swapaxes(0, 1).reshape(n_repeats, -1)).reshape(-1, n_bins, n_neurons)
