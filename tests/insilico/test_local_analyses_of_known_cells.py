"""Analyses around a stimulus on the simulator's cells, whose filters say what must be found."""

from typing import Any

import numpy as np
import pytest
import yaml

from coread.insilico.experiment import ExperimentResult
from coread.insilico.population import Population
from coread.insilico.running import load_experiment
from coread.models.known_cells import KnownCellsModel, known_cells_model
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def model() -> KnownCellsModel:
    return known_cells_model()


def run(model: KnownCellsModel, name: str, **images: Any) -> ExperimentResult:
    settings = yaml.safe_load((REPOSITORY / f"configs/insilico/{name}.yaml").read_text())
    if images:
        settings["images"] |= images
    population = Population([model], model.session)
    return load_experiment(settings).run(population, np.arange(population.n_neurons))


def test_fields_of_cells_with_one_filter_keep_their_shape_and_those_of_energy_cells_reverse(
    model: KnownCellsModel,
) -> None:
    table = run(model, "vector_field", n_images=40, image_s=0.3, window_s=[0.0, 0.3]).table
    linear = model.cells.linear
    assert (table["lsta_cosine"][linear] > 0.99).all()
    np.testing.assert_array_equal(table["lsta_reversed_share"][linear], 0)
    assert (table["lsta_cosine"][~linear] < 0.3).all()
    assert (table["lsta_reversed_share"][~linear] > 0.25).all()
    energy = table["cell_type"].isin(["complex", "direction_energy"])
    assert (table["lsta_pc2_share"][energy] > 0.2).all(), "a quadrature pair spans a plane"
    assert (table["lsta_pc1_share"][table["cell_type"] == "on_off"] > 0.95).all()


def test_centre_and_surround_add_up_before_the_output_of_cells_with_one_filter(model: KnownCellsModel) -> None:
    table = run(model, "centre_surround").table
    linear = model.cells.linear
    assert (table["interaction_before_output"][linear] < 0.005).all()
    energy = table["cell_type"].isin(["complex", "direction_energy"])
    assert (table["interaction_before_output"][energy] > 0.2).all(), "a square of a sum is no rising function of it"
    assert (table["surround_effect"][table["cell_type"] == "surround"] < -0.8).all()
    places = np.array([cell.center_px for cell in model.cells.cells])
    np.testing.assert_allclose(table[["center_y_px", "center_x_px"]], places, atol=0.5)
    np.testing.assert_allclose(table["center_radius_deg"], 1.5 * table["center_radius_px"])


def test_gradients_predict_small_changes_of_all_cells(model: KnownCellsModel) -> None:
    result = run(model, "local_linearity", n_images=6, image_s=0.3, window_s=[0.0, 0.3])
    assert (result.table["linear_r2_smallest"] > 0.99).all()
    linear = model.cells.linear
    assert result.table["linear_r2_largest"][linear].min() > result.table["linear_r2_largest"][~linear].median()
