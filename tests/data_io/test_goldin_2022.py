"""Goldin et al. 2022: files in the published layout become recordings, or a sentence says why not."""

from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from coread.data_io.dataloader import SessionWindows
from coread.data_io.download.registry import read_registry
from coread.data_io.download.transfer import Expected
from coread.data_io.sources import build_recording, list_sessions, source_files
from coread.data_io.splits import TEST, TRAIN, VALIDATION, label_bins
from coread.data_io.statistics import compute_statistics
from coread.eval.repeats import align_repeats
from coread.recording import RecordingError
from tests.published_data.goldin_2022 import FOLDER, write_session
from tests.published_data.planted import copying_cell, found_at

CONFIGS = Path(__file__).parents[2] / "configs" / "data_io"
MOUSE = yaml.safe_load((CONFIGS / "goldin_2022_mouse.yaml").read_text())
AXOLOTL = yaml.safe_load((CONFIGS / "goldin_2022_axolotl.yaml").read_text())
NAME = "mouse_session_1"
SPLIT = {"method": "random_clips", "n_clips": 640, "clip_length": 1, "seed": 42}


def session_data(seed=0, n_train=50, n_test=9, n_neurons=3, n_repeats=6, shape=(4, 5)):
    """Training and test images, spikes; the sizes differ on every axis."""
    rng = np.random.default_rng(seed)
    train = rng.integers(0, 256, (n_train, *shape), dtype=np.uint8)
    test = rng.integers(0, 256, (n_test, *shape), dtype=np.uint8)
    return train, test, rng.poisson(3.0, (n_neurons, n_train)), rng.poisson(3.0, (n_repeats, n_neurons, n_test))


def build(root, session=NAME, config=MOUSE, **changes):
    return build_recording(config | changes, session, root)


@settings(deadline=None, max_examples=10)
@given(data=st.data())
def test_planted_cells_are_found_where_they_were_planted(data):
    height, width = data.draw(st.sampled_from([(4, 7), (7, 4), (5, 5)]))
    planted = [
        (data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))) for _ in range(11)
    ]  # from ten cells on, the order of numbers is not that of names
    label = data.draw(st.sampled_from(["cell{:02d}", "cell{}", "cell_{}"]))
    transposed = data.draw(st.booleans())
    train, test, _, _ = session_data(data.draw(st.integers(0, 99)), 400, 150, shape=(height, width))
    answer = np.stack([copying_cell(train, pixel, 0) for pixel in planted])
    once = np.stack([copying_cell(test, pixel, 0) for pixel in planted])
    with TemporaryDirectory() as folder:
        shown = (train.swapaxes(1, 2), test.swapaxes(1, 2)) if transposed else (train, test)
        write_session(Path(folder), NAME, *shown, answer, np.stack([once] * 2), label=label)
        recording = build(Path(folder), transpose_images=transposed)
    expected = [(0, 0, y, x) for y, x in planted]
    assert found_at(recording, "train", 0) == expected
    assert found_at(recording, "test", 0) == expected


def test_every_image_is_a_trial_of_one_bin(tmp_path):
    train, test, response, repeats = session_data()
    path = write_session(tmp_path, NAME, train, test, response, repeats)
    recording = build(tmp_path)
    first, past = recording.trial_bounds()
    assert (past - first == 1).all()
    assert recording.trials["tier"].tolist() == ["train"] * 50 + ["test"] * 54
    assert recording.trials["repeat"].tolist() == [0] * 50 + np.repeat(np.arange(6), 9).tolist()
    assert np.allclose(recording.responses[:50], response.T / 0.3)
    assert np.allclose(recording.responses[50:].reshape(6, 9, 3), repeats.transpose(0, 2, 1) / 0.3)
    assert (recording.frame[50:].reshape(6, 9) == np.arange(9)).all()
    assert recording.rate_hz == pytest.approx(1 / 0.3)
    assert recording.stimuli["train"].frames.dtype == np.uint8
    assert recording.neurons["unit_id"].tolist() == [f"{NAME}_cell{cell:02d}" for cell in (1, 2, 3)]
    assert source_files(MOUSE, NAME, tmp_path) == [path]


def test_repeats_of_an_image_are_scored_side_by_side(tmp_path):
    train, test, response, repeats = session_data()
    write_session(tmp_path, NAME, train, test, response, repeats)
    recording = build(tmp_path)
    table = align_repeats(recording, recording.bin_column("tier") == "test")["test"]
    assert np.allclose(recording.responses[table], repeats.transpose(2, 0, 1) / 0.3)


def test_without_repeats_the_published_average_is_the_test_response(tmp_path):
    train, test, response, repeats = session_data()
    write_session(tmp_path, NAME, train, test, response, repeats, by_cell=False)
    recording = build(tmp_path)
    assert np.allclose(recording.responses[50:], repeats.mean(axis=0).T / 0.3)
    assert recording.neurons["unit_id"].tolist() == [f"{NAME}_{cell:03d}" for cell in range(3)]


