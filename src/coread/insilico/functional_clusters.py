"""Experiment: functional types of neurons, from clusters of their fingerprints over all sessions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from coread.insilico.cluster_stability import Stability, cluster_stability
from coread.insilico.clustering import Clusters, ClusterSettings, find_clusters
from coread.insilico.experiment import ExperimentResult, Quantity
from coread.insilico.fingerprints import FingerprintSettings, fingerprints
from coread.insilico.flashed_images import ImageSettings
from coread.insilico.population import Population
from coread.plotting.clusters import draw_cluster_means, draw_cluster_stability, draw_fingerprints
from coread.plotting.style import Drawing


class FunctionalClusters:
    """Clusters of functional fingerprints, with their stability over neurons, features and members.

    Blocks of features weigh the same however long they are; principal components keep a share of the variance; clusters
    are found in these (`coread.insilico.clustering`). The table tells every neuron's `cluster` (from 1, the largest
    first), how sure it is to be there (`cluster_confidence`), its cluster's `cluster_stability` (mean Jaccard
    coefficient, Hennig 2007), the share of members that agree, `cluster_agreement_members`, and whether it is
    `cluster_uncertain`.

    Args:
        fingerprint: arguments of `FingerprintSettings`, with `images` those of `ImageSettings`.
        variance_share: share of the variance that principal components keep.
        max_components: most principal components.
        clusters: arguments of `ClusterSettings`.
        n_resamplings: bootstraps of neurons, and draws of features.
        feature_share: share of the features in a draw.
        stable_jaccard: stability below which a cluster's neurons are marked uncertain.
        certain_agreement: share of agreeing members below which a neuron is marked uncertain.

    """

    def __init__(
        self,
        fingerprint: Mapping[str, Any],
        variance_share: float,
        max_components: int,
        clusters: Mapping[str, Any],
        n_resamplings: int,
        feature_share: float,
        stable_jaccard: float,
        certain_agreement: float,
    ) -> None:
        self.fingerprint = FingerprintSettings(
            **_fixed(fingerprint) | {"images": ImageSettings(**fingerprint["images"])}
        )
        self.clusters = ClusterSettings(**_fixed(clusters))
        if n_resamplings < 1:
            raise ValueError(f"stability needs n_resamplings of at least 1, got {n_resamplings}")
        self.variance_share, self.max_components = variance_share, max_components
        self.n_resamplings, self.feature_share = n_resamplings, feature_share
        self.stable_jaccard, self.certain_agreement = stable_jaccard, certain_agreement

    def run(self, population: Population, neurons: Int[np.ndarray, "neuron"]) -> ExperimentResult:
        """Return the fingerprints of the ensemble's neurons and of every member's."""
        members, ensemble = fingerprints(population, neurons, self.fingerprint)
        arrays = {
            "fingerprint": Quantity(ensemble, ("neuron", "feature")),
            "fingerprint_members": Quantity(members.features.swapaxes(0, 1), ("neuron", "member", "feature")),
        }
        axes = {
            "feature": Quantity(np.array(members.name), ("feature",)),
            "block": Quantity(np.array(members.block), ("feature",)),
        }
        return ExperimentResult(population.neurons.iloc[neurons].reset_index(drop=True), arrays, axes)

    def summarise(self, results: Mapping[str, ExperimentResult]) -> Mapping[str, ExperimentResult]:
        """Return the results with the clusters of all sessions' neurons and their stability.

        Raises ValueError for sessions with different features or members, and for fewer than two neurons.
        """
        block = _common_blocks(results)
        ensemble = np.concatenate([result.arrays["fingerprint"].data for result in results.values()])
        members = np.concatenate([result.arrays["fingerprint_members"].data for result in results.values()])
        members = members.swapaxes(0, 1)
        samples, member_samples = self._embed(ensemble, members, block)
        found = find_clusters(samples, self.clusters)
        rng = np.random.default_rng([self.clusters.seed, 2])
        n_kept = max(1, round(self.feature_share * len(block)))
        draws = (np.sort(rng.permutation(len(block))[:n_kept]) for _ in range(self.n_resamplings))
        with_fewer_features = (self._embed(ensemble[:, kept], members[..., kept], block[kept])[0] for kept in draws)
        stability = cluster_stability(
            samples, found.labels, with_fewer_features, member_samples, self.clusters, self.n_resamplings
        )
        return self._with_clusters(results, ensemble, samples, found, stability)

    def _embed(
        self,
        ensemble: Float[np.ndarray, "neuron feature"],
        members: Float[np.ndarray, "member neuron feature"],
        block: np.ndarray,
    ) -> tuple[Float[np.ndarray, "neuron component"], Float[np.ndarray, "member neuron component"]]:
        return embed(ensemble, members, block, self.variance_share, self.max_components)

    def _with_clusters(
        self,
        results: Mapping[str, ExperimentResult],
        ensemble: Float[np.ndarray, "neuron feature"],
        samples: Float[np.ndarray, "neuron component"],
        found: Clusters,
        stability: Stability,
    ) -> dict[str, ExperimentResult]:
        columns = pd.DataFrame(
            {
                "cluster": found.labels + 1,
                "cluster_confidence": found.confidence,
                "cluster_stability": stability.of_clusters[found.labels],
                "cluster_agreement_members": stability.label_agreement,
            }
        )
        columns["cluster_uncertain"] = ~(columns["cluster_stability"] >= self.stable_jaccard) | (
            columns["cluster_agreement_members"] < self.certain_agreement
        )
        means = np.stack([ensemble[found.labels == cluster].mean(axis=0) for cluster in range(found.number)])
        shared = {
            "cluster_mean": Quantity(means, ("cluster", "feature")),
            "number_score": Quantity(found.score, ("tried",)),
            "stability_of_clusters": Quantity(stability.of_clusters, ("cluster",)),
            "rand_index_over_neurons": Quantity(stability.over_neurons, ("resampling",)),
            "rand_index_over_features": Quantity(stability.over_features, ("resampling",)),
            "rand_index_over_members": Quantity(stability.over_members, ("member",)),
        }
        tried = Quantity(found.tried, ("tried",))
        clustered, first = {}, 0
        for session, result in results.items():
            own = slice(first, first := first + len(result.table))
            table = pd.concat([result.table, columns.iloc[own].reset_index(drop=True)], axis=1)
            embedding = Quantity(samples[own], ("neuron", "component"))
            arrays = {**result.arrays, "embedding": embedding, **shared}
            clustered[session] = ExperimentResult(table, arrays, {**result.axes, "tried": tried})
        return clustered

    def draw(self, results: Mapping[str, ExperimentResult]) -> Mapping[str, Drawing]:
        """Return the fingerprints sorted by cluster, the means of clusters, and the stability."""
        return {
            "fingerprints": draw_fingerprints(results),
            "cluster_means": draw_cluster_means(results),
            "cluster_stability": draw_cluster_stability(results, self.clusters.method, self.stable_jaccard),
        }


def embed(
    ensemble: Float[np.ndarray, "neuron feature"],
    members: Float[np.ndarray, "member neuron feature"],
    block: np.ndarray,
    variance_share: float,
    max_components: int,
) -> tuple[Float[np.ndarray, "neuron component"], Float[np.ndarray, "member neuron component"]]:
    """Return the first principal components of fingerprints, in which a block weighs the same however long it is.

    A block is not scaled by its variance over neurons: one in which all neurons are alike would become noise. Centre
    and components are the ensemble's; members are projected onto them.
    """
    centre = ensemble.mean(axis=0, dtype=np.float64)
    _, of_feature, count = np.unique(block, return_inverse=True, return_counts=True)
    scale = 1 / np.sqrt(count[of_feature])
    scaled = (ensemble - centre) * scale
    _, strength, components = np.linalg.svd(scaled, full_matrices=False)
    power = np.square(strength).cumsum()
    n_kept = int(np.searchsorted(power, variance_share * power[-1] * (1 - 1e-9))) + 1
    kept = components[: min(n_kept, max_components, len(components))].T
    return scaled @ kept, (members - centre) * scale @ kept


def _common_blocks(results: Mapping[str, ExperimentResult]) -> np.ndarray:
    """Return the block of every feature; raises ValueError if sessions have different features or members."""
    (first, axes), *others = [(session, result.axes) for session, result in results.items()]
    members = {session: result.arrays["fingerprint_members"].data.shape[1] for session, result in results.items()}
    for session, own in others:
        if not np.array_equal(own["feature"].data, axes["feature"].data) or members[session] != members[first]:
            raise ValueError(f"sessions {first!r} and {session!r} have fingerprints of different features or members")
    return np.asarray(axes["block"].data)


def _fixed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with tuples for lists."""
    return {
        name: tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
        for name, value in settings.items()
    }


def discriminative_labels(results: Mapping[str, ExperimentResult]) -> dict[str, list[str]]:
    """Return the names of the neurons' clusters by session, as most discriminative stimuli take them for `labels`.

    Neurons whose cluster is uncertain have no name ("") and take no part.
    """
    width = len(str(max(int(result.table["cluster"].max()) for result in results.values())))
    return {
        session: [
            "" if uncertain else f"{int(cluster):0{width}d}"
            for cluster, uncertain in zip(result.table["cluster"], result.table["cluster_uncertain"], strict=True)
        ]
        for session, result in results.items()
    }
