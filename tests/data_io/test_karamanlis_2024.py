"""Karamanlis et al. 2024: files in the published layout become recordings, or a sentence says why not."""

import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from coread.data_io.download.registry import read_registry
from coread.data_io.download.transfer import Expected
from coread.data_io.readers.fixation_movie import FixationMovie, Screen
from coread.data_io.sources import build_recording, build_recordings, build_stimuli, list_sessions, source_files
from coread.data_io.splits import VALIDATION, label_bins
from coread.recording import RecordingError, read_recordings, read_stimuli, write_recording, write_stimuli
from tests.published_data.karamanlis_2024 import SESSIONS, screens, write_session
from tests.published_data.planted import copying_cell, found_at

CONFIGS = Path(__file__).parents[2] / "configs" / "data_io"
MOUSE = yaml.safe_load((CONFIGS / "karamanlis_2024_mouse.yaml").read_text())
MARMOSET = yaml.safe_load((CONFIGS / "karamanlis_2024_marmoset.yaml").read_text())
NAME = "20210803_252MEA_mouse_left_half_dorsal"
SIZES = {"screen_height": 12, "screen_width": 20, "video_height": 3, "video_width": 5}
SCREEN = (12, 20)


def draw_fixations(rng, shape, n_images, image_shape, reach=3):
    """Draw gazes over the image and up to `reach` pixels beyond its border."""
    height, width = image_shape
    ranges = ((1, n_images + 1), (1 - reach, width + reach + 1), (1 - reach, height + reach + 1))
    return np.stack([rng.integers(low, high, shape) for low, high in ranges], axis=-1)


def session_data(seed=0, n_blocks=4, n_running=30, n_frozen=11, n_trials=3, n_neurons=2, image_shape=(15, 23)):
    """Images, fixations and counts of one session; the sizes differ on every axis."""
    rng = np.random.default_rng(seed)
    return {
        "images": {
            "running": rng.integers(0, 256, (7, *image_shape), dtype=np.uint8),
            "frozen": rng.integers(0, 256, (5, *image_shape), dtype=np.uint8),
        },
        "fixations": {
            "running": draw_fixations(rng, (n_blocks, n_running), 7, image_shape),
            "frozen": draw_fixations(rng, (n_frozen,), 5, image_shape),
        },
        "counts": {
            "running": rng.poisson(2.0, (n_blocks, n_running, n_neurons)),
            "frozen": rng.poisson(2.0, (n_trials, n_frozen, n_neurons)),
        },
    }


def reduced(movie):
    """Return screens reduced as torchvision's Resize does it."""
    size = (SIZES["video_height"], SIZES["video_width"])
    small = torch.nn.functional.interpolate(
        torch.as_tensor(movie)[:, None], size, mode="bilinear", antialias=True, align_corners=False
    )
    return small.numpy()


def build(root, session=NAME, config=MOUSE, **changes):
    return build_recording(config | SIZES | changes, session, root)


def edit(path, **datasets):
    with h5py.File(path, "a") as file:
        for key, values in datasets.items():
            del file[key]
            if values is not None:
                file[key] = values


@settings(deadline=None, max_examples=8)
@given(data=st.data())
def test_planted_cells_are_found_where_they_were_planted(data):
    """On the screen as the authors describe it, whatever the shape of the images and where they lie on it."""
    image_shape = data.draw(st.sampled_from([(15, 23), (12, 20), (9, 31)]))
    transposed = data.draw(st.booleans())
    planted = [
        (data.draw(st.integers(0, 3)), data.draw(st.integers(0, 2)), data.draw(st.integers(0, 4))) for _ in range(4)
    ]
    session = session_data(
        data.draw(st.integers(0, 99)), n_blocks=5, n_running=80, n_frozen=150, image_shape=image_shape
    )
    shown = {
        part: reduced(screens(session["images"][part], session["fixations"][part].reshape(-1, 3), SCREEN))
        for part in ("running", "frozen")
    }
    blocks = shown["running"].reshape(5, 80, 3, 5)
    answers = {
        "running": np.stack(
            [[copying_cell(block, pixel, lag) for lag, *pixel in planted] for block in blocks], axis=0
        ).swapaxes(1, 2),
        "frozen": np.stack([np.stack([copying_cell(shown["frozen"][:, 0], p, lag) for lag, *p in planted], 1)] * 2),
    }
    with TemporaryDirectory() as folder:
        write_session(Path(folder), NAME, **session | {"counts": answers}, transposed=transposed)
        recording = build(Path(folder), transpose_images=transposed)
    expected = [(lag, 0, y, x) for lag, y, x in planted]
    assert found_at(recording, "train", 4) == expected
    assert found_at(recording, "test", 4) == expected
    for name, stimulus in recording.stimuli.items():
        assert np.allclose(stimulus.frames, shown[name.split("_")[0]], atol=1e-3)


