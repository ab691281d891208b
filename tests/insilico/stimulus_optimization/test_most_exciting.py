"""Most exciting and most suppressing stimuli of neurons whose filters are known, and of populations."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from coread.config import config_directory
from coread.insilico.experiment import ExperimentResult, join_results, read_results, write_results
from coread.insilico.local_response import LocalPopulation
from coread.insilico.population import Population
from coread.insilico.running import load_experiment
from coread.insilico.stimulus_optimization.most_exciting import MostExcitingStimulus
from coread.insilico.stimulus_optimization.optimization_stopper import OptimizationStopper
from coread.insilico.stimulus_optimization.optimizer import Rules, ascend
from coread.insilico.stimulus_optimization.population_optimizer import noise_starts, optimize_neurons, within_budget
from coread.insilico.stimulus_optimization.targets import InnerUnit
from coread.plotting.style import save_drawing
from tests.insilico.stimulus_optimization.small_models import SESSION, core_model, gaussian_filters, known_model


def experiment(name: str = "most_exciting", **changed: Any) -> MostExcitingStimulus:
    settings = yaml.safe_load((config_directory() / "insilico" / f"{name}.yaml").read_text())
    loaded = load_experiment(settings | changed)
    assert isinstance(loaded, MostExcitingStimulus)
    return loaded


def every(population: Population) -> np.ndarray:
    return np.arange(population.n_neurons)


def true_stimuli() -> np.ndarray:
    """Return the filters as the stimuli (neuron, channel, time, height, width) that match them."""
    return gaussian_filters()[:, ::-1].swapaxes(1, 2)


def cosine_inside(stimuli: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """Return the cosine between stimuli and filters where the filters have their energy."""
    inside = np.abs(filters) > 0.05 * np.abs(filters).max(axis=(1, 2, 3, 4), keepdims=True)
    a, b = (np.where(inside, values, 0.0).reshape(len(values), -1) for values in (stimuli, filters))
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


@pytest.mark.parametrize("name", ["most_exciting", "most_suppressing"])
def test_stimulus_of_a_linear_nonlinear_cell_is_its_filter(name: str) -> None:
    population = Population([known_model()], SESSION)
    chosen = experiment(name)
    result = chosen.run(population, every(population))
    stimulus = result.arrays["stimulus"].data
    sign = 1 if name == "most_exciting" else -1
    assert stimulus.shape == (3, 2, 6, 15, 13)
    assert (sign * cosine_inside(stimulus, true_stimuli()) >= 0.95).all()
    assert np.abs(stimulus).max() <= 1.0 + 1e-6
    table = result.table
    assert (sign * (table["response"] - table["baseline"]) > 0).all()
    np.testing.assert_allclose(table["centre_y_px"], [4.0, 9.5, 7.0], atol=0.25)
    np.testing.assert_allclose(table["centre_x_px"], [4.5, 7.0, 9.0], atol=0.25)
    np.testing.assert_allclose(table["centre_y_um"], 50 * table["centre_y_px"])
    np.testing.assert_allclose(table["peak_latency_s"], 1.5 / 20, atol=0.5 / 20)
    assert list(sign * table["polarity"]) == [1, -1, 1]
    assert (table["start_cosine"] > 0.95).all()
    assert table["is_certain"].all()
    assert table["member_cosine"].isna().all()
    assert table["response_sd_members"].isna().all()
    norms = np.sqrt(np.square(stimulus).mean(axis=(1, 2, 3, 4)))
    np.testing.assert_allclose(norms, 0.177 / population.contrast_std, rtol=0.1)


def test_stimulus_of_a_complex_cell_lies_in_its_subspace_and_starts_differ() -> None:
    population = Population([known_model(energy=True)], SESSION)
    result = experiment(n_starts=4).run(population, every(population))
    filters = true_stimuli()
    basis = np.stack([filters.reshape(3, -1), filters[..., ::-1].reshape(3, -1)], axis=1)
    for stimulus, pair in zip(result.arrays["stimulus"].data.reshape(3, -1), basis, strict=True):
        orthonormal = np.linalg.qr(pair.T)[0]
        assert np.linalg.norm(orthonormal.T @ stimulus) >= 0.95 * np.linalg.norm(stimulus)
    assert (result.table["response"] > 10 * result.table["baseline"]).all()
    assert (result.table["start_cosine"] < 0.8).all()
    assert not result.table["is_certain"].any()


def test_a_neuron_has_the_same_stimulus_alone_and_in_company() -> None:
    population = Population([core_model("MultiSampledGaussianReadout", core={"input_padding": True})], SESSION)
    chosen = experiment(n_starts=2)
    whole = chosen.run(population, every(population))
    parts = [chosen.run(population, np.array(rows)) for rows in ([0, 3, 4], [1, 2], [5])]
    joined = join_results(parts)
    scale = np.abs(whole.arrays["stimulus"].data).max()
    np.testing.assert_allclose(joined.arrays["stimulus"].data, whole.arrays["stimulus"].data, atol=1e-3 * scale, rtol=0)
    np.testing.assert_allclose(joined.table["response"], whole.table["response"], rtol=1e-3)


def test_patches_lead_to_what_the_whole_model_leads_to() -> None:
    """The response that is reported is the whole model's: it must be what the patches promised, and be driven."""
    model = core_model("MultiGaussianMaskReadout", core={"input_padding": True})
    population = Population([model], SESSION)
    chosen = experiment()
    found = chosen.optimize(population, every(population))
    result = chosen.run(population, every(population))
    np.testing.assert_allclose(found.value.numpy(), result.table["response"], rtol=0.02, atol=1e-3)
    start = noise_starts(tuple(found.stimulus.shape[1:]), 1, 1)  # type: ignore[arg-type]
    norm = found.stimulus.flatten(1).norm(dim=1).max()
    noise = population.respond(start * norm / start.norm())[0, 0, 0].numpy()
    assert (result.table["response"] > np.maximum(noise, result.table["baseline"])).all()


