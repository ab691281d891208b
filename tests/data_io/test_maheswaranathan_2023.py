"""Maheswaranathan et al. 2023: files in the published layout become recordings, or a sentence says why not."""

import tracemalloc
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from coread.data_io.download.registry import read_registry
from coread.data_io.sources import build_recording, list_sessions, source_files
from coread.data_io.splits import VALIDATION, label_bins
from coread.recording import RecordingError, read_recording, write_recording
from tests.published_data.maheswaranathan_2023 import ARCHIVE, write_session
from tests.published_data.planted import copying_cell, found_at

CONFIGS = Path(__file__).parents[2] / "configs" / "data_io"
CONFIG = yaml.safe_load((CONFIGS / "maheswaranathan_2023.yaml").read_text())
WHITENOISE = yaml.safe_load((CONFIGS / "maheswaranathan_2023_whitenoise.yaml").read_text())


def session_data(seed=0, n_train=240, n_test=35, n_neurons=3, n_repeats=5, shape=(6, 7), extra=0):
    """Training and test movie, responses to them; the sizes differ on every axis."""
    rng = np.random.default_rng(seed)
    train = rng.integers(0, 256, (n_train, *shape), dtype=np.uint8)
    test = rng.integers(0, 256, (n_test, *shape), dtype=np.uint8)
    response = rng.gamma(2.0, 5.0, (n_neurons, n_train))
    repeats = rng.gamma(2.0, 5.0, (n_repeats, n_neurons, n_test + extra))
    return train, test, response, repeats


def build(root, session="15-10-07", **changes):
    return build_recording(CONFIG | changes, session, root)


def edit(path, **datasets):
    with h5py.File(path, "a") as file:
        for key, values in datasets.items():
            if key in file:
                del file[key]
            if values is not None:
                file[key] = values


@settings(deadline=None, max_examples=12)
@given(data=st.data())
def test_planted_cells_are_found_where_they_were_planted(data):
    height, width = data.draw(st.sampled_from([(4, 7), (7, 4), (5, 5)]))
    planted = [
        (data.draw(st.integers(0, 4)), data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1)))
        for _ in range(3)
    ]
    layout = data.draw(st.sampled_from(["cells", "stacked"]))
    transposed = data.draw(st.booleans())
    extra = data.draw(st.integers(0, 1))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    n_train, n_test = 6 * 150, 400
    train = rng.integers(0, 256, (n_train, height, width), dtype=np.uint8)
    test = rng.integers(0, 256, (n_test, height, width), dtype=np.uint8)
    answer = np.stack([copying_cell(train, pixel, lag) for lag, *pixel in planted])
    once = np.stack([np.append(copying_cell(test, pixel, lag), [9e9] * extra) for lag, *pixel in planted])
    with TemporaryDirectory() as folder:
        shown = (train.swapaxes(1, 2), test.swapaxes(1, 2)) if transposed else (train, test)
        write_session(Path(folder), "15-10-07", *shown, answer, np.stack([once] * 3), layout=layout)
        recording = build(Path(folder), transpose_images=transposed)
    expected = [(lag, 0, y, x) for lag, y, x in planted]
    assert found_at(recording, "train", 5) == expected
    assert found_at(recording, "test", 5) == expected


def test_trials_repeats_and_units(tmp_path):
    train, test, response, repeats = session_data()
    path = write_session(tmp_path, "15-10-07", train, test, response, repeats)
    recording = build(tmp_path, fr_normalization=4.0)
    assert recording.stimuli["naturalscene_train"].frames.dtype == np.uint8
    assert (recording.stimuli["naturalscene_train"].frames[:, 0] == train).all()
    assert recording.trials["tier"].tolist() == ["train"] * 6 + ["test"] * 5
    assert recording.trials["repeat"].tolist() == [0] * 6 + [0, 1, 2, 3, 4]
    first, past = recording.trial_bounds()
    assert (past - first).tolist() == [40] * 6 + [35] * 5
    assert np.allclose(recording.responses[:240], response.T / 4)
    assert np.allclose(recording.responses[240:].reshape(5, 35, 3), repeats.transpose(0, 2, 1) / 4)
    assert (recording.frame[240:].reshape(5, 35) == np.arange(35)).all()
    assert recording.neurons["unit_id"].tolist() == [f"15-10-07_cell{cell:02d}" for cell in (1, 2, 3)]
    assert recording.rate_hz == 100
    assert list(recording.source) == ["15-10-07/naturalscene.h5"]
    assert source_files(CONFIG, "15-10-07", tmp_path) == [path]
    write_recording(recording, tmp_path / "out.h5")
    assert (read_recording(tmp_path / "out.h5").responses == recording.responses).all()


