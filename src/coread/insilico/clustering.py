"""Clusters of feature vectors: Gaussian mixtures and Ward's method, their number, and how stable they are."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import pdist, squareform

METHODS = ("mixture", "ward")
N_ITERATIONS = 200


class Clusters(NamedTuple):
    """Labels from 0 in falling order of size, and what decided about their number.

    `score` belongs to every number of clusters that was tried, `tried`: the Bayesian information criterion of a mixture
    (low is good), the mean silhouette of Ward's clusters (high is good). `confidence` is the probability of the own
    cluster in a mixture, the silhouette of a sample in Ward's.
    """

    labels: Int[np.ndarray, "sample"]
    confidence: Float[np.ndarray, "sample"]
    tried: Int[np.ndarray, "number"]
    score: Float[np.ndarray, "number"]

    @property
    def number(self) -> int:
        """How many clusters there are."""
        return int(self.labels.max()) + 1


@dataclass(frozen=True)
class ClusterSettings:
    """How samples are clustered.

    `mixture`: a Gaussian mixture with diagonal covariances, its number by the Bayesian information criterion (Schwarz
    1978; as in Baden et al. 2016); `ward`: Ward's method (1963), its number by the mean silhouette (Rousseeuw 1987).
    """

    method: str
    n_clusters: tuple[int, int]  # fewest and most that are tried
    n_starts: int  # of a mixture, from k-means++ (Arthur & Vassilvitskii 2007)
    min_variance: float  # added to all variances of a mixture, in variances of all samples along that feature
    seed: int

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method {self.method!r} is unknown, expected one of {list(METHODS)}")
        if not 1 <= self.n_clusters[0] <= self.n_clusters[1]:
            raise ValueError(f"n_clusters are fewest and most, from 1 up, got {list(self.n_clusters)}")


def find_clusters(samples: Float[np.ndarray, "sample feature"], settings: ClusterSettings) -> Clusters:
    """Return clusters of samples, as many as suit best within `n_clusters`; raises ValueError for too few samples."""
    fewest, most = settings.n_clusters
    if len(samples) <= fewest:
        raise ValueError(f"{fewest} clusters need more samples than that, got {len(samples)}")
    tried = np.arange(fewest, min(most, len(samples) - 1) + 1)
    if settings.method == "mixture":
        found = [_mixture(samples, int(number), settings) for number in tried]
        score = np.array([bic for _, _, bic in found])
        labels, confidence, _ = found[int(score.argmin())]
    else:
        found_labels, silhouettes = _ward(samples, tried)
        score = silhouettes.mean(axis=1)
        best = int(score.argmax())
        labels, confidence = found_labels[best], silhouettes[best]
    return Clusters(by_size(labels), confidence, tried, score)


def by_size(labels: Int[np.ndarray, "sample"]) -> Int[np.ndarray, "sample"]:
    """Return labels renumbered in falling order of cluster size, empty clusters left out."""
    _, first, compact, count = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(count), dtype=np.int64)
    rank[np.lexsort((first, -count))] = np.arange(len(count))
    return rank[compact]


# -------------------------------------------------------------------------------------------------------- two methods


def _mixture(
    samples: Float[np.ndarray, "sample feature"], number: int, settings: ClusterSettings
) -> tuple[Int[np.ndarray, "sample"], Float[np.ndarray, "sample"], float]:
    """Return labels, their probabilities and the criterion of the most likely of several mixtures."""
    rng = np.random.default_rng([settings.seed, number])
    floor = settings.min_variance * samples.var(axis=0)
    runs = [
        _expectation_maximisation(samples, number, floor, rng) for _ in range(settings.n_starts if number > 1 else 1)
    ]
    posterior, likelihood = max(runs, key=lambda run: run[1])
    n_parameters = number * 2 * samples.shape[1] + number - 1  # means, variances, weights
    criterion = n_parameters * np.log(len(samples)) - 2 * likelihood
    return posterior.argmax(axis=1), posterior.max(axis=1), float(criterion)


def _expectation_maximisation(
    samples: Float[np.ndarray, "sample feature"],
    number: int,
    floor: Float[np.ndarray, "feature"],
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "sample cluster"], float]:
    """Return the posterior and the log likelihood of one mixture (Dempster, Laird & Rubin 1977)."""
    centres = _spread_out(samples, number, rng)
    posterior = np.eye(number)[_squared_distances(samples, centres).argmin(axis=1)]
    likelihood = -np.inf
    for _ in range(N_ITERATIONS):
        weight = posterior.sum(axis=0) + 1e-10
        mean = posterior.T @ samples / weight[:, None]
        variance = np.maximum(posterior.T @ samples**2 / weight[:, None] - mean**2, 0.0) + floor + 1e-12
        mahalanobis = (
            samples**2 @ (1 / variance).T - 2 * samples @ (mean / variance).T + (mean**2 / variance).sum(axis=1)
        )
        joint = np.log(weight / len(samples)) - 0.5 * (mahalanobis + np.log(2 * np.pi * variance).sum(axis=1))
        total = np.logaddexp.reduce(joint, axis=1, keepdims=True)
        posterior = np.exp(joint - total)
        previous, likelihood = likelihood, float(total.sum())
        if likelihood - previous < 1e-6 * abs(likelihood):
            break
    return posterior, likelihood


def _spread_out(
    samples: Float[np.ndarray, "sample feature"], number: int, rng: np.random.Generator
) -> Float[np.ndarray, "cluster feature"]:
    """Return samples that are far from each other: k-means++."""
    chosen = [int(rng.integers(len(samples)))]
    nearest = _squared_distances(samples, samples[chosen])[:, 0]
    while len(chosen) < number:
        share = nearest / nearest.sum() if nearest.sum() > 0 else None
        chosen.append(int(rng.choice(len(samples), p=share)))
        nearest = np.minimum(nearest, _squared_distances(samples, samples[chosen[-1:]])[:, 0])
    return samples[chosen]


def _squared_distances(
    samples: Float[np.ndarray, "sample feature"], centres: Float[np.ndarray, "cluster feature"]
) -> Float[np.ndarray, "sample cluster"]:
    cross = samples @ centres.T
    return np.maximum((samples**2).sum(axis=1)[:, None] - 2 * cross + (centres**2).sum(axis=1), 0.0)


def _ward(
    samples: Float[np.ndarray, "sample feature"], tried: Int[np.ndarray, "number"]
) -> tuple[list[Int[np.ndarray, "sample"]], Float[np.ndarray, "number sample"]]:
    distances = pdist(samples)
    tree = linkage(distances, "ward")
    labels = [fcluster(tree, int(number), "maxclust") - 1 for number in tried]
    square = squareform(distances)
    return labels, np.stack([silhouette(square, of_samples) for of_samples in labels])


def silhouette(
    distances: Float[np.ndarray, "sample sample"], labels: Int[np.ndarray, "sample"]
) -> Float[np.ndarray, "sample"]:
    """Return how much nearer a sample is to its own than to the next cluster (Rousseeuw 1987): -1..1.

    It is 0 for the only sample of a cluster, and where there is one cluster.
    """
    member = np.eye(labels.max() + 1)[labels]
    count = member.sum(axis=0)
    if (count > 0).sum() < 2:
        return np.zeros(len(labels))
    total = distances @ member
    own = np.take_along_axis(total, labels[:, None], axis=1)[:, 0] / np.maximum(count[labels] - 1, 1)
    others = np.where(member.astype(bool) | (count == 0), np.inf, total / np.maximum(count, 1)).min(axis=1)
    width = np.divide(others - own, np.maximum(own, others), out=np.zeros(len(own)), where=np.maximum(own, others) > 0)
    return np.where(count[labels] > 1, width, 0.0)


# ---------------------------------------------------------------------------------------------------------- agreement


def contingency(first: Int[np.ndarray, "sample"], second: Int[np.ndarray, "sample"]) -> Int[np.ndarray, "one other"]:
    """Return how many samples have each pair of labels."""
    table = np.zeros((first.max() + 1, second.max() + 1), dtype=np.int64)
    np.add.at(table, (first, second), 1)
    return table


def adjusted_rand_index(first: Int[np.ndarray, "sample"], second: Int[np.ndarray, "sample"]) -> float:
    """Return the agreement of two clusterings, 0 by chance and 1 if they are the same (Hubert & Arabie 1985)."""
    table = contingency(first, second).astype(float)
    pairs = [(counts * (counts - 1) / 2).sum() for counts in (table, table.sum(axis=0), table.sum(axis=1))]
    expected = pairs[1] * pairs[2] / max(len(first) * (len(first) - 1) / 2, 1)
    largest = (pairs[1] + pairs[2]) / 2
    return float((pairs[0] - expected) / (largest - expected)) if largest > expected else 1.0


def matched_labels(labels: Int[np.ndarray, "sample"], other: Int[np.ndarray, "sample"]) -> Int[np.ndarray, "sample"]:
    """Return `other` with the labels of the clusters that share most samples with them, one to one.

    Clusters without a partner get numbers that `labels` does not use.
    """
    table = contingency(labels, other)
    mine, theirs = linear_sum_assignment(-table)
    name = np.arange(table.shape[1]) + len(table)
    name[theirs] = mine
    return name[other]


def jaccard(labels: Int[np.ndarray, "sample"], other: Int[np.ndarray, "sample"]) -> Float[np.ndarray, "cluster"]:
    """Return the largest Jaccard coefficient of every cluster with one of another clustering; NaN for an empty one."""
    table = contingency(labels, other).astype(float)
    sizes = table.sum(axis=1)
    union = sizes[:, None] + table.sum(axis=0) - table
    return np.where(sizes > 0, (table / np.maximum(union, 1)).max(axis=1), np.nan)
