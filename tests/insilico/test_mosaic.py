"""Mosaics: regularity, coverage, and the experiment that places neurons in visual space."""

import numpy as np
import pandas as pd
import pytest

from coread.config import analysis_settings
from coread.insilico.experiment import ExperimentResult, Quantity
from coread.insilico.mosaic import Mosaic, describe_mosaic, nearest_neighbours, regularity_index
from coread.insilico.place_fits import place_of
from coread.insilico.population import Population
from coread.models.known_cells import known_cells_model
from coread.plotting.mosaic import draw_mosaics


def lattice(jitter: float, seed: int = 0) -> np.ndarray:
    y, x = np.mgrid[:8, :8].astype(float)
    places = np.stack([x.ravel() + 0.5 * (y.ravel() % 2), y.ravel() * np.sqrt(3) / 2], axis=1)
    return places + jitter * np.random.default_rng(seed).standard_normal(places.shape)


def experiment() -> Mosaic:
    settings = {name: value for name, value in analysis_settings("mosaic").items() if name != "_target_"}
    return Mosaic(**settings | {"n_random": 200})


def test_nearest_neighbours_by_hand() -> None:
    places = np.array([[0.0, 0.0], [3.0, 4.0], [3.0, 5.0]])
    np.testing.assert_allclose(nearest_neighbours(places), [5, 1, 1])
    np.testing.assert_allclose(regularity_index(places), np.mean([5, 1, 1]) / np.std([5, 1, 1], ddof=1))
    assert np.isnan(nearest_neighbours(places[:1])).all()
    assert np.isnan(regularity_index(places[:2]))


def test_random_places_have_the_index_of_random_places() -> None:
    places = np.random.default_rng(3).random((40, 500, 2))
    assert regularity_index(places).mean() == pytest.approx(1.91, abs=0.1)  # Poisson process: sqrt(pi / (4 - pi))


def test_the_test_of_regularity_holds_its_level() -> None:
    rng = np.random.default_rng(1)
    p = np.array(
        [describe_mosaic(rng.random((20, 2)), np.ones((20, 2)), 1.0, 99, seed)["regularity_p"] for seed in range(40)]
    )
    assert p.mean() == pytest.approx(0.5, abs=0.15)
    assert (p <= 0.05).mean() <= 0.15


def test_lattices_are_regular_and_their_coverage_is_density_times_area() -> None:
    sigma = np.full((64, 2), 0.4)
    regular = describe_mosaic(lattice(0.05), sigma, 1.0, 200, 0)
    assert regular["regularity_index"] > 8
    assert regular["regularity_p"] == pytest.approx(1 / 201)
    # 64 cells in a hull of 7.5 x 7 sqrt(3) / 2
    density = 64 / (7.5 * 7 * np.sqrt(3) / 2)
    assert regular["density"] == pytest.approx(density, rel=0.1)
    assert regular["coverage_factor"] == pytest.approx(density * np.pi * 0.16, rel=0.1)


def test_few_cells_or_a_line_have_no_mosaic() -> None:
    line = np.stack([np.arange(5.0), np.zeros(5)], axis=1)
    for places in (line, line[:2]):
        found = describe_mosaic(places, np.ones((len(places), 2)), 1.0, 10, 0)
        assert found["n"] == len(places)
        assert np.isnan([found["regularity_index"], found["coverage_factor"], found["density"]]).all()


def test_places_are_found_between_the_peaks_of_a_map_and_widths_are_without_the_smoothing() -> None:
    y, x = np.mgrid[:20, :20].astype(float)
    gaussian = np.exp(-((y - 8.3) ** 2 + (x - 11.2) ** 2) / (2 * 1.8**2))
    two_peaks = gaussian * np.abs(np.sin(2 * np.pi * 0.16 * (x - 11.2)))
    fit = place_of(np.stack([gaussian, two_peaks]), smoothing_px=1.0)
    np.testing.assert_allclose(fit.center_px, [[8.3, 11.2]] * 2, atol=0.1)
    np.testing.assert_allclose(fit.sigma_px[0], 1.8, rtol=0.05)


def test_the_experiment_places_cells_in_visual_space() -> None:
    model = known_cells_model()
    population = Population([model], "tuning_0")
    chosen = np.array([3, 0, 11])
    result = experiment().run(population, chosen)
    assert result.table["neuron"].tolist() == chosen.tolist()
    truth = model.truth.set_index("neuron").loc[chosen]
    np.testing.assert_allclose(result.table["x_deg"], 1.5 * (truth["truth_center_x_px"] - 8.5), atol=0.75)
    np.testing.assert_allclose(result.table["y_deg"], 1.5 * (7.5 - truth["truth_center_y_px"]), atol=0.75)
    everything = experiment().run(population, np.arange(population.n_neurons))
    alone = everything.table.set_index("neuron").loc[chosen, "x_deg"]
    np.testing.assert_allclose(result.table["x_deg"], alone, atol=1e-4)
    summary = experiment().summarise({"tuning_0": everything})["tuning_0"]
    assert (summary.table["mosaic_n"] == summary.table.groupby("cell_type")["neuron"].transform("size")).all()
    caption = experiment().draw({"tuning_0": summary})["mosaic"].caption
    assert "of 14 model neurons" in caption


def test_the_figure_shows_every_type_with_its_index() -> None:
    places = lattice(0.05)
    table = pd.DataFrame(
        {
            "session": "a",
            "neuron": range(64),
            "cell_type": np.where(np.arange(64) < 60, "x", "y"),
            "x_um": places[:, 0],
            "y_um": places[:, 1],
            "sigma_major_um": 0.5,
            "sigma_minor_um": 0.3,
            "angle_deg": 10.0,
            "polarity": 1,
            "place_r2": 0.9,
            "place_converged": True,
        }
    )
    result = ExperimentResult(table, {"frame": Quantity(np.array([10.0, 12.0]), ("y_x",), "um")})
    drawn = draw_mosaics(experiment().summarise({"a": result}))
    titles = [axes.get_title(loc="left") + axes.get_title() for axes in drawn.figure.axes]
    assert any(title.startswith("x (n = 60)\nRI") for title in titles)
    assert any(title.startswith("y (n = 4)") for title in titles)
