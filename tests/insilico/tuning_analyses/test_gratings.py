"""Gratings find the orientation, direction and frequencies that cells have by construction."""

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.insilico.tuning_analyses.filter_cells import (
    FilterCells,
    amplitude,
    circular_distance,
    gabor,
    grid,
    moving_gabor,
    pair,
    population,
    preferred_frequency,
)

from coread.insilico.experiment import ExperimentResult
from coread.insilico.population import Population
from coread.insilico.tuning_analyses import GratingTuning

SETTINGS: dict[str, Any] = {
    "contrasts": [0.1, 0.3, 0.6, 1.0],
    "measure": "larger",
    "min_response": 0.01,
    "min_selectivity": 0.05,
    "reliable_correlation": 0.8,
    "n_permutations": 500,
    "seed": 0,
}
ANGLES = np.array([0.0, 20.0, 75.0, 130.0, 233.0])  # directions along which the stripes of cells change
CYCLES = np.array([0.11, 0.12, 0.15, 0.18, 0.12])


def cells(lags: int = 10) -> tuple[np.ndarray, list[bool]]:
    """Return simple cells, then complex cells with the same preferences; a silent cell is last."""
    simple = [pair(gabor(a, c, phase=0.4, lags=lags)) for a, c in zip(ANGLES, CYCLES, strict=True)]
    both = [
        pair(gabor(a, c, lags=lags), gabor(a, c, phase=np.pi / 2, lags=lags))
        for a, c in zip(ANGLES, CYCLES, strict=True)
    ]
    silent = np.zeros_like(simple[0])
    return np.stack([*simple, *both, silent]), [False] * 5 + [True] * 5 + [False]


def moving() -> np.ndarray:
    return np.stack([pair(moving_gabor(a, c)) for a, c in zip(ANGLES, CYCLES, strict=True)])


def run(people: Population, **changes: Any) -> ExperimentResult:
    return GratingTuning(grid(), **(SETTINGS | changes)).run(people, np.arange(people.n_neurons))


@cache
def of_movie_cells() -> ExperimentResult:
    filters, energy = cells()
    return run(population(FilterCells(filters, energy)))


@cache
def of_moving_cells() -> ExperimentResult:
    return run(population(FilterCells(moving(), [False] * 5, baseline=0.0, pixel_deg=2.0)))


@cache
def of_image_cells() -> ExperimentResult:
    filters, energy = cells(lags=1)
    model = FilterCells(filters, energy, rate_hz=float("nan"), pixel_um=50.0)
    return run(population(model))


def check_orientation_and_frequency(table: pd.DataFrame, hz: float, lags: int) -> None:
    truth = np.tile((ANGLES + 90) % 180, 2)
    found = table["preferred_orientation_deg"].to_numpy()[:10]
    assert (circular_distance(found, truth, 180.0) < 5).all(), found - truth
    true_cycles = [preferred_frequency(gabor(a, c, lags=lags), a, hz) for a, c in zip(ANGLES, CYCLES, strict=True)]
    np.testing.assert_allclose(table["preferred_spatial_frequency_cyc_px"][:10], np.tile(true_cycles, 2), rtol=0.1)
    assert (table["direction_r2"][:10] > 0.95).all()
    assert (table["spatial_frequency_r2"][:10] > 0.95).all()
    assert (table["f1_f0"][:5] > 1.2).all(), "simple"
    assert (table["f1_f0"][5:10] < 0.5).all(), "complex"
    assert (table["osi"][:10] > 0.8).all()
    assert table["responds"].tolist() == [True] * 10 + [False]
    numbers = table.drop(columns=["session", "neuron", "unit_id", "responds", "reliable", "response_measure"])
    numbers = numbers.drop(columns=[name for name in numbers if name.endswith("_at_edge")])
    assert numbers.iloc[10].isna().all(), "nothing is known of a silent neuron"


def test_orientation_and_frequency_of_movie_cells() -> None:
    table = of_movie_cells().table
    hz = 4.0
    check_orientation_and_frequency(table, hz, lags=10)
    assert (table["dsi_vector"][:10] < 0.05).all(), "separable filters prefer no direction"
    assert (table["dsi_p"][:10] > 0.05).all()
    assert table["preferred_direction_deg"].isna().all(), "and none is reported"
    assert table["response_measure"].tolist()[:10] == ["F1"] * 5 + ["F0"] * 5
    assert table["preferred_temporal_frequency_hz"][:10].between(2.5, 6.5).all()


def test_image_models_see_static_gratings_in_all_phases() -> None:
    result = of_image_cells()
    check_orientation_and_frequency(result.table, hz=0.0, lags=1)
    assert not {"dsi", "dsi_p", "preferred_direction_deg", "preferred_temporal_frequency_hz"} & set(result.table)
    np.testing.assert_allclose(
        result.table["preferred_spatial_frequency_cyc_mm"], result.table["preferred_spatial_frequency_cyc_px"] * 20
    )
    assert result.axes["direction_deg"].data.max() < 180


