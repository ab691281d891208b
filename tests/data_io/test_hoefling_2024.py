"""Hoefling et al. 2024: files in the published layout become recordings, or a sentence says why not."""

import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coread.config import compose_data_io
from coread.data_io.conversion import containers_from_recordings
from coread.data_io.quality_filters import ALL_SESSIONS, tabulate
from coread.data_io.restricted_pickle import PickleError
from coread.data_io.sources import build_recording, build_recordings, build_stimuli, list_sessions, source_files
from coread.data_io.splits import TRAIN, VALIDATION, label_bins
from coread.eval.repeats import align_repeats
from coread.recording import RecordingError, read_recording, write_recording, write_stimuli
from tests.published_data.hoefling_2024 import (
    HIGH_RES,
    LOW_RES,
    RESPONSES,
    SCAN_HZ,
    Field,
    make_movies,
    shown_to,
    write_fields,
    write_movies,
    write_other,
)
from tests.published_data.planted import copying_cell, found_at

CONFIG = compose_data_io("hoefling_2024_low_res")
# the published layout with short clips: 4 + 3 training clips around 3 showings of 2 test clips
SHORT = CONFIG | {"clip_length": 20, "clip_duration_s": 19 / 30, "train_blocks": [4, 3]}
BLOCKS, CLIP, N_TEST, N_CLIPS = (4, 3), 20, 2, 7
PUBLISHED_VALIDATION = [0, 4, 10, 11, 18, 30, 45, 62, 67, 77, 79, 80, 81, 83, 95]
NAME = "session_1_ventral1_20200226"


def short_movies(seed=0, shape=(2, 5, 4), n_sequences=3):
    return make_movies(np.random.default_rng(seed), shape, N_CLIPS, N_TEST, CLIP, n_sequences)


def noise_field(n_cells=3, seed=1, **labels):
    n_frames = CLIP * (N_CLIPS + N_TEST * 3)
    return Field(np.random.default_rng(seed).gamma(2.0, 1.0, (n_frames, n_cells)), clip_length=CLIP, **labels)


def lay_out(folder, fields=None, movies=None):
    write_movies(folder, short_movies() if movies is None else movies)
    write_fields(folder, {NAME: noise_field()} if fields is None else fields)
    return folder


@pytest.fixture
def folder(tmp_path):
    return lay_out(tmp_path)


def edit(folder, session=NAME, attributes=(), **datasets):
    with h5py.File(folder / RESPONSES, "a") as file:
        for key, values in datasets.items():
            if key in file[session]:
                del file[session][key]
            if values is not None:
                file[session][key] = values
        for key in attributes:
            del file[session].attrs[key]


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


# ------------------------------------------------------------------------------------------------------------ responses


def published_responses(traces, times, triggers, by_std):
    """Traces at frame times as the published package computes them."""
    at = np.concatenate([np.linspace(trigger, trigger + 19 / 30, CLIP) for trigger in triggers])
    upsampled = np.stack([np.interp(at, times[cell], traces[cell]) for cell in range(len(traces))])
    return upsampled / upsampled.std(axis=1, keepdims=True) if by_std else upsampled


@pytest.mark.parametrize("times_as", ["traces_times", "t0_dt"])
@pytest.mark.parametrize("normalization", ["none", "published"])
def test_responses_are_the_published_ones(tmp_path, times_as, normalization):
    one = noise_field(scan_hz=SCAN_HZ, times_as=times_as)
    lay_out(tmp_path, {NAME: one})
    recording = build_recording(SHORT | {"response_normalization": normalization}, NAME, tmp_path)
    expected = published_responses(*one.traces(), one.triggers(), normalization == "published")
    np.testing.assert_allclose(recording.responses.T, expected, rtol=2e-5, atol=1e-5)
    assert recording.unit == {"none": "inferred spikes (a.u.)", "published": "standard deviations"}[normalization]


def test_the_default_lets_no_test_response_reach_the_training_responses(tmp_path):
    one = noise_field()
    lay_out(tmp_path, {NAME: one})
    first = build_recording(SHORT, NAME, tmp_path)
    tested = first.bin_column("tier") == "test"
    one.answers[tested] *= 7.0
    write_fields(tmp_path, {NAME: one})
    second = build_recording(SHORT, NAME, tmp_path)
    np.testing.assert_array_equal(first.responses[~tested], second.responses[~tested])
    assert (first.responses[tested] != second.responses[tested]).all()


