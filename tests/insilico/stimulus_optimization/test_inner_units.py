"""Most exciting stimuli of the channels of a layer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from coread.config import config_directory
from coread.insilico.experiment import join_results, read_results, write_results
from coread.insilico.population import Population
from coread.insilico.running import load_experiment
from coread.insilico.stimulus_optimization.inner_units import InnerUnitStimulus
from coread.plotting.style import save_drawing
from tests.insilico.stimulus_optimization.small_models import CHANNELS, SESSION, core_model


def experiment(**changed: Any) -> InnerUnitStimulus:
    settings = yaml.safe_load((config_directory() / "insilico" / "inner_units.yaml").read_text())
    loaded = load_experiment(settings | changed)
    assert isinstance(loaded, InnerUnitStimulus)
    return loaded


def test_the_stimulus_of_a_channel_of_the_first_layer_is_its_filter() -> None:
    model = core_model()
    population = Population([model], SESSION)
    result = experiment(layer="core_features_layer0_conv", contrast_limit=1000.0).run(population, np.arange(6))
    filters = model.core.features[0].conv.filters().detach().numpy()  # (out, channel, time, y, x)
    stimulus = result.arrays["stimulus"].data
    assert stimulus.shape[:2] == (4, CHANNELS)
    assert list(result.axes["inner_unit"].data) == ["0:0", "0:1", "0:2", "0:3"]
    lags, size = filters.shape[2], filters.shape[-1]
    rows, columns = (np.flatnonzero(np.abs(stimulus).max(axis=axes)) for axes in ((0, 1, 2, 4), (0, 1, 2, 3)))
    assert (len(rows), len(columns)) == (size, size)  # grey elsewhere
    for unit, own in enumerate(filters):
        patch = stimulus[unit][:, -lags:, rows[0] : rows[0] + size, columns[0] : columns[0] + size]
        cosine = (patch * own).sum() / (np.linalg.norm(stimulus[unit]) * np.linalg.norm(own))
        assert cosine > 0.99
    assert (result.arrays["start_cosine"].data > 0.99).all()


def test_units_of_members_stand_side_by_side_and_shares_of_neurons_join(tmp_path: Path) -> None:
    population = Population([core_model(), core_model(seed=1)], SESSION)
    chosen = experiment(n_starts=2)
    whole = chosen.run(population, np.arange(6))
    n_units = len(whole.axes["inner_unit"].data)
    assert n_units == 2 * 5
    joined = join_results([chosen.run(population, np.array([0, 2, 4])), chosen.run(population, np.array([1, 3, 5]))])
    np.testing.assert_array_equal(joined.arrays["response"].data, whole.arrays["response"].data)
    assert list(joined.table["best_unit"]) == list(whole.table["best_unit"])
    response = population.respond(torch.as_tensor(whole.arrays["stimulus"].data)).mean(dim=(0, 2)).cpu().numpy()
    best = response.argmax(axis=0)
    assert list(whole.table["best_unit"]) == [f"{unit // 5}:{unit % 5}" for unit in best]
    np.testing.assert_allclose(whole.table["response"], response[best, np.arange(6)], rtol=1e-5)
    write_results({SESSION: whole}, tmp_path / "result.h5", tmp_path / "result.csv", {})
    drawings = chosen.draw(read_results(tmp_path / "result.h5"))
    assert list(drawings) == ["inner_unit_stimuli", "inner_unit_responses"]
    for name, drawing in drawings.items():
        assert all(path.stat().st_size > 2000 for path in save_drawing(drawing, tmp_path / name))


def test_a_layer_that_is_not_there_is_named() -> None:
    population = Population([core_model()], SESSION)
    with pytest.raises(ValueError, match=r"layer 'layer9' is none of .*core_features_layer0"):
        experiment(layer="layer9").run(population, np.arange(2))
    with pytest.raises(ValueError, match=r"not \(item, channel, time, height, width\)"):
        experiment(layer="readout_a").run(population, np.arange(2))