def test_published_validation_images(tmp_path):
    write_session(tmp_path, NAME, *session_data(n_train=3000, shape=(2, 3)))
    recording = build(tmp_path)
    labels = label_bins(recording, SPLIT, 0, lag=0)
    published = np.random.RandomState(42).choice(3000, 640, replace=False)
    assert (np.flatnonzero(labels == VALIDATION) == np.sort(published)).all()
    assert (labels == TRAIN).sum() == 3000 - 640
    assert (labels == TEST).sum() == 54


def test_training_order_changes_between_epochs(tmp_path):
    """The published sampler shows windows that are as long as a clip in the same order in every epoch."""
    write_session(tmp_path, NAME, *session_data())
    recording = build(tmp_path)
    labels = label_bins(recording, SPLIT | {"n_clips": 10}, 0, lag=0)
    statistics = compute_statistics([recording], {NAME: labels})
    windows = SessionWindows(recording, labels, TRAIN, lag=0, window_length=1, batch_size=1000, statistics=statistics)
    rng = np.random.default_rng(0)
    epochs = [windows.shuffled(rng).windows.first for _ in range(2)]
    assert (epochs[0] != epochs[1]).any()
    assert all((np.sort(epoch) == np.flatnonzero(labels == TRAIN)).all() for epoch in epochs)
    (batch,) = windows.shuffled(rng)
    assert tuple(batch.inputs.shape) == (40, 1, 1, 4, 5)
    assert batch.mask.all()


def test_sessions_are_found_by_species(tmp_path):
    for session in (NAME, "axolotl_2", "axolotl_1"):
        write_session(tmp_path, session, *session_data())
    assert list_sessions(MOUSE, tmp_path) == [NAME]
    assert list_sessions(AXOLOTL, tmp_path) == ["axolotl_1", "axolotl_2"]
    assert build(tmp_path, "axolotl_2", AXOLOTL).species == "axolotl"
    with pytest.raises(FileNotFoundError, match=r"session 'mouse_2' needs <session with mouse in its name>\.h5; found"):
        build(tmp_path, "mouse_2")


def test_registry_of_published_files():
    """Of the folder that the species share, each takes its own sessions."""
    files = {f"{FOLDER}/session_{species}.h5": Expected() for species in ("mouse", "axolotl")}
    chosen = [entry.chosen(files) for config in (MOUSE, AXOLOTL) for entry in read_registry(config)]
    assert [list(found) for found in chosen] == [[path] for path in files]


# -------------------------------------------------------------------------------------------------------------- errors


def test_as_many_repeats_as_images_are_told_apart_by_their_average(tmp_path):
    """30 repeats of 30 images: the shape says nothing, the published average does."""
    train, test, response, repeats = session_data(n_test=30, n_repeats=30)
    path = write_session(tmp_path, NAME, train, test, response, repeats)
    assert np.allclose(build(tmp_path).responses[50:].reshape(30, 30, 3), repeats.transpose(0, 2, 1) / 0.3)
    with h5py.File(path, "a") as file:
        for cell in range(3):
            file[f"test/repeats/cell{cell + 1:02d}"][...] = repeats[:, cell].T
    with pytest.raises(
        RecordingError,
        match=r"mouse_session_1\.h5: the average of test/repeats/cell<NN> over repeats, its first axis, is not "
        r"test/response; the one over its second axis is: expected \(repeat, image\), found \(image, repeat\)",
    ):
        build(tmp_path)


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"train/stimulus": None}, r"mouse_session_1\.h5: no dataset train/stimulus, found \['response'\]"),
        (
            {"test/stimulus": np.zeros((9, 4))},
            r"test/stimulus must be numbers \(image, height, width\), found float64 of",
        ),
        (
            {"train/response/binned": np.zeros((50, 3))},
            r"train/response/binned must be \(neuron, image\) with 50 images, found shape \(50, 3\); its axes look tra",
        ),
        ({"train/response/binned": np.zeros((4, 50))}, r"the numbers of neurons differ: train 4, test 3"),
        ({"test/repeats/cell02": None}, r"cell<NN> should be one per neuron, 3, found \['cell01', 'cell03'\]"),
        (
            {"test/repeats/cell02": np.zeros((9, 6))},
            r"must all be \(repeat, image\) with 9 images, found the shapes \[\(6, 9",
        ),
        (
            {"test/response/binned": np.zeros((3, 9))},
            r"the average of test/repeats/cell<NN> over .* is not test/response$",
        ),
    ],
)
def test_wrong_datasets_are_named(tmp_path, datasets, message):
    path = write_session(tmp_path, NAME, *session_data())
    with h5py.File(path, "a") as file:
        for key, values in datasets.items():
            del file[key]
            if values is not None:
                file[key] = values
    with pytest.raises(RecordingError, match=message):
        build(tmp_path)


def test_truncated_files_are_named(tmp_path):
    path = write_session(tmp_path, NAME, *session_data())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordingError, match=r"mouse_session_1\.h5: not a readable HDF5 file, truncated or damaged"):
        build(tmp_path)