@pytest.mark.parametrize(
    ("trace_type", "factor", "offset"), [("raw", 1, 3), ("smoothed", 0, 3), ("preprocessed", 2, 0), ("detrended", 1, 0)]
)
def test_other_traces_by_config(folder, trace_type, factor, offset):
    spikes = build_recording(SHORT, NAME, folder).responses
    recording = build_recording(SHORT | {"trace_type": trace_type}, NAME, folder)
    np.testing.assert_allclose(recording.responses, factor * spikes + offset, rtol=1e-5, atol=1e-5)
    assert recording.unit == f"{trace_type} fluorescence (a.u.)"


def test_both_published_names_of_spikes(tmp_path):
    responses = []
    for name in ("inferred_spikes", "spikes"):
        lay_out(tmp_path, {NAME: noise_field(name_of_spikes=name)})
        responses.append(build_recording(SHORT, NAME, tmp_path).responses)
    np.testing.assert_array_equal(*responses)


def test_bins_without_a_value_do_not_count(tmp_path):
    one = noise_field()
    one.answers[:7, 1] = np.nan  # inferred spikes have no value at the edges of a recording
    lay_out(tmp_path, {NAME: one})
    recording = build_recording(SHORT, NAME, tmp_path)
    assert not recording.valid[:7].any()
    assert recording.valid[7:].all()
    assert np.isfinite(recording.responses).all()
    with pytest.raises(RecordingError, match=f"{NAME}.*7 response values are not finite.*nan_responses to mask"):
        build_recording(SHORT | {"nan_responses": "error"}, NAME, tmp_path)


def test_the_last_value_is_not_drawn_out_over_frames_that_were_not_recorded(tmp_path):
    one = noise_field()
    lay_out(tmp_path, {NAME: one})
    values, times = one.traces()
    edit(tmp_path, natural_inferred_spikes=values[:, 10:-50], natural_traces_times=times[:, 10:-50])
    recording = build_recording(SHORT, NAME, tmp_path)
    # one interval beyond the first and last sample still counts
    assert np.flatnonzero(~recording.valid).tolist() == [*range(9), *range(len(values.T) - 49, len(values.T))]


def test_a_cell_without_any_value_is_left_out_and_counted(tmp_path):
    one = noise_field()
    one.answers[:, 1] = np.nan
    lay_out(tmp_path, {NAME: one})
    recording = build_recording(SHORT, NAME, tmp_path)
    assert recording.neurons["roi_id"].tolist() == [3, 7]
    assert recording.session_info["roi_ids"].tolist() == [3, 7]
    assert recording.valid.all()
    assert recording.session_info["quality_step"][-1] == "no responses"
    assert recording.session_info["quality_n_removed"].tolist() == [0, 0, 0, 1]


# -------------------------------------------------------------------------------------------------------------- quality


def test_the_quality_filters_are_the_published_ones_in_the_published_order(tmp_path):
    #                          passes  type  both   QI  one QI  conf  at the thresholds
    group = np.array([          1,     33,    46,   32,    5,    6,    32])  # fmt: skip
    d_qi = np.array([          0.9,    0.9,  0.1,  0.59,  0.1,  0.9,   0.6])  # fmt: skip
    chirp_qi = np.array([      0.9,    0.9,  0.1,  0.34,  0.35, 0.9,   0.0])  # fmt: skip
    confidence = np.array([    0.9,    0.9,  0.1,   0.9,  0.9,  0.24,  0.25])  # fmt: skip
    one = noise_field(7, group_assignment=group, d_qi=d_qi, chirp_qi=chirp_qi, confidence=confidence)
    lay_out(tmp_path, {NAME: one})
    recording = build_recording(SHORT, NAME, tmp_path)
    assert recording.neurons["roi_id"].tolist() == [3, 11, 15]
    assert recording.neurons["cell_type"].tolist() == ["1", "5", "32"]
    assert recording.session_info["quality_step"].tolist() == [
        "cell_type", "response_quality", "classifier_confidence"
    ]  # fmt: skip
    assert recording.session_info["quality_n_before"].tolist() == [7, 5, 4]
    assert recording.session_info["quality_n_removed"].tolist() == [2, 1, 1]
    # the responses are those of the cells that stay
    np.testing.assert_allclose(recording.responses, one.answers[:, [0, 4, 6]], rtol=1e-5)
    few = SHORT["quality_filters"] + [{"step": "n_cells", "more_cells_than": 3}]
    with pytest.raises(RecordingError, match=f"{NAME}: no cell passes the quality filters .*n_cells -3"):
        build_recording(SHORT | {"quality_filters": few}, NAME, tmp_path)


