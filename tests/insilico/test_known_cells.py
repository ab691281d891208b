"""Cells of known tuning: the model is the simulator, and its truth is what its filters say."""

import copy

import numpy as np
import pytest
import torch

from coread.config import compose_data_io
from coread.data_io.artificial_stimuli import generate_gratings
from coread.data_io.simulate.known_cells import GaborCell, adelson_bergen
from coread.data_io.simulate.tuning_truth import (
    Gratings,
    direction_selectivity,
    evoked_mean,
    filter_subspaces,
    grating_cycle,
    modulation,
    preferred_gratings,
)
from coread.insilico.population import Population
from coread.models import is_model_causal
from coread.models.known_cells import CONTRAST_STD, KnownCellsModel, known_cells_model

SESSION = "tuning_0"


@pytest.fixture(scope="module")
def model() -> KnownCellsModel:
    return known_cells_model()


@pytest.fixture(scope="module")
def best(model: KnownCellsModel) -> Gratings:
    return preferred_gratings(model.cells)


def gabors(model: KnownCellsModel) -> list[int]:
    return [i for i, cell in enumerate(model.cells.cells) if isinstance(cell, GaborCell)]


def test_the_model_has_the_interface_of_trained_ones(model: KnownCellsModel) -> None:
    population = Population([model], SESSION)
    n_cells = len(model.cells.cells)
    assert model.readout.readout_keys() == [SESSION]
    assert model.stimulus_shape(20, 3) == (3, 2, 20, 16, 18)
    assert (model.lag, population.rate_hz, population.pixel_deg, population.contrast_std) == (8, 30.0, 1.5, 2.0)
    assert set(population.neurons["cell_type"]) >= {"on_center", "simple", "complex", "on_off", "color_opponent"}
    assert population.respond(torch.zeros(2, 2, 20, 16, 18)).shape == (1, 2, 12, n_cells)
    assert is_model_causal(model)
    stimulus = torch.rand(1, 2, 9, 16, 18, requires_grad=True)
    model(stimulus, SESSION).sum().backward()
    assert stimulus.grad is not None
    assert float(stimulus.grad.abs().max()) > 0


def test_model_and_simulator_are_the_same(model: KnownCellsModel) -> None:
    contrast = np.random.default_rng(0).uniform(-1, 1, (40, 2, 16, 18))
    simulated = model.cells.expected_counts(contrast, np.arange(40))
    shown = torch.as_tensor(contrast, dtype=torch.float32).movedim(0, 1)[None] / CONTRAST_STD
    with torch.no_grad():
        np.testing.assert_allclose(model(shown, SESSION)[0], simulated[model.lag :], rtol=1e-4, atol=1e-5)
    # before a presentation the screen is grey
    padded = torch.cat([torch.zeros(1, 2, model.lag, 16, 18), shown], dim=2)
    with torch.no_grad():
        np.testing.assert_allclose(model(padded, SESSION)[0], simulated, rtol=1e-4, atol=1e-5)
    halves = model.cells.expected_counts(contrast, np.tile(np.arange(20), 2))
    np.testing.assert_allclose(halves[20:], model.cells.expected_counts(contrast[20:], np.arange(20)))
    assert np.abs(halves[20:28] - simulated[20:28]).max() > 0.01


def test_the_truth_is_what_gratings_shown_to_the_model_find(model: KnownCellsModel) -> None:
    direction, spatial, temporal, contrast = 40.0, 0.15, 3.0, 0.6
    n_bins = 30  # three cycles
    shown = generate_gratings(
        (1, 2, model.lag + n_bins, 16, 18), temporal, spatial, direction, contrast, rate_hz=30.0, pixel_size=1.0
    )
    response = Population([model], SESSION).respond(shown)[0, 0].numpy()
    n_cells = response.shape[1]
    gratings = Gratings(*(np.full((n_cells, 1), value) for value in (direction, spatial, temporal)))
    np.testing.assert_allclose(
        evoked_mean(model.cells, gratings, contrast)[:, 0],
        response.mean(axis=0) - model.cells.respond_to_drive(np.zeros((n_cells, 2))),
        rtol=0.02,
        atol=1e-3,
    )
    turn = np.exp(2j * np.pi * temporal * np.arange(n_bins) / 30.0)
    first = 2 * np.abs((response * turn[:, None]).mean(axis=0))
    np.testing.assert_allclose(modulation(model.cells, gratings, contrast)[:, 0], first, rtol=0.03, atol=2e-3)
    assert grating_cycle(model.cells, gratings, contrast).shape == (n_cells, 1, 64)


