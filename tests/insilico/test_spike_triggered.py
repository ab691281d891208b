"""White noise analyses on models whose answers are known."""

from typing import Any

import numpy as np
import pytest
import torch

from coread.config import analysis_settings
from coread.insilico.experiment import join_results
from coread.insilico.noise_sta import (
    FRESH,
    NoiseStream,
    relative_weights,
    sensitivity_maps,
    spike_triggered_averages,
    sta_strength,
)
from coread.insilico.population import Population
from coread.insilico.spike_triggered import SpikeTriggered, relevant_subspace
from coread.insilico.stc import (
    Windows,
    covariance_axes,
    gradient_starts,
    held_out_changes,
    principal_angles,
    windows_around,
)
from coread.models.known_cells import known_cells_model

SESSION = "tuning_0"
STREAM = NoiseStream(n_bins=256, contrast=0.35, seed=1)
CELLS = ("complex_0", "direction_0", "on_off", "simple_0")


@pytest.fixture(scope="module")
def population() -> Population:
    return Population([known_cells_model()], SESSION)


def chosen(population: Population, *names: str) -> np.ndarray:
    return population.neurons.set_index("unit_id").loc[list(names), "neuron"].to_numpy(int)


def experiment(**changes: Any) -> SpikeTriggered:
    settings = {name: value for name, value in analysis_settings("spike_triggered").items() if name != "_target_"}
    smaller = {"n_bins": 256, "n_pieces": 12, "n_test_pieces": 8, "n_passes": 2, "n_axes": 2, "window_px": 7}
    return SpikeTriggered(**settings | smaller | changes)


def test_noise_is_the_same_again_and_has_its_contrast(population: Population) -> None:
    piece = STREAM.piece(population, 3)
    assert piece.shape == (2, 8 + 256, 16, 18)
    assert torch.equal(piece, STREAM.piece(population, 3))
    assert not torch.equal(piece, STREAM.piece(population, 4))
    assert not torch.equal(piece, NoiseStream(256, 0.35, 2).piece(population, 3))
    assert float(piece.std()) == pytest.approx(0.35, rel=0.02)
    assert float(piece.abs().max()) <= 1


def test_averages_are_those_of_the_whole_noise_at_once(population: Population) -> None:
    neurons = chosen(population, "simple_0", "on_center")
    responses = STREAM.responses(population, neurons, range(4))
    assert responses.shape == (2, 4, 256)
    halves = spike_triggered_averages(STREAM, population, relative_weights(responses))
    expected = torch.zeros_like(halves)
    weights = relative_weights(responses)
    for number in range(4):
        stimulus = STREAM.piece(population, number)
        for lag in range(9):
            shown = stimulus[:, 8 - lag : 8 - lag + 256]
            expected[number % 2, :, lag] += torch.einsum("ub,cbyx->ucyx", weights[:, number], shown) / 512
    torch.testing.assert_close(halves, expected, atol=1e-5, rtol=1e-4)


def test_a_silent_cell_has_no_weights() -> None:
    weights = relative_weights(torch.tensor([[[0.0, 0.0]], [[1.0, 3.0]]]))
    assert weights.tolist() == [[[0.0, 0.0]], [[-0.5, 0.5]]]


def test_strength_is_the_shift_in_deviations_and_unbiased() -> None:
    rng = np.random.default_rng(0)
    true = np.zeros((200, 500))
    true[:, 0] = 0.4
    halves = torch.as_tensor(true[None] + 0.02 * rng.standard_normal((2, 200, 500)))[..., None, None, None]
    strength = sta_strength(halves, contrast=0.5)
    assert float(strength.square().mean().sqrt()) == pytest.approx(0.8, rel=0.05)
    flat = sta_strength(torch.as_tensor(0.02 * rng.standard_normal((2, 200, 500)))[..., None, None, None], 0.5)
    assert abs(float(flat.mean())) < 0.1