def test_cells_are_sorted_by_number_not_by_text(tmp_path):
    train, test, response, repeats = session_data(n_neurons=12)
    path = write_session(tmp_path, "15-10-07", train, test, response, repeats)
    with h5py.File(path, "a") as file:
        for cell in range(1, 13):
            file.move(f"test/repeats/cell{cell:02d}", f"test/repeats/cell_{cell}")
    bins = build(tmp_path).responses[240:]
    assert np.allclose(bins.reshape(5, 35, 12), repeats.transpose(0, 2, 1))


@pytest.mark.parametrize(("end", "kept"), [("end", slice(0, 35)), ("start", slice(1, 36))])
@pytest.mark.parametrize("layout", ["cells", "stacked", None])
def test_one_surplus_bin_is_cut_where_the_config_says(tmp_path, end, kept, layout):
    train, test, response, repeats = session_data(extra=1)
    write_session(tmp_path, "15-10-07", train, test, response, repeats, layout=layout)
    bins = build(tmp_path, extra_bins_at=end).responses[240:]
    expected = repeats.mean(axis=0, keepdims=True) if layout is None else repeats
    assert np.allclose(bins.reshape(-1, 35, 3), expected[..., kept].transpose(0, 2, 1))
    with pytest.raises(
        RecordingError, match=r"15-10-07/naturalscene\.h5: test/response/firing_rate_10ms has 36 bins, "
    ):
        build(tmp_path, max_extra_bins=0)


def test_published_validation_clips(tmp_path):
    """At the published length the split of the documents holds out exactly the published clips."""
    rng = np.random.default_rng(0)
    train = rng.integers(0, 2, (359802, 1, 2), dtype=np.uint8)
    write_session(tmp_path, "15-10-07", train, train[:7], np.ones((1, 359802)), np.ones((2, 1, 8)))
    recording = build(tmp_path)
    split = {"method": "random_clips", "n_clips": 20, "clip_length": 90, "seed": 42}
    held_out = recording.frame[label_bins(recording, split, 0, lag=0) == VALIDATION]
    published = [1760, 3016, 1770, 3703, 2099, 2641, 1417, 755, 109, 3476, 511, 1425, 3156, 2663, 670, 1456, 2506, 1849]
    published = np.array(sorted([*published, 1231, 3973]))
    assert (held_out == (90 * published[:, None] + np.arange(90)).reshape(-1)).all()
    first, past = recording.trial_bounds()
    assert (past - first).tolist() == [59967] * 6 + [7, 7]


def test_training_frames_that_are_no_equal_blocks_are_one_presentation(tmp_path):
    write_session(tmp_path, "15-10-07", *session_data(n_train=241))
    with pytest.warns(UserWarning, match=r"15-10-07/naturalscene\.h5: 241 training frames are no 6 presentations"):
        recording = build(tmp_path)
    assert (recording.trials["tier"] == "train").sum() == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(tmp_path, train_blocks=None)


@pytest.mark.parametrize(
    ("convert", "dtype"),
    [
        (lambda movie: movie.astype(np.float64), np.uint8),
        (lambda movie: movie.astype(np.float32) / 255, np.uint8),
        (lambda movie: movie.astype(np.int16) - 128, np.int8),
        (lambda movie: movie > 127, np.uint8),
        (lambda movie: np.sqrt(movie.astype(np.float32)), np.float32),
    ],
)
def test_frames_keep_their_values_in_the_smallest_type(tmp_path, convert, dtype):
    train, test, response, repeats = session_data()
    write_session(tmp_path, "15-10-07", convert(train), convert(test), response, repeats)
    stimulus = build(tmp_path).stimuli["naturalscene_train"]
    assert stimulus.frames.dtype == dtype
    values = (stimulus.frames[:, 0] * stimulus.scale + stimulus.offset).astype(np.float32)
    assert (values == convert(train).astype(np.float32)).all()


