"""Marmoset recordings (Sridhar et al. 2025) from files in the published layout: planted cells, trials, damage."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from coread.data_io.lazy_frames import LazyFrames
from coread.data_io.restricted_pickle import PickleError, load_pickle
from coread.data_io.sources import build_recording, build_recordings, build_stimuli, list_sessions, source_files
from coread.data_io.splits import TEST, TRAIN, VALIDATION, label_bins
from coread.data_io.sta import compute_sta
from coread.recording import Recording, RecordingError, read_recording, read_stimuli, write_recording, write_stimuli
from tests.published_data.sridhar_2025 import (
    CELLS,
    GAZE_OF,
    NATURAL_MOVIE,
    WHITE_NOISE,
    cropped,
    gaze_text,
    screen,
    write_natural_movie,
    write_pickle,
    write_white_noise,
)

CONFIGS = Path(__file__).parents[2] / "configs" / "data_io"
PUBLISHED_MOVIE = yaml.safe_load((CONFIGS / "sridhar_2025_natural_movie.yaml").read_text())
PUBLISHED_NOISE = yaml.safe_load((CONFIGS / "sridhar_2025_white_noise.yaml").read_text())
MOVIE, NOISE = (config | {"excluded_cells": {}} for config in (PUBLISHED_MOVIE, PUBLISHED_NOISE))  # a few cells only
TOY = MOVIE | {"sessions": ["01"], "test_frames": 60, "test_trials": {}}


def assert_cells_found(recording: Recording, bins: np.ndarray, lag: int = 5) -> None:
    """Every planted cell's average peaks at its own pixel and lag, far above everything else."""
    sta = compute_sta(recording, bins, lag)[:, :, 0]
    for average, cell in zip(np.abs(sta), CELLS, strict=True):
        assert np.unravel_index(average.argmax(), average.shape) == (cell.lag, cell.y, cell.x)
        ranked = np.sort(average.reshape(-1))
        assert (
            ranked[-1] > 2 * ranked[-4]
        )  # the runners-up are the neighbouring lags where frames last for two refreshes


@pytest.fixture(scope="module")
def movie(tmp_path_factory):
    folder = tmp_path_factory.mktemp("movie")
    return folder, write_natural_movie(folder, sessions=("01", "02", "04"))


@pytest.fixture(scope="module")
def recording(movie):
    return build_recordings(TOY, movie[0])[0]


# ------------------------------------------------------------------------------------------------------- natural movie


def test_planted_cells_are_recovered_in_upright_and_flipped_frames(recording, movie):
    train = recording.bin_column("tier") == "train"
    assert_cells_found(recording, train)
    flips = movie[1]["lines"][GAZE_OF["01"]][60:, 3]
    assert 0.3 < flips.mean() < 0.7
    for flip in (0, 1):
        for row, cell in enumerate(CELLS):
            # bins whose response is a pixel of a frame with this flip
            bins = np.zeros(recording.n_bins, bool)
            bins[np.flatnonzero(train)] = np.roll(flips, cell.lag) == flip
            average = np.abs(compute_sta(recording, bins, 5)[row, :, 0])
            assert np.unravel_index(average.argmax(), average.shape) == (cell.lag, cell.y, cell.x), (flip, cell)