def test_the_published_chain_of_all_67_fields(tmp_path):
    """7863 cells, of which the steps remove 3034, 980 and 705, and 3144 are left in 67 sessions."""
    rng = np.random.default_rng(0)
    n_sessions, removed, left = 67, (3034, 980, 705), 3144
    fate = rng.permutation(np.repeat(np.arange(4), [*removed, left]))
    session = np.concatenate([np.arange(n_sessions), rng.integers(0, n_sessions, left - n_sessions)])
    home = rng.integers(0, n_sessions, len(fate))
    home[fate == 3] = rng.permutation(session)  # a cell that passes in every field
    config = CONFIG | {"clip_length": 2, "clip_duration_s": 1 / 30, "train_blocks": [1, 1]}
    fields = {}
    for index in range(n_sessions):
        fates = fate[home == index]
        n = len(fates)
        good, bad = rng.uniform(0.6, 1.0, (2, n)), rng.uniform(0.0, 0.35, (2, n))
        fields[f"session_{index}"] = Field(
            rng.gamma(2.0, 1.0, (10, n)),
            clip_length=2,
            group_assignment=np.where(fates == 0, rng.integers(33, 47, n), rng.integers(1, 33, n)),
            # what fails a step may fail those after it too
            d_qi=np.where((fates == 1) | ((fates == 0) & (rng.random(n) < 0.5)), bad[0], good[0]),
            chirp_qi=np.where(fates == 1, bad[1] * 0.99, rng.uniform(0, 1, n)),
            confidence=np.where((fates == 2) | ((fates < 2) & (rng.random(n) < 0.5)), 0.2, rng.uniform(0.25, 1, n)),
        )
    write_movies(tmp_path, make_movies(rng, (2, 3, 2), n_clips=2, n_test=1, clip_length=2, n_sequences=2))
    write_fields(tmp_path, fields)
    assert list_sessions(config, tmp_path) == sorted(fields)
    recordings = build_recordings(config, tmp_path)
    assert len(recordings) == 67
    assert sum(recording.n_neurons for recording in recordings) == 3144
    table = tabulate(recordings)
    assert len(table) == 68 * 3
    total = table[table["session"] == ALL_SESSIONS]
    assert total["n_before"].tolist() == [7863, 4829, 3849]
    assert total["n_removed"].tolist() == [3034, 980, 705]
    assert total["n_kept"].tolist() == [4829, 3849, 3144]
    by_session = table.groupby("session")["n_before"].first().drop(ALL_SESSIONS)
    assert by_session.to_dict() == {name: one.n_cells for name, one in fields.items()}


def test_fields_without_a_cell_that_passes_are_no_sessions(tmp_path):
    bad = {"session_2_dorsal1_20200101": noise_field(d_qi=np.zeros(3), chirp_qi=np.zeros(3))}
    lay_out(tmp_path, {NAME: noise_field()} | bad)
    assert list_sessions(SHORT, tmp_path) == [NAME]
    unfiltered = SHORT | {"quality_filters": []}
    assert len(list_sessions(unfiltered, tmp_path)) == 2
    write_recording(build_recording(unfiltered, *bad, tmp_path), tmp_path / "unfiltered.h5")
    assert tabulate([read_recording(tmp_path / "unfiltered.h5")]).empty
    with pytest.raises(RecordingError, match=r"session_2_dorsal1_20200101: no cell passes .*3 cells: .*quality -3"):
        build_recording(SHORT, "session_2_dorsal1_20200101", tmp_path)


# ----------------------------------------------------------------------------------------------------- labels and files


