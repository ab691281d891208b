"""Whether two influences on a response add up: after all nonlinearities, or before a common monotonic one.

Maps are responses to every pair of a level of the one and of the other influence.
"""

import numpy as np
from jaxtyping import Float

N_ITERATIONS = 100
TIE = 1e-6  # responses closer than this share of their range are ties


def after_output_interaction(maps: Float[np.ndarray, "neuron first second"]) -> Float[np.ndarray, "neuron"]:
    """Return the share of the variance of every map that is interaction, in the two-way analysis of variance.

    It is 0 where the influences add up after all nonlinearities. NaN for a map without variance.
    """
    residual = maps - additive_part(maps)
    return _share(np.square(residual).mean(axis=(1, 2)), maps)


def before_output_interaction(maps: Float[np.ndarray, "neuron first second"]) -> Float[np.ndarray, "neuron"]:
    """Return the share of variance missed by the best sum of both influences through one rising function.

    The function is found with the sum, by monotone analysis of variance (Kruskal 1965, J. R. Stat. Soc. B 27:251): it
    alternates between the additive fit of transformed responses and the rising transform that fits it best. It is 0 for
    a linear-nonlinear neuron with any rising output nonlinearity, rectification included (where all is silent, nothing
    is known of the sum). A gain that divides is found only where it turns the order of responses around, as it does
    with contrasts of both signs: on one side alone it is a difference of logarithms. NaN for a map without variance.
    """
    flat = maps.reshape(len(maps), -1).astype(np.float64)
    span = np.ptp(flat, axis=1, keepdims=True)
    level = np.round(flat / np.where(span > 0, TIE * span, 1.0))
    transformed = _standardised(flat)
    for _ in range(N_ITERATIONS):
        total = additive_part(transformed.reshape(maps.shape)).reshape(flat.shape)
        order = np.lexsort((total, level))  # ties take the order that the sum gives them
        rising = isotonic(np.take_along_axis(total, order, axis=1))
        np.put_along_axis(transformed, order, rising, axis=1)
        transformed = _standardised(transformed)
    total = additive_part(transformed.reshape(maps.shape)).reshape(flat.shape)
    order = np.argsort(total, axis=1, kind="stable")
    sorted_responses = np.take_along_axis(flat, order, axis=1)
    missed = np.square(sorted_responses - isotonic(sorted_responses)).mean(axis=1)
    return _share(missed, maps)


def additive_part(maps: Float[np.ndarray, "neuron first second"]) -> Float[np.ndarray, "neuron first second"]:
    """Return the sum of a function of the first and one of the second influence that fits every map best."""
    rows, columns = maps.mean(axis=2, keepdims=True), maps.mean(axis=1, keepdims=True)
    return rows + columns - maps.mean(axis=(1, 2), keepdims=True)


def isotonic(values: Float[np.ndarray, "row place"]) -> Float[np.ndarray, "row place"]:
    """Return the non-decreasing sequence nearest to every row in squares.

    At place i it is the largest over j <= i of the smallest over k >= i of the mean from j to k (Barlow et al. 1972).
    """
    n_places = values.shape[1]
    sums = np.concatenate([np.zeros((len(values), 1)), values.cumsum(axis=1)], axis=1)
    first, last = np.arange(n_places)[:, None], np.arange(n_places)[None, :]
    counts = last - first + 1
    mean = (sums[:, None, 1:] - sums[:, :-1, None]) / np.maximum(counts, 1)
    smallest = np.minimum.accumulate(np.where(counts > 0, mean, np.inf)[..., ::-1], axis=2)[..., ::-1]
    return np.where(counts > 0, smallest, -np.inf).max(axis=1)


def _standardised(values: Float[np.ndarray, "row place"]) -> Float[np.ndarray, "row place"]:
    spread = values.std(axis=1, keepdims=True)
    return (values - values.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1.0)


def _share(missed: Float[np.ndarray, "neuron"], maps: Float[np.ndarray, "neuron first second"]) -> np.ndarray:
    variance = maps.var(axis=(1, 2), dtype=np.float64)
    varies = np.sqrt(variance) > TIE * np.abs(maps).max(axis=(1, 2))
    return np.divide(missed, variance, out=np.full(len(maps), np.nan), where=varies)
