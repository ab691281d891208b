"""The documented HDF5 directory, right and wrong."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from coread.data_io.sources import build_recording, build_recordings, build_stimuli, list_sessions, source_files
from coread.recording import RecordingError, read_recording, write_recording, write_stimuli

CONFIGS = Path(__file__).parents[2] / "configs" / "data_io"
CONFIG = {"dataset": "lab", "reader": "hdf5_directory", "sessions": None, "rate_hz": 30.0, "test_names": ["film"]}


@pytest.fixture
def folder(tmp_path):
    """Two sessions of 5 and 3 neurons, 40 frames of noise and 12 of a test film, 2 colours, 4 x 6 pixels."""
    rng = np.random.default_rng(0)
    (tmp_path / "stimuli").mkdir()
    np.save(tmp_path / "stimuli" / "noise.npy", rng.choice([-1.0, 1.0], (2, 40, 4, 6)))
    np.save(tmp_path / "stimuli" / "film.npy", rng.integers(0, 256, (2, 12, 4, 6), np.uint8))
    for name, n_neurons in {"a.h5": 5, "b.hdf5": 3}.items():
        with h5py.File(tmp_path / name, "w") as file:
            file["responses_noise"] = rng.poisson(1.0, (n_neurons, 40)).astype(np.float64)
            file["responses_film"] = rng.random((n_neurons, 12))
            file["session_info/celltypes"] = np.array([f"type {cell % 2}" for cell in range(n_neurons)], object)
            file["session_info/roi/mask"] = np.eye(3)
    return tmp_path


def build(folder, session="a", **changes):
    config = CONFIG | changes
    return build_recording(config, session, folder, build_stimuli(config, folder))


def replace(path, **datasets):
    with h5py.File(path, "a") as file:
        for key, values in datasets.items():
            if key in file:
                del file[key]
            if values is not None:
                file[key] = values


def stored(folder, key, session="a.h5"):
    with h5py.File(folder / session, "r") as file:
        return file[key][()]


def test_sessions_trials_and_tiers(folder):
    assert list_sessions(CONFIG, folder) == ["a", "b"]
    recording = build(folder)
    assert (recording.n_bins, recording.n_neurons) == (52, 5)
    assert recording.trials["stimulus"].tolist() == ["film", "noise"]
    assert recording.trials["tier"].tolist() == ["test", "train"]
    assert recording.trials["time_order"].tolist() == [0, 1]
    noise = recording.bin_column("stimulus") == "noise"
    assert (recording.responses[noise] == stored(folder, "responses_noise").T).all()
    assert recording.responses.dtype == np.float32
    assert (recording.frame[noise] == np.arange(40)).all()
    assert recording.valid.all()
    movie = np.load(folder / "stimuli" / "noise.npy")
    stimulus = recording.stimuli["noise"]
    assert (stimulus.frames[7] * stimulus.scale + stimulus.offset == movie[:, 7]).all()


def test_session_info_is_kept_and_labels_the_neurons(folder):
    recording = build(folder)
    assert recording.neurons["unit_id"].tolist() == [f"a_{cell:03d}" for cell in range(5)]
    assert recording.neurons["cell_type"].tolist() == ["type 0", "type 1", "type 0", "type 1", "type 0"]
    assert (recording.session_info["roi.mask"] == np.eye(3)).all()
    replace(folder / "a.h5", **{"session_info/unit_id": np.arange(5) + 100})
    assert build(folder).neurons["unit_id"].tolist() == ["100", "101", "102", "103", "104"]


def test_stimuli_keep_the_smallest_exact_dtype(folder):
    np.save(folder / "stimuli" / "deep.npy", np.random.default_rng(0).integers(0, 5000, (2, 8, 4, 6), np.int64))
    np.save(folder / "stimuli" / "real.npy", np.random.default_rng(0).standard_normal((2, 8, 4, 6)))
    dtypes = {name: stimulus.frames.dtype for name, stimulus in build_stimuli(CONFIG, folder).items()}
    assert dtypes == {"noise": np.int8, "film": np.uint8, "deep": np.uint16, "real": np.float32}


def test_integer_movies_stay_on_disk_until_they_are_written(folder):
    frames = build_stimuli(CONFIG, folder)["film"].frames
    assert isinstance(frames, np.memmap)
    assert not isinstance(build_recordings(CONFIG, folder)[0].stimuli["film"].frames, np.memmap)


def test_repeats_become_trials(folder):
    repeats = np.random.default_rng(1).poisson(2.0, (4, 5, 12))
    replace(folder / "a.h5", responses_film_by_trial=repeats)
    recording = build(folder)
    film = recording.trials.query("stimulus == 'film'")
    assert film["repeat"].tolist() == [0, 1, 2, 3]
    shown = recording.bin_column("stimulus") == "film"
    assert (recording.responses[shown].reshape(4, 12, 5) == repeats.transpose(0, 2, 1)).all()
    assert (recording.frame[shown].reshape(4, 12) == np.arange(12)).all()
    replace(folder / "a.h5", responses_film=None)
    assert (build(folder).responses == recording.responses).all()


def test_a_sessions_own_stimulus_wins_and_needs_no_shared_one(folder):
    own = np.full((2, 40, 4, 6), 3.0)
    replace(folder / "a.h5", stimulus_noise=own, stimulus_private=own[:, :9], responses_private=np.ones((5, 9)))
    first, second = build_recordings(CONFIG, folder)
    assert set(first.stimuli) == {"film", "noise", "private"}
    assert (first.stimuli["noise"].frames[:] == 3).all()
    assert (second.stimuli["noise"].frames[:] != 3).all()
    assert first.stimuli["film"].frames is second.stimuli["film"].frames


def test_a_stimulus_that_a_session_did_not_see_is_not_part_of_it(folder):
    replace(folder / "a.h5", responses_film=None)
    assert set(build(folder).stimuli) == {"noise"}


@pytest.mark.parametrize(
    ("changes", "lengths"),
    [
        ({"trial_length": 10}, [12, 10, 10, 10, 10]),
        ({"trial_length": {"noise": 20}}, [12, 20, 20]),
        ({"trial_length": {"noise": 20, "film": 4}}, [4, 4, 4, 20, 20]),
        ({"trial_offsets": {"noise": [0, 15, 22]}}, [12, 15, 7, 18]),
        ({}, [12, 40]),
    ],
)
def test_presentations_are_cut_into_trials(folder, changes, lengths):
    recording = build(folder, **changes)
    first, past = recording.trial_bounds()
    assert (past - first).tolist() == lengths
    assert (recording.frame[12:] == np.arange(40)).all()
    assert (recording.trials["repeat"] == 0).all()


def test_repeats_of_several_trials_each(folder):
    replace(folder / "a.h5", responses_film_by_trial=np.zeros((2, 5, 12)))
    recording = build(folder, trial_offsets={"film": [0, 5]})
    film = recording.trials.query("stimulus == 'film'")
    assert film["repeat"].tolist() == [0, 0, 1, 1]
    first, past = recording.trial_bounds()
    assert (past - first)[:4].tolist() == [5, 7, 5, 7]


def test_missing_values_are_masked_on_request(folder):
    responses = stored(folder, "responses_noise")
    responses[2, 7] = responses[4, 7] = responses[0, 30] = np.nan
    replace(folder / "a.h5", responses_noise=responses)
    with pytest.raises(
        RecordingError, match=r"a\.h5: 3 response values are not finite, the first at bin 19, neuron 2; set data_io.nan"
    ):
        build(folder)
    recording = build(folder, nan_responses="mask")
    assert np.flatnonzero(~recording.valid).tolist() == [19, 42]
    assert np.isfinite(recording.responses).all()


def test_what_is_written_comes_back_with_linked_stimuli(folder, tmp_path):
    stimuli = build_stimuli(CONFIG, folder)
    write_stimuli(stimuli, tmp_path / "out" / "stimuli.h5")
    recording = build_recording(CONFIG, "a", folder, stimuli)
    write_recording(recording, tmp_path / "out" / "a.h5", shared_stimuli=tmp_path / "out" / "stimuli.h5")
    back = read_recording(tmp_path / "out" / "a.h5")
    assert (back.responses == recording.responses).all()
    assert (back.stimuli["film"].frames == recording.stimuli["film"].frames).all()
    assert set(back.source) == {"a.h5", "stimuli/film.npy", "stimuli/noise.npy"}
    with h5py.File(tmp_path / "out" / "a.h5", "r") as file:
        assert isinstance(file["stimuli"].get("film", getlink=True), h5py.ExternalLink)


def test_source_files(folder):
    assert [path.name for path in source_files(CONFIG, None, folder)] == ["film.npy", "noise.npy"]
    assert source_files(CONFIG, "b", folder) == [folder / "b.hdf5"]


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"responses_noise": np.zeros((5, 42))}, r"a\.h5: responses_noise has 42 bins, stimulus noise has 40 frames$"),
        (
            {"responses_noise": np.zeros((40, 5))},
            r"responses_noise has 5 bins, stimulus noise has 40 frames; its axes look transposed, expected "
            r"\(neuron, time\), found shape \(40, 5\)",
        ),
        (
            {"responses_film_by_trial": np.zeros((3, 12, 5))},
            r"responses_film_by_trial has 5 bins, stimulus film has 12 frames; its axes look transposed, expected "
            r"\(repeat, neuron, time\)",
        ),
        (
            {"responses_film_by_trial": np.zeros((5, 12))},
            r"responses_film_by_trial must be numbers \(repeat, neuron, time\), found float64 of shape \(5, 12\)",
        ),
        ({"responses_noise": np.zeros(40)}, r"responses_noise must be numbers \(neuron, time\), found .* \(40,\)"),
        (
            {"responses_noise": np.zeros((4, 40))},
            r"a\.h5: the numbers of neurons differ between stimuli: responses_film 5, responses_noise 4",
        ),
        (
            {"responses_film_by_trial": np.zeros((3, 4, 12))},
            r"responses_film has 5 neurons, responses_film_by_trial has 4",
        ),
        (
            {"responses_chirp": np.zeros((5, 30))},
            r"a\.h5: responses_chirp has no stimulus: no stimulus_chirp in the file and no stimuli/chirp\.npy "
            r"\(found \['film', 'noise'\]\)",
        ),
        (
            {"responses_noise": None, "responses_film": None},
            r"a\.h5: no dataset responses_<stimulus>, found \['session_info'\]",
        ),
        (
            {"stimulus_noise": np.zeros((40, 4, 6))},
            r"a\.h5: stimulus_noise must be numbers \(channel, time, height, width\), found float64 of shape \(40, 4",
        ),
        (
            {"stimulus_noise": np.zeros((40, 3, 4, 6)), "responses_noise": np.zeros((5, 40))},
            r"responses_noise has 40 bins, stimulus noise has 3 frames; the stimulus looks like \(time, channel, "
            r"height, width\)$",
        ),
    ],
)
def test_wrong_sessions_are_named(folder, datasets, message):
    replace(folder / "a.h5", **datasets)
    with pytest.raises(RecordingError, match=message):
        build(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"test_names": ["flim"]},
            r"a\.h5: data_io names the unknown stimuli \['flim'\]; there are \['film', 'noise'\]",
        ),
        ({"trial_length": {"nose": 3}}, r"unknown stimuli \['nose'\]"),
        ({"trial_length": 7}, "stimulus noise has 40 frames, which is no multiple of data_io.trial_length 7"),
        ({"trial_offsets": {"noise": [0, 40]}}, r"trial_offsets.noise must start at 0 .* 40 frames, found \[0, 40\]"),
        ({"trial_offsets": {"noise": [5, 9]}}, r"must start at 0"),
        ({"color_channels": 3}, r"has shape \(2, 12, 4, 6\) .*, but data_io says color_channels=3"),
        ({"video_height": 6, "video_width": 4}, "data_io says video_height=6, video_width=4"),
        ({"color_channels": 12}, r"color_channels=12; it looks like \(time, channel, height, width\)"),
        ({"nan_responses": "drop"}, r"data_io.nan_responses is one of \['error', 'mask'\], found 'drop'"),
        ({"chanels": 3}, r"data_io: unknown keys \['chanels'\]; known keys are \['area', 'color_channels'"),
        ({"rate_hz": None}, None),
    ],
)
def test_wrong_settings_are_named(folder, changes, message):
    config = CONFIG | changes
    if message is None:
        del config["rate_hz"]
        message = r"data_io: missing keys \['rate_hz'\]"
    with pytest.raises(ValueError, match=message):
        build_recording(config, "a", folder, build_stimuli(config, folder))


def test_damaged_files_are_named(folder):
    whole = (folder / "a.h5").read_bytes()
    (folder / "a.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordingError, match=r"a\.h5: not a readable HDF5 file, truncated or damaged"):
        build(folder)
    movie = (folder / "stimuli" / "noise.npy").read_bytes()
    for damaged in (movie[: len(movie) // 2], b""):
        (folder / "stimuli" / "noise.npy").write_bytes(damaged)
        with pytest.raises(RecordingError, match=r"stimuli/noise\.npy: not a readable \.npy array, truncated"):
            build(folder, "b")


def test_pickles_are_refused(folder):
    np.save(folder / "stimuli" / "noise.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(RecordingError, match=r"stimuli/noise\.npy: not a readable"):
        build(folder)


def test_movies_that_are_not_finite_are_named(folder):
    np.save(folder / "stimuli" / "noise.npy", np.full((2, 40, 4, 6), np.nan))
    with pytest.raises(RecordingError, match=r"stimuli/noise\.npy: a stimulus holds 1920 values that are not finite"):
        build(folder)


def test_folders_without_sessions_are_named(folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match=r"no sessions in .*empty: no file there matches \*\.h5 or \*\.hdf5"):
        list_sessions(CONFIG, empty)
    with pytest.raises(FileNotFoundError, match=r"'lab': there is no directory .*absent"):
        list_sessions(CONFIG, tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="'lab' is read from a directory, but none was named"):
        list_sessions(CONFIG)
    with pytest.raises(FileNotFoundError, match=r"session 'c' needs c\.h5; found \['a\.h5', 'b\.hdf5'\]"):
        build(folder, "c")
    (folder / "a.hdf5").write_bytes(b"")
    with pytest.raises(ValueError, match=r"session 'a' exists both as \.h5 and as \.hdf5"):
        list_sessions(CONFIG, folder)


def test_real_recording(reference_data, tmp_path):
    """Liu et al. 2017: 24 presentations of 1500 frames, 219 repeats, one byte per pixel."""
    import subprocess
    import sys

    script = reference_data / "data" / "liu2017" / "convert.py"
    if not script.is_file():
        pytest.skip(f"reference recording not found: {script}")
    subprocess.run([sys.executable, script, tmp_path], check=True, timeout=120)
    config = yaml.safe_load((CONFIGS / "liu_2017.yaml").read_text())
    (recording,) = build_recordings(config, tmp_path)
    assert recording.trials.groupby("stimulus").size().to_dict() == {"frozen": 219, "running": 24}
    assert (recording.trials.query("stimulus == 'running'")["tier"] == "train").all()
    first, past = recording.trial_bounds()
    assert set((past - first)[219:]) == {1500}
    assert {stimulus.frames.dtype.itemsize for stimulus in recording.stimuli.values()} == {1}
    assert recording.n_neurons == 12
    film = recording.responses[recording.bin_column("stimulus") == "frozen"].reshape(219, 300, 12)
    assert np.allclose(film.mean(0).T, stored(tmp_path, "responses_frozen", "retina01.h5"), atol=1e-5)
