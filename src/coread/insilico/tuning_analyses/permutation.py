"""Whether a neuron is direction selective: a permutation test over the labels of directions."""

import numpy as np
from jaxtyping import Float

CHUNK_VALUES = 2**24  # sums of curves and permutations at once


def direction_permutation_test(
    responses: Float[np.ndarray, "neuron repeat direction"],
    directions_deg: Float[np.ndarray, "direction"],
    n_permutations: int,
    seed: int,
) -> Float[np.ndarray, "neuron"]:
    """Return how often shuffled directions give at least the observed vector sum over all repeats (Baden et al. 2016).

    Directions are shuffled within every repeat, with the same shuffles for all neurons; repeats are presentations that
    differ in what should not matter for direction (phase, frequency, polarity, trial). The p-value is
    (1 + number at least as large) / (1 + n_permutations) (Phipson & Smyth 2010, Stat Appl Genet Mol Biol 9:39). NaN
    where a neuron does not respond; repeats that are NaN are left out. Raises ValueError without permutations.
    """
    if n_permutations < 1:
        raise ValueError(f"a permutation test needs at least one permutation, found {n_permutations}")
    n_neurons, n_repeats, n_directions = responses.shape
    positive = np.maximum(np.nan_to_num(responses, nan=0.0), 0.0).reshape(n_neurons, -1)
    unit = np.exp(1j * np.deg2rad(np.asarray(directions_deg, float)))
    observed = np.abs(positive @ np.tile(unit, n_repeats))
    rng = np.random.default_rng(seed)
    order = rng.permuted(np.tile(np.arange(n_directions), (n_permutations, n_repeats, 1)), axis=-1)
    shuffled = unit[order].reshape(n_permutations, -1).T
    at_least = np.zeros(n_neurons)
    step = max(1, CHUNK_VALUES // max(1, n_neurons))
    for first in range(0, n_permutations, step):
        sums = np.abs(positive @ shuffled[:, first : first + step])
        # equal but for rounding counts as equal
        at_least += (sums >= observed[:, None] * (1 - 1e-9)).sum(axis=1)
    p_value = (1 + at_least) / (1 + n_permutations)
    return np.where(positive.sum(axis=1) > 0, p_value, np.nan)
