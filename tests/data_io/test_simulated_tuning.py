"""The recording of cells of known tuning."""

import copy
from typing import Any

import numpy as np
import pytest

from coread.config import compose_data_io
from coread.data_io.simulate.presentations import Presentation, lay_out
from coread.data_io.sources import build_recording
from coread.recording import Recording, read_recording, write_recording

SMALL = {
    "trial_s": 4.0,
    "noise_trials": 3,
    "grating_trials": 2,
    "movie_trials": 2,
    "test_noise_s": 2.0,
    "test_gratings_s": 0.0,
    "test_movie_s": 2.0,
    "repeats": 3,
}


def small_config() -> dict[str, Any]:
    config = copy.deepcopy(compose_data_io("simulated_tuning")) | {"presentations": SMALL}
    config["movie"] |= {"train_photographs": ["chelsea"], "test_photographs": ["rocket"], "photograph_px": 64}
    return config


@pytest.fixture(scope="module")
def recording() -> Recording:
    return build_recording(small_config(), "tuning_0")


def test_it_shows_three_stimuli_in_two_channels(recording: Recording) -> None:
    assert set(recording.stimuli) == {"noise", "gratings", "movie", "test_noise", "test_movie"}
    assert recording.stimuli["noise"].frames.shape == (360, 2, 16, 18)
    for name, stimulus in recording.stimuli.items():
        frames = np.asarray(stimulus.frames, float)
        difference = np.abs(frames[:, 0] - frames[:, 1]).mean()
        assert difference > 2, f"the channels of {name} differ"
        assert frames.std() > 10
    colours = np.asarray(recording.stimuli["movie"].frames, float)
    assert np.corrcoef(colours[:, 0].ravel(), colours[:, 1].ravel())[0, 1] > 0.5, "one gaze in both channels"


def test_spikes_follow_the_expected_counts_and_the_truth_survives_the_file(recording: Recording, tmp_path: Any) -> None:
    rate = recording.session_info["truth_rate"]
    assert rate.shape == recording.responses.shape
    deviation = (recording.responses - rate).sum(axis=0) / np.sqrt(rate.sum(axis=0))
    assert (np.abs(deviation) < 4).all()
    write_recording(recording, tmp_path / "tuning_0.h5")
    back = read_recording(tmp_path / "tuning_0.h5")
    np.testing.assert_array_equal(back.session_info["truth_filter"], recording.session_info["truth_filter"])
    assert (
        np.isnan(back.session_info["truth_dsi"]).sum()
        == (back.neurons["cell_type"].isin(["on_center", "off_center", "surround", "on_off", "color_opponent"])).sum()
    )


def test_repeats_see_the_same_frames(recording: Recording) -> None:
    shown = recording.bin_column("stimulus") == "test_noise"
    frames = recording.frame[shown].reshape(3, 60)
    assert (frames == np.arange(60)).all()
    rate = recording.session_info["truth_rate"][shown].reshape(3, 60, -1)
    np.testing.assert_array_equal(rate[0], rate[2])


def test_it_is_the_same_again_and_other_sessions_have_other_spikes(recording: Recording) -> None:
    config = small_config() | {"sessions": ["tuning_0", "tuning_1"]}
    stimuli = recording.stimuli
    np.testing.assert_array_equal(build_recording(config, "tuning_0", None, stimuli).responses, recording.responses)
    other = build_recording(config, "tuning_1", None, stimuli)
    assert (other.responses != recording.responses).any()
    with pytest.raises(ValueError, match="'tuning_2' is not one of"):
        build_recording(config, "tuning_2", None, stimuli)


def test_presentations_are_spread_over_the_session() -> None:
    trials, trial, frame = lay_out(
        [Presentation("a", "train", 4, 10, repeats=1), Presentation("b", "test", 2, 5, repeats=2)]
    )
    assert len(trials) == 8
    assert trials["time_order"].tolist() == list(range(8))
    assert len(trial) == len(frame) == 60
    first_b = trials.index[trials["stimulus"] == "b"]
    assert trials["repeat"][first_b].tolist() == [0, 1, 0, 1]
    assert [int(frame[trial == row][0]) for row in first_b] == [0, 0, 5, 5]
    assert np.diff(first_b).max() <= 3
