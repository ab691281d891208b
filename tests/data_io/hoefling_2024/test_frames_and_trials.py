"""Hoefling et al. 2024: planted cells are found; trials are what was shown."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coread.data_io.conversion import containers_from_recordings
from coread.data_io.sources import build_recording, build_stimuli
from coread.data_io.splits import TRAIN, VALIDATION, label_bins
from coread.eval.repeats import align_repeats
from coread.recording import read_recording, write_recording, write_stimuli
from tests.data_io.hoefling_2024.short_clips import (
    BLOCKS,
    CLIP,
    CONFIG,
    N_CLIPS,
    NAME,
    PUBLISHED_VALIDATION,
    SHORT,
    lay_out,
    noise_field,
    short_movies,
)
from tests.published_data.hoefling_2024 import (
    SCAN_HZ,
    Field,
    make_movies,
    shown_to,
    write_fields,
    write_movies,
)
from tests.published_data.planted import copying_cell, found_at

# -------------------------------------------------------------------------------------------------------- planted cells


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_planted_cells_are_found_where_they_were_planted(data):
    channels, height, width = shape = data.draw(st.sampled_from([(2, 4, 7), (2, 7, 4), (2, 5, 5), (1, 3, 6)]))
    n_sequences = data.draw(st.sampled_from([None, 1, 3]))
    sequence = data.draw(st.integers(0, (n_sequences or 1) - 1))
    eye = data.draw(st.sampled_from(["left", "right"]))
    planted = [tuple(data.draw(st.integers(0, size - 1)) for size in (5, channels, height, width)) for _ in range(3)]
    movies = short_movies(data.draw(st.integers(0, 99)), shape, n_sequences)
    seen = shown_to(movies, eye, sequence, BLOCKS, CLIP)
    answers = np.stack([copying_cell(seen, pixel, lag) for lag, *pixel in planted], axis=1)
    one = Field(answers, eye, sequence, CLIP, times_as=data.draw(st.sampled_from(["traces_times", "t0_dt"])))
    if one.times_as == "t0_dt":  # even steps cannot follow the jitter of the triggers: sample finely
        one.scan_hz = 300.0
    with TemporaryDirectory() as folder:
        root = lay_out(Path(folder), {NAME: one}, movies)
        recording = build_recording(SHORT, NAME, root)
        assert found_at(recording, "train", 5) == planted
        assert found_at(recording, "test", 5) == planted
        # the same through the file format, with the movie linked
        write_stimuli(build_stimuli(SHORT, root), root / "stimuli.h5")
        write_recording(recording, root / "session.h5", root / "stimuli.h5")
        assert found_at(read_recording(root / "session.h5"), "train", 5) == planted


@pytest.mark.parametrize(("eye", "sequence"), [("right", 0), ("left", 19)])
def test_the_published_sizes_at_the_published_scan_rate(tmp_path, eye, sequence):
    planted = [(0, 0, 0, 0), (3, 1, 17, 2), (7, 0, 4, 15), (12, 1, 9, 8)]
    movies = make_movies(np.random.default_rng(0))
    seen = shown_to(movies, eye, sequence)
    answers = np.stack([copying_cell(seen, pixel, lag) for lag, *pixel in planted], axis=1)
    write_movies(tmp_path, movies)
    write_fields(tmp_path, {NAME: Field(answers, eye, sequence, scan_hz=SCAN_HZ)})
    recording = build_recording(CONFIG, NAME, tmp_path)
    tier = recording.bin_column("tier")
    assert recording.responses[tier == "train"].shape == (16200, 4)
    table = align_repeats(recording, tier == "test")["test"]
    assert table.shape == (750, 3)
    assert (table >= 0).all()
    assert recording.stimuli["train"].frames.shape == (16200, 2, 18, 16)
    assert recording.stimuli["test"].frames.shape == (750, 2, 18, 16)
    # interpolated between samples of 3.84 frames, a cell is blurred in time around its lag
    assert found_at(recording, "train", 14) == planted


def test_frames_come_back_bit_by_bit(folder):
    movies = short_movies()
    stimuli = build_stimuli(SHORT, folder)
    for name in ("train", "test"):
        frames = stimuli[name].frames * stimuli[name].scale + stimuli[name].offset
        np.testing.assert_array_equal(frames.astype(np.float32), movies[name].transpose(1, 0, 2, 3))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_movies_that_fit_no_smaller_type_stay_float32(tmp_path, dtype):
    movies = short_movies()
    movies["train"] = np.random.default_rng(3).normal(size=movies["train"].shape).astype(dtype)
    frames = build_stimuli(SHORT, lay_out(tmp_path, movies=movies))["train"].frames
    assert frames.dtype == np.float32
    np.testing.assert_array_equal(frames, movies["train"].transpose(1, 0, 2, 3).astype(np.float32))


# ---------------------------------------------------------------------------------------------------- trials and splits


def test_trials_are_the_uninterrupted_presentations_in_true_order(folder):
    recording = build_recording(SHORT, NAME, folder)
    assert recording.trials.to_dict("list") == {
        "stimulus": ["test", "train", "test", "train", "test"],
        "repeat": [0, 0, 1, 0, 2],
        "tier": ["test", "train", "test", "train", "test"],
        "time_order": [0, 1, 2, 3, 4],
        "withheld": [False] * 5,
    }
    assert np.bincount(recording.trial).tolist() == [40, 80, 40, 60, 40]
    order = short_movies()["random_sequences"][:, 0].astype(int)
    frames = (order[:, None] * CLIP + np.arange(CLIP)).reshape(-1)
    np.testing.assert_array_equal(recording.frame[recording.bin_column("tier") == "train"], frames)
    assert recording.frame.dtype == np.int32
    assert recording.rate_hz == 30.0
    assert recording.valid.all()


def test_a_pause_begins_a_new_trial(tmp_path):
    lay_out(tmp_path, {NAME: noise_field(pause_before={4: 2.0, 5: 0.2})})
    recording = build_recording(SHORT, NAME, tmp_path)
    assert recording.trials["stimulus"].tolist() == ["test", "train", "train", "test", "train", "test"]
    assert np.bincount(recording.trial).tolist() == [40, 40, 40, 40, 60, 40]
    assert build_recording(SHORT | {"longest_pause_s": 3.0}, NAME, tmp_path).trials.shape[0] == 5


def test_the_published_validation_clips_are_held_out_of_every_sequence(tmp_path):
    movies = make_movies(np.random.default_rng(0), shape=(1, 2, 2))
    n_frames = 123 * 150
    answers = np.random.default_rng(0).gamma(2.0, 1.0, (n_frames, 1))
    names = [f"session_{index}" for index in range(20)]
    write_movies(tmp_path, movies)
    write_fields(tmp_path, {name: Field(answers, sequence=index) for index, name in enumerate(names)})
    stimuli = build_stimuli(CONFIG, tmp_path)
    split = {"method": "clip_list", "clips": PUBLISHED_VALIDATION, "clip_length": 150}
    for index, name in enumerate(names):
        recording = build_recording(CONFIG, name, tmp_path, stimuli)
        shown_train = recording.bin_column("tier") == "train"
        labels = label_bins(recording, split, fold=0, lag=0)[shown_train]
        # as published: clip i of the base order lies where the sorted sequence says
        held_out = np.zeros(16200, bool)
        for place in np.argsort(movies["random_sequences"][:, index])[PUBLISHED_VALIDATION]:
            held_out[place * 150 : (place + 1) * 150] = True
        np.testing.assert_array_equal(labels == VALIDATION, held_out)
        np.testing.assert_array_equal(labels == TRAIN, ~held_out)
        # with a lag no training bin sees a held-out frame
        seen = label_bins(recording, split, fold=0, lag=30)[shown_train] == TRAIN
        within = np.convolve(held_out, np.ones(31))[:16200] > 0
        assert not (seen & within).any()


@pytest.mark.parametrize("n_sequences", [None, 1])
@pytest.mark.parametrize("sequence", [None, 0])
def test_data_with_one_sequence(tmp_path, n_sequences, sequence):
    movies = short_movies(n_sequences=n_sequences)
    lay_out(tmp_path, {NAME: noise_field(sequence=sequence)}, movies)
    recording = build_recording(SHORT, NAME, tmp_path)
    order = movies["random_sequences"][:, 0].astype(int) if n_sequences else np.arange(N_CLIPS)
    np.testing.assert_array_equal(recording.session_info["presentation_order"], order)
    labels = label_bins(recording, {"method": "clip_list", "clips": [1, 5], "clip_length": CLIP}, fold=0, lag=0)
    assert set(recording.frame[labels == VALIDATION] // CLIP) == {1, 5}


def test_the_documented_containers_hold_what_the_eye_saw_and_the_cells_answered(tmp_path):
    movies, one = short_movies(), noise_field(sequence=2, eye="left")
    lay_out(tmp_path, {NAME: one}, movies)
    responses, shown = containers_from_recordings([build_recording(SHORT, NAME, tmp_path)])
    first, second, third, train = (np.r_[0:40], np.r_[120:160], np.r_[220:260], np.r_[40:120, 160:220])
    repeats = np.stack([one.answers[rows].T for rows in (first, second, third)])
    np.testing.assert_allclose(responses[NAME].train, one.answers[train].T, rtol=1e-5)
    np.testing.assert_allclose(responses[NAME].get_test_by_trial(), repeats, rtol=1e-5)
    np.testing.assert_allclose(responses[NAME].test_response, repeats.mean(axis=0), rtol=1e-5)
    assert responses[NAME].session_kwargs["group_assignment"].tolist() == [1, 2, 3]
    seen = shown_to(movies, "left", 2, BLOCKS, CLIP).transpose(1, 0, 2, 3)
    np.testing.assert_array_equal(shown[NAME].train, seen[:, train])
    np.testing.assert_array_equal(shown[NAME].test_movie, seen[:, first])