def test_what_is_known_of_cells_and_session_is_kept(folder):
    recording = build_recording(SHORT, NAME, folder)
    assert recording.neurons["unit_id"].tolist() == [f"{NAME}_roi{roi_id}" for roi_id in (3, 5, 7)]
    assert recording.neurons["cell_type"].tolist() == ["1", "2", "3"]
    assert recording.neurons["group_confidence"].tolist() == [0.8] * 3
    # ROI i fills columns 0 and 1 of row i of the 64 x 64 scan of 2 um
    np.testing.assert_allclose(recording.neurons["position_y_um"], (np.arange(3) - 31.5) * 2)
    np.testing.assert_allclose(recording.neurons["position_x_um"], (0.5 - 31.5) * 2)
    info = recording.session_info
    published = np.stack([np.arange(3) / 25 + 2.75, np.full(3, 0.5) / 25 + 2.75], axis=1)
    np.testing.assert_allclose(info["roi_coords"], (published / 8 - 0.5) * 2)
    assert info["roi_mask"].shape == (64, 64)
    assert info["group_assignment"].tolist() == [1, 2, 3]
    assert info["group_confidences"].shape == (3, 46)
    assert info["scan_sequence_idx"] == 0
    assert info["eye"] == "right"
    assert info["date"] == "20200226"
    assert info["trigger_times"].shape == (13,)
    assert info["movie_norm_mean"] == 36.979
    assert (recording.species, recording.area, recording.dataset) == ("mouse", "retina", "hoefling_2024_low_res")
    assert set(recording.source) == {Path(LOW_RES).name, Path(RESPONSES).name}
    write_recording(recording, folder / "session.h5")
    kept = read_recording(folder / "session.h5")
    assert kept.session_info["eye"] == "right"
    np.testing.assert_array_equal(kept.session_info["roi_mask"], info["roi_mask"])


def test_the_field_that_was_labelled_left_by_mistake(tmp_path):
    mislabelled = "session_2_ventral2_20200626"
    lay_out(tmp_path, {NAME: noise_field(eye=b"left"), mislabelled: noise_field(eye="left")})
    assert build_recording(SHORT, NAME, tmp_path).mirror == "width"
    assert build_recording(SHORT, mislabelled, tmp_path).mirror == "none"
    assert build_recording(SHORT | {"eye_corrections": {}}, mislabelled, tmp_path).mirror == "width"


def test_labels_may_be_datasets(folder):
    edit(folder, attributes=("eye", "scan_sequence_idx"), eye="left", scan_sequence_idx=2)
    recording = build_recording(SHORT, NAME, folder)
    assert recording.mirror == "width"
    order = recording.session_info["presentation_order"]
    np.testing.assert_array_equal(order, short_movies()["random_sequences"][:, 2])


def test_sessions_share_one_movie_and_one_bad_field_spoils_no_other(tmp_path):
    lay_out(tmp_path, {"a": noise_field(), "b": noise_field(eye="left", sequence=1), "c": noise_field()})
    edit(tmp_path, "c", natural_inferred_spikes=None, natural_trigger_times=None)
    first, second = build_recordings(SHORT | {"sessions": ["a", "b"]}, tmp_path)
    assert first.stimuli["train"].frames is second.stimuli["train"].frames
    with pytest.raises(RecordingError, match="c: no dataset natural_inferred_spikes"):
        build_recording(SHORT, "c", tmp_path)


def test_files_are_found_where_their_archives_were_unpacked_to(folder):
    unpacked = folder / RESPONSES.removesuffix(".h5") / "inside"
    unpacked.mkdir(parents=True)
    shutil.move(folder / RESPONSES, unpacked)
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / Path(RESPONSES).name).touch()
    assert build_recording(SHORT, NAME, folder).n_neurons == 3
    assert [path.name for path in source_files(SHORT, NAME, folder)] == [Path(RESPONSES).name, Path(LOW_RES).name]
    assert [path.name for path in source_files(SHORT, None, folder)] == [Path(LOW_RES).name]
    shutil.copy(unpacked / Path(RESPONSES).name, folder)
    with pytest.raises(FileNotFoundError, match="is there more than once"):
        build_recording(SHORT, NAME, folder)


