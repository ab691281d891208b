"""Scores of predicted responses, vectorised over neurons, in float64.

Responses to repeats are `(bin, repeat, neuron)` and NaN where a repeat is absent or masked; predictions are
`(bin, neuron)`. A bin without a prediction enters no score that uses predictions. A score that is not defined, for
instance of a silent neuron, is NaN.
"""

import numpy as np
from jaxtyping import Bool, Float

Repeats = Float[np.ndarray, "bin repeat neuron"]
Predictions = Float[np.ndarray, "bin neuron"] | Float[np.ndarray, "bin repeat neuron"]
PerNeuron = Float[np.ndarray, " neuron"]
Axis = int | tuple[int, ...] | None

# a variance below this share of the mean square is what rounding leaves of a constant
CONSTANT = 1e-20
MAX_ELEMENTS = 2**22  # of a temporary array, in chunked computations


def correlation_numpy(y1: np.ndarray, y2: np.ndarray, axis: Axis = -1, eps: float = 1e-8) -> np.ndarray:
    """Return Pearson's correlation along `axis`, `eps` being added to both standard deviations; NaN pairs are left out.

    >>> correlation_numpy(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 4.0])).round(4)
    np.float64(0.982)
    """
    valid = np.isfinite(y1) & np.isfinite(y2)
    n = np.maximum(valid.sum(axis=axis, keepdims=True), 1)
    y1, y2 = (np.where(valid, np.asarray(y, np.float64), 0.0) for y in (y1, y2))
    y1, y2 = (np.where(valid, y - y.sum(axis=axis, keepdims=True) / n, 0.0) for y in (y1, y2))
    std1, std2 = (np.sqrt(np.square(y).sum(axis=axis, keepdims=True) / n) for y in (y1, y2))
    r = (y1 * y2).sum(axis=axis, keepdims=True) / n / ((std1 + eps) * (std2 + eps))
    return np.squeeze(r, axis=axis)[()]


def MSE_numpy(y1: np.ndarray, y2: np.ndarray, axis: Axis = -1) -> np.ndarray:  # noqa: N802
    """Return the mean squared difference along `axis`, NaN left out.

    >>> MSE_numpy(np.array([1.0, 2.0, np.nan]), np.array([1.0, 4.0, 0.0]))
    np.float64(2.0)
    """
    return _mean(np.square(np.asarray(y1, np.float64) - y2), axis)


def poisson_loss_numpy(y_true: np.ndarray, y_pred: np.ndarray, eps: float = 1e-8, mean_axis: Axis = -1) -> np.ndarray:
    """Return the mean of `rate - count * log(rate + eps)` along `mean_axis`, NaN left out.

    >>> poisson_loss_numpy(np.array([0.0, 1.0]), np.array([1.0, 1.0])).round(6)
    np.float64(1.0)
    """
    y_pred = np.asarray(y_pred, np.float64)
    return _mean(y_pred - y_true * np.log(y_pred + eps), mean_axis)


def explainable_vs_total_var(responses: Repeats, eps: float = 1e-9) -> tuple[PerNeuron, PerNeuron]:
    """Return the explainable share of the variance, and the explainable variance (Cadena et al. 2019).

    The total variance is over bins and repeats, the noise variance that over repeats, averaged over bins; their
    difference is at least `eps`. NaN without repeats.

    >>> ratio, explainable = explainable_vs_total_var(np.array([[[0.0], [0.0]], [[2.0], [2.0]]]))
    >>> ratio.round(6), explainable.round(6)
    (array([1.]), array([1.333333]))
    """
    total, noise = _total_and_noise_variance(_repeats(responses))
    explainable = np.where(np.isnan(noise), np.nan, np.maximum(total - noise, eps))
    return explainable / (total + eps), explainable