def test_the_truth_of_gabor_cells_is_near_their_construction(model: KnownCellsModel) -> None:
    truth, chosen = model.truth, gabors(model)
    cells = [model.cells.cells[i] for i in chosen]
    built = np.array([cell.direction_deg for cell in cells])
    orientation = (built + 90) % 180
    difference = np.abs(truth["truth_orientation_deg"].to_numpy()[chosen] - orientation)
    assert (np.minimum(difference, 180 - difference) < 3).all()
    frequency = np.array([cell.frequency_cyc_px for cell in cells])
    np.testing.assert_allclose(truth["truth_spatial_frequency_cyc_px"].to_numpy()[chosen], frequency, rtol=0.12)
    moving = np.array([cell.motion for cell in cells])
    direction = truth["truth_direction_deg"].to_numpy()[chosen]
    difference = np.abs(direction - built)[moving]
    assert (np.minimum(difference, 360 - difference) < 3).all()
    assert np.isnan(direction[~moving]).all()
    dsi = truth["truth_dsi"].to_numpy()[chosen]
    assert (dsi[moving] > 0.5).all()
    np.testing.assert_allclose(dsi[~moving], 0, atol=0.01)
    assert np.isnan(truth["truth_orientation_deg"].drop(chosen)).all()


def test_no_other_grating_excites_a_cell_more_than_its_preferred_one(model: KnownCellsModel, best: Gratings) -> None:
    largest = evoked_mean(model.cells, best)[:, 0]
    rng = np.random.default_rng(1)
    n = len(largest)
    others = Gratings(rng.uniform(0, 360, (n, 300)), rng.uniform(0.02, 0.45, (n, 300)), rng.uniform(0.5, 14, (n, 300)))
    assert (evoked_mean(model.cells, others).max(axis=1) <= largest * (1 + 1e-6)).all()


def test_direction_selectivity_depends_on_the_measure(model: KnownCellsModel, best: Gratings) -> None:
    mean, modulated = (direction_selectivity(model.cells, best, measure) for measure in (evoked_mean, modulation))
    linear_moving = [i for i in gabors(model) if model.cells.cells[i].motion and not model.cells.cells[i].energy]  # type: ignore[union-attr]
    assert (mean[linear_moving] > modulated[linear_moving]).all(), "a threshold sharpens the mean response"


def test_subspaces_are_orthonormal_and_hold_the_filters(model: KnownCellsModel) -> None:
    space = filter_subspaces(model.cells)
    flat = space.reshape(*space.shape[:2], -1)
    gram = np.einsum("nkf,njf->nkj", flat, flat)
    filters = model.cells.filters.reshape(flat.shape)
    outside = filters - np.einsum("nkf,njf,njg->nkg", filters, flat, flat)
    assert np.abs(outside).max() < 1e-9
    n_dimensions = {
        cell.cell_type: round(float(np.trace(one))) for cell, one in zip(model.cells.cells, gram, strict=True)
    }
    assert n_dimensions["complex"] == n_dimensions["direction_energy"] == 2
    assert n_dimensions["simple"] == n_dimensions["on_off"] == n_dimensions["surround"] == 1


def test_complex_cells_are_indifferent_to_phase_and_simple_ones_are_not(model: KnownCellsModel, best: Gratings) -> None:
    ratio = modulation(model.cells, best)[:, 0] / evoked_mean(model.cells, best)[:, 0]
    kind = model.truth["cell_type"].to_numpy(str)
    assert (ratio[kind == "complex"] < 0.1).all()
    assert (ratio[kind == "direction_energy"] < 1.0).all()
    assert (ratio[kind == "simple"] > 1.0).all()


def test_time_courses_are_nearly_in_quadrature_where_they_respond_most() -> None:
    time = np.arange(0, 40, 0.01)
    frequency = np.linspace(0.02, 0.2, 100)[:, None]  # in units of the rate of both
    wave = np.exp(-2j * np.pi * frequency * time)
    fast, slow = ((wave * adelson_bergen(time, order)).sum(axis=1) for order in (3, 5))
    best = (np.abs(fast) * np.abs(slow)).argmax()
    lag = np.rad2deg(np.angle(fast[best] / slow[best]))
    assert 45 < lag < 135, "the slow one follows by about a quarter of a cycle"


def test_a_wrong_key_is_named() -> None:
    config = copy.deepcopy(compose_data_io("simulated_tuning"))
    config["cells"]["gabor"]["simple_0"]["frequency"] = 0.1
    with pytest.raises(ValueError, match=r"cells\.gabor\.simple_0: unknown keys \['frequency'\]"):
        known_cells_model(config)
    config = copy.deepcopy(compose_data_io("simulated_tuning"))
    config["cells"]["center_surround"]["on_center"]["kinetics"] = "slow"
    with pytest.raises(ValueError, match=r"kinetics \['slow'\] unknown"):
        known_cells_model(config)
