"""Bootstrap intervals of ratios of means over neurons."""

import numpy as np
from jaxtyping import Float

from coread.eval.metrics import MAX_ELEMENTS
from coread.eval.settings import EvaluationSettings


def bootstrap_ratio_ci(
    numerator: Float[np.ndarray, " neuron"],
    denominator: Float[np.ndarray, " neuron"],
    n: int,
    rng: np.random.Generator,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the percentile interval of sum(numerator) / sum(denominator), from `n` resamplings of the neurons.

    Both are resampled together, so that what neurons have in common does not widen the interval. (NaN, NaN) for fewer
    than two neurons or without resampling.

    >>> values = np.arange(1.0, 100.0)
    >>> low, high = bootstrap_ratio_ci(2 * values, values, 100, np.random.default_rng(0))
    >>> round(low, 6), round(high, 6)
    (2.0, 2.0)
    """
    if len(numerator) < 2 or not n:
        return float("nan"), float("nan")
    ratios = np.empty(n)
    chunk = max(1, MAX_ELEMENTS // len(numerator))
    for start in range(0, n, chunk):
        drawn = rng.integers(len(numerator), size=(min(chunk, n - start), len(numerator)))
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios[start : start + chunk] = numerator[drawn].sum(axis=1) / denominator[drawn].sum(axis=1)
    low, high = np.nanquantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def ratio_interval(
    numerator: Float[np.ndarray, " neuron"], denominator: Float[np.ndarray, " neuron"], settings: EvaluationSettings
) -> tuple[float, float]:
    """Return `bootstrap_ratio_ci` with the resamples that the settings ask for."""
    rng = np.random.default_rng(settings.seed)
    return bootstrap_ratio_ci(numerator, denominator, settings.n_bootstrap, rng, settings.level)
