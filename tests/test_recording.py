"""The recording format: what is written is read back, and what is wrong is named."""

import resource
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import coread.recording
from coread.recording import (
    RecordingError,
    Stimulus,
    content_digest,
    digest_path,
    read_recording,
    read_recordings,
    read_stimuli,
    smallest_exact,
    write_recording,
    write_stimuli,
)


def test_what_is_written_is_read_back(make_recording, tmp_path):
    recording = replace(
        make_recording(),
        neurons=pd.DataFrame({"unit_id": [3, 5, 8, 9], "cell_type": ["ON", "OFF", "ON", "ON-OFF"]}),
        session_info={"roi_mask": np.arange(12).reshape(3, 4), "kind": np.array(["a", "b"])},
        behaviour=np.random.default_rng(0).random((300, 2)).astype(np.float32),
        source={"file.h5": "abc"},
        mirror="width",
        species="mouse",
    )
    path = tmp_path / "session_0.h5"
    write_recording(recording, path)
    back = read_recording(path)
    assert content_digest(back) == content_digest(recording) == digest_path(path).read_text().strip()
    for name in ("dataset", "session", "species", "mirror", "unit", "rate_hz", "source"):
        assert getattr(back, name) == getattr(recording, name)
    for name in ("trial", "frame", "responses", "valid", "behaviour"):
        np.testing.assert_array_equal(getattr(back, name), getattr(recording, name))
        assert getattr(back, name).dtype == getattr(recording, name).dtype
    pd.testing.assert_frame_equal(back.trials, recording.trials, check_dtype=False)
    pd.testing.assert_frame_equal(back.neurons, recording.neurons, check_dtype=False)
    assert back.stimuli["movie"].frames.dtype == np.uint8
    np.testing.assert_array_equal(back.stimuli["movie"].frames, recording.stimuli["movie"].frames)
    np.testing.assert_array_equal(back.session_info["roi_mask"], recording.session_info["roi_mask"])
    assert list(back.session_info["kind"]) == ["a", "b"]


def test_lazy_parts_stay_on_disk_and_hold_the_same(make_recording, tmp_path):
    path = tmp_path / "session_0.h5"
    write_recording(make_recording(), path)
    lazy = read_recording(path, load_frames=False, load_responses=False)
    assert isinstance(lazy.responses, h5py.Dataset)
    assert isinstance(lazy.stimuli["movie"].frames, h5py.Dataset)
    assert content_digest(lazy) == content_digest(read_recording(path))


def test_shared_movies_are_linked_relatively_and_loaded_once(make_recording, tmp_path):
    first = make_recording("a")
    second = replace(make_recording("b"), stimuli=first.stimuli)
    write_stimuli(first.stimuli, tmp_path / "stimuli.h5")
    for recording in (first, second):
        write_recording(recording, tmp_path / f"{recording.session}.h5", tmp_path / "stimuli.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["stimuli"].get("movie", getlink=True).filename == "stimuli.h5"
    moved = tmp_path.rename(tmp_path.with_name("elsewhere"))
    a, b = read_recordings([moved / "a.h5", moved / "b.h5"])
    assert a.stimuli["movie"].frames is b.stimuli["movie"].frames
    (moved / "stimuli.h5").unlink()
    with pytest.raises(RecordingError, match=r"a\.h5.*'movie' links to stimuli\.h5, which is missing"):
        read_recording(moved / "a.h5")


@pytest.mark.parametrize("step", ["_write_bins", "content_digest", "digest_path", "write_text"])
def test_a_kill_leaves_no_data_under_the_digest_of_others(make_recording, tmp_path, monkeypatch, step):
    path = tmp_path / "session_0.h5"
    write_recording(make_recording(), path)
    old = content_digest(read_recording(path))

    def kill(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"coread.recording.{step}", kill)
        with pytest.raises(KeyboardInterrupt):
            write_recording(make_recording(seed=1), path)
    found = content_digest(read_recording(path))
    assert (found == old) is (step != "write_text")
    assert not digest_path(path).exists() or digest_path(path).read_text().strip() == found
    write_recording(make_recording(seed=1), path)
    assert digest_path(path).read_text().strip() == content_digest(make_recording(seed=1))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["session_0.h5", "session_0.sha256"]


def test_digest_follows_content_and_not_packing(make_recording, tmp_path):
    recording = make_recording()
    changed = recording.responses.copy()
    changed[0, 0] += 1
    assert content_digest(recording) != content_digest(replace(recording, responses=changed))
    assert content_digest(recording) != content_digest(replace(recording, rate_hz=31.0))
    other = replace(recording.stimuli["test"], scale=2.0)
    assert content_digest(recording) != content_digest(replace(recording, stimuli=recording.stimuli | {"test": other}))
    write_recording(recording, tmp_path / "a.h5")
    repacked = read_recording(tmp_path / "a.h5", load_frames=False)
    write_recording(repacked, tmp_path / "b.h5")
    assert digest_path(tmp_path / "a.h5").read_text() == digest_path(tmp_path / "b.h5").read_text()


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([0.0, 255.0]), np.uint8),
        (np.array([-1.0, 1.0]), np.int8),
        (np.array([0, 256], np.int64), np.uint16),
        (np.arange(256) / 255, np.uint8),
        (np.array([-0.5, 0.5]), np.uint8),
        (np.arange(4000) * 0.25, np.uint16),
        (np.array([0.5, 0.25, 1e-3, 100.0], np.float16).astype(np.float32), np.float16),
        (np.random.default_rng(0).normal(size=1000), np.float32),
    ],
)
def test_smallest_exact_dtype(values, dtype):
    stored, scale, offset = smallest_exact(values.reshape(-1, 1, 1, 1))
    assert stored.dtype == dtype
    np.testing.assert_array_equal((stored * scale + offset).astype(np.float32).ravel(), values.astype(np.float32))


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=50),
    st.sampled_from([1.0, 0.1, 1 / 255]),
)
def test_stored_values_always_come_back(values, unit):
    frames = (np.array(values, np.float64) * unit).astype(np.float32).reshape(-1, 1, 1, 1)
    stored, scale, offset = smallest_exact(frames)
    back = stored if stored.dtype == np.float32 else (stored.astype(np.float64) * scale + offset).astype(np.float32)
    np.testing.assert_array_equal(back, frames)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: {"responses": r.responses[:-2]}, "responses has 298 bins, trial has 300"),
        (lambda r: {"frame": r.frame[:-1]}, "frame has 299 bins, trial has 300"),
        (lambda r: {"neurons": r.neurons[:-1]}, "neurons lists 3 rows, responses have 4"),
        (lambda r: {"trials": r.trials.assign(tier="trian")}, r"unknown tiers \['trian'\]"),
        (lambda r: {"stimuli": {"movie": r.stimuli["movie"]}}, r"show the stimuli \['test'\], but only \['movie'\]"),
        (lambda r: {"frame": r.frame + 1}, "shows frame 180 of stimulus 'movie', which has 180 frames"),
        (lambda r: {"trial": r.trial[::-1].copy()}, "not contiguous"),
        (lambda r: {"trial": r.trial + 5}, "bins point to trials 5..11, but there are 7 trials"),
        (lambda r: {"mirror": "left"}, "mirror is 'left'"),
        (lambda r: {"trials": r.trials.drop(columns="repeat")}, r"trials lacks the columns \['repeat'\]"),
    ],
)
def test_validation_names_what_is_wrong(make_recording, tmp_path, change, message):
    recording = make_recording()
    with pytest.raises(RecordingError, match=f"session 'session_0'.*{message}"):
        write_recording(replace(recording, **change(recording)), tmp_path / "x.h5")
    assert list(tmp_path.iterdir()) == []