def test_every_bin_shows_the_published_frame(recording, movie):
    images, lines = movie[1]["images"], movie[1]["lines"][GAZE_OF["01"]]
    train = np.flatnonzero(recording.bin_column("tier") == "train")
    test = np.flatnonzero((recording.bin_column("tier") == "test") & (recording.bin_column("repeat") == 2))
    names = recording.bin_column("stimulus")
    for bins, shown in ((train, lines[60:]), (test, lines[:60])):
        for index in (0, 1, 59, len(bins) // 2, len(bins) - 1):
            if index < len(bins):
                stimulus = recording.stimuli[names[bins[index]]]
                assert stimulus.frames.dtype == np.uint8
                frame = stimulus.frames[recording.frame[bins[index]], 0] * stimulus.scale + stimulus.offset
                assert np.allclose(frame, screen(images, shown[index]), rtol=0, atol=1e-12)


def test_trials_and_repeats_are_rows(recording):
    assert recording.trials["tier"].tolist() == ["train"] * 4 + ["test"] * 4
    assert recording.trials["repeat"].tolist() == [0, 0, 0, 0, 0, 1, 2, 3]
    assert recording.trials["published_trial"].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    first, past = recording.trial_bounds()
    assert (past - first).tolist() == [300] * 4 + [60] * 4
    test = recording.bin_column("tier") == "test"
    assert (recording.frame[test].reshape(4, 60) == recording.frame[test][:60]).all()
    repeats = recording.responses[test].reshape(4, 60, len(CELLS))
    assert np.allclose(repeats[2] - repeats[0], 0.02, atol=1e-6)


def test_distinct_frames_are_stored_once(recording):
    train = next(stimulus for name, stimulus in recording.stimuli.items() if name.startswith("train"))
    shown = recording.frame[recording.bin_column("tier") == "train"]
    assert train.frames.shape == (1200 // 2 - 50 // 2, 1, 80, 90)  # two refreshes each, 50 shown twice
    assert (shown[-50:] == shown[:50]).all()
    assert (np.diff(np.unique(shown, return_index=True)[1]) > 0).all()  # in the order of their first appearance


def test_sessions_with_the_same_gaze_share_frames(movie):
    config = TOY | {"sessions": ["01", "02", "04"]}
    stimuli = build_stimuli(config, movie[0])
    assert len(stimuli) == 4
    first, second, fourth = (build_recording(config, session, movie[0], stimuli) for session in config["sessions"])
    assert set(first.stimuli) == set(fourth.stimuli) != set(second.stimuli)
    assert all(first.stimuli[name].frames is fourth.stimuli[name].frames for name in first.stimuli)


def test_frames_are_rendered_when_asked_for_and_survive_the_file(movie, tmp_path, recording):
    stimuli = build_stimuli(TOY, movie[0])
    assert all(isinstance(stimulus.frames, LazyFrames) for stimulus in stimuli.values())
    write_stimuli(stimuli, tmp_path / "stimuli.h5")
    built = build_recording(TOY, "01", movie[0], read_stimuli(tmp_path / "stimuli.h5"))
    write_recording(built, tmp_path / "01.h5", shared_stimuli=tmp_path / "stimuli.h5")
    back = read_recording(tmp_path / "01.h5")
    for name, stimulus in back.stimuli.items():
        assert (stimulus.frames == recording.stimuli[name].frames).all()
        assert stimulus.scale == 1 / 255
    assert (back.responses == recording.responses).all()
    assert back.trials["published_trial"].tolist() == recording.trials["published_trial"].tolist()


def test_images_with_fractions_keep_the_published_precision(tmp_path):
    written = write_natural_movie(tmp_path, n_images=2, trial_length=60)
    for index, path in enumerate(sorted((tmp_path / NATURAL_MOVIE / "stimuli_padded_4").iterdir())):
        np.save(path, written["images"][index] * 0.8 + 0.3)
    stimulus = build_stimuli(TOY, tmp_path)["train_" + GAZE_OF["01"].removesuffix(".txt")]
    expected = ((written["images"] * 0.8 + 0.3) / 255).astype(np.float16).astype(np.float64) * 255
    frame = screen(expected, written["lines"][GAZE_OF["01"]][60])
    assert stimulus.frames.dtype == np.float16
    assert np.allclose(stimulus.frames[0, 0], frame, atol=1e-6)


def test_a_seed_keeps_its_own_trials_and_lines(movie, recording):
    config = TOY | {"stimulus_seed": 2023}
    (chosen,) = build_recordings(config, movie[0])
    assert chosen.trials["published_trial"].tolist() == [2, 3, 0, 1]
    train, all_train = chosen.bin_column("tier") == "train", recording.bin_column("tier") == "train"
    assert (chosen.frame[train] == recording.frame[all_train][600:]).all()
    assert (chosen.responses[train] == recording.responses[all_train][600:]).all()
    with pytest.raises(RecordingError, match=r"no trials of data_io.stimulus_seed 7; trial_separation has .* 2023\]"):
        build_recordings(TOY | {"stimulus_seed": 7}, movie[0])


def test_test_trials_of_another_sequence_and_listed_cells_are_left_out(movie, recording):
    config = TOY | {"test_trials": {"01": 2}, "excluded_cells": {"01": [1], "02": [0]}}
    (built,) = build_recordings(config, movie[0])
    assert (built.trials["tier"] == "test").sum() == 2
    assert built.neurons["unit_id"].tolist() == ["01_000", "01_002", "01_003"]
    assert (built.responses == recording.responses[: built.n_bins, [0, 2, 3]]).all()
    assert built.session_info["quality_step"].tolist() == ["excluded_cells"]
    assert (built.session_info["quality_n_before"].item(), built.session_info["quality_n_removed"].item()) == (4, 1)
    with pytest.raises(RecordingError, match=r"excluded_cells lists \[9, 4\], the file has the cells 0 to 3"):
        build_recordings(TOY | {"excluded_cells": {"01": [9, 4]}}, movie[0])
    with pytest.raises(RecordingError, match=r"excluded_cells lists \[4\], the file has the cells 0 to 3"):
        build_recordings(TOY | {"excluded_cells": {"01": [1, 4]}}, movie[0])  # counted from 1?


def test_one_number_too_many_in_a_list_that_counts_from_0_leaves_nothing_out(movie, recording):
    with pytest.warns(UserWarning, match=r"movie.pkl: data_io.excluded_cells lists \[4\], .* nothing to leave out"):
        (built,) = build_recordings(TOY | {"excluded_cells": {"01": [0, 2, 4]}}, movie[0])
    assert built.neurons["unit_id"].tolist() == ["01_001", "01_003"]
    assert (built.responses == recording.responses[:, [1, 3]]).all()
    assert built.session_info["quality_n_removed"].item() == 2


def test_bins_past_the_end_of_the_gaze_file_are_an_error_or_masked(tmp_path):
    lines = write_natural_movie(tmp_path)["lines"][GAZE_OF["01"]]
    (tmp_path / NATURAL_MOVIE / "fixations" / GAZE_OF["01"]).write_text(gaze_text(lines[:-40]))
    with pytest.raises(
        RecordingError, match=r"s4_fixed.txt: session '01' has 40 bins without a line, from train trial 3"
    ):
        build_recordings(TOY, tmp_path)
    (masked,) = build_recordings(TOY | {"missing_fixations": "mask"}, tmp_path)
    assert (~masked.valid).sum() == 40
    assert (masked.trial[~masked.valid] == 3).all()


def test_folds_and_published_trials_keep_shared_frames_on_one_side(recording):
    names = recording.bin_column("stimulus")

    def seen(labels, label):
        windows = np.flatnonzero(labels == label)[:, None] - np.arange(6)
        return set(zip(names[windows].reshape(-1), recording.frame[windows].reshape(-1).tolist(), strict=True))

    folds = {"method": "folds", "n_folds": 3, "clip_length": 60, "seed": 0}
    trials = {"method": "published_trials", "train_fraction": 0.75, "seed": 1000, "together": []}
    for split, fold in ((folds, 0), (folds, 1), (folds, 2), *((trials | {"seed": seed}, 0) for seed in range(4))):
        labels = label_bins(recording, split, fold, lag=5)
        assert (labels == TRAIN).any()
        assert (labels == VALIDATION).any()
        assert not seen(labels, TRAIN) & seen(labels, VALIDATION)
        assert ((labels == TEST) == ((recording.bin_column("tier") == "test") & (recording.bin_in_trial() >= 5))).all()


# --------------------------------------------------------------------------------------------------------- white noise


@pytest.mark.parametrize(
    ("values", "dtype", "stored", "scale", "offset"),
    [
        ((0, 1), np.uint8, np.uint8, 1, 0),
        ((-1, 1), np.int8, np.int8, 1, 0),
        ((-1, 1), np.float64, np.uint8, 2, -1),
        ((0, 255), np.float32, np.uint8, 255, 0),
        ((0, 1), bool, np.uint8, 1, 0),
    ],
)
def test_noise_is_one_byte_per_pixel_whatever_the_files_hold(tmp_path, values, dtype, stored, scale, offset):
    movies = write_white_noise(
        tmp_path, values=values, dtype=dtype, sessions=("04",), n_trials=1, trial_length=12, n_test=9
    )
    stimuli = build_stimuli(NOISE | {"sessions": ["04"]}, tmp_path)
    assert set(stimuli) == {"non_repeating_stimuli_2", "repeating_stimuli_2"}
    stimulus = stimuli["non_repeating_stimuli_2"]
    assert isinstance(stimulus.frames, LazyFrames)
    assert (stimulus.frames.dtype, stimulus.scale, stimulus.offset) == (stored, scale, offset)
    names = ["non_repeating_stimuli_2/trial_000", "non_repeating_stimuli_2/trial_001"]
    published = np.concatenate([cropped(movies[name]) for name in names])
    assert (stimulus.frames[:][:, 0] * stimulus.scale + stimulus.offset == published).all()
    rows = np.array([[30, 3], [19, 18]])
    assert (stimulus.frames[rows][:, :, 0] * stimulus.scale + stimulus.offset == published[rows]).all()


def test_planted_cells_of_every_session_are_recovered(tmp_path):
    write_white_noise(tmp_path)
    config = NOISE | {"sessions": ["01", "04"]}
    for recording in build_recordings(config, tmp_path):
        assert set(recording.stimuli) == {
            f"{kind}_stimuli_{2 if recording.session == '04' else 1}" for kind in ("non_repeating", "repeating")
        }
        assert recording.trials["tier"].tolist() == ["train"] * 3 + ["test"] * 2
        assert recording.n_neurons == len(CELLS)
        assert_cells_found(recording, recording.bin_column("tier") == "train")
        train = recording.frame[recording.bin_column("tier") == "train"].reshape(3, 250)
        assert (train[:, 0] == [0, 257, 514]).all()  # files may be longer than the responses


def test_published_sessions_and_lists_of_cells_by_default(tmp_path):
    assert list_sessions(NOISE, tmp_path) == ["01", "02", "04"]
    assert list_sessions(MOVIE, tmp_path) == ["01", "02", "03", "04"]
    movie, noise = PUBLISHED_MOVIE["excluded_cells"], PUBLISHED_NOISE["excluded_cells"]
    assert {session: len(cells) for session, cells in noise.items()} == {"01": 137, "02": 113, "04": 30}
    assert set(noise["01"]) - set(movie["01"]) == {12, 168}  # in the released model of the natural movie
    assert set(movie["01"]) < set(noise["01"]) < set(range(370))
    assert (movie["02"], movie["04"]) == (noise["02"], noise["04"])
    assert set(noise["02"]) < set(range(182))
    assert set(noise["04"]) < set(range(110))


# -------------------------------------------------------------------------------------------------------------- errors


def damaged_movie(folder: Path, what: str) -> None:
    base = folder / NATURAL_MOVIE
    gaze = base / "fixations" / GAZE_OF["01"]
    responses = base / "responses" / "cell_responses_01_fixation_movie.pkl"
    image = base / "stimuli_padded_4" / "00001_img_10089.npy"
    if what == "gaze":
        gaze.write_text(gaze.read_text() + "1 2 3 4 5 6 7 8 9 10\n")
    elif what == "cut gaze":
        gaze.write_text(gaze.read_text()[:-7])
    elif what == "flip":
        gaze.write_text("0 1 0.0 100.0 100.0 7 2\n" + gaze.read_text())
    elif what == "window":
        gaze.write_text("0 1 0.0 300.0 100.0 7 1\n" + gaze.read_text())
    elif what == "missing image":
        image.unlink()
    elif what == "image":
        image.write_bytes(image.read_bytes()[:500])
    elif what == "image shape":
        np.save(image, np.zeros((300, 350), np.uint8))
    elif what == "pickle":
        responses.write_bytes(responses.read_bytes()[:200])
    elif what == "code":
        responses.write_bytes(b"cos\nsystem\n(S'echo hello'\ntR.")
    else:
        content = load_pickle(responses)
        if what == "key":
            del content["test_responses"]
        elif what == "axes":
            content["train_responses"] = content["train_responses"][0]
        elif what == "cells":
            content["test_responses"] = content["test_responses"][1:]
        elif what == "nan":
            content["train_responses"] = content["train_responses"].copy()  # of the file only views are read
            content["train_responses"][1, 5, 0] = np.nan
        write_pickle(responses, content)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("gaze", r"s4_fixed.txt: not a table of fixations, truncated or damaged"),
        ("flip", r"s4_fixed.txt: line 1 must give a film image, gaze x and y, and flip 0 or 1 .*, found \[0.0, 1"),
        ("cut gaze", r"s4_fixed.txt: line 300 must give a film image"),
        ("window", r"s4_fixed.txt: line 1 looks at \(300, 100\) of image 0, but its window of 200 x 150 is not"),
        ("missing image", r"stimuli_padded_4: film image 00001 is missing, found 00002_img_10090.npy in its place"),
        ("image", r"00001_img_10089.npy: not a readable .npy array"),
        ("image shape", r"00001_img_10089.npy: must have the shape \(350, 300\) of the first film image"),
        ("pickle", r"cell_responses_01_fixation_movie.pkl: .*(truncated|damaged)"),
        ("code", r"cell_responses_01_fixation_movie.pkl: refused, because it asks for os.system"),
        ("key", r"_movie.pkl: no test_responses, found \['seeds', 'train_responses', 'trial_separation'\]"),
        (
            "axes",
            r"_movie.pkl: train_responses must be numbers \(neuron, frame, trial\), found float64 of shape \(60, 4\)",
        ),
        ("cells", r"_movie.pkl: train_responses has 4 cells, test_responses 3"),
        ("nan", r"session '01' .*not finite in bins that are not masked, the first at bin 5, neuron 1"),
    ],
)
def test_damage_names_the_file(tmp_path, what, message):
    write_natural_movie(tmp_path, n_images=3, trial_length=60)
    damaged_movie(tmp_path, what)
    with pytest.raises((RecordingError, PickleError), match=message):
        build_recordings(TOY, tmp_path)