def test_axes_are_the_eigenvectors_of_the_covariance(population: Population) -> None:
    neurons = chosen(population, "complex_0", "direction_0")
    stream = NoiseStream(n_bins=512, contrast=0.35, seed=3)
    weights = relative_weights(stream.responses(population, neurons, range(6)))
    windows = windows_around(sensitivity_maps(stream, population, neurons, 4), 4)
    removed = torch.zeros(2, 9, 2 * 16)
    start = torch.randn(2, 3, 9, 2 * 16, generator=torch.Generator().manual_seed(0))
    axes = covariance_axes(stream, population, weights, windows, removed, start, n_passes=60)
    rows = []
    for number in range(6):
        seen = windows.cut(stream.piece(population, number)) / stream.contrast
        rows.append(torch.stack([seen[..., 8 - lag : 8 - lag + 512] for lag in range(9)], dim=1))
    covariance = torch.zeros(2, 9, 32, 9, 32, dtype=torch.float64)
    for number, one in enumerate(rows):  # unit, lag, place, bin
        weighted = weights[:, number, None, None] * one
        covariance += torch.einsum("ulpb,umqb->ulpmq", weighted.double(), one.double())
    matrix = (covariance / (6 * 512)).reshape(2, 9 * 32, 9 * 32)
    values, vectors = torch.linalg.eigh(matrix)
    order = values.abs().argsort(dim=1, descending=True)[:, :3]
    torch.testing.assert_close(axes.eigenvalue.double(), values.gather(1, order), rtol=2e-2, atol=2e-3)
    first = vectors.gather(2, order[:, None].expand(-1, 9 * 32, -1))[..., 0]
    cosine = (first * axes.direction[:, 0].flatten(1).double()).sum(dim=1).abs()
    assert (cosine > 0.98).all()


def test_what_is_removed_is_not_found(population: Population) -> None:
    neurons = chosen(population, "complex_0")
    weights = relative_weights(STREAM.responses(population, neurons, range(4)))
    windows = windows_around(sensitivity_maps(STREAM, population, neurons, 4), 5)
    removed = torch.randn(1, 9, 50, generator=torch.Generator().manual_seed(0))
    removed /= removed.norm()
    start = gradient_starts(STREAM, population, neurons, windows, n_axes=2)
    axes = covariance_axes(STREAM, population, weights, windows, removed, start, n_passes=3)
    along = (axes.direction * removed[:, None]).sum(dim=(2, 3))
    assert float(along.abs().max()) < 1e-4
    flat = axes.direction.flatten(2)
    torch.testing.assert_close(flat @ flat.mT, torch.eye(2)[None], atol=1e-4, rtol=0)


def test_random_directions_are_hardly_ever_significant(population: Population) -> None:
    neurons = chosen(population, "complex_0", "simple_0", "on_off")
    fresh = relative_weights(STREAM.responses(population, neurons, range(FRESH, FRESH + 8)))
    windows = Windows(torch.tensor([[0, 0]] * 3), (4, 4))  # a corner where no cell looks
    directions = torch.randn(3, 60, 9, 32, generator=torch.Generator().manual_seed(5))
    directions /= directions.flatten(2).norm(dim=2)[..., None, None]
    found = held_out_changes(STREAM, population, fresh, windows, directions)
    for p in (found.p_mean, found.p_variance):
        assert float((p < 0.05).float().mean()) < 0.12
        assert float(p.mean()) == pytest.approx(0.5, abs=0.1)


def test_windows_lie_around_the_place_and_inside_the_frame() -> None:
    maps = torch.zeros(3, 16, 18)
    maps[0, 8, 9] = maps[1, 0, 17] = 1.0
    windows = windows_around(maps, 5)
    assert windows.origin.tolist() == [[6, 7], [0, 13], [0, 0]]
    assert windows_around(maps, 40).side == (16, 18)
    pixels = windows.pixels(18)
    assert pixels[0, 0] == 6 * 18 + 7
    assert pixels.shape == (3, 25)
    filters = torch.arange(16 * 18.0).reshape(1, 1, 1, 16, 18).expand(3, 2, 1, -1, -1)
    assert torch.equal(windows.cut_filters(filters)[:, 0], pixels.float())


