"""Scores of resampled repeats where no response is missing: from products between repeats, without averaging bins anew.

An average over repeats that count `w` times has the sum of squares w' G w, with G the products of the repeats summed
over bins. That is (sample, repeat^2) times (repeat^2, neuron) in place of (sample, bin, repeat, neuron) operations.
"""

import numpy as np
from jaxtyping import Float

from coread.eval.masked_statistics import CONSTANT, positive_or_nan

# rounding leaves so much of the variation of a constant, relative to its sum of squares, where it is their difference
ROUNDING = 1e-12

Repeats = Float[np.ndarray, "bin repeat neuron"]
Sampled = Float[np.ndarray, "sample neuron"]


def complete_scores(
    responses: Repeats,
    aligned: Repeats,
    prediction: Float[np.ndarray, "bin repeat_or_1 neuron"],
    weights: Float[np.ndarray, "sample repeat"],
) -> tuple[Sampled, ...]:
    """Return correlation to the average, normalised correlation, noise ceiling, FEVE and explainable share of variance.

    `aligned` are the responses without the repeats' own offsets; all are centred, so that few digits are lost. The
    weights of every sample sum to the number of repeats.
    """
    n_bins, n = responses.shape[:2]
    samples = n_bins * n
    n_squares = np.square(weights).sum(axis=1, keepdims=True)
    pairs = n * n - n_squares  # of different repeats; none where one repeat was drawn n times
    per_pair = 1 / positive_or_nan(pairs)
    both = (weights[:, :, None] * weights[:, None]).reshape(len(weights), -1)
    squares, squares_aligned = weights @ _power(responses), weights @ _power(aligned)
    of_total = both @ _products(responses, responses)
    noise = per_pair * n * (n * squares - of_total) / samples
    of_average = per_pair * n_squares / n**2 * (n * squares_aligned - both @ _products(aligned, aligned))
    sums = weights @ responses.sum(axis=0)
    variation = _variation(of_total / n**2, sums / n, n_bins)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = _correlation(responses, prediction, weights, both, sums, variation)
        variance = positive_or_nan(variation / (n_bins - 1))
        ceiling = np.sqrt(positive_or_nan(variance - of_average / (n_bins - 1)) / variance)
        spread = (squares - np.square(sums) / samples) / (samples - 1)
        explainable = spread - noise
        error = weights @ _power(responses - prediction) / samples
        feve = 1 - (error - noise) / positive_or_nan(explainable)
        return correlation, correlation / ceiling, ceiling, feve, explainable / spread


def _correlation(
    responses: Repeats,
    prediction: Float[np.ndarray, "bin repeat_or_1 neuron"],
    weights: Float[np.ndarray, "sample repeat"],
    both: Float[np.ndarray, "sample pair"],
    sums: Sampled,
    variation: Sampled,
) -> Sampled:
    """Return the correlation with averages: 0 for a constant prediction, NaN for constant responses."""
    n_bins, n = responses.shape[:2]
    constant = CONSTANT * _power(prediction).mean(axis=0)
    prediction = prediction - prediction.mean(axis=(0, 1))  # which changes no correlation, and loses no digits of it
    if prediction.shape[1] == 1:
        predicted_sums = prediction.sum(axis=0)
        predicted_squares = _power(prediction)
        products = weights @ np.einsum("brn,bn->rn", responses, prediction[:, 0], optimize=True) / n
    else:
        predicted_sums = weights @ prediction.sum(axis=0) / n
        predicted_squares = both @ _products(prediction, prediction) / n**2
        products = both @ _products(responses, prediction) / n**2
    predicted = _variation(predicted_squares, predicted_sums, n_bins)
    correlation = (products - sums / n * predicted_sums / n_bins) / np.sqrt(predicted * variation)
    return np.where(variation > 0, np.where(predicted > constant, correlation, 0.0), np.nan)


def _variation(squares: Sampled, sums: Sampled, n_bins: int) -> Sampled:
    """Return the sum of squared deviations over bins, 0 for a constant."""
    variation = squares - np.square(sums) / n_bins
    return np.where(variation > ROUNDING * squares, variation, 0.0)


def _power(values: Repeats) -> Float[np.ndarray, "repeat neuron"]:
    return np.square(values).sum(axis=0)


def _products(one: Repeats, other: Repeats) -> Float[np.ndarray, "pair neuron"]:
    """Return products of any two repeats, summed over bins."""
    by_neuron = np.moveaxis(one, 2, 0).mT @ np.moveaxis(other, 2, 0)  # (neuron, repeat, repeat)
    return by_neuron.reshape(len(by_neuron), -1).T