@pytest.mark.parametrize("stored", [np.uint8, np.float32])
def test_one_copy_of_the_stimulus_is_held(tmp_path, monkeypatch, stored):
    monkeypatch.setattr("coread.data_io.readers.published_hdf5.CHUNK_VALUES", 2**16)
    movie = np.random.default_rng(0).integers(0, 256, (24000, 20, 25), dtype=np.uint8)
    write_session(tmp_path, "15-10-07", movie.astype(stored), movie[:9], np.ones((1, 24000)), np.ones((2, 1, 9)))
    tracemalloc.start()
    recording = build(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    frames = recording.stimuli["naturalscene_train"].frames
    assert frames.nbytes == movie.nbytes
    assert peak < 1.35 * frames.nbytes


def test_sessions_are_found_and_interneurons_passed_over(tmp_path):
    for session, stimulus in (("15-11-21b", "naturalscene"), ("15-10-07", "naturalscene"), ("15-11-21a", "whitenoise")):
        write_session(tmp_path, session, *session_data(), stimulus=stimulus)
    write_session(tmp_path, "bipolar", *session_data(), inside="neural_code_data/interneuron_data")
    assert list_sessions(CONFIG, None) == ["15-10-07", "15-11-21a", "15-11-21b"]
    assert list_sessions(CONFIG | {"sessions": None}, tmp_path) == ["15-10-07", "15-11-21b"]
    assert list_sessions(WHITENOISE | {"sessions": None}, tmp_path) == ["15-11-21a"]
    (inner,) = tmp_path.rglob("ganglion_cell_data")
    assert list_sessions(CONFIG | {"sessions": None}, inner) == ["15-10-07", "15-11-21b"]
    assert list_sessions(CONFIG | {"sessions": None}, inner.rename(tmp_path / "mine")) == ["15-10-07", "15-11-21b"]


def test_registry_of_published_files():
    assert WHITENOISE["files"] == CONFIG["files"]
    assert [entry.path for entry in read_registry(CONFIG)] == [f"{ARCHIVE}.zip"]


# -------------------------------------------------------------------------------------------------------------- errors


def test_repeats_in_another_unit_are_refused(tmp_path):
    train, test, response, repeats = session_data()
    path = write_session(tmp_path, "15-10-07", train, test, response, repeats, layout="cells")
    edit(
        path, **{"test/response/binned": repeats.mean(axis=0), "test/response/firing_rate_10ms": repeats.mean(0) * 100}
    )
    with pytest.raises(
        RecordingError,
        match=r"15-10-07/naturalscene\.h5: test/repeats/cell<NN>: the average over repeats should be "
        r"test/response/firing_rate_10ms, but equals test/response/binned; data_io.on_repeats_mismatch: use_mean",
    ):
        build(tmp_path)
    assert np.allclose(build(tmp_path, on_repeats_mismatch="use_mean").responses[240:], repeats.mean(0).T * 100)
    assert len(build(tmp_path, on_repeats_mismatch="keep").responses) == 240 + 5 * 35


def test_as_many_repeats_as_bins_are_told_apart_by_their_average(tmp_path):
    train, test, response, repeats = session_data(n_test=8, n_repeats=8, n_neurons=8)
    path = write_session(tmp_path, "15-10-07", train, test, response, repeats, layout="stacked")
    assert np.allclose(build(tmp_path).responses[240:].reshape(8, 8, 8), repeats.transpose(0, 2, 1))
    for axes in ((1, 0, 2), (2, 1, 0), (1, 2, 0)):
        edit(path, **{"test/repeats/firing_rate_10ms": repeats.transpose(axes)})
        with pytest.raises(
            RecordingError, match=r"the average over repeats should be .*, but equals none of \['binned'"
        ):
            build(tmp_path)


def test_truncated_files_are_named(tmp_path):
    path = write_session(tmp_path, "15-10-07", *session_data())
    whole = path.read_bytes()
    for length in (len(whole) // 2, 0):
        path.write_bytes(whole[:length])
        with pytest.raises(RecordingError, match=r"15-10-07/naturalscene\.h5: not a readable HDF5 file, truncated"):
            build(tmp_path)


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"train/stimulus": None}, r"naturalscene\.h5: no dataset train/stimulus, found \['response', 'time'\]"),
        (
            {"test/response/firing_rate_10ms": None},
            r"no dataset test/response/firing_rate_10ms, found \['binned'\]",
        ),
        (
            {"train/stimulus": np.zeros((240, 42))},
            r"train/stimulus must be numbers \(frame, height, width\), found float64 of shape \(240, 42\)",
        ),
        (
            {"train/response/firing_rate_10ms": np.zeros((240, 3))},
            r"train/response/firing_rate_10ms has 3 bins, the stimulus has 240 frames .*; its axes look transposed",
        ),
        (
            {"train/response/firing_rate_10ms": np.zeros((4, 240))},
            r"naturalscene\.h5: the numbers of neurons differ: naturalscene_train 4, naturalscene_test 3",
        ),
        (
            {"test/repeats/cell02": None},
            r"test/repeats/cell<NN> has \(neuron, bin\) \(2, 35\), test/response/.* \(3, 35",
        ),
        ({"test/repeats/cell02": np.zeros((4, 35))}, r"cell<NN> differ in \(repeat, bin\): \[\(4, 35\), \(5, 35\)\]"),
        (
            {f"test/repeats/cell{cell:02d}": None for cell in (1, 2, 3)} | {"test/repeats/x": np.zeros(3)},
            r"test/repeats holds neither firing_rate_10ms nor cell<NN>, found \['x'\]",
        ),
        ({"train/stimulus": np.full((240, 6, 7), np.nan)}, r"train/stimulus: .* values that are not finite"),
        # types that are kept as they are
        (
            {"test/stimulus": np.full((34, 6, 7), np.nan, np.float16)},
            r"test/stimulus: frames 0 to 33 hold values that are not finite",
        ),
    ],
)
def test_wrong_datasets_are_named(tmp_path, datasets, message):
    edit(write_session(tmp_path, "15-10-07", *session_data()), **datasets)
    with pytest.raises(RecordingError, match=message):
        build(tmp_path)