def test_direction_selectivity_is_that_of_the_filters() -> None:
    result = of_moving_cells()
    table = result.table
    assert (circular_distance(table["preferred_direction_deg"].to_numpy(), ANGLES, 360.0) < 10).all()
    responses = result.arrays["grating_responses"].data
    best = np.nanargmax(responses.reshape(5, -1), axis=1)
    directions, spatial, temporal = (
        result.axes[name].data for name in ("direction_deg", "spatial_frequency_cyc_px", "temporal_frequency_hz")
    )
    for neuron, (own, place) in enumerate(zip(moving()[:, 0], best, strict=True)):
        # a rectified response to a sinusoid grows with its amplitude
        preferred = table.iloc[neuron][
            ["preferred_spatial_frequency_cyc_px", "preferred_temporal_frequency_hz"]
        ].to_numpy(float)
        there, back = (amplitude(own, ANGLES[neuron] + turn, *preferred)[0] for turn in (0, 180))
        assert table["dsi"][neuron] == pytest.approx((there - back) / (there + back), abs=0.1)
        _, cycles, hz = np.unravel_index(place, responses.shape[1:])
        drive = np.concatenate([amplitude(own, d, spatial[cycles], temporal[hz]) for d in directions])
        by_vectors = np.abs(drive @ np.exp(1j * np.deg2rad(directions))) / drive.sum()
        assert table["dsi_vector"][neuron] == pytest.approx(by_vectors, abs=0.1)
    assert (table["dsi"] > 0.8).all()
    assert (table["dsi_p"] < 0.01).all()
    np.testing.assert_allclose(
        table["preferred_spatial_frequency_cyc_deg"], table["preferred_spatial_frequency_cyc_px"] / 2
    )


def test_gratings_that_cannot_be_shown_are_missing() -> None:
    result = of_movie_cells()
    responses = result.arrays["grating_responses"].data
    assert np.isnan(responses[:, :, -1]).all(), "0.6 cycles per pixel"
    assert np.isnan(responses[..., -1]).all(), "20 Hz at 30 bins per second"
    assert np.isfinite(responses[:, :, :-1, :-1]).all()
    with pytest.raises(ValueError, match="no grating can be shown"):
        grid(spatial_frequencies=[0.5, 0.7]).respond(population(FilterCells(*cells())), np.arange(2))


def test_contrast_tuning_of_rectified_cells_is_a_line() -> None:
    result = of_moving_cells()
    curves = result.arrays["contrast_tuning"].data
    np.testing.assert_allclose(curves / curves[:, -1:], np.tile([0.1, 0.3, 0.6, 1.0], (5, 1)), atol=0.01)
    peak = np.nanmax(result.arrays["grating_responses"].data.reshape(5, -1), axis=1)
    np.testing.assert_allclose(curves[:, -1], peak, rtol=1e-4)
    assert (result.table["contrast_r2"] > 0.99).all()


def test_neurons_do_not_depend_on_which_others_are_asked_for() -> None:
    filters, energy = cells()
    people = population(FilterCells(filters, energy))
    few = GratingTuning(grid(), **SETTINGS).run(people, np.array([7, 2]))
    every = of_movie_cells()
    expected = every.table.iloc[[7, 2]].reset_index(drop=True)
    pd.testing.assert_frame_equal(few.table, expected, rtol=1e-4, atol=1e-4)
    for name, axis in few.axes.items():
        np.testing.assert_array_equal(axis.data, every.axes[name].data)


def test_disagreement_of_members_is_shown() -> None:
    filters, energy = cells()
    turned = filters.copy()
    turned[1] = pair(gabor(110.0, 0.12))  # at right angles in the second member
    result = run(population(FilterCells(filters, energy), FilterCells(turned, energy)))
    table = result.table
    assert table["reliable"].tolist() == [True, False, *[True] * 8, False]
    assert table["preferred_orientation_deg_sd_members"][0] < 1
    assert table["preferred_orientation_deg_sd_members"][1] > 30
    assert result.arrays["preferred_orientation_deg_members"].data.shape == (11, 2)
    assert result.arrays["direction_deg_tuning_members"].data.shape == (11, 2, 12)
    one = of_movie_cells().table
    assert one["osi_sd_members"].isna().all()
    agreeing = np.r_[0, 2:10]
    np.testing.assert_allclose(
        table["preferred_orientation_deg"][agreeing], one["preferred_orientation_deg"][agreeing], atol=0.01
    )


def test_figures_and_captions() -> None:
    experiment = GratingTuning(grid(), **SETTINGS)
    movie = experiment.draw({"a": of_movie_cells()})
    assert set(movie) == {
        "direction_tuning",
        "summary",
        "spatial_frequency_cyc_px_tuning",
        "temporal_frequency_hz_tuning",
        "contrast_tuning",
    }
    assert "10 responding among 11 model neurons" in movie["direction_tuning"].caption
    image = experiment.draw({"a": of_image_cells()})
    assert "temporal_frequency_hz_tuning" not in image
    for drawing in (*movie.values(), *image.values()):
        drawing.figure.canvas.draw()
        sizes = [
            text.get_fontsize() for text in drawing.figure.findobj(match=lambda item: hasattr(item, "get_fontsize"))
        ]
        assert min(sizes) >= 5.5


def test_seconds_need_the_bins_per_second() -> None:
    filters, energy = cells()
    with pytest.raises(ValueError, match="rate_hz"):
        run(population(FilterCells(filters, energy, rate_hz=None)))
    with pytest.raises(ValueError, match="needs the size of a pixel"):
        grid(length_unit="deg").axes(population(FilterCells(filters, energy)))
    with pytest.raises(ValueError, match="measure is one of"):
        run(population(FilterCells(filters, energy)), measure="F2")