def test_the_configs_of_both_resolutions_name_their_files():
    low, high = compose_data_io("hoefling_2024_low_res"), compose_data_io("hoefling_2024_high_res")
    assert (low["movie_file"], high["movie_file"]) == (LOW_RES, HIGH_RES)
    assert (low["dataset"], high["dataset"]) == ("hoefling_2024_low_res", "hoefling_2024_high_res")
    assert (low["pixel_um"], high["pixel_um"]) == (50.0, 12.5)
    for config in (low, high):
        stems = {entry["path"].removesuffix(".zip") for entry in config["files"]}
        assert stems == {config[key].rpartition(".")[0] for key in ("movie_file", "response_file")}
    changed = {"dataset", "movie_file", "files", "pixel_um"}
    assert {key for key in low if low[key] != high[key]} == changed


# -------------------------------------------------------------------------------------------------- chirp, moving bars


@pytest.mark.parametrize(
    ("prefix", "clip_length", "clips", "per_clip", "duration"),
    [("chirp", 990, 1, 2, 32.98999999), ("mb", 123, 8, 1, 4.054001)],
)
def test_chirp_and_moving_bars_with_frames_of_the_user(folder, prefix, clip_length, clips, per_clip, duration):
    rng = np.random.default_rng(5)
    n_repeats, n_frames = 3, clip_length * clips
    movie = rng.integers(-9, 9, (2, n_frames, 5, 4)).astype(np.float32)
    np.save(folder / f"{prefix}.npy", movie)
    starts = 3.0 + np.arange(n_repeats * clips) * (duration + 0.04)
    times = np.linspace(starts, starts + duration, clip_length, axis=1).reshape(-1)
    seen = np.tile(movie.transpose(1, 0, 2, 3), (n_repeats, 1, 1, 1))
    planted = [(2, 1, 4, 0), (0, 0, 1, 3), (4, 1, 2, 2)]
    answers = np.stack([copying_cell(seen, pixel, lag) for lag, *pixel in planted], axis=1)
    triggers = np.stack([starts, starts + 5.0][:per_clip], axis=1).reshape(-1)
    write_other(folder, NAME, prefix, answers, np.append(triggers, times[-1] + 5), times)  # one trigger too many
    settings_of = SHORT["other_stimuli"][prefix]
    config = SHORT | {"other_stimuli": SHORT["other_stimuli"] | {prefix: settings_of | {"file": f"{prefix}.npy"}}}

    without = build_recording(SHORT, NAME, folder)
    assert set(without.stimuli) == {"train", "test"}
    recording = build_recording(config, NAME, folder)
    shown = recording.bin_column("stimulus") == prefix
    assert recording.trials.loc[recording.trials["stimulus"] == prefix, "repeat"].tolist() == [0, 1, 2]
    assert recording.trials["time_order"].tolist() == list(range(8))
    assert align_repeats(recording, shown)[prefix].shape == (n_frames, n_repeats)
    np.testing.assert_array_equal(recording.responses[~shown], without.responses)
    trials = recording.trials.assign(tier=np.where(recording.trials["stimulus"] == prefix, "final_test", "train"))
    assert found_at(replace(recording, trials=trials), "final_test", 5) == planted
    assert source_files(config, None, folder)[1].name == f"{prefix}.npy"

    np.save(folder / f"{prefix}.npy", movie[:, :-clip_length] if clips > 1 else np.tile(movie, (1, 2, 1, 1)))
    with pytest.raises(RecordingError, match=rf"{prefix}\.npy: {prefix} must have {clips} clips of {clip_length}"):
        build_recording(config, NAME, folder)


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"natural_trigger_times": np.arange(12) * 2 / 3}, "natural_trigger_times has 12 triggers, but 13 clips"),
        ({"natural_trigger_times": np.arange(13) * 0.1}, r"must be 0\.6333 s apart, they are 0\.1 s apart"),
        ({"natural_trigger_times": np.arange(26.0).reshape(2, 13)}, "the same triggers in every row"),
        ({"natural_trigger_times": None}, "no dataset natural_trigger_times"),
        ({"natural_inferred_spikes": None}, "no dataset natural_inferred_spikes, found .*chirp|no dataset"),
        ({"natural_inferred_spikes": np.zeros((2, 260))}, "natural traces are of 2 cells, but there are 3 roi_ids"),
        ({"natural_inferred_spikes": np.zeros((260, 3, 1))}, r"must be numbers \(neuron, sample\), found"),
        ({"natural_traces_times": np.zeros((3, 260))}, "times of the traces must be numbers that increase"),
        ({"natural_traces_times": np.zeros((3, 7))}, r"natural_traces_times has shape \(3, 7\), but the traces have"),
        ({"natural_traces_times": None}, "neither natural_traces_t0 nor traces_times"),
        ({"natural_traces_times": np.arange(260)[None] + 1e6}, "do traces and triggers share a clock"),
        ({"d_qi": np.zeros(4)}, r"d_qi has shape \(4,\), but there are 3 roi_ids"),
        ({"d_qi": None}, "'response_quality': there is no 'd_qi' of the cells"),
        ({"roi_ids": None}, "no dataset roi_ids"),
        ({"attributes": ("scan_sequence_idx",)}, "scan_sequence_idx is None, but there are 3 sequences"),
        ({"attributes": ("scan_sequence_idx",), "scan_sequence_idx": 3}, "scan_sequence_idx is 3, but there are 3"),
        ({"attributes": ("eye",)}, r"eye is None, expected one of .*eye_corrections"),
        ({"attributes": ("eye",), "eye": "both"}, "eye is 'both'"),
    ],
)
def test_wrong_fields_are_errors_that_name_file_session_and_dataset(folder, changes, message):
    edit(folder, **changes)
    with pytest.raises(ValueError, match=message) as raised:
        build_recording(SHORT, NAME, folder)
    if "quality" not in message:
        assert str(raised.value).startswith(f"{Path(RESPONSES).name}: {NAME}:")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda movies: movies.pop("test"), "there is no test, found .*train"),
        (lambda movies: movies.update(train=movies["train"][0]), r"train must be numbers \(channel, time"),
        (lambda movies: movies.update(train=movies["train"][:, :-3]), "has 137 frames, no multiple of clips of 20"),
        (lambda movies: movies.update(train=movies["train"].swapaxes(0, 1)), r"it looks like \(time, channel"),
        (lambda movies: movies.update(train=movies["train"] * np.nan), "train: .* values that are not finite"),
        (lambda movies: movies.update(train=movies["train"][:, :-20]), r"train has 6 clips of 20 .*\[4, 3\] sum to 7"),
        (lambda movies: movies["random_sequences"].__setitem__((0, 0), 1), "must hold each of the 7 clips once"),
        (lambda movies: movies.update(random_sequences=np.arange(7)), "must hold each of the 7 clips once"),
    ],
)
def test_wrong_movies_are_errors_that_name_the_file(folder, change, message):
    movies = short_movies()
    movies["random_sequences"][:, 0] = [0, 2, 3, 4, 5, 6, 1]
    change(movies)
    write_movies(folder, movies)
    with pytest.raises(RecordingError, match=message) as raised:
        build_recording(SHORT, NAME, folder)
    assert Path(LOW_RES).name in str(raised.value)


