"""The network state: the published map in closed form, a planted latent recovered, each row solved on its own."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch

from coread.data_io.regressors.network_state import (
    StateMap,
    check_state_settings,
    consecutive_pairs,
    fit_state,
    principal_axes,
    reduced_rank_regression,
)
from coread.data_io.regressors.nonnegative import RectifiedMap, factorise, non_negative_weights
from coread.data_io.regressors.trial_order import RegressorError
from coread.recording import Recording
from tests.data_io.regressors.sessions import SETTINGS, fabricate_session, labels_of, with_responses


def state_settings(**changes: Any) -> dict[str, Any]:
    return SETTINGS["state"] | changes


def ones(recording: Recording) -> np.ndarray:
    return np.ones(recording.n_neurons, np.float32)


def test_published_reduced_rank_map(reference_data: Path):
    with np.load(reference_data / "parity" / "reduced_rank.npz", allow_pickle=False) as case:
        left, right = reduced_rank_regression(case["x"], case["y"], json.loads(str(case["kwargs"]))["rank"])
        np.testing.assert_allclose(left @ right, case["map"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 4, 9, 30])
def test_closed_form_is_where_alternating_least_squares_ends(rank: int):
    rng = np.random.default_rng(rank)
    x = rng.normal(size=(120, 9))
    z = x @ rng.normal(size=(9, 7)) * 1.6 ** np.arange(7) + rng.normal(size=(120, 7))
    left, right = reduced_rank_regression(x, z, rank)
    v = rng.normal(size=(min(rank, 7), 9))
    inverse = np.linalg.pinv(x.T)
    for _ in range(400):
        w = z.T @ np.linalg.pinv(v @ x.T)
        v = np.linalg.pinv(w) @ z.T @ inverse
    np.testing.assert_allclose(left @ right, w @ v, rtol=1e-4, atol=1e-5)


def test_directions_that_do_not_vary_get_no_weight():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 4))
    x[:, 3] = 0
    left, right = reduced_rank_regression(x, rng.normal(size=(50, 4)), 2)
    np.testing.assert_allclose((left @ right)[:, 3], 0, atol=1e-12)


def test_randomised_axes_are_the_exact_ones_and_seeded():
    rng = np.random.default_rng(0)
    basis = scipy.linalg.orth(rng.normal(size=(700, 5)))
    centred = (rng.normal(size=(520, 5)) * [50, 40, 30, 20, 10]) @ basis.T + 0.01 * rng.normal(size=(520, 700))
    centred = centred.astype(np.float32)
    state = torch.get_rng_state()
    axes = principal_axes(centred, 5, seed=3)
    assert torch.equal(state, torch.get_rng_state())
    np.testing.assert_array_equal(axes, principal_axes(centred, 5, seed=3))
    exact = scipy.linalg.svd(centred, full_matrices=False)[2][:5].T
    np.testing.assert_allclose(np.abs(np.sum(axes * exact, axis=0)), 1, atol=1e-4)


def test_more_components_than_the_data_have_are_no_constraint():
    recording = fabricate_session(n_trials=40, n_neurons=5)
    few = fit_state(recording, labels_of(recording), ones(recording), state_settings(components=5, rank=5))
    many = fit_state(recording, labels_of(recording), ones(recording), state_settings(components=500, rank=20))
    np.testing.assert_allclose(few.encode @ few.decode, many.encode @ many.decode, rtol=1e-4, atol=1e-6)


# --------------------------------------------------------------------------------------------------------------- pairs


def test_pairs_are_neighbours_in_time_with_both_ends_in_training():
    recording = fabricate_session()
    rank = recording.trials["time_order"].to_numpy()
    tier = recording.trials["tier"].to_numpy()
    now, following = consecutive_pairs(recording, labels_of(recording), "train", "both_ends")
    np.testing.assert_array_equal(rank[following], rank[now] + 1)
    assert set(tier[now]) == set(tier[following]) == {"train"}
    by_rank = tier[np.argsort(rank)]
    assert len(now) == np.sum((by_rank[:-1] == "train") & (by_rank[1:] == "train"))


def test_published_pairs_look_at_their_first_end_only():
    recording = fabricate_session()
    tier = recording.trials["tier"].to_numpy()
    now, following = consecutive_pairs(recording, labels_of(recording), "train_and_validation", "first_end")
    assert set(tier[now]) == {"train", "validation"}
    assert set(tier[following]) == {"train", "validation", "test", "final_test"}


def test_published_pairs_let_test_responses_in_and_take_withheld_ones_for_zeros():
    recording = fabricate_session()
    labels, scale = labels_of(recording), ones(recording)
    tier = recording.trials["tier"].to_numpy()
    altered = with_responses(recording, tier == "test")
    zeros = replace(recording, responses=np.nan_to_num(recording.responses))
    published = state_settings(pairs="first_end")
    fitted = fit_state(recording, labels, scale, published)
    assert not np.array_equal(fitted.decode, fit_state(altered, labels, scale, published).decode)
    np.testing.assert_array_equal(fitted.decode, fit_state(zeros, labels, scale, published).decode)
    fixed = fit_state(recording, labels, scale, state_settings())
    np.testing.assert_array_equal(fixed.decode, fit_state(altered, labels, scale, state_settings()).decode)


def test_too_few_pairs_are_refused():
    recording = fabricate_session(n_trials=4)
    tiers = recording.trials.assign(tier="test")
    with pytest.raises(RegressorError, match=r"session 'session_0': the network state needs pairs .*found 0"):
        fit_state(recording, labels_of(replace(recording, trials=tiers)), ones(recording), state_settings())


# ------------------------------------------------------------------------------------------------------- factorisation


@pytest.fixture
def rectified() -> tuple[RectifiedMap, np.ndarray]:
    rng = np.random.default_rng(0)
    latent, decode, mean = rng.normal(size=(600, 3)), rng.normal(size=(3, 40)), rng.gamma(4.0, 0.5, 40)
    return RectifiedMap.of(latent, decode, mean), np.maximum(mean + latent @ decode, 0)


def test_rectified_map_multiplies_as_the_matrix_that_it_is_not(rectified: tuple[RectifiedMap, np.ndarray]):
    matrix, dense = rectified
    assert 0.05 < (dense == 0).mean() < 0.5  # the sparse part is put to work
    rng = np.random.default_rng(1)
    right, left = rng.normal(size=(40, 4)), rng.normal(size=(600, 4))
    np.testing.assert_allclose(matrix.times(right), dense @ right, atol=1e-9)
    np.testing.assert_allclose(matrix.transposed_times(left), dense.T @ left, atol=1e-9)
    assert matrix.mean() == pytest.approx(dense.mean())


def test_factors_are_optimal_and_non_negative(rectified: tuple[RectifiedMap, np.ndarray]):
    matrix, dense = rectified
    factors = factorise(matrix, 4, seed=674, max_iterations=5000)
    weights = non_negative_weights(factors @ factors.T, dense @ factors.T)
    gradient = weights.T @ (weights @ factors - dense)  # of half the squared error, in the factors
    scale = np.abs(weights.T @ dense).max()
    assert factors.min() >= 0
    assert gradient.min() > -1e-2 * scale
    assert np.abs(gradient[factors > 0]).max() < 1e-2 * scale
    unfitted = np.abs(np.random.default_rng(0).normal(size=factors.shape))
    start = non_negative_weights(unfitted @ unfitted.T, dense @ unfitted.T)
    assert np.square(dense - weights @ factors).sum() < 0.5 * np.square(dense - start @ unfitted).sum()
    np.testing.assert_array_equal(factors, factorise(matrix, 4, seed=674, max_iterations=5000))


def test_weights_solve_the_least_squares_problem():
    rng = np.random.default_rng(0)
    factors, truth = rng.gamma(1.0, 1.0, (5, 30)), rng.gamma(1.0, 1.0, (20, 5))
    truth[truth < 0.5] = 0
    np.testing.assert_allclose(non_negative_weights(factors @ factors.T, truth @ factors @ factors.T), truth, atol=1e-8)
    duplicated = np.vstack([factors, factors[:1]])
    weights = non_negative_weights(duplicated @ duplicated.T, truth @ factors @ duplicated.T)
    np.testing.assert_allclose(weights @ duplicated, truth @ factors, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------- the states


def planted(n_trials: int = 1500, n_neurons: int = 60) -> tuple[Recording, np.ndarray, np.ndarray]:
    """A slow latent of two dimensions that moves the square roots of all responses: session, latent, loadings."""
    rng = np.random.default_rng(5)
    latent = np.zeros((n_trials, 2))
    for trial in range(1, n_trials):
        latent[trial] = [0.97, 0.9] * latent[trial - 1] + rng.normal(0, [0.25, 0.45], 2)
    loadings = rng.normal(0, 0.3, (2, n_neurons))
    root = np.maximum(2.5 + latent @ loadings + rng.normal(0, 0.5, (n_trials, n_neurons)), 0)
    recording = fabricate_session(n_trials, n_neurons)
    rank = recording.trials["time_order"].to_numpy()
    return replace(recording, responses=np.square(root[rank]).astype(np.float32)), latent[rank], loadings


def test_planted_latent_is_recovered():
    recording, latent, loadings = planted()
    settings = state_settings(rank=2, components=20, factors=4, max_iterations=300)
    fitted = fit_state(recording, labels_of(recording), ones(recording), settings)
    assert np.cos(scipy.linalg.subspace_angles(fitted.decode.T, loadings.T)).min() > 0.97
    state = fitted.after_each(recording.responses)[1:]  # after each trial: what it says of the next
    explained = np.column_stack([state, np.ones(len(state))])
    residual = latent - explained @ np.linalg.lstsq(explained, latent)[0]
    assert (1 - residual.var(axis=0) / latent.var(axis=0)).min() > 0.7
    assert state.min() >= 0


def test_leaving_the_square_root_out_at_application_gives_other_states():
    recording, _, _ = planted(n_trials=300, n_neurons=20)
    fitted = fit_state(recording, labels_of(recording), ones(recording), state_settings())
    published = fit_state(recording, labels_of(recording), ones(recording), state_settings(transform="fit_only"))
    np.testing.assert_array_equal(fitted.factors, published.factors)
    responses = recording.responses[:10]
    root = np.sqrt(responses + 1e-6, dtype=np.float32)
    np.testing.assert_allclose(published.after_each(root)[1:], fitted.after_each(responses)[1:], rtol=1e-4, atol=1e-5)
    assert not np.allclose(published.after_each(responses), fitted.after_each(responses), rtol=0.05)


def test_a_state_depends_on_its_own_response_only():
    recording = fabricate_session(n_trials=120)
    recording = replace(recording, responses=np.nan_to_num(recording.responses))
    fitted = fit_state(recording, labels_of(recording), ones(recording), state_settings())
    altered = with_responses(recording, np.arange(50, 120)).responses
    before, after = fitted.after_each(recording.responses), fitted.after_each(altered)
    np.testing.assert_array_equal(before[:51], after[:51])
    assert (before[51:] != after[51:]).any(axis=1).all()


def test_the_first_state_is_that_of_no_response():
    recording = fabricate_session()
    fitted = fit_state(recording, labels_of(recording), ones(recording), state_settings())
    zeros = np.zeros((1, recording.n_neurons), np.float32)
    first, after_zeros = fitted.after_each(zeros)
    np.testing.assert_array_equal(first, after_zeros)


def test_plain_form_is_exact():
    recording = fabricate_session()
    fitted = fit_state(recording, labels_of(recording), ones(recording), state_settings())
    again = StateMap.from_plain(fitted.to_plain())
    np.testing.assert_array_equal(
        again.after_each(np.nan_to_num(recording.responses)), fitted.after_each(np.nan_to_num(recording.responses))
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": "none"}, "regressors.state.pairs must be one of"),
        ({"transform": "sqrt"}, "regressors.state.transform must be one of"),
        ({"fit_on": "test"}, "regressors.state.fit_on must be one of"),
        ({"rank": 0}, "regressors.state.rank must be a whole number"),
        ({"factors": 2.5}, "regressors.state.factors must be a whole number"),
    ],
)
def test_impossible_settings_are_named(change: dict[str, Any], message: str):
    with pytest.raises(RegressorError, match=message):
        check_state_settings(state_settings(**change))