def test_members_of_an_ensemble() -> None:
    members = [core_model("MultiSampledGaussianReadout", seed=seed, core={"input_padding": True}) for seed in (0, 0, 1)]
    alike = Population(members[:2], SESSION)
    result = experiment().run(alike, np.arange(3))
    np.testing.assert_allclose(result.table["member_cosine"], 1.0, atol=1e-4)
    np.testing.assert_allclose(result.table["response_sd_members"], 0.0, atol=1e-5)
    assert result.table["is_certain"].all()
    different = experiment().run(Population(members[1:], SESSION), np.arange(3))
    assert (different.table["member_cosine"] < 0.8).all()
    assert not different.table["is_certain"].any()
    assert (different.table["response_sd_members"] > 1e-3).all()
    assert different.arrays["member_response"].data.shape == (3, 2)
    means = different.arrays["member_response"].data.mean(axis=1)
    np.testing.assert_allclose(means, different.table["response"], rtol=1e-5)


def test_group_of_neurons_is_driven_together() -> None:
    population = Population([known_model()], SESSION)
    norm = 4.0
    rules = Rules(partial(torch.optim.SGD, lr=1.0), OptimizationStopper(40))
    bounded = within_budget(rules, 2, norm, 1.0)
    starts = noise_starts((2, 6, 15, 13), 1, 0)
    responses = LocalPopulation(population, 6, tolerance=1e-3)
    groups = torch.tensor([[0, 2], [0, 0]])
    found = optimize_neurons(responses, population, groups, bounded, starts)
    driven = population.respond(found.stimulus)[0, :, 0]
    assert driven[0, [0, 2]].mean() > driven[1, [0, 2]].mean()
    assert driven[1, 0] > driven[0, 0]
    assert (driven[0, [0, 2]] > 2 * population.respond(torch.zeros(1, 2, 6, 15, 13))[0, 0, 0, [0, 2]]).all()


def test_inner_units_are_optimised_in_one_batch() -> None:
    model = core_model()
    start = 0.1 * torch.randn(model.stimulus_shape(12, 4))
    channels = torch.arange(4)
    unit = InnerUnit(model, "core_features_layer0_norm", channels, n_bins=3, session=SESSION)
    rules = Rules(partial(torch.optim.SGD, lr=1.0), OptimizationStopper(8))
    found = ascend(unit, start, rules).stimuli
    assert (unit(found) > unit(start) + 0.1).all()
    alone = ascend(unit.select(torch.tensor([2])), start[2:3], rules).stimuli
    torch.testing.assert_close(alone[0], found[2], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="none of"):
        InnerUnit(model, "layer0", channels, n_bins=1)


def test_window_in_seconds_and_its_stimulus() -> None:
    population = Population([known_model()], SESSION)
    result = experiment(window_s=0.2).run(population, np.arange(2))
    assert result.arrays["stimulus"].data.shape[2] == 5 + 4
    np.testing.assert_allclose(result.axes["time"].data, np.arange(-8, 1) / 20)
    with pytest.raises(ValueError, match="needs the rate"):
        experiment(window_s=0.2).run(Population([core_model()], SESSION), np.arange(2))


def test_files_and_figures(tmp_path: Path) -> None:
    results: dict[str, ExperimentResult] = {}
    chosen = experiment(n_starts=2)
    for models in ([known_model()], [known_model(), known_model()]):
        population = Population(models, SESSION)
        results[f"session_{len(models)}"] = chosen.run(population, every(population))
    write_results(results, tmp_path / "result.h5", tmp_path / "result.csv", {})
    again = read_results(tmp_path / "result.h5")
    np.testing.assert_array_equal(
        again["session_2"].arrays["stimulus"].data, results["session_2"].arrays["stimulus"].data
    )
    drawings = chosen.draw(again)
    assert list(drawings) == ["most_exciting_stimuli", "most_exciting_responses"]
    assert "6 model neurons of 2 sessions" in drawings["most_exciting_stimuli"].caption
    for name, drawing in drawings.items():
        for path in save_drawing(drawing, tmp_path / name):
            assert path.stat().st_size > 2000


def test_wrong_settings_are_named() -> None:
    with pytest.raises(Exception, match="sign must be 1"):
        experiment(sign=0)
    with pytest.raises(Exception, match="above 0"):
        experiment(rms_sd=0.0)