def test_a_movie_that_would_run_a_program_is_refused(folder):
    class Crafted:
        def __reduce__(self):
            return Path.touch, (folder / "marker",)

    (folder / LOW_RES).write_bytes(pickle.dumps(short_movies() | {"movie_stats": Crafted()}))
    with pytest.raises(PickleError, match=r"refused, because it asks for "):
        build_stimuli(SHORT, folder)
    assert not (folder / "marker").exists()


def test_absent_and_damaged_files(folder):
    with pytest.raises(RecordingError, match=f"no session 'session_9', found 1: {NAME}"):
        build_recording(SHORT, "session_9", folder)
    (folder / LOW_RES).with_suffix(".zip").touch()
    (folder / LOW_RES).unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no rgc_.*\.pkl below .*; unpack rgc_.*\.zip"):
        build_stimuli(SHORT, folder)
    path = folder / RESPONSES
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(RecordingError, match="truncated or damaged"):
        list_sessions(SHORT, folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no rgc_natstim_2024-08-14\.h5"):
        list_sessions(SHORT, folder)
    assert list_sessions(SHORT | {"sessions": ["a", "b"]}, None) == ["a", "b"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trace_type": "calcium"}, "data_io.trace_type is one of .*detrended"),
        ({"response_normalization": "std"}, "data_io.response_normalization is one of"),
        ({"clip_lenth": 3}, r"unknown keys \['clip_lenth'\]"),
        ({"other_stimuli": {"chirp": {"clip_lenth": 3}}}, r"data_io\.other_stimuli\.chirp: unknown keys"),
    ],
)
def test_wrong_settings_are_errors(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        build_recording(SHORT | changes, NAME, folder)