def test_damaged_noise_names_the_file(tmp_path):
    write_white_noise(tmp_path, sessions=("01",), n_trials=2, trial_length=12, n_test=9, dtype=np.float64)
    config = NOISE | {"sessions": ["01"]}
    path = tmp_path / WHITE_NOISE / "non_repeating_stimuli_1" / "trial_001" / "all_images.npy"
    whole = np.load(path)

    def message(values):
        np.save(path, values)
        with pytest.raises(RecordingError) as raised:
            build_recordings(config, tmp_path)
        return str(raised.value)

    where = "non_repeating_stimuli_1/trial_001/all_images.npy"
    assert message(whole[..., :5]).startswith(f"{where}: has 5 frames, cell_responses_01_wn.pkl has responses to 12")
    assert message(whole[:-1]).startswith(f"{where}: is float64 with frames (149, 200)")
    assert (
        message(np.where(np.arange(19) == 12, 0.5, whole))
        == f"{where}: binary noise of 0 and 1 was expected, found 0.5"
    )
    path.unlink()
    with pytest.raises(RecordingError, match=r"trial_001 is missing, found trial_002 in its place"):
        build_recordings(config, tmp_path)


def test_missing_files_and_wrong_settings_are_named(tmp_path, movie):
    with pytest.raises(FileNotFoundError, match=r"there is no directory .*natural_movie \(data_io.folder\)"):
        build_recordings(TOY, tmp_path)
    with pytest.raises(ValueError, match=r"data_io.fixations says nothing about session '05'; it knows \['01', '02'"):
        build_recordings(TOY | {"sessions": ["05"]}, movie[0])
    with pytest.raises(FileNotFoundError, match="film images"):
        build_recordings(TOY | {"images": "stimuli"}, movie[0])
    with pytest.raises(ValueError, match=r"data_io.crop_px \[75, 75, 0, 0\] .* leaves nothing of the window"):
        build_recordings(TOY | {"crop_px": [75, 75, 0, 0]}, movie[0])
    with pytest.raises(ValueError, match="unknown keys"):
        build_recordings(TOY | {"sta_flip": True}, movie[0])


def test_source_files(movie):
    assert [path.name for path in source_files(TOY, "01", movie[0])] == [
        GAZE_OF["01"],
        "cell_responses_01_fixation_movie.pkl",
    ]
    assert len(source_files(TOY, None, movie[0])) == 1 + 10
