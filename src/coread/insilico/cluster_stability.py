"""How stable clusters are: over resampled neurons and features, and over the members of an ensemble."""

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from coread.insilico.clustering import (
    ClusterSettings,
    adjusted_rand_index,
    find_clusters,
    jaccard,
    matched_labels,
)


class Stability(NamedTuple):
    """Stability of a clustering; all are 1 at best.

    `of_clusters` is the mean Jaccard coefficient of a cluster over bootstraps of the neurons: at .75 or more it is
    stable, below .5 dissolved (Hennig 2007, Comput. Stat. Data Anal. 52:258). `over_neurons`, `over_features` and
    `over_members` are adjusted Rand indices of single resamplings (members: clusters of a member's own fingerprints).
    `label_agreement` is the share of members that put a neuron into its cluster; NaN for a single member.
    """

    of_clusters: Float[np.ndarray, "cluster"]
    over_neurons: Float[np.ndarray, "resampling"]
    over_features: Float[np.ndarray, "resampling"]
    over_members: Float[np.ndarray, "member"]
    label_agreement: Float[np.ndarray, "neuron"]


def cluster_stability(
    samples: Float[np.ndarray, "neuron component"],
    labels: Int[np.ndarray, "neuron"],
    with_fewer_features: Iterable[Float[np.ndarray, "neuron _"]],
    member_samples: Float[np.ndarray, "member neuron component"],
    settings: ClusterSettings,
    n_resamplings: int,
) -> Stability:
    """Return how stable a clustering is, each time with as many clusters as it has.

    Neurons are drawn with replacement, as many as there are. `with_fewer_features` are the samples as they are without
    some of the features.
    """
    number = int(labels.max()) + 1
    fixed = replace(settings, n_clusters=(number, number))
    rng = np.random.default_rng([settings.seed, 1])
    of_clusters, over_neurons = _over_neurons(samples, labels, fixed, n_resamplings, rng)
    over_features = [adjusted_rand_index(labels, find_clusters(other, fixed).labels) for other in with_fewer_features]
    others = [find_clusters(member, fixed).labels for member in member_samples] if len(member_samples) > 1 else []
    agreement = [matched_labels(labels, other) == labels for other in others]
    return Stability(
        of_clusters,
        over_neurons,
        np.array(over_features),
        np.array([adjusted_rand_index(labels, other) for other in others]),
        np.mean(agreement, axis=0) if agreement else np.full(len(labels), np.nan),
    )


def _over_neurons(
    samples: Float[np.ndarray, "neuron feature"],
    labels: Int[np.ndarray, "neuron"],
    settings: ClusterSettings,
    n_resamplings: int,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "cluster"], Float[np.ndarray, "resampling"]]:
    """Return Jaccard coefficients of clusters and Rand indices, over the different neurons of each bootstrap."""
    overlaps, indices = [], []
    for _ in range(n_resamplings):
        drawn = rng.integers(len(samples), size=len(samples))
        present, first = np.unique(drawn, return_index=True)
        if len(present) <= settings.n_clusters[0]:
            continue
        again = find_clusters(samples[drawn], settings).labels[first]
        own = labels[present]
        overlap = np.full(settings.n_clusters[0], np.nan)
        overlap[: own.max() + 1] = jaccard(own, again)
        overlaps.append(overlap)
        indices.append(adjusted_rand_index(own, again))
    known = np.isfinite(overlaps)
    total = np.where(known, overlaps, 0.0).sum(axis=0)
    return np.divide(total, known.sum(axis=0), out=np.full(total.shape, np.nan), where=known.any(axis=0)), np.array(
        indices
    )
