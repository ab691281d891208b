from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from coread.data_io.sta import StaError, compute_sta
from coread.recording import Recording, Stimulus, read_recording, write_recording


def make_recording(mirror: str = "none") -> Recording:
    rng = np.random.default_rng(3)
    noise = Stimulus(rng.integers(0, 256, (400, 1, 6, 5)).astype(np.uint8), 60.0, scale=0.5, offset=-64.0)
    photo = Stimulus(rng.integers(0, 256, (30, 1, 6, 5)).astype(np.uint8), 60.0, scale=0.5, offset=-64.0, blank_value=5)
    trials = pd.DataFrame(
        {
            "stimulus": ["noise", "photo", "noise"],
            "tier": "train",
            "repeat": [0, 0, 1],
            "time_order": [0, 1, 2],
            "withheld": False,
        }
    )
    frame = np.concatenate([np.arange(400), [-1, -1], rng.permutation(30), np.arange(100, 300)]).astype(np.int32)
    trial = np.repeat([0, 1, 2], [400, 32, 200]).astype(np.int32)
    responses = rng.poisson(1.5, (len(frame), 4)).astype(np.float32)
    return Recording(
        dataset="toy",
        session="a",
        stimuli={"noise": noise, "photo": photo},
        trials=trials,
        trial=trial,
        frame=frame,
        responses=responses,
        valid=rng.random(len(frame)) > 0.1,
        rate_hz=60.0,
        unit="spike count",
        neurons=pd.DataFrame({"unit_id": range(4)}),
        mirror=mirror,
    )


def direct_sta(recording: Recording, bins: np.ndarray, lag: int) -> np.ndarray:
    """Average over spikes minus average over bins, one bin at a time."""
    windows, responses = [], []
    for bin_index in np.flatnonzero(bins & recording.valid & (recording.bin_in_trial() >= lag)):
        stimulus = recording.stimuli[recording.trials["stimulus"].iloc[recording.trial[bin_index]]]
        shown = recording.frame[bin_index - np.arange(lag + 1)]
        window = stimulus.frames[shown].astype(float) * stimulus.scale + stimulus.offset
        window[shown == -1] = stimulus.blank_value
        windows.append(window)
        responses.append(recording.responses[bin_index])
    window, response = np.array(windows), np.array(responses, float)
    spike_average = np.tensordot(response.T, window, axes=1) / response.sum(axis=0)[:, None, None, None, None]
    return spike_average - window.mean(axis=0)


def test_sta_equals_the_average_over_spikes_minus_the_average_over_bins(monkeypatch: pytest.MonkeyPatch) -> None:
    recording = make_recording()
    bins = np.random.default_rng(0).random(recording.n_bins) > 0.3
    expected = direct_sta(recording, bins, lag=5)
    np.testing.assert_allclose(compute_sta(recording, bins, lag=5), expected, atol=1e-3)
    monkeypatch.setattr("coread.data_io.sta.CHUNK_VALUES", 640)  # several chunks of bins and blocks of lags
    np.testing.assert_allclose(compute_sta(recording, bins, lag=5), expected, atol=1e-3)


def test_sta_of_lazily_read_frames_and_responses_is_the_same(tmp_path: Path) -> None:
    recording = make_recording()
    write_recording(recording, tmp_path / "a.h5")
    lazy = read_recording(tmp_path / "a.h5", load_frames=False, load_responses=False)
    bins = np.arange(recording.n_bins) % 7 != 0
    np.testing.assert_array_equal(compute_sta(lazy, bins, lag=3), compute_sta(recording, bins, lag=3))


def test_sta_finds_a_linear_filter_in_the_eyes_own_coordinates() -> None:
    rng = np.random.default_rng(1)
    recording = make_recording(mirror="width")
    seen = np.concatenate([np.zeros((2, 6, 5)), recording.stimuli["noise"].frames[:, 0].astype(float)])[..., ::-1]
    drive = seen[:-2, 2, 1][:400] - 127.5
    responses = np.zeros((recording.n_bins, 4), np.float32)
    responses[:400, 0] = rng.poisson(np.maximum(drive / 30, 0))
    sta = compute_sta(replace(recording, responses=responses), recording.trial == 0, lag=4)
    assert np.unravel_index(sta[0].argmax(), sta[0].shape) == (2, 0, 2, 1)
    assert (sta[1:] == 0).all(), "silent neurons have an empty average, not NaN"


def test_no_bin_to_average_over_is_an_error_that_names_the_session() -> None:
    recording = make_recording()
    with pytest.raises(StaError, match="session 'a': no bin"):
        compute_sta(recording, recording.bin_in_trial() < 2, lag=2)