def test_nan_must_be_masked(make_recording, tmp_path):
    recording = make_recording()
    responses = recording.responses.copy()
    responses[7, 2] = np.nan
    with pytest.raises(RecordingError, match=r"1 response values are not finite.*bin 7, neuron 2"):
        write_recording(replace(recording, responses=responses), tmp_path / "x.h5")
    valid = recording.valid.copy()
    valid[7] = False
    write_recording(replace(recording, responses=responses, valid=valid), tmp_path / "x.h5")


def test_damaged_files_are_named(make_recording, tmp_path):
    path = tmp_path / "session_0.h5"
    write_recording(make_recording(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordingError, match=r"session_0\.h5: .*truncated or damaged"):
        read_recording(path)
    with pytest.raises(RecordingError, match=r"nothing\.h5: there is no such recording"):
        read_recording(tmp_path / "nothing.h5")
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(RecordingError, match=r"foreign\.h5: format_version is None"):
        read_recording(tmp_path / "foreign.h5")


def test_trial_helpers(make_recording):
    recording = make_recording(n_trials=2, trial_length=5, n_repeats=1, test_length=3)
    first, stop = recording.trial_bounds()
    assert first.tolist() == [0, 5, 10]
    assert stop.tolist() == [5, 10, 13]
    assert recording.bin_in_trial().tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2]
    assert set(recording.bin_column("tier")[:10]) == {"train"}


def test_a_stimulus_is_known_by_its_content():
    frames = np.zeros((3, 1, 2, 2), np.uint8)
    assert Stimulus(frames, 30.0).digest() == Stimulus(frames.copy(), 30.0).digest()
    assert Stimulus(frames, 30.0).digest() != Stimulus(frames, 60.0).digest()


def test_a_copy_with_other_frames_is_another_stimulus(make_recording, tmp_path):
    write_stimuli(make_recording().stimuli, tmp_path / "stimuli.h5")
    read = read_stimuli(tmp_path / "stimuli.h5")["movie"]
    assert read.digest() == make_recording().stimuli["movie"].digest()
    assert replace(read, frames=np.zeros((180, 1, 6, 8), np.uint8)).digest() != read.digest()
    assert replace(read, frames=read.frames[:]).digest() == read.digest()


def test_more_sessions_stay_on_disk_than_a_process_may_open_at_first(make_recording, tmp_path):
    paths = [tmp_path / f"{index}.h5" for index in range(60)]
    for path in paths:
        write_recording(replace(make_recording(), session=path.stem), path)
    own, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    coread.recording._allow_open_files.cache_clear()
    # some more than are open now
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/dev/fd").iterdir())) + 30, allowed))
    try:
        recordings = read_recordings(paths, memory_budget_bytes=0)
        assert [recording.session for recording in recordings] == [path.stem for path in paths]
        assert all(isinstance(recording.responses, h5py.Dataset) for recording in recordings)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (own, allowed))
