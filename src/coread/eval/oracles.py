"""Scores of predictors that know responses: other repeats, or the other neurons."""

import numpy as np
from jaxtyping import Float

from coread.eval.metrics import PerNeuron, Repeats, correlation_numpy


def oracle_corr_jackknife(
    repeated_responses: Repeats, cut_first_n_frames: int | None = None
) -> tuple[PerNeuron, Repeats]:
    """Return the correlation of each trial with the mean of the other repeats, and these means.

    Trials are concatenated. A NaN response enters neither; a bin with a single repeat has no oracle. It underestimates
    what a perfect model reaches, because the mean of few repeats is noisy.

    >>> responses = np.array([[[0.0], [0.0]], [[2.0], [2.0]]])
    >>> score, oracle = oracle_corr_jackknife(responses)
    >>> score.round(4), bool((oracle == responses).all())
    (array([1.]), True)
    """
    responses = np.asarray(repeated_responses, np.float64)[cut_first_n_frames or 0 :]
    valid = np.isfinite(responses)
    others = valid.sum(axis=1, keepdims=True) - valid
    values = np.where(valid, responses, 0.0)
    oracle = (values.sum(axis=1, keepdims=True) - values) / np.where(others > 0, others, np.nan)
    return _correlation(responses, oracle), oracle


def fraction_of_oracle(correlation: PerNeuron, oracle: PerNeuron) -> float:
    """Return the slope of single-trial correlations on jackknife oracles over neurons, through the origin.

    slope = sum(correlation * oracle) / sum(oracle ** 2), the "percentage of oracle performance" of Sinz et al. 2018
    (Lurz et al. 2021): neurons that respond reliably decide, and no ratio of a neuron without signal enters. The oracle
    knows the other repeats of the stimulus only, and few of them, so that good models and models that know behaviour
    can exceed 1. NaN neurons are left out; NaN if none is left.

    >>> fraction_of_oracle(np.array([0.3, 0.1, np.nan]), np.array([0.6, 0.2, 0.5])).round(4)
    np.float64(0.5)
    """
    used = np.isfinite(correlation) & np.isfinite(oracle)
    power = np.square(oracle[used]).sum()
    return (correlation[used] * oracle[used]).sum() / power if power > 0 else np.float64("nan")


def global_mean_oracle(
    responses: Repeats | Float[np.ndarray, "bin neuron"],
    cut_first_n_frames: int | None = None,
    published_behaviour: bool = False,
) -> PerNeuron:
    """Return the correlation of each neuron with the mean response of the others, trial by trial.

    `published_behaviour` includes the neuron itself, as openretina does, so that a single neuron scores 1.

    >>> responses = np.array([[0.0, 1.0], [2.0, 3.0], [1.0, 2.0]])
    >>> global_mean_oracle(responses).round(4)
    array([1., 1.])
    """
    responses = np.asarray(responses, np.float64)[cut_first_n_frames or 0 :]
    if responses.ndim == 2:
        responses = responses[:, None]
    valid = np.isfinite(responses)
    values = np.where(valid, responses, 0.0)
    total, n = values.sum(axis=2, keepdims=True), valid.sum(axis=2, keepdims=True)
    if published_behaviour:
        total, n = np.broadcast_to(total, values.shape), np.broadcast_to(n, values.shape)
    else:
        total, n = total - values, n - valid
    return _correlation(responses, total / np.where(n > 0, n, np.nan))


def _correlation(responses: Repeats, oracle: Repeats) -> PerNeuron:
    """Correlation over bins and repeats; NaN for a neuron without any oracle."""
    n_neurons = responses.shape[2]
    score = correlation_numpy(responses.reshape(-1, n_neurons), oracle.reshape(-1, n_neurons), axis=0)
    undefined = ~(np.isfinite(responses) & np.isfinite(oracle)).any(axis=(0, 1))
    return np.where(undefined, np.nan, score)
