"""The history filter bank: the published numbers, any pattern of availability, exact after thousands of trials."""

import json
from collections import deque
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coread.data_io.regressors.history import AvailableBins, cumulative_sum, mean_of_last


def history_in_time(responses: np.ndarray, available: np.ndarray, lags: list[int]) -> np.ndarray:
    known = AvailableBins.find(available, np.arange(len(available)))
    total = cumulative_sum(responses[known.bins].astype(np.float32))
    return mean_of_last(total, torch.from_numpy(known.before), lags).numpy()


def test_published_history(reference_data: Path):
    with np.load(reference_data / "parity" / "history.npz", allow_pickle=False) as case:
        lags = json.loads(str(case["kwargs"]))["lags"]
        actual = history_in_time(case["activity"], case["tier"] < 2, lags)
        np.testing.assert_allclose(actual, case["history"], rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(
    available=st.lists(st.booleans(), min_size=1, max_size=60),
    lags=st.lists(st.integers(1, 70), min_size=1, max_size=4),
    seed=st.integers(0, 100),
)
def test_history_is_a_queue_of_available_responses(available: list[bool], lags: list[int], seed: int):
    rng = np.random.default_rng(seed)
    n_bins, n_neurons = len(available), 3
    in_time = rng.permutation(n_bins)  # the file's order is not that of time
    responses = rng.gamma(1.0, 2.0, (n_bins, n_neurons)).astype(np.float32)
    known = AvailableBins.find(np.array(available), in_time)
    actual = mean_of_last(cumulative_sum(responses[known.bins]), torch.from_numpy(known.before), lags).numpy()
    for place, lag in enumerate(lags):
        queue = deque([np.zeros(n_neurons)] * lag, maxlen=lag)
        for row in in_time:
            np.testing.assert_allclose(actual[row, :, place], np.sum(queue, axis=0) / lag, rtol=1e-6, atol=1e-9)
            if available[row]:
                queue.append(responses[row].astype(np.float64))


def test_a_single_response_survives_the_sum_of_thousands():
    responses = np.random.default_rng(0).gamma(0.2, 20.0, (6000, 3)).astype(np.float32)
    history = history_in_time(responses, np.ones(6000, bool), [1])
    np.testing.assert_allclose(history[1:, :, 0], responses[:-1], rtol=1e-6, atol=1e-10)


def test_nothing_is_known_before_the_first_response():
    available = np.array([False, False, True, True])
    history = history_in_time(np.full((4, 2), 3.0), available, [1, 2])
    np.testing.assert_array_equal(history[:, 0], [[0, 0], [0, 0], [0, 0], [3.0, 1.5]])


def test_gathered_batch_has_the_shape_of_its_bins():
    total = cumulative_sum(np.ones((5, 4), np.float32))
    assert mean_of_last(total, torch.tensor([[0], [5], [3]]), [1, 2]).shape == (3, 1, 4, 2)
    assert mean_of_last(total, torch.tensor([[0], [5], [3]]), [1, 2]).dtype == torch.float32
