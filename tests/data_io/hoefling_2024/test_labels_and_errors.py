"""Hoefling et al. 2024: labels, files, other stimuli, or a sentence that says what is wrong."""

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coread.config import compose_data_io
from coread.data_io.restricted_pickle import PickleError
from coread.data_io.sources import build_recording, build_recordings, build_stimuli, list_sessions, source_files
from coread.eval.repeats import align_repeats
from coread.recording import RecordingError, read_recording, write_recording
from tests.data_io.hoefling_2024.short_clips import (
    NAME,
    SHORT,
    edit,
    lay_out,
    noise_field,
    short_movies,
)
from tests.published_data.hoefling_2024 import (
    HIGH_RES,
    LOW_RES,
    RESPONSES,
    write_movies,
    write_other,
)
from tests.published_data.planted import copying_cell, found_at

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
