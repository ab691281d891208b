"""Stimuli that tell clusters apart."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from coread.config import config_directory
from coread.insilico.experiment import join_results, read_results, write_results
from coread.insilico.population import Population
from coread.insilico.running import load_experiment
from coread.insilico.stimulus_optimization.cluster_stimulus import ClusterStimulus
from coread.plotting.style import save_drawing
from tests.insilico.stimulus_optimization.small_models import SESSION, gaussian_filters, known_model


def experiment(name: str = "most_discriminative", **changed: Any) -> ClusterStimulus:
    settings = yaml.safe_load((config_directory() / "insilico" / f"{name}.yaml").read_text())
    loaded = load_experiment(settings | changed)
    assert isinstance(loaded, ClusterStimulus)
    return loaded


def test_the_stimulus_of_a_cluster_drives_it_and_not_the_other() -> None:
    population = Population([known_model()], SESSION)
    result = experiment().run(population, np.arange(3))
    assert list(result.axes["cluster"].data) == ["off", "on"]
    responses = result.arrays["cluster_response"].data
    assert responses.shape == (2, 2)
    assert (np.diag(responses) > 3 * responses[[0, 1], [1, 0]]).all()
    assert list(result.table["cluster"]) == ["on", "off", "on"]
    assert (result.table["selectivity"] > 0.3).all()
    assert (result.table["response_own"] > result.table["response_other"]).all()
    assert (result.arrays["contrast"].data > 0).all()
    own = result.arrays["response"].data[[0, 1, 2], [1, 0, 1]]
    np.testing.assert_allclose(own, result.table["response_own"], rtol=1e-5)
    assert np.abs(result.arrays["stimulus"].data).max() <= 1 + 1e-6
    assert (result.arrays["start_cosine"].data > 0.8).all()


def test_neurons_without_a_label_belong_to_no_cluster_and_shares_join() -> None:
    population = Population([known_model()], SESSION)
    chosen = experiment(labels={SESSION: ["x", "y", -1]})
    whole = chosen.run(population, np.arange(3))
    assert list(whole.table["cluster"]) == ["x", "y", ""]
    assert np.isnan(whole.table["selectivity"].iloc[2])
    joined = join_results([chosen.run(population, np.array([0, 2])), chosen.run(population, np.array([1]))])
    np.testing.assert_allclose(joined.arrays["stimulus"].data, whole.arrays["stimulus"].data, atol=1e-5)
    np.testing.assert_allclose(joined.table["response_own"], whole.table["response_own"], rtol=1e-4)


def test_the_recorded_column_may_be_called_as_the_measured_one() -> None:
    model = known_model(info={"neurons_dict": {SESSION: {"cluster": ["p", "q", "p"]}}})
    result = experiment(labels="cluster").run(Population([model], SESSION), np.arange(3))
    assert list(result.table.columns).count("cluster") == 1
    assert list(result.table["cluster"]) == ["p", "q", "p"]


def test_members_show_as_spread(tmp_path: Path) -> None:
    other = known_model(info={"response_scale": {SESSION: [1.0, 2.0, 1.0]}})
    population = Population([known_model(), other], SESSION)
    result = experiment(n_starts=1).run(population, np.arange(3))
    spread = result.table["response_own_sd_members"].to_numpy()
    assert spread[1] > 0.1
    np.testing.assert_allclose(spread[[0, 2]], 0.0, atol=1e-5)
    write_results({SESSION: result}, tmp_path / "result.h5", tmp_path / "result.csv", {})
    drawings = experiment().draw(read_results(tmp_path / "result.h5"))
    assert list(drawings) == ["most_discriminative_stimuli", "discrimination"]
    for name, drawing in drawings.items():
        for path in save_drawing(drawing, tmp_path / name):
            assert path.stat().st_size > 2000


def test_the_stimulus_of_a_group_is_the_sum_of_its_filters(tmp_path: Path) -> None:
    """Neurons 0 and 2 are linear with filters at other places: their mean response is largest where both are shown."""
    population = Population([known_model()], SESSION)
    whole = {"window_s": 0.0, "postprocessors": []}
    groups = experiment("most_exciting_groups", labels={SESSION: ["pair", "", "pair"]}, **whole)
    result = groups.run(population, np.arange(3))
    assert list(result.axes["cluster"].data) == ["pair"]
    filters = gaussian_filters()[:, ::-1].swapaxes(1, 2)
    found, stimulus = filters[0] + filters[2], result.arrays["stimulus"].data[0]
    cosine = (found * stimulus).sum() / (np.linalg.norm(found) * np.linalg.norm(stimulus))
    assert cosine > 0.9
    assert (result.table["response_own"].to_numpy()[[0, 2]] > 0).all()
    assert result.table[["response_other", "selectivity"]].isna().all(axis=None)
    np.testing.assert_allclose(result.arrays["value"].data, result.arrays["cluster_response"].data[0], rtol=1e-5)
    drawings = groups.draw({SESSION: result})
    assert list(drawings) == ["group_stimuli", "group_responses"]
    for name, drawing in drawings.items():
        assert all(path.stat().st_size > 2000 for path in save_drawing(drawing, tmp_path / name))
    with pytest.raises(ValueError, match="need a cluster of at least 1"):
        experiment("most_exciting_groups", labels={SESSION: ["", "", ""]}).run(population, np.arange(3))


def test_wrong_labels_are_named() -> None:
    population = Population([known_model()], SESSION)
    for labels, message in (
        ("kind", "no column 'kind'"),
        ({"b": ["x", "y", "z"]}, "no labels of session 'a'"),
        ({SESSION: ["x", "y"]}, "3 neurons, but 2 labels"),
        ({SESSION: ["x", "x", "nan"]}, "two clusters"),
    ):
        with pytest.raises(ValueError, match=message):
            experiment(labels=labels).run(population, np.arange(3))
    with pytest.raises(ValueError, match="at least 2 neurons"):
        experiment(min_neurons=2).run(population, np.arange(3))
