from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra.errors import InstantiationException
from torch import Tensor

from coread.insilico.clustering import adjusted_rand_index
from coread.insilico.experiment import ExperimentResult, join_results, read_results, write_results
from coread.insilico.fingerprints import _resampled
from coread.insilico.functional_clusters import FunctionalClusters, discriminative_labels, embed
from coread.insilico.running import load_experiment
from tests.conftest import REPOSITORY
from tests.insilico.subunit_models import SubunitCells, course, gaussian, population

LAG, HEIGHT, WIDTH = 5, 8, 9
TYPES = ("ON", "OFF", "ON-OFF", "slow ON")
N_EACH = 5
TRUTH = np.repeat(np.arange(len(TYPES)), N_EACH)
BLOCKS = ["flashes", "bars", "images"]


def filters(seed: int = 0) -> np.ndarray:
    """Return filters of cells of four types at random places and of random sizes; the second one is the OFF half."""
    rng = np.random.default_rng(seed)
    transient, slow = course(LAG + 1, 0.5, 0.6), course(LAG + 1, 2.0, -0.5)
    courses = {0: transient, 1: transient, 2: transient, 3: slow}
    cells = np.zeros((len(TRUTH), 2, LAG + 1, 1, HEIGHT, WIDTH), np.float32)
    for cell, kind in enumerate(TRUTH):
        image = gaussian(rng.uniform((2, 2), (HEIGHT - 3, WIDTH - 3)), 1.2 * rng.uniform(0.95, 1.05), HEIGHT, WIDTH)
        one = rng.uniform(2.0, 2.4) * courses[kind][:, None, None, None] * image
        cells[cell, 0] = one * (0 if kind == 1 else 1)
        cells[cell, 1] = -one * (1 if kind in (1, 2) else 0)
    return cells


def law(drive: Tensor) -> Tensor:
    return torch.relu(drive - 0.1).sum(2) + 0.1


def settings(**changed: Any) -> dict[str, Any]:
    node = yaml.safe_load((REPOSITORY / "configs/insilico/functional_clusters.yaml").read_text())
    images = node["fingerprint"]["images"] | {"n_images": 30, "image_s": 0.3, "window_s": [0.0, 0.3]}
    fingerprint = node["fingerprint"] | {"blocks": BLOCKS, "images": images, "bar_s": 1.0, "n_directions": 4}
    clusters = node["clusters"] | {"n_clusters": [1, 8], "n_starts": 4}
    return node | {"fingerprint": fingerprint, "clusters": clusters, "n_resamplings": 8} | changed


def run(*models: SubunitCells, **changed: Any):
    experiment = load_experiment(settings(**changed))
    return experiment, experiment.run(population(*models), np.arange(len(TRUTH)))


@pytest.fixture(scope="module")
def clustered():
    """Return the experiment on two members that agree, summarised."""
    experiment, result = run(SubunitCells(filters(), law), SubunitCells(1.1 * filters(), law))
    return experiment, experiment.summarise({"a": result})


@pytest.mark.parametrize("method", ["mixture", "ward"])
def test_types_of_cells_are_found_wherever_they_look(method: str) -> None:
    clusters = settings()["clusters"] | {"method": method}
    experiment, result = run(SubunitCells(filters(), law), clusters=clusters)
    table = experiment.summarise({"a": result})["a"].table
    assert adjusted_rand_index(table["cluster"].to_numpy(), TRUTH) == 1
    assert (table["cluster_stability"] > 0.7).all()
    assert table["cluster_agreement_members"].isna().all()
    assert not table["cluster_uncertain"].any()


def test_members_that_agree_leave_clusters_certain(clustered) -> None:
    _, results = clustered
    table = results["a"].table
    assert adjusted_rand_index(table["cluster"].to_numpy(), TRUTH) == 1
    np.testing.assert_allclose(table["cluster_agreement_members"], 1)
    assert not table["cluster_uncertain"].any()
    np.testing.assert_allclose(results["a"].arrays["rand_index_over_members"].data, 1)


def test_neurons_that_change_type_between_members_are_uncertain() -> None:
    other = filters()
    swapped = np.array([0, 7])  # an ON and an OFF cell
    other[swapped] = other[swapped[::-1]]
    models = [SubunitCells(each, law) for each in (filters(), other, other, other)]
    experiment, result = run(*models)
    table = experiment.summarise({"a": result})["a"].table
    agreement = table["cluster_agreement_members"].to_numpy()
    assert (agreement[np.setdiff1d(np.arange(len(TRUTH)), swapped)] == 1).mean() > 0.9
    assert np.sort(agreement)[:2].max() < 1