def test_reduction_at_the_published_size_is_that_of_torchvision():
    """600 x 800 to 60 x 80; a gaze in the image's middle, at its corner, and one that sees nothing of it."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 640, 810), dtype=np.uint8)
    fixations = np.array([[1, 405, 320], [2, 3, 2], [2, 5000, 1], [1, 405, 320]])
    movie = FixationMovie(images, fixations, Screen(600, 800, 60, 80))
    screen = np.zeros((4, 600, 800), np.float32)
    screen[0] = screen[3] = images[0, 20:620, 5:805]
    screen[1, 298:, 397:] = images[1, : 600 - 298, : 800 - 397]
    expected = torch.nn.functional.interpolate(
        torch.as_tensor(screen)[:, None], (60, 80), mode="bilinear", antialias=True, align_corners=False
    ).numpy()
    assert movie.shape == (4, 1, 60, 80)
    assert np.abs(movie.rendered() - expected).max() < 1e-4
    assert (movie[2] == 0).all()
    assert (movie[[3, 1]] == movie.rendered()[[3, 1]]).all()
    grey = FixationMovie(images, fixations, Screen(600, 800, 60, 80, outside_value=128, round_to_grey_levels=True))
    assert grey[2].dtype == np.uint8
    assert (grey[2] == 128).all()
    assert (grey[0] == np.rint(expected[0])).all()


def test_published_behaviour_wraps_the_border():
    """One row and column before the image's first, where the published code takes the index -1."""
    images = np.arange(1, 4 * 6 + 1, dtype=np.uint8).reshape(1, 4, 6)
    screen = {"height": 8, "width": 8, "video_height": 8, "video_width": 8}
    at_corner = np.array([[1, 1, 1]])
    honest = FixationMovie(images, at_corner, Screen(**screen))[0, ...][0]
    wrapped = FixationMovie(images, at_corner, Screen(**screen, published_behaviour=True))[0, ...][0]
    expected = np.zeros((8, 8))
    expected[3:7, 3:8] = images[0][:, :5]
    assert (honest == expected).all()
    expected[2, 3:8] = images[0][-1, :5]
    expected[2:7, 2] = np.append(images[0][-1, -1], images[0][:, -1])
    assert (wrapped == expected).all()


def test_trials_repeats_and_units(tmp_path):
    session = session_data(n_trials=4)
    path = write_session(tmp_path, NAME, **session)
    recording = build(tmp_path, fr_normalization=0.5)
    assert recording.trials["tier"].tolist() == ["train"] * 4 + ["test"] * 4
    assert recording.trials["repeat"].tolist() == [0] * 4 + [0, 1, 2, 3]
    assert recording.trials["time_order"].tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    first, past = recording.trial_bounds()
    assert (past - first).tolist() == [30] * 4 + [11] * 4
    assert (recording.responses[:120].reshape(4, 30, 2) == 2 * session["counts"]["running"]).all()
    assert (recording.responses[120:].reshape(4, 11, 2) == 2 * session["counts"]["frozen"]).all()
    assert (recording.frame[:120] == np.arange(120)).all()
    assert (recording.frame[120:].reshape(4, 11) == np.arange(11)).all()
    assert (recording.species, recording.rate_hz) == ("mouse", 75)
    assert {stimulus.pixel_um for stimulus in recording.stimuli.values()} == {7.5 * 4}
    assert source_files(MOUSE, NAME, tmp_path) == [path]


def test_blocks_with_the_same_gaze_are_stored_once(tmp_path):
    session = session_data()
    session["fixations"]["running"][2] = session["fixations"]["running"][0]
    write_session(tmp_path, NAME, **session)
    recording = build(tmp_path)
    (running,) = [stimulus for name, stimulus in recording.stimuli.items() if name.startswith("running")]
    assert running.frames.shape[0] == 3 * 30
    expected = reduced(screens(session["images"]["running"], session["fixations"]["running"].reshape(-1, 3), SCREEN))
    assert np.allclose(running.frames[recording.frame[:120]], expected, atol=1e-3)
    assert recording.trials["repeat"].tolist()[:4] == [0, 0, 1, 0]


