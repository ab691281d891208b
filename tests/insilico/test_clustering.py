import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform

from coread.insilico.cluster_stability import cluster_stability
from coread.insilico.clustering import (
    ClusterSettings,
    adjusted_rand_index,
    by_size,
    find_clusters,
    jaccard,
    matched_labels,
    silhouette,
)


def settings(method: str = "mixture", n_clusters: tuple[int, int] = (1, 7)) -> ClusterSettings:
    return ClusterSettings(method, n_clusters, n_starts=5, min_variance=0.01, seed=0)


def blobs(
    separation: float = 6.0, counts: tuple[int, ...] = (30, 20, 25), seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(counts)), counts)
    centres = separation * np.eye(len(counts), 4)
    spread = np.array([1.0, 0.5, 0.8])[np.arange(len(counts)) % 3]
    return centres[truth] + spread[truth, None] * rng.standard_normal((len(truth), 4)), truth


@pytest.mark.parametrize("method", ["mixture", "ward"])
def test_separate_groups_are_found_with_their_number(method: str) -> None:
    samples, truth = blobs()
    found = find_clusters(samples, settings(method))
    assert found.number == 3
    assert adjusted_rand_index(found.labels, truth) == 1
    assert np.bincount(found.labels).tolist() == [30, 25, 20], "labels are in falling order of size"
    assert found.tried.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert found.confidence.mean() > (0.99 if method == "mixture" else 0.5)
    again = find_clusters(samples, settings(method))
    np.testing.assert_array_equal(again.labels, found.labels)


def test_one_group_is_one_cluster_and_mixtures_see_sizes_that_distances_do_not() -> None:
    rng = np.random.default_rng(1)
    assert find_clusters(rng.standard_normal((80, 3)), settings()).number == 1
    nested = np.concatenate([0.1 * rng.standard_normal((60, 2)), 5 * rng.standard_normal((60, 2))])
    found = find_clusters(nested, settings(n_clusters=(2, 2)))
    assert adjusted_rand_index(found.labels, np.repeat([0, 1], 60)) > 0.9


def test_bounds_of_the_number_and_errors() -> None:
    samples, _ = blobs()
    assert find_clusters(samples, settings(n_clusters=(2, 2))).number == 2
    assert find_clusters(samples[:3], settings()).tried.tolist() == [1, 2]
    with pytest.raises(ValueError, match="5 clusters need more samples than that, got 3"):
        find_clusters(samples[:3], settings(n_clusters=(5, 6)))
    with pytest.raises(ValueError, match="method 'kmeans' is unknown"):
        settings("kmeans")
    with pytest.raises(ValueError, match="fewest and most"):
        settings(n_clusters=(4, 2))


def test_adjusted_rand_index_of_known_cases() -> None:
    one = np.array([0, 0, 1, 1])
    assert adjusted_rand_index(one, np.array([1, 1, 0, 0])) == 1
    assert adjusted_rand_index(one, np.array([0, 0, 1, 2])) == pytest.approx(0.5714286)  # 4 / 7
    assert adjusted_rand_index(one, np.array([0, 1, 0, 1])) == pytest.approx(-0.5)
    rng = np.random.default_rng(0)
    chance = [adjusted_rand_index(rng.integers(3, size=60), rng.integers(3, size=60)) for _ in range(300)]
    assert abs(np.mean(chance)) < 0.01


def test_silhouette_is_its_definition() -> None:
    samples, truth = blobs(separation=2.0, counts=(6, 5, 1))
    distances = squareform(pdist(samples))
    expected = np.zeros(12)
    for sample in range(11):
        own = [d for other, d in enumerate(distances[sample]) if truth[other] == truth[sample] and other != sample]
        others = min(distances[sample][truth == label].mean() for label in set(truth) - {truth[sample]})
        expected[sample] = (others - np.mean(own)) / max(others, np.mean(own))
    np.testing.assert_allclose(silhouette(distances, truth), expected)
    np.testing.assert_array_equal(silhouette(distances, np.zeros(12, int)), 0)


def test_labels_of_another_clustering_get_the_names_of_this_one() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    other = np.array([2, 2, 0, 0, 0, 1])
    np.testing.assert_array_equal(matched_labels(labels, other), [0, 0, 1, 1, 1, 2])
    np.testing.assert_array_equal(matched_labels(labels, np.array([0, 0, 0, 1, 3, 2]))[[0, 1, 2, 5]], [0, 0, 0, 2])
    np.testing.assert_allclose(jaccard(labels, other), [2 / 3, 2 / 3, 1])
    np.testing.assert_array_equal(by_size(np.array([7, 2, 2, 9, 9, 9])), [2, 1, 1, 0, 0, 0])


@pytest.mark.parametrize("method", ["mixture", "ward"])
def test_separate_groups_are_stable_and_a_divided_one_is_not(method: str) -> None:
    samples, _ = blobs()
    fewer = (samples[:, kept] for kept in ([0, 1, 2], [0, 1], [0]))
    members = np.stack([samples, samples[np.random.default_rng(3).permutation(len(samples))]])
    labels = find_clusters(samples, settings(method)).labels
    stability = cluster_stability(samples, labels, fewer, members, settings(method), 10)
    assert (stability.of_clusters > 0.95).all()
    assert stability.over_neurons.min() > 0.95
    assert len(stability.over_neurons) == 10
    assert stability.over_features[0] > 0.95
    assert stability.over_features[2] < 0.95, "along one axis two groups are the same"
    np.testing.assert_allclose(stability.over_members[0], 1)
    assert abs(stability.over_members[1]) < 0.3
    assert (stability.label_agreement >= 0.5).all()
    assert (stability.label_agreement == 0.5).mean() > 0.4
    divided = find_clusters(samples, settings(method, (6, 6))).labels
    unstable = cluster_stability(samples, divided, [], samples[None], settings(method), 10)
    assert np.nanmin(unstable.of_clusters) < 0.75
    assert np.isnan(unstable.label_agreement).all()
    assert len(unstable.over_members) == 0
