"""Scores of predicted responses, vectorised over neurons, in float64.

Responses to repeats are `(bin, repeat, neuron)` and NaN where a repeat is absent or masked; predictions are
`(bin, neuron)`, or `(bin, repeat, neuron)` of a model that knows more than the stimulus (behaviour, history, time). A
bin without a prediction enters no score that uses predictions. A score that is not defined, for instance of a silent
neuron, is NaN.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from coread.eval.complete_resamples import complete_scores
from coread.eval.masked_statistics import Axis, masked_mean, masked_pearson, masked_variance, positive_or_nan

Repeats = Float[np.ndarray, "bin repeat neuron"]
Predictions = Float[np.ndarray, "bin neuron"] | Float[np.ndarray, "bin repeat neuron"]
PerNeuron = Float[np.ndarray, " neuron"]

MAX_ELEMENTS = 2**22  # of a temporary array, in chunked computations
RESAMPLED = ("correlation_to_average", "normalized_correlation", "noise_ceiling", "feve", "explainable_variance")


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
    return masked_mean(np.square(np.asarray(y1, np.float64) - y2), axis)


def poisson_loss_numpy(y_true: np.ndarray, y_pred: np.ndarray, eps: float = 1e-8, mean_axis: Axis = -1) -> np.ndarray:
    """Return the mean of `rate - count * log(rate + eps)` along `mean_axis`, NaN left out.

    >>> poisson_loss_numpy(np.array([0.0, 1.0]), np.array([1.0, 1.0])).round(6)
    np.float64(1.0)
    """
    y_pred = np.asarray(y_pred, np.float64)
    return masked_mean(y_pred - y_true * np.log(y_pred + eps), mean_axis)


def explainable_vs_total_var(repeated_outputs: Repeats, eps: float = 1e-9) -> tuple[PerNeuron, PerNeuron]:
    """Return the explainable share of the variance, and the explainable variance (Cadena et al. 2019).

    The total variance is over bins and repeats, the noise variance that over repeats, averaged over bins, each with
    the weight of its number of repeats; their difference is at least `eps`. Bins with one repeat do not enter, because
    their noise is unknown. NaN without repeats.

    >>> ratio, explainable = explainable_vs_total_var(np.array([[[0.0], [0.0]], [[2.0], [2.0]]]))
    >>> ratio.round(6), explainable.round(6)
    (array([1.]), array([1.333333]))
    """
    total, noise = _total_and_noise_variance(_repeats(repeated_outputs))
    explainable = np.where(np.isnan(noise), np.nan, np.maximum(total - noise, eps))
    return explainable / (total + eps), explainable


def feve(targets: Repeats, predictions: Predictions, clip: bool = False) -> PerNeuron:
    """Return the fraction of explainable variance explained, 1 - (mse - noise) / explainable (Cadena et al. 2019).

    A perfect prediction of noisy responses scatters around 1, a bad one is negative. `clip=True` clips to [0, 1], as
    openretina does, which hides both. Bins with one repeat do not enter. NaN where there is no explainable variance.

    >>> responses = np.array([[[0.0], [1.0]], [[4.0], [5.0]], [[8.0], [9.0]]])
    >>> feve(responses, np.array([[0.5], [4.5], [8.5]])).round(2), feve(responses, np.full((3, 1), 4.5)).round(2)
    (array([1.02]), array([0.17]))
    """
    responses, predictions = _with_predictions(targets, predictions)
    responses = _with_two_repeats(responses)
    total, noise = _total_and_noise_variance(responses)
    error = masked_mean(np.square(responses - predictions), (0, 1))
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
    return masked_pearson(np.broadcast_to(predictions, responses.shape).reshape(shape), responses.reshape(shape))


def correlation_to_average(responses: Repeats, predictions: Predictions) -> PerNeuron:
    """Return the correlation of predictions with the average over repeats, over bins.

    Predictions that differ between repeats are averaged over the same repeats as the responses. 0 where the prediction
    is constant, NaN where the average response is.

    >>> correlation_to_average(np.array([[[0.0], [1.0]], [[2.0], [3.0]]]), np.array([[0.0], [1.0]]))
    array([1.])
    """
    responses, expanded = _with_predictions(responses, predictions)
    return masked_pearson(_average_prediction(responses, expanded), masked_mean(responses, 1))


def signal_power(responses: Repeats) -> PerNeuron:
    """Return the variance over bins of the part of the response that repeats (Schoppe et al. 2016).

    This is the variance of the average over repeats less what noise adds to it, over the bins with at least two
    repeats. With equal repeats it equals (var(sum of repeats) - sum of var(repeat)) / (R (R - 1)); both parts being of
    the same bins, it also holds where the number of repeats goes with the rate, as in a session that was stopped
    early. Unbiased, so it can be negative. NaN without repeats.

    >>> signal_power(np.array([[[0.0], [1.0]], [[2.0], [3.0]], [[1.0], [0.0]]])).round(4)
    array([1.])
    """
    responses = _with_two_repeats(_repeats(responses))
    return masked_variance(masked_mean(responses, 1)) - _noise_of_average(responses)


def noise_ceiling(responses: Repeats) -> PerNeuron:
    """Return the correlation to the average that a perfect model would reach: CCmax of Schoppe et al. 2016.

    CCmax = sqrt(signal power / variance of the average), over the bins with at least two repeats; NaN where the signal
    power is not positive.

    >>> noise_ceiling(np.array([[[0.0], [0.0]], [[2.0], [2.0]]]))
    array([1.])
    """
    responses = _with_two_repeats(_repeats(responses))
    power = positive_or_nan(signal_power(responses))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt(power / positive_or_nan(masked_variance(masked_mean(responses, 1))))


def normalized_correlation(responses: Repeats, predictions: Predictions) -> PerNeuron:
    """Return CCnorm = CCabs / CCmax of Schoppe et al. 2016: the correlation to the average in units of its ceiling.

    Both are over the bins with at least two repeats. NaN where the signal power is not positive; can exceed 1, because
    the ceiling is an estimate, and because it is that of a model which knows the stimulus only.

    >>> responses = np.array([[[0.0], [1.0]], [[2.0], [3.0]], [[1.0], [0.0]]])
    >>> normalized_correlation(responses, np.array([[0.5], [2.5], [0.5]])).round(4)
    array([1.1547])
    """
    responses, expanded = _with_predictions(responses, predictions)
    responses = _with_two_repeats(responses)
    return correlation_to_average(responses, expanded) / noise_ceiling(responses)


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
    predictions: Predictions,
    n: int,
    rng: np.random.Generator,
    level: float = 0.95,
) -> dict[str, Float[np.ndarray, "2 neuron"]]:
    """Return the interval (low, high) of each score that uses repeats, from `n` resamplings of the repeats.

    Keys: correlation_to_average, normalized_correlation, noise_ceiling, feve, explainable_variance (the ratio).
    A repeat drawn twice is never compared with itself, because that would count its noise as signal. What remains is
    that an average over resampled repeats is noisier than the real one; therefore the spread of the resampled scores
    is put around the score of all repeats. NaN where the score is not defined. Intervals of three repeats are too
    narrow: nominal 95 % cover 78 to 89 %.

    >>> rng = np.random.default_rng(0)
    >>> signal = rng.normal(size=(200, 1))
    >>> low, high = bootstrap_repeats(signal[:, None] + rng.normal(size=(200, 8, 1)), signal, 200, rng)["feve"]
    >>> bool(low[0] < 1 < high[0])
    True
    """
    responses, prediction = _with_predictions(responses, predictions)
    n_repeats = responses.shape[1]
    weights = rng.multinomial(n_repeats, np.full(n_repeats, 1 / n_repeats), size=n).astype(np.float64)
    resampled = _resampled_scores(responses, prediction, weights)
    scores = {
        "correlation_to_average": correlation_to_average(responses, prediction),
        "normalized_correlation": normalized_correlation(responses, prediction),
        "noise_ceiling": noise_ceiling(responses),
        "feve": feve(responses, prediction),
        "explainable_variance": explainable_vs_total_var(responses)[0],
    }
    return {name: _interval_around(scores[name], resampled[name], level) for name in scores}


def _interval_around(
    score: PerNeuron, resampled: Float[np.ndarray, "sample neuron"], level: float
) -> Float[np.ndarray, "2 neuron"]:
    """Put the quantiles of resampled scores, relative to their mean, around the score; too few samples give NaN."""
    enough = np.isfinite(resampled).mean(axis=0) > 0.5
    filled = np.where(enough, resampled, 0.0)
    # that of NumPy for missing values goes neuron by neuron
    quantile = np.quantile if np.isfinite(filled).all() else np.nanquantile
    quantiles = quantile(filled, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.where(enough, score + quantiles - masked_mean(filled, 0), np.nan)


def _resampled_scores(
    responses: Repeats, prediction: Predictions, weights: Float[np.ndarray, "sample repeat"]
) -> dict[str, Float[np.ndarray, "sample neuron"]]:
    """Return the scores of `bootstrap_repeats` for repeats that count as often as each row of weights says."""
    prediction = prediction[:, None] if prediction.ndim == 2 else prediction
    center = masked_mean(responses, (0, 1))  # sums of squares lose fewer digits
    responses, prediction = responses - center, prediction - center
    aligned = responses - _repeat_effects(responses)
    valid = np.isfinite(responses)
    n_bins, n_repeats = responses.shape[:2]
    if valid.all() and 1 < n_bins >= n_repeats:
        chunk = max(1, MAX_ELEMENTS // n_repeats**2)
        parts = [
            complete_scores(responses, aligned, prediction, weights[start : start + chunk])
            for start in range(0, len(weights), chunk)
        ]
        return {name: np.concatenate(of_score) for name, *of_score in zip(RESAMPLED, *parts, strict=True)}
    resampled = {name: np.empty((len(weights), responses.shape[2])) for name in RESAMPLED}
    for neurons in _with_equal_gaps(valid):
        chunk = max(1, MAX_ELEMENTS // (responses.shape[0] * max(responses.shape[1], len(neurons))))
        arrays = [
            np.where(valid[..., neurons], values[..., neurons], 0.0)
            for values in (responses, aligned, responses - prediction)
        ]
        for start in range(0, len(weights), chunk):
            rows = slice(start, start + chunk)
            scores = _weighted_scores(arrays, prediction[..., neurons], valid[..., neurons[0]], weights[rows])
            for name, values in zip(RESAMPLED, scores, strict=True):
                resampled[name][rows, neurons] = values
    return resampled


def _weighted_scores(
    arrays: Sequence[Repeats],
    prediction: Repeats,
    valid: Bool[np.ndarray, "bin repeat"],
    weights: Float[np.ndarray, "sample repeat"],
) -> tuple[Float[np.ndarray, "sample neuron"], ...]:
    """Return the `RESAMPLED` scores from responses, those without repeat effects, and errors (absent: 0)."""
    responses, aligned, errors = arrays
    n, n_squares = weights @ valid.T, np.square(weights) @ valid.T
    pairs = np.square(n) - n_squares  # of different repeats
    used = pairs > 0
    per_pair = used / np.where(used, pairs, 1)
    samples = positive_or_nan((n * used).sum(axis=1, keepdims=True))
    total, total_aligned = _weighted_sum(weights, responses), _weighted_sum(weights, aligned)
    square = _sum_over_samples(used, weights, np.square(responses))
    error = _sum_over_samples(used, weights, np.square(errors)) / samples
    noise = _sum_of_variances(per_pair * n, n, weights, responses, total) / samples
    of_average = _sum_of_variances(per_pair * n_squares / np.maximum(n, 1) ** 2, n, weights, aligned, total_aligned)
    with np.errstate(invalid="ignore", divide="ignore"):
        average = total / n[:, :, None]
        predicted = _weighted_prediction(prediction, valid, weights)
        correlation = among_used = masked_pearson(predicted, average, axis=1)
        if not (used | (n == 0)).all():
            average = np.where(used[:, :, None], average, np.nan)
            among_used = masked_pearson(predicted, average, axis=1)
        variance = positive_or_nan(masked_variance(average, 1))
        power = variance - of_average / positive_or_nan(used.sum(axis=1, keepdims=True) - 1)
        ceiling = np.sqrt(positive_or_nan(power) / variance)
        sum_of_used = (used[:, None].astype(np.float64) @ total)[:, 0]
        spread = (square - np.square(sum_of_used) / samples) / positive_or_nan(samples - 1)
        explainable = spread - noise
        return (
            correlation,
            among_used / ceiling,
            ceiling,
            1 - (error - noise) / positive_or_nan(explainable),
            explainable / spread,
        )


def _weighted_prediction(
    prediction: Repeats, valid: Bool[np.ndarray, "bin repeat"], weights: Float[np.ndarray, "sample repeat"]
) -> Float[np.ndarray, "sample_or_1 bin neuron"]:
    """Average predictions over the repeats that count for a bin; those that all repeats share stay as they are."""
    if prediction.shape[1] == 1:
        return prediction[None, :, 0]
    n = (weights @ valid.T)[:, :, None]
    return _weighted_sum(weights, np.where(valid[..., None], prediction, 0.0)) / n


def _weighted_sum(
    weights: Float[np.ndarray, "sample repeat"], values: Repeats
) -> Float[np.ndarray, "sample bin neuron"]:
    n_bins, n_repeats, n_neurons = values.shape
    return (weights @ values.swapaxes(0, 1).reshape(n_repeats, -1)).reshape(-1, n_bins, n_neurons)


def _sum_over_samples(
    of_bin: Float[np.ndarray, "sample bin"], weights: Float[np.ndarray, "sample repeat"], values: Repeats
) -> Float[np.ndarray, "sample neuron"]:
    """Sum values over bins and repeats, times the weight of the bin and that of the repeat."""
    both = of_bin[:, :, None] * weights[:, None]
    return both.reshape(len(weights), -1) @ values.reshape(-1, values.shape[2])


def _sum_of_variances(
    of_bin: Float[np.ndarray, "sample bin"],
    n: Float[np.ndarray, "sample bin"],
    weights: Float[np.ndarray, "sample repeat"],
    values: Repeats,
    total: Float[np.ndarray, "sample bin neuron"],
) -> Float[np.ndarray, "sample neuron"]:
    """Sum over bins n * sum of squares - square of the sum over repeats, times the weight of the bin."""
    return _sum_over_samples(of_bin * n, weights, np.square(values)) - (of_bin[:, None] @ np.square(total))[:, 0]


def _with_equal_gaps(valid: Bool[np.ndarray, "bin repeat neuron"]) -> list[Int[np.ndarray, " group"]]:
    """Return groups of neurons that miss the same bins of the same repeats: as a rule, one of all neurons."""
    n_neurons = valid.shape[2]
    if (valid == valid[..., :1]).all():
        return [np.arange(n_neurons)]
    group = np.unique(valid.reshape(-1, n_neurons), axis=1, return_inverse=True)[1].ravel()
    return [np.flatnonzero(group == each) for each in range(group.max() + 1)]


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


def _average_prediction(responses: Repeats, predictions: Repeats) -> Float[np.ndarray, "bin neuron"]:
    """Average predictions over the repeats that have a response; those that all repeats share stay as they are."""
    if predictions.shape[1] == 1:
        return predictions[:, 0]
    return masked_mean(np.where(np.isfinite(responses), predictions, np.nan), 1)


def _with_two_repeats(responses: Repeats) -> Repeats:
    """Leave only bins whose noise can be told: those with at least two repeats."""
    return np.where(np.isfinite(responses).sum(axis=1, keepdims=True) >= 2, responses, np.nan)


def _total_and_noise_variance(responses: Repeats) -> tuple[PerNeuron, PerNeuron]:
    """Variance over samples of bins with two repeats, and that within bins with the same weight for every sample."""
    responses = _with_two_repeats(responses)
    noise = np.where(np.isfinite(responses), masked_variance(responses, 1)[:, None], np.nan)
    return masked_variance(responses, (0, 1)), masked_mean(noise, (0, 1))


def _noise_of_average(responses: Repeats) -> PerNeuron:
    """Variance that noise adds to the average over repeats, over bins; a repeat's own offset is no noise."""
    noise = masked_variance(responses - _repeat_effects(responses), 1)
    of_average = noise / positive_or_nan(np.isfinite(responses).sum(axis=1))
    n_bins = np.isfinite(of_average).sum(axis=0)
    # one degree of freedom goes to the offsets: with it, equal repeats give the published signal power exactly
    return masked_mean(of_average, 0) * n_bins / positive_or_nan(n_bins - 1)


def _repeat_effects(responses: Repeats) -> Float[np.ndarray, "repeat neuron"]:
    """Offset of each repeat in the additive model bin + repeat, by least squares, whatever bins a repeat covers."""
    valid = np.isfinite(responses)
    deviation = np.where(valid, responses - masked_mean(responses, 1)[:, None], 0.0).sum(axis=0)
    if (valid == valid[..., :1]).all():  # all neurons have the same gaps
        valid = valid[..., :1]
    share = np.moveaxis(valid / np.sqrt(np.maximum(valid.sum(axis=1, keepdims=True), 1)), 2, 0)
    normal = valid.sum(axis=0).T[:, None] * np.eye(valid.shape[1]) - share.mT @ share
    # singular: offsets are relative within repeats that share bins
    return (np.linalg.pinv(normal, rcond=1e-10, hermitian=True) @ deviation.T[..., None])[..., 0].T