def test_clusters_are_of_all_sessions_and_files_keep_them(clustered, tmp_path: Path) -> None:
    experiment, results = clustered
    both = {"a": results["a"], "b": results["a"]}
    fresh = {
        session: ExperimentResult(
            result.table[["neuron"]].assign(session=session)[["session", "neuron"]],
            {name: result.arrays[name] for name in ("fingerprint", "fingerprint_members")},
            {name: result.axes[name] for name in ("feature", "block")},
        )
        for session, result in both.items()
    }
    joined = experiment.summarise(fresh)
    np.testing.assert_array_equal(joined["a"].table["cluster"], joined["b"].table["cluster"])
    write_results(joined, tmp_path / "clusters.h5", tmp_path / "clusters.csv", {})
    back = read_results(tmp_path / "clusters.h5")
    for name, drawing in experiment.draw(back).items():
        drawing.figure.savefig(tmp_path / f"{name}.png")
        assert "40 model neurons" in drawing.caption
    labels = discriminative_labels(joined)
    assert set(labels) == {"a", "b"}
    assert sorted(set(labels["a"])) == ["1", "2", "3", "4"]
    short = {**fresh, "b": ExperimentResult(fresh["b"].table, fresh["b"].arrays, results["a"].axes | {
        "feature": type(results["a"].axes["feature"])(results["a"].axes["feature"].data[::-1], ("feature",))
    })}  # fmt: skip
    with pytest.raises(ValueError, match="different features"):
        experiment.summarise(short)


def test_shares_of_the_neurons_join_to_the_whole() -> None:
    model = SubunitCells(filters(), law)
    experiment, whole = run(model)
    shares = [experiment.run(population(model), np.arange(len(TRUTH))[start::2]) for start in range(2)]
    joined = join_results(shares)
    for name in ("fingerprint", "fingerprint_members"):
        np.testing.assert_allclose(joined.arrays[name].data, whole.arrays[name].data, atol=1e-5)


def test_all_blocks_together_and_single_images() -> None:
    every = ["chirp", "flashes", "bars", "gratings", "images"]
    blocks = settings()["fingerprint"] | {"blocks": every, "grating_cycles": [1.0, 2.0, 3.0]}
    _, result = run(SubunitCells(filters(), law), fingerprint=blocks)
    found = result.axes["block"].data.tolist()
    assert [found.count(name) for name in dict.fromkeys(found)] == [660, 80, 8, 24, 20]
    values = result.arrays["fingerprint"].data
    assert values.shape == (len(TRUTH), 792)
    assert np.isfinite(values).all()
    bars = values[:, [name == "bars" for name in found]]
    assert (bars.reshape(len(TRUTH), 2, 4).sum(axis=1).argmax(axis=1) == 0).all(), "the preferred direction is first"
    single = SubunitCells(filters()[:, :, :1], law)
    _, images = run(single, fingerprint=blocks)
    assert set(images.axes["block"].data) == {"gratings", "images"}
    with pytest.raises(ValueError, match="suits a model of single images"):
        run(single, fingerprint=blocks | {"blocks": ["chirp"]})
    with pytest.raises(InstantiationException, match="block 'saccades' of a fingerprint is unknown"):
        run(single, fingerprint=blocks | {"blocks": ["saccades"]})


def test_traces_of_any_rate_are_averaged_over_the_same_bins() -> None:
    def ramp(rate: float) -> np.ndarray:
        return (np.arange(int(2 * rate)) + 0.5)[None] / rate

    for rate in (30.0, 25.0, 10.0):
        np.testing.assert_allclose(_resampled(ramp(rate), rate, 5.0)[0], np.arange(10) / 5 + 0.1, atol=0.02)
    np.testing.assert_allclose(_resampled(ramp(10.0), 10.0, 10.0), ramp(10.0))


def test_components_keep_the_asked_share_and_blocks_count_alike() -> None:
    rng = np.random.default_rng(0)
    values = np.repeat(rng.standard_normal((50, 2)), [1, 4], axis=1)
    block = np.array(["one", "many", "many", "many", "many"])
    samples, members = embed(values, values[None] + 1, block, 1.0, 5)
    np.testing.assert_allclose(samples.var(axis=0).sum(), values[:, :2].var(axis=0).sum())
    values = rng.standard_normal((50, 5))
    np.testing.assert_allclose((members[0] - samples).std(axis=0).max(), 0, atol=1e-9)
    assert embed(values, values[None], block, 0.45, 5)[0].shape[1] == 1
    assert embed(values, values[None], block, 1.0, 2)[0].shape[1] == 2


def test_an_experiment_of_this_kind_is_made_from_its_file() -> None:
    assert isinstance(load_experiment(settings()), FunctionalClusters)
    with pytest.raises(InstantiationException, match="n_resamplings of at least 1"):
        load_experiment(settings(n_resamplings=0))