def test_sessions_share_the_movies_that_they_were_both_shown(tmp_path):
    other, third = NAME.replace("left", "right"), NAME.replace("2021", "2020")
    one, two, foreign = session_data(), session_data(), session_data(seed=5)
    two["counts"]["running"] += 1
    two["images"]["frozen"] = foreign["images"]["frozen"]
    for session, content in ((NAME, one), (other, two), (third, foreign)):
        write_session(tmp_path, session, **content)
    config = MOUSE | SIZES
    first, second, _ = (build(tmp_path, session) for session in (NAME, other, third))
    (running,) = set(first.stimuli) & set(second.stimuli)
    assert list(build_stimuli(config, tmp_path)) == [running]
    write_stimuli(build_stimuli(config, tmp_path), tmp_path / "out" / "stimuli.h5")
    shared = read_stimuli(tmp_path / "out" / "stimuli.h5")
    paths = [tmp_path / "out" / f"{session}.h5" for session in (NAME, other, third)]
    for path in paths:
        recording = build_recording(config, path.stem, tmp_path, shared)
        write_recording(recording, path, shared_stimuli=tmp_path / "out" / "stimuli.h5")
    with h5py.File(paths[1], "r") as file:
        links = {
            name: isinstance(file["stimuli"].get(name, getlink=True), h5py.ExternalLink) for name in second.stimuli
        }
    assert links == {name: name == running for name in second.stimuli}
    back = read_recordings(paths)
    assert back[0].stimuli[running].frames is back[1].stimuli[running].frames
    assert (back[1].stimuli[running].frames == second.stimuli[running].frames).all()
    assert running not in back[2].stimuli
    in_memory = {recording.session: recording for recording in build_recordings(config, tmp_path)}
    assert in_memory[NAME].stimuli[running].frames is in_memory[other].stimuli[running].frames
    assert len(source_files(config, None, tmp_path)) == 3


def test_the_session_says_its_pixel_size_and_rate(tmp_path):
    session = NAME.replace("mouse", "marmoset")
    write_session(tmp_path, session, **session_data(), expdata={"pixelsize": 2.5e-6, "refreshrate": 85.0})
    recording = build(tmp_path, session, MARMOSET)
    assert {stimulus.pixel_um for stimulus in recording.stimuli.values()} == {10.0}
    assert [path.name for path in source_files(MARMOSET, session, tmp_path)] == [
        "fixationmovie_data.mat",
        "expdata.mat",
    ]
    with pytest.raises(
        RecordingError, match=r"marmoset.*/expdata\.mat: projector/refreshrate is 85 Hz, data_io.rate_hz is 75"
    ):
        build(tmp_path, session, MARMOSET, rate_hz=75.0)