def feve(responses: Repeats, predictions: Predictions, clip: bool = False) -> PerNeuron:
    """Return the fraction of explainable variance explained, 1 - (mse - noise) / explainable (Cadena et al. 2019).

    A perfect prediction of noisy responses scatters around 1, a bad one is negative. `clip=True` clips to [0, 1], as
    openretina does, which hides both. NaN where there is no explainable variance.

    >>> responses = np.array([[[0.0], [1.0]], [[4.0], [5.0]], [[8.0], [9.0]]])
    >>> feve(responses, np.array([[0.5], [4.5], [8.5]])).round(2), feve(responses, np.full((3, 1), 4.5)).round(2)
    (array([1.02]), array([0.17]))
    """
    responses, predictions = _with_predictions(responses, predictions)
    total, noise = _total_and_noise_variance(responses)
    error = _mean(np.square(responses - predictions), (0, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        score = 1 - (error - noise) / np.where(total - noise > 0, total - noise, np.nan)
    return np.clip(score, 0, 1) if clip else score


def single_trial_correlation(responses: Repeats, predictions: Predictions) -> PerNeuron:
    """Return the correlation of predictions with single trials, over bins and repeats together.

    0 where the prediction is constant, NaN where the response is.

    >>> single_trial_correlation(np.array([[[0.0], [1.0]], [[2.0], [3.0]]]), np.array([[0.0], [1.0]])).round(4)
    array([0.8944])
    """
    responses, predictions = _with_predictions(responses, predictions)
    shape = (-1, responses.shape[2])
    return _pearson(np.broadcast_to(predictions, responses.shape).reshape(shape), responses.reshape(shape))


def correlation_to_average(responses: Repeats, predictions: Float[np.ndarray, "bin neuron"]) -> PerNeuron:
    """Return the correlation of predictions with the average over repeats, over bins.

    0 where the prediction is constant, NaN where the average response is.

    >>> correlation_to_average(np.array([[[0.0], [1.0]], [[2.0], [3.0]]]), np.array([[0.0], [1.0]]))
    array([1.])
    """
    responses, expanded = _with_predictions(responses, predictions)
    return _pearson(expanded[:, 0], _mean(responses, 1))


def signal_power(responses: Repeats) -> PerNeuron:
    """Return the variance over bins of the part of the response that repeats (Schoppe et al. 2016).

    This is the mean covariance between two different repeats, over the bins that both have; without gaps it equals
    (var(sum of repeats) - sum of var(repeat)) / (R (R - 1)). Unbiased, so it can be negative. NaN without repeats.

    >>> signal_power(np.array([[[0.0], [1.0]], [[2.0], [3.0]], [[1.0], [0.0]]])).round(4)
    array([1.])
    """
    covariance, weight = _pair_covariances(_repeats(responses))
    different = ~np.eye(covariance.shape[1], dtype=bool)
    weights = (weight * different).sum((1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (covariance * weight * different).sum((1, 2)) / np.where(weights > 0, weights, np.nan)


def noise_ceiling(responses: Repeats) -> PerNeuron:
    """Return the correlation to the average that a perfect model would reach: CCmax of Schoppe et al. 2016.

    CCmax = sqrt(signal power / variance of the average); NaN where the signal power is not positive.

    >>> noise_ceiling(np.array([[[0.0], [0.0]], [[2.0], [2.0]]]))
    array([1.])
    """
    responses = _repeats(responses)
    power = _positive(signal_power(responses))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt(power / _positive(_variance(_mean(responses, 1))))


def normalized_correlation(responses: Repeats, predictions: Float[np.ndarray, "bin neuron"]) -> PerNeuron:
    """Return CCnorm = CCabs / CCmax of Schoppe et al. 2016: the correlation to the average in units of its ceiling.

    NaN where the signal power is not positive; can exceed 1, because the ceiling is an estimate.

    >>> responses = np.array([[[0.0], [1.0]], [[2.0], [3.0]], [[1.0], [0.0]]])
    >>> normalized_correlation(responses, np.array([[0.5], [2.5], [0.5]])).round(4)
    array([1.1547])
    """
    responses, expanded = _with_predictions(responses, predictions)
    return correlation_to_average(responses, expanded[:, 0]) / noise_ceiling(responses)


def bootstrap_mean_ci(values: PerNeuron, n: int, rng: np.random.Generator, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of the mean over neurons, from `n` resamplings; NaN neurons are left out.

    (NaN, NaN) for fewer than two neurons.

    >>> low, high = bootstrap_mean_ci(np.arange(100.0), 1000, np.random.default_rng(0))
    >>> low < 49.5 < high
    True
    """
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if values.size < 2:
        return float("nan"), float("nan")
    means = np.empty(n)
    chunk = max(1, MAX_ELEMENTS // values.size)
    for start in range(0, n, chunk):
        drawn = rng.integers(values.size, size=(min(chunk, n - start), values.size))
        means[start : start + chunk] = values[drawn].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_repeats(
    responses: Repeats,
    predictions: Float[np.ndarray, "bin neuron"],
    n: int,
    rng: np.random.Generator,
    level: float = 0.95,
) -> dict[str, Float[np.ndarray, "2 neuron"]]:
    """Return the interval (low, high) of each score that uses repeats, from `n` resamplings of the repeats.

    Keys: correlation_to_average, normalized_correlation, noise_ceiling, feve, explainable_variance (the ratio).
    A repeat drawn twice never makes a pair with itself, because it would count its noise as signal. What remains is
    that an average over resampled repeats is noisier than the real one; therefore the spread of the resampled scores
    is put around the score of all repeats. NaN where the score is not defined.

    >>> rng = np.random.default_rng(0)
    >>> signal = rng.normal(size=(200, 1))
    >>> low, high = bootstrap_repeats(signal[:, None] + rng.normal(size=(200, 8, 1)), signal, 200, rng)["feve"]
    >>> bool(low[0] < 1 < high[0])
    True
    """
    responses, expanded = _with_predictions(responses, predictions)
    prediction = expanded[:, 0]
    n_repeats = responses.shape[1]
    weights = rng.multinomial(n_repeats, np.full(n_repeats, 1 / n_repeats), size=n).astype(np.float64)
    power, total, noise, error = _resampled_powers(responses, prediction, weights)
    correlation, variance = _resampled_average(responses, prediction, weights)
    with np.errstate(invalid="ignore", divide="ignore"):
        ceiling = np.sqrt(_positive(power) / variance)
        resampled = {
            "correlation_to_average": correlation,
            "normalized_correlation": correlation / ceiling,
            "noise_ceiling": ceiling,
            "feve": 1 - (error - noise) / _positive(total - noise),
            "explainable_variance": (total - noise) / total,
        }
    scores = {
        "correlation_to_average": correlation_to_average(responses, prediction),
        "normalized_correlation": normalized_correlation(responses, prediction),
        "noise_ceiling": noise_ceiling(responses),
        "feve": feve(responses, predictions),
        "explainable_variance": explainable_vs_total_var(responses)[0],
    }
    return {name: _interval_around(scores[name], resampled[name], level) for name in scores}


def _interval_around(
    score: PerNeuron, resampled: Float[np.ndarray, "sample neuron"], level: float
) -> Float[np.ndarray, "2 neuron"]:
    """Put the quantiles of resampled scores, relative to their mean, around the score; too few samples give NaN."""
    enough = np.isfinite(resampled).mean(axis=0) > 0.5
    filled = np.where(enough, resampled, 0.0)
    quantiles = np.nanquantile(filled, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.where(enough, score + quantiles - _mean(filled, 0), np.nan)


def _resampled_average(
    responses: Repeats, prediction: Float[np.ndarray, "bin neuron"], weights: Float[np.ndarray, "sample repeat"]
) -> tuple[Float[np.ndarray, "sample neuron"], Float[np.ndarray, "sample neuron"]]:
    """Correlation with, and variance of, the weighted averages over repeats."""
    n_bins, n_repeats, n_neurons = responses.shape
    valid = np.isfinite(responses)
    by_repeat = np.where(valid, responses, 0.0).transpose(1, 0, 2).reshape(n_repeats, -1)
    counts = valid.astype(np.float64).transpose(1, 0, 2).reshape(n_repeats, -1)
    correlation, variance = np.empty((2, len(weights), n_neurons))
    chunk = max(1, MAX_ELEMENTS // by_repeat.shape[1])
    for start in range(0, len(weights), chunk):
        rows = slice(start, start + chunk)
        with np.errstate(invalid="ignore", divide="ignore"):
            average = ((weights[rows] @ by_repeat) / (weights[rows] @ counts)).reshape(-1, n_bins, n_neurons)
        correlation[rows] = _pearson(np.broadcast_to(prediction, average.shape), average, axis=1)
        variance[rows] = _variance(average, 1)
    return correlation, variance


def _resampled_powers(
    responses: Repeats, prediction: Float[np.ndarray, "bin neuron"], weights: Float[np.ndarray, "sample repeat"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Signal power, total variance, noise variance and squared error `(sample, neuron)` of weighted repeats."""
    covariance, freedom = _pair_covariances(responses)
    valid = np.isfinite(responses)
    values, counts = np.where(valid, responses, 0.0), valid.sum(axis=0)
    sums, squares = values.sum(axis=0), np.square(values).sum(axis=0)
    errors = np.where(valid, np.square(values - prediction[:, None]), 0.0).sum(axis=0)
    difference, joint = _pair_differences(values, valid)
    with np.errstate(invalid="ignore", divide="ignore"):
        power = _weighted_pairs(weights, covariance * freedom) / _positive(_weighted_pairs(weights, freedom))
        noise = _weighted_pairs(weights, difference) / (2 * _positive(_weighted_pairs(weights, joint)))
        n = _positive(weights @ counts)
        total = (weights @ squares - np.square(weights @ sums) / n) / (n - 1)
        error = (weights @ errors) / n
    return power, total, noise, error


def _weighted_pairs(
    weights: Float[np.ndarray, "sample repeat"], of_pairs: Float[np.ndarray, "neuron repeat repeat"]
) -> Float[np.ndarray, "sample neuron"]:
    """Sum a quantity of two different repeats over all pairs, times the product of their weights, in neuron chunks."""
    off_diagonal = of_pairs * ~np.eye(of_pairs.shape[1], dtype=bool)
    if (off_diagonal == off_diagonal[:1]).all():  # counts of bins, where all neurons have the same gaps
        off_diagonal = off_diagonal[:1]
    total = np.empty((len(off_diagonal), len(weights)))
    chunk = max(1, MAX_ELEMENTS // weights.size)
    for start in range(0, len(total), chunk):
        total[start : start + chunk] = ((weights @ off_diagonal[start : start + chunk]) * weights).sum(axis=2)
    return np.broadcast_to(total.T, (len(weights), len(of_pairs)))


def _pair_differences(
    values: Repeats, valid: Bool[np.ndarray, "bin repeat neuron"]
) -> tuple[Float[np.ndarray, "neuron repeat repeat"], Float[np.ndarray, "neuron repeat repeat"]]:
    """Sum of squared differences of every two repeats, and the number of bins that both have."""
    traces, mask = np.moveaxis(values, 2, 0), np.moveaxis(valid, 2, 0).astype(np.float64)
    squares = np.square(traces).mT @ mask
    return squares + squares.mT - 2 * traces.mT @ traces, mask.mT @ mask


def _repeats(responses: np.ndarray) -> Repeats:
    if responses.ndim != 3:
        raise ValueError(f"responses must be (bin, repeat, neuron), got {responses.shape}")
    return np.asarray(responses, np.float64)


def _with_predictions(responses: np.ndarray, predictions: np.ndarray) -> tuple[Repeats, Repeats]:
    """Return responses, NaN where the prediction is, and predictions as (bin, repeat or 1, neuron)."""
    responses = _repeats(responses)
    predictions = np.asarray(predictions, np.float64)
    if predictions.ndim == 2:
        predictions = predictions[:, None]
    if predictions.shape not in (responses.shape, (responses.shape[0], 1, responses.shape[2])):
        raise ValueError(
            f"predictions must be (bin, neuron) or (bin, repeat, neuron) for responses {responses.shape}, "
            f"got {predictions.shape}"
        )
    return np.where(np.isfinite(predictions), responses, np.nan), predictions


def _mean(values: np.ndarray, axis: Axis) -> np.ndarray:
    """Mean along `axis`, NaN left out; NaN where nothing is left."""
    valid = np.isfinite(values)
    n = valid.sum(axis=axis)
    return (np.where(valid, values, 0.0).sum(axis=axis) / np.where(n > 0, n, np.nan))[()]


def _variance(values: np.ndarray, axis: Axis = 0) -> np.ndarray:
    """Unbiased variance along `axis`, NaN left out; 0 for a constant, NaN where less than two values are left."""
    mean = np.expand_dims(_mean(values, axis), axis)  # type: ignore[arg-type]
    n = np.isfinite(values).sum(axis=axis)
    deviation = np.nansum(np.square(values - mean), axis=axis)
    deviation = np.where(deviation <= CONSTANT * np.nansum(np.square(values), axis=axis), 0.0, deviation)
    return deviation / np.where(n > 1, n - 1, np.nan)


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, np.nan)


def _total_and_noise_variance(responses: Repeats) -> tuple[PerNeuron, PerNeuron]:
    return _variance(responses, (0, 1)), _mean(_variance(responses, 1), 0)


def _pearson(x: np.ndarray, y: np.ndarray, axis: int = 0) -> np.ndarray:
    """Correlation of predictions `x` with responses `y`: 0 for constant `x`, NaN for constant `y`."""
    valid = np.isfinite(x) & np.isfinite(y)
    n = np.maximum(valid.sum(axis=axis, keepdims=True), 1)
    x, y = (np.where(valid, values, 0.0) for values in (x, y))
    power_x, power_y = (np.square(values).sum(axis=axis) for values in (x, y))
    x, y = (np.where(valid, values - values.sum(axis=axis, keepdims=True) / n, 0.0) for values in (x, y))
    var_x, var_y = (np.square(values).sum(axis=axis) for values in (x, y))
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (x * y).sum(axis=axis) / np.sqrt(var_x * var_y)
    return np.where(var_y <= CONSTANT * power_y, np.nan, np.where(var_x <= CONSTANT * power_x, 0.0, r))


def _pair_covariances(
    responses: Repeats,
) -> tuple[Float[np.ndarray, "neuron repeat repeat"], Float[np.ndarray, "neuron repeat repeat"]]:
    """Covariance of every two repeats over the bins that both have, and its degrees of freedom (0 if undefined)."""
    traces = np.moveaxis(responses - _mean(responses, 0), 2, 0)
    valid: Bool[np.ndarray, "neuron bin repeat"] = np.isfinite(traces)
    traces = np.where(valid, traces, 0.0)
    mask = valid.astype(np.float64)
    n = mask.mT @ mask
    sums = traces.mT @ mask  # of the first repeat, over the bins that the second has
    freedom = np.maximum(n - 1, 0)
    covariance = (traces.mT @ traces - sums * sums.mT / np.maximum(n, 1)) / np.maximum(freedom, 1)
    return covariance, freedom