def test_principal_angles_by_hand() -> None:
    x, y, z = np.eye(3)
    tilted = np.cos(np.deg2rad(30)) * y + np.sin(np.deg2rad(30)) * z
    first, second = np.array([[x, y]] * 2), np.array([[x, tilted], [2 * z, 0 * x]])
    angles = principal_angles(first, second)
    np.testing.assert_allclose(angles[0], [0, 30], atol=1e-6)
    np.testing.assert_allclose(angles[1], [90, np.nan], atol=1e-6)


def test_shards_are_the_same_as_all_neurons_together(population: Population) -> None:
    neurons = chosen(population, *CELLS)
    together = experiment().run(population, np.sort(neurons))
    parts = join_results(
        [experiment().run(population, share) for share in (np.sort(neurons)[:2], np.sort(neurons)[2:])]
    )
    assert list(together.table.columns) == list(parts.table.columns)
    np.testing.assert_allclose(together.arrays["sta"].data, parts.arrays["sta"].data, atol=1e-5)
    np.testing.assert_allclose(
        np.abs(together.arrays["stc_eigenvalue"].data), np.abs(parts.arrays["stc_eigenvalue"].data), atol=1e-3
    )


def test_memory_bounds_the_neurons_at_once(population: Population, monkeypatch: pytest.MonkeyPatch) -> None:
    neurons = np.sort(chosen(population, *CELLS))
    together = experiment().run(population, neurons)
    monkeypatch.setattr("coread.insilico.spike_triggered.SEEN_VALUES", 2 * 2 * 7 * 7 * (256 + 8))
    in_pairs = experiment().run(population, neurons)
    assert in_pairs.table["neuron"].tolist() == neurons.tolist()
    np.testing.assert_allclose(in_pairs.arrays["sta"].data, together.arrays["sta"].data, atol=1e-5)
    np.testing.assert_allclose(in_pairs.table["sta_strength"], together.table["sta_strength"], atol=1e-4)


def test_members_that_agree_have_no_spread_and_others_have(population: Population) -> None:
    other = known_cells_model()
    with torch.no_grad():
        readout: Any = other.readout[SESSION]
        readout.filters.copy_(readout.filters.roll(3, dims=-1))
    neurons = chosen(population, *CELLS)
    agreeing = experiment().run(Population([population.models[0], known_cells_model()], SESSION), neurons).table
    differing = experiment().run(Population([population.models[0], other], SESSION), neurons).table
    assert (agreeing["sta_strength_sd_members"] < 1e-5).all()
    simple = agreeing["unit_id"] == "simple_0"
    assert (agreeing.loc[simple, "sta_consistency"] > 0.999).all()
    assert (differing.loc[simple, "sta_consistency"] < 0.9).all()
    alone = experiment().run(population, neurons).table
    assert alone["sta_strength_sd_members"].isna().all()
    np.testing.assert_allclose(agreeing["sta_strength"], alone["sta_strength"], atol=1e-4)


def test_the_subspace_stands_in_whole_frames(population: Population) -> None:
    result = experiment().run(population, chosen(population, *CELLS))
    space = relevant_subspace(result)
    assert space.shape == (4, 3, 9, 2, 16, 18)
    origin = result.arrays["window_origin_px"].data
    significant = result.arrays["stc_significant"].data
    for neuron in range(4):
        for axis in range(2):
            frame = space[neuron, 1 + axis]
            if not significant[neuron, axis]:
                assert not frame.any()
                continue
            y, x = origin[neuron]
            np.testing.assert_array_equal(
                frame[..., y : y + 7, x : x + 7], result.arrays["stc_axes"].data[neuron, axis]
            )
            frame[..., y : y + 7, x : x + 7] = 0
            assert not frame.any()


def test_the_figure_says_how_many_neurons_it_shows(population: Population) -> None:
    result = experiment().run(population, chosen(population, *CELLS))
    drawn = experiment().draw({SESSION: result})["spike_triggered"]
    assert "of all 4 model neurons" in drawn.caption
    assert len(drawn.figure.axes) == 4 * 5