def test_published_validation_clips(tmp_path):
    """75 frames per clip, 20 of them, counted through all running blocks."""
    write_session(tmp_path, NAME, **session_data(n_blocks=5, n_running=400, n_trials=2))
    recording = build(tmp_path)
    split = {"method": "random_clips", "n_clips": 20, "clip_length": 75, "seed": 42}
    held_out = recording.frame[label_bins(recording, split, 0, lag=0) == VALIDATION]
    clips = np.sort(np.random.RandomState(42).choice(2000 // 75, 20, replace=False))
    shown = np.concatenate([75 * clips[:, None] + np.arange(75)]).reshape(-1)
    rest = np.arange(26 * 75, 2000) if 25 in clips else []  # a shorter rest joins the last clip
    assert (held_out == np.concatenate([shown, rest])).all()


def test_one_copy_of_the_movie_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr("coread.data_io.readers.fixation_movie.CHUNK_VALUES", 2**14)
    monkeypatch.setattr("coread.data_io.readers.fixation_movie.BATCH_PIXELS", 2**14)
    write_session(tmp_path, NAME, **session_data(n_blocks=40, n_running=500))
    build(tmp_path)  # imports
    tracemalloc.start()
    recording = build(tmp_path, video_height=12, video_width=20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    held = sum(stimulus.frames.nbytes for stimulus in recording.stimuli.values())
    assert held > 15e6
    assert peak < 1.4 * held


def test_sessions_are_found_by_species_and_stimulus(tmp_path):
    write_session(tmp_path, NAME, **session_data())
    write_session(tmp_path, NAME.replace("mouse", "marmoset"), **session_data())
    write_session(tmp_path, "20201112_252MEA_mouse_images", **session_data(), stimulus="imagesequence")
    resource_fork = tmp_path / SESSIONS / "__MACOSX" / NAME
    resource_fork.mkdir(parents=True)
    (resource_fork / "._fixationmovie_data.mat").write_bytes(b"")
    assert list_sessions(MOUSE, tmp_path) == [NAME]
    assert list_sessions(MARMOSET, tmp_path) == [NAME.replace("mouse", "marmoset")]


def test_registry_of_published_files():
    """Of the folder that the species share, each takes its own sessions."""
    archives = {f"{SESSIONS}/{name}.zip": Expected() for name in (NAME, NAME.replace("mouse", "marmoset"))}
    chosen = [entry.chosen(archives) for config in (MOUSE, MARMOSET) for entry in read_registry(config)]
    assert [list(files) for files in chosen] == [[path] for path in archives]


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("stimulus", ["frozencheckerflicker", "gratingflicker", "imagesequence"])
def test_stimuli_without_frames_are_refused(tmp_path, stimulus):
    with pytest.raises(
        ValueError, match=f"data_io.stimulus_type '{stimulus}' cannot be read: its files .*; fixationmovie"
    ):
        list_sessions(MOUSE | {"stimulus_type": stimulus}, tmp_path)
    with pytest.raises(ValueError, match=r"data_io.stimulus_type is fixationmovie, found 'noise'"):
        list_sessions(MOUSE | {"stimulus_type": "noise"}, tmp_path)


def test_as_many_trials_as_bins_are_read_in_the_documented_order(tmp_path):
    """8 trials, 8 bins and 8 neurons: only the documented order (trial, bin, neuron) is assumed."""
    session = session_data(n_trials=8, n_frozen=8, n_neurons=8)
    write_session(tmp_path, NAME, **session)
    assert (build(tmp_path).responses[120:].reshape(8, 8, 8) == session["counts"]["frozen"]).all()


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ((2, 1, 0), r"frozenbin has shape \(2, 11, 3\)|the numbers of neurons differ: runningbin 2, frozenbin 3"),
        ((0, 2, 1), r"frozenbin has shape \(3, 2, 11\), but frozenfixations ask for .* = \(trial, 11, neuron\)"),
        ((1, 0, 2), r"frozenbin has shape \(11, 3, 2\), but"),
    ],
)
def test_other_orders_of_axes_are_refused(tmp_path, axes, message):
    session = session_data()
    path = write_session(tmp_path, NAME, **session)
    edit(path, frozenbin=session["counts"]["frozen"].transpose(axes))
    with pytest.raises(RecordingError, match=message):
        build(tmp_path)


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"frozenImages": None}, r"dorsal/fixationmovie_data\.mat: no dataset frozenImages, found \['frozenbin', "),
        ({"runningImages": np.zeros((4, 5))}, r"runningImages must be numbers \(image, x, y\), found float64 of shape"),
        (
            {"frozenfixations": np.ones((3, 11))},
            r"must have the 3 columns image, x and y, found shape \(3, 11\); its axes",
        ),
        (
            {"frozenfixations": np.full((11, 3), 6.0)},
            r"frozenfixations names the images 6 to 6, frozenImages holds 1 to 5",
        ),
        ({"frozenfixations": np.zeros((11, 3))}, r"frozenfixations names the images 0 to 0"),
        ({"frozenfixations": np.full((11, 3), 1.5)}, r"frozenfixations must be whole numbers, found 1.5"),
        (
            {"runningbin": np.zeros((4, 31, 2))},
            r"runningbin has shape \(4, 31, 2\), but runningfixations .* \(4, 30, neur",
        ),
        ({"runningbin": np.zeros((30, 4, 2))}, r"runningbin has shape \(30, 4, 2\).*axes are in another order"),
        ({"runningbin": np.zeros((4, 30, 3))}, r"the numbers of neurons differ: runningbin 3, frozenbin 2"),
        ({"runningbin": np.full((4, 30, 2), np.nan)}, r"240 response values are not finite"),
    ],
)
def test_wrong_datasets_are_named(tmp_path, datasets, message):
    edit(write_session(tmp_path, NAME, **session_data()), **datasets)
    with pytest.raises(RecordingError, match=message):
        build(tmp_path)


def test_truncated_files_are_named(tmp_path):
    path = write_session(tmp_path, NAME, **session_data())
    whole = path.read_bytes()
    for length in (len(whole) // 2, 100):
        path.write_bytes(whole[:length])
        with pytest.raises(
            RecordingError, match=r"dorsal/fixationmovie_data\.mat: not a readable HDF5 file, truncated"
        ):
            build(tmp_path)
