"""Size, flashes, chirp, moving bars, noise and channel contrasts find what cells are by construction."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from tests.insilico.tuning_analyses.filter_cells import (
    RATE,
    FilterCells,
    circular_distance,
    grid,
    moving_gabor,
    pair,
    population,
    spot_filter,
)

from coread.insilico.experiment import ExperimentResult, InsilicoExperiment
from coread.insilico.tuning_analyses import (
    ChannelContrastTuning,
    ChirpResponses,
    FlashResponses,
    MovingBarTuning,
    NoiseTuning,
    SizeTuning,
)

COMMON = {"min_response": 0.01, "reliable_correlation": 0.8}
SIZE: dict[str, Any] = {
    "stimulus": "spot",
    "diameters": [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 30],
    "length_unit": "px",
    "contrast": 1.0,
    "duration_s": 0.4,
    "grid": grid(directions_deg=[0, 90, 180, 270], spatial_frequencies=[0.05, 0.1], temporal_frequencies_hz=[4.0]),
    "size_model": "ratio_of_gaussians",
    "center_noise_samples": 8,
    "center_noise_contrast": 0.5,
    "center_step_px": 0.5,
    "seed": 0,
    **COMMON,
}
FLASHES = FlashResponses(contrast=1.0, before_s=0.2, duration_s=1.0, after_s=0.5, late_s=0.2, **COMMON)
CHIRP = ChirpResponses(contrast=1.0, n_pieces=8, late_s=0.5, **COMMON)
BARS: dict[str, Any] = {
    "directions_deg": np.arange(0, 360, 45.0),
    "speeds": [20.0, 40.0, 400.0],
    "width": 3.0,
    "length_unit": "px",
    "contrast": 1.0,
    "min_selectivity": 0.05,
    "n_permutations": 300,
    "seed": 0,
    **COMMON,
}
NOISE: dict[str, Any] = {
    "n_sequences": 12,
    "sequence_s": 10.0,
    "flicker_contrast": 0.35,
    "n_images": 1500,
    "image_contrast": 1.0,
    "check_px": 3,
    "image_s": 0.2,
    "min_z": 6.0,
    "reliable_correlation": 0.8,
    "seed": 0,
}


@cache
def spot_cells(lags: int = 10) -> FilterCells:
    """Return ON without and with a surround, OFF with one, ON-OFF, ON away from the middle, and a silent cell."""
    on_off = spot_filter(2.0, 0.0, lags=lags)
    filters = [
        pair(spot_filter(2.0, 0.0, lags=lags)),
        pair(spot_filter(2.0, 0.8, lags=lags)),
        pair(spot_filter(1.5, 0.8, -1.0, lags=lags)),
        pair(on_off, -on_off),
        pair(spot_filter(1.5, 0.8, center=(4.0, -6.0), lags=lags)),
        np.zeros_like(pair(on_off)),
    ]
    return FilterCells(np.stack(filters), [False] * 6)


def run(experiment: InsilicoExperiment, model: FilterCells) -> ExperimentResult:
    people = population(model)
    return experiment.run(people, np.arange(people.n_neurons))


@pytest.mark.parametrize("lags", [10, 1])
def test_only_cells_with_a_surround_are_suppressed_by_large_spots(lags: int) -> None:
    result = run(SizeTuning(**SIZE), spot_cells(lags))
    table = result.table
    np.testing.assert_allclose(table["suppression_index"][[0, 3]], 0, atol=0.02)
    assert (table["suppression_index"][[1, 2, 4]] > 0.2).all()
    assert (np.abs(table["suppression_index_fit"] - table["suppression_index"])[:5] < 0.1).all()
    assert (table["size_r2"][:5] > 0.95).all()
    assert table["spot_polarity"].tolist()[:5] in ([1, 1, -1, 1, 1], [1, 1, -1, -1, 1])
    np.testing.assert_allclose(table[["center_y_px", "center_x_px"]].to_numpy()[:4], [[10, 12]] * 4, atol=0.5)
    np.testing.assert_allclose(table[["center_y_px", "center_x_px"]].to_numpy()[4], [6, 6], atol=0.5)
    assert table["responds"].tolist() == [True] * 5 + [False]
    assert np.isnan(result.arrays["size_tuning"].data[:, -1]).all(), "30 px are more than the screen"
    assert np.isnan(table["suppression_index"][5])


def test_the_best_spot_of_a_centre_surround_cell_fills_its_centre() -> None:
    table = run(SizeTuning(**SIZE), spot_cells()).table
    # the drive by a disc of diameter d is 1 - exp(-d^2 / 8 s^2) - w (1 - exp(-d^2 / 32 s^2)), largest where
    # exp(-3 d^2 / 32 s^2) = w / 4
    for neuron, sigma in ((1, 2.0), (2, 1.5)):
        best = np.sqrt(-32 / 3 * sigma**2 * np.log(0.8 / 4))
        assert table["preferred_diameter_px"][neuron] == pytest.approx(best, rel=0.15)


def test_difference_of_error_functions_and_grating_patches() -> None:
    other = run(SizeTuning(**SIZE | {"size_model": "difference_of_error_functions"}), spot_cells()).table
    # an error function grows with the diameter where the drive by a disc grows with its area
    assert (other["size_r2"][:5] > 0.9).all()
    assert (other["suppression_index_fit"][[1, 2, 4]] > 0.2).all()
    table = run(SizeTuning(**SIZE | {"stimulus": "grating"}), spot_cells()).table
    assert table["responds"].tolist() == [True] * 5 + [False]
    assert table["suppression_index"][0] < table["suppression_index"][1] + 0.02
    with pytest.raises(ValueError, match="stimulus is one of"):
        SizeTuning(**SIZE | {"stimulus": "bar"})
    with pytest.raises(ValueError, match="none of the diameters"):
        run(SizeTuning(**SIZE | {"diameters": [40.0, 50.0]}), spot_cells())


def test_flashes_tell_on_from_off() -> None:
    result = run(FLASHES, spot_cells())
    table = result.table
    np.testing.assert_allclose(table["on_off_index"][:5], [1, 1, -1, 0, 1], atol=1e-3)
    assert np.isnan(table["on_off_index"][5])
    # filters of one sign answer as long as a flash lasts
    np.testing.assert_allclose(table["transience_index"][:5], 0, atol=1e-3)
    course = result.arrays["flash_responses"].data
    time = result.axes["time_s"].data
    np.testing.assert_allclose(course[0, 0, time < 0], 0.2, atol=1e-5)
    assert (course[0, 0, (time > 0.3) & (time < 0.9)] > 0.5).all()


def test_cells_with_balanced_time_courses_are_transient() -> None:
    balanced = spot_filter(2.0, 0.0)
    balanced[5:] = -balanced[:5][::-1]
    table = run(FLASHES, FilterCells(np.stack([pair(balanced), pair(spot_filter(2.0, 0.0))]), [False] * 2)).table
    np.testing.assert_allclose(table["transience_index"], [1, 0], atol=1e-3)
    assert table["time_to_peak_s"][0] == pytest.approx(5 / RATE, abs=1.01 / RATE)


def test_flashes_of_image_models_have_no_time() -> None:
    table = run(FLASHES, spot_cells(1)).table
    np.testing.assert_allclose(table["on_off_index"][:5], [1, 1, -1, 0, 1], atol=1e-3)
    assert "transience_index" not in table
    assert "responses" not in FLASHES.draw({"a": run(FLASHES, spot_cells(1))})


def test_the_chirp_shows_polarity_frequency_and_contrast() -> None:
    slow, fast = spot_filter(2.0, 0.0), spot_filter(2.0, 0.0)
    fast[1::2] *= -1  # cancels what is slow
    model = FilterCells(np.stack([pair(slow), pair(-slow), pair(fast), pair(slow, -slow)]), [False] * 4)
    result = run(CHIRP, model)
    table = result.table
    np.testing.assert_allclose(table["on_off_index"][[0, 1, 3]], [1, -1, 0], atol=1e-3)
    amplitude = result.arrays["frequency_response"].data
    # below 2 Hz a piece has less than two cycles, too few to tell a rectified sine from its mean and slope
    assert (np.diff(amplitude[0, 2:]) < 0).all(), "falls with frequency"
    assert (np.diff(amplitude[2, 3:]) > 0).all(), "rises with frequency, from next to nothing"
    growth = result.arrays["contrast_response"].data[0]
    np.testing.assert_allclose(growth / growth[-1], (np.arange(8) + 0.5) / 7.5, atol=0.05)
    assert result.arrays["chirp_responses"].data.shape == (4, 990)
    with pytest.raises(ValueError, match="one image per bin"):
        run(CHIRP, spot_cells(1))


def test_moving_bars_find_direction() -> None:
    angles = np.array([0.0, 80.0, 200.0])
    filters = [pair(moving_gabor(angle, 0.1)) for angle in angles] + [pair(spot_filter(2.0, 0.0))]
    result = run(MovingBarTuning(**BARS), FilterCells(np.stack(filters), [False] * 4))
    table = result.table
    assert (circular_distance(table["preferred_direction_deg"].to_numpy()[:3], angles, 360.0) < 10).all()
    assert (table["dsi"][:3] > 0.2).all()
    assert (table["dsi_p"][:3] < 0.05).all()
    assert table["dsi_vector"][3] < 0.05
    assert table["dsi_p"][3] > 0.05
    assert np.isnan(table["preferred_direction_deg"][3])
    assert np.isnan(result.arrays["bar_responses"].data[:, :, 2]).all(), "400 px / s is too fast for 3 px"
    with pytest.raises(ValueError, match="no bar can be shown"):
        run(MovingBarTuning(**BARS | {"speeds": [400.0]}), spot_cells())
    with pytest.raises(ValueError, match="one image per bin"):
        run(MovingBarTuning(**BARS), spot_cells(1))


def test_noise_gives_the_filters_of_linear_cells_and_nothing_of_on_off_cells() -> None:
    experiment = NoiseTuning(**NOISE)
    result = run(experiment, spot_cells())
    table = result.table
    assert table["temporal_polarity"].tolist()[:3] == [1, 1, -1]
    assert table["spatial_polarity"].tolist()[:3] == [1, 1, -1]
    np.testing.assert_allclose(table["latency_s"][:3], 2 / RATE, atol=0.2 / RATE)
    # half of a rectified Gaussian drive's variance is linear: 1/4 over (1/2 - 1/2pi)
    np.testing.assert_allclose(table["temporal_linear_r2"][:3], 0.25 / (0.5 - 0.5 / np.pi), atol=0.06)
    assert table["temporal_linear_r2"][3] < 0.05
    assert table["spatial_linear_r2"][3] < 0.05
    found = result.arrays["temporal_filter"].data[0, 0]
    # rectification halves a linear filter; a contrast of 1 is `contrast_std` of the model's units
    truth = spot_filter(2.0, 0.0).sum(axis=(1, 2)) / 2 * population(spot_cells()).contrast_std
    np.testing.assert_allclose(found, truth, atol=0.08 * truth.max())
    place = table[["peak_y_px", "peak_x_px"]].to_numpy()
    assert np.abs(place[0] - [10, 12]).max() <= 3
    assert np.abs(place[4] - [6, 6]).max() <= 3
    assert not table["responds"][5]
    assert set(experiment.draw({"a": result})) == {"spatial_maps", "temporal_filters", "summary"}


def test_noise_of_image_models_is_spatial() -> None:
    result = run(NoiseTuning(**NOISE), spot_cells(1))
    assert "temporal_filter" not in result.arrays
    assert result.table["spatial_polarity"].tolist()[:3] == [1, 1, -1]


def test_channel_contrasts_find_preference_and_opponency() -> None:
    filters = np.stack([pair(spot_filter(2.0, 0.0))] * 4)
    weights = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, -1.0], [0.5, 1.0]])
    model = FilterCells(filters, [False] * 4, channel_weights=weights)
    experiment = ChannelContrastTuning(contrasts=[-1.0, -0.5, 0.0, 0.5, 1.0], duration_s=0.4, **COMMON)
    result = run(experiment, model)
    table = result.table
    np.testing.assert_allclose(table["channel_preference"], [1, 0, 0, -1 / 3], atol=0.01)
    np.testing.assert_allclose(table["opponency"], [0, -1, 1, -0.8], atol=0.06)
    angle = np.rad2deg(np.arctan2(weights[:, 1], weights[:, 0])) % 360
    assert (circular_distance(table["gradient_angle_deg"].to_numpy(), angle, 360.0) < 3).all()
    with pytest.raises(ValueError, match="two channels need a model of two channels, this one has 1"):
        run(experiment, spot_cells())
    with pytest.raises(ValueError, match="need 0"):
        ChannelContrastTuning(contrasts=[-1.0, 1.0], duration_s=0.4, **COMMON)
    assert set(experiment.draw({"a": result})) == {"channel_responses", "summary"}


def test_drawings_of_all_experiments_are_legible() -> None:
    for experiment in (SizeTuning(**SIZE), FLASHES, CHIRP):
        for drawing in experiment.draw({"a": run(experiment, spot_cells())}).values():
            drawing.figure.canvas.draw()
            texts = drawing.figure.findobj(match=lambda item: hasattr(item, "get_fontsize"))
            assert min(text.get_fontsize() for text in texts) >= 5.5
            assert "model neurons" in drawing.caption