def test_missing_responses_are_refused_or_masked(tmp_path):
    train, test, response, repeats = session_data()
    response[2, 7] = np.nan
    write_session(tmp_path, "15-10-07", train, test, response, repeats)
    with pytest.raises(RecordingError, match=r"1 response values are not finite, the first at bin 7, neuron 2"):
        build(tmp_path)
    assert np.flatnonzero(~build(tmp_path, nan_responses="mask").valid).tolist() == [7]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra_bins_at": "middle"}, r"data_io.extra_bins_at is one of \['end', 'start'\], found 'middle'"),
        ({"on_repeats_mismatch": "drop"}, "data_io.on_repeats_mismatch is one of"),
        ({"stimuls": "x"}, r"data_io: unknown keys \['stimuls'\]"),
    ],
)
def test_wrong_settings_are_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path, **changes)


def test_missing_folders_and_sessions_are_named(tmp_path):
    write_session(tmp_path, "15-10-07", *session_data())
    with pytest.raises(
        FileNotFoundError, match=r"'15-11-21a' needs ganglion_cell_data/<session>/naturalscene\.h5; found"
    ):
        build(tmp_path, "15-11-21a")
    with pytest.raises(FileNotFoundError, match=r"'maheswaranathan_2023': there is no directory .*absent"):
        build(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="no sessions found, expected ganglion_cell_data"):
        list_sessions(WHITENOISE | {"sessions": None}, tmp_path)
    write_session(tmp_path, "15-10-07", *session_data(), inside="copy/ganglion_cell_data")
    with pytest.raises(RecordingError, match=r"session '15-10-07' exists twice: .*copy.* and .*neural_code_data"):
        build(tmp_path)
