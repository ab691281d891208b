"""Stimuli as movies: colours, layout, and how long every frame is shown."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from coread.extras import MissingExtraError
from coread.insilico.experiment import ExperimentResult, Quantity
from coread.plotting import movies
from coread.plotting.analyses import AXES, stimulus_movies
from coread.plotting.movies import Movie, available_formats, mosaic, save_movie, screen_rgb


def shown_gif(path: Path) -> tuple[list[np.ndarray], list[int]]:
    """Return the frames of a GIF as (height, width, colour) and for how many milliseconds each is shown."""
    frames, durations = [], []
    with Image.open(path) as image:
        for index in range(image.n_frames):
            image.seek(index)
            frames.append(np.asarray(image.convert("RGB")))
            durations.append(image.info["duration"])
    return frames, durations


def flicker(n_frames: int, n_channels: int = 1) -> np.ndarray:
    """Return frames no two of which, one after the other, are alike."""
    return np.random.default_rng(0).uniform(-1, 1, (n_frames, n_channels, 3, 4))


def test_one_channel_is_grey_two_are_green_and_magenta_three_are_colours() -> None:
    frames = np.array([[-1.0, -0.5, 0.0, 1.0, 7.0]])[:, None, :, None]
    assert screen_rgb(frames)[0, :, 0, 0].tolist() == [0, 64, 128, 255, 255]
    both = np.zeros((3, 2, 1, 1))
    both[0, 0], both[1, 1], both[2] = 1, 1, 1
    both[:2][both[:2] == 0] = -1
    assert screen_rgb(both)[:, 0, 0].tolist() == [[0, 255, 0], [255, 0, 255], [255, 255, 255]]
    assert screen_rgb(np.eye(3)[:, :, None, None] * 2 - 1)[:, 0, 0].tolist() == (255 * np.eye(3)).tolist()
    assert screen_rgb(np.full((1, 1, 1, 1), 2.0), limit=4.0).ravel().tolist() == [191, 191, 191]
    with pytest.raises(ValueError, match="one, two or three channels, found 4"):
        screen_rgb(np.zeros((1, 4, 2, 2)))


def test_a_mosaic_shows_every_stimulus_at_its_place() -> None:
    stimuli = np.arange(5.0)[:, None, None, None, None] * np.ones((5, 1, 2, 3, 4))
    sheet = mosaic(stimuli, n_columns=3)
    assert sheet.shape == (2, 1, 2 * 4 - 1, 3 * 5 - 1)
    assert (sheet[:, :, :3, 5:9] == 1).all()
    assert (sheet[:, :, 4:, :4] == 3).all()
    assert (sheet[:, :, 3] == -0.5).all(), "a line between the rows"
    assert mosaic(stimuli[:2]).shape == (2, 1, 3, 9)


@pytest.mark.parametrize(("rate_hz", "n_frames"), [(30.0, 45), (15.625, 31), (24.0, 7), (50.0, 20)])
def test_a_gif_shows_every_frame_at_its_time(tmp_path: Path, rate_hz: float, n_frames: int) -> None:
    (path,) = save_movie(Movie(flicker(n_frames), rate_hz, "Noise."), tmp_path / "noise")
    frames, durations = shown_gif(path)
    assert len(frames) == n_frames
    begins = np.append(0, np.cumsum(durations)) / 1000
    np.testing.assert_allclose(begins, np.arange(n_frames + 1) / rate_hz, atol=0.0051)
    assert min(durations) >= 20, "browsers slow down shorter ones"


def test_a_faster_stimulus_leaves_frames_out_and_lasts_as_long(tmp_path: Path) -> None:
    (path,) = save_movie(Movie(flicker(150), 75.0, "Noise."), tmp_path / "noise")
    frames, durations = shown_gif(path)
    assert (len(frames), set(durations)) == (100, {20})
    expected = screen_rgb(flicker(150))[[0, 1, 3, 4]]  # frames at 0, 20, 40, 60 ms
    for frame, wanted in zip(frames, expected, strict=False):
        np.testing.assert_allclose(frame[::54, ::54].astype(int), wanted, atol=1)


@pytest.mark.parametrize("n_channels", [1, 2, 3])
def test_a_gif_shows_the_colours_of_the_screen(tmp_path: Path, n_channels: int) -> None:
    frames = flicker(3, n_channels)
    (path,) = save_movie(Movie(frames, 10.0, "Noise."), tmp_path / "noise")
    scale = -(-movies.SHORTER_SIDE // 3)
    for shown, wanted in zip(shown_gif(path)[0], screen_rgb(frames), strict=True):
        assert shown.shape == (3 * scale, 4 * scale, 3)
        blocks = shown.reshape(3, scale, 4, scale, 3)
        assert (blocks == blocks[:, :1, :, :1]).all(), "a pixel is a square"
        half_level = {1: 1, 2: 9, 3: 26}[n_channels]
        np.testing.assert_allclose(blocks[:, 0, :, 0].astype(int), wanted, atol=half_level)


def test_equal_frames_do_not_shorten_a_gif(tmp_path: Path) -> None:
    (path,) = save_movie(Movie(np.zeros((30, 1, 3, 4)), 30.0, "Grey."), tmp_path / "grey")
    assert sum(shown_gif(path)[1]) == 1000


def test_the_caption_tells_range_rate_and_length(tmp_path: Path) -> None:
    save_movie(Movie(flicker(45), 30.0, "Noise.", limit=0.5), tmp_path / "noise")
    told = (tmp_path / "noise.txt").read_text()
    assert told == "Noise. (black to white: contrast -0.5 to 0.5; 45 frames at 30 Hz, 1.5 s.)\n"
    save_movie(Movie(flicker(45, 2), float("nan"), "Noise."), tmp_path / "unknown")
    assert "first channel green, second magenta" in (tmp_path / "unknown.txt").read_text()
    assert "frame rate unknown, shown at 30 Hz" in (tmp_path / "unknown.txt").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["noise.gif", "noise.txt", "unknown.gif", "unknown.txt"]


def test_an_mp4_without_ffmpeg_is_refused_with_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    with pytest.raises(
        MissingExtraError, match=r"an MP4 file needs the package imageio_ffmpeg: pip install 'coread\[movies\]'"
    ):
        save_movie(Movie(flicker(3), 30.0, "Noise."), tmp_path / "noise", ("mp4",))
    assert not list(tmp_path.iterdir())


def test_an_mp4_shows_the_same_colours_at_the_same_rate(tmp_path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    assert available_formats() == ("gif", "mp4")
    frames = flicker(12, 2)
    (path,) = save_movie(Movie(frames, 15.625, "Noise."), tmp_path / "noise", ("mp4",))
    reader = ffmpeg.read_frames(str(path))
    facts = next(reader)
    width, height = facts["size"]
    assert facts["fps"] == pytest.approx(15.625, abs=0.01)
    assert facts["duration"] == pytest.approx(12 / 15.625, abs=0.02)
    decoded = [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]
    assert len(decoded) == 12
    scale = height // 3
    for shown, wanted in zip(decoded, screen_rgb(frames), strict=True):
        middles = shown[scale // 2 :: scale, scale // 2 :: scale].astype(int)
        assert np.abs(middles - wanted).mean() < 8


def found_stimuli(n_neurons: int, shape: tuple[int, ...] = (1, 6, 3, 4), unit: str = "s") -> ExperimentResult:
    """Return the result of an experiment that found stimuli for its neurons."""
    stimulus = np.random.default_rng(1).normal(size=(n_neurons, *shape))
    table = pd.DataFrame({"session": "a", "neuron": range(n_neurons), "unit_id": [f"u{i}" for i in range(n_neurons)]})
    time = Quantity(np.arange(shape[1]) / 20, ("time",), unit)
    return ExperimentResult(table, {"stimulus": Quantity(stimulus, ("neuron", *AXES), "contrast")}, {"time": time})


def test_stimuli_that_an_experiment_has_found_become_a_movie() -> None:
    result = found_stimuli(30)
    (movie,) = stimulus_movies({"a": result}).values()
    assert movie.rate_hz == pytest.approx(20)
    assert movie.frames.shape == (6, 1, 4 * 4 - 1, 6 * 5 - 1)
    stimulus = result.arrays["stimulus"].data
    np.testing.assert_array_equal(movie.frames[:, 0, :3, :4], stimulus[0, 0])
    np.testing.assert_array_equal(movie.frames[:, 0, -3:, -4:], stimulus[-1, 0])
    assert 0.9 < (np.abs(stimulus) <= movie.limit).mean() < 1
    assert "24 evenly chosen of 30 neurons, row by row: u0, u1, u3" in movie.caption
    both = stimulus_movies({"a": found_stimuli(2), "b": found_stimuli(1)})["stimuli"]
    assert "all 3 neurons, row by row: a u0, a u1, b u0." in both.caption


def test_what_is_no_movie_is_not_shown_as_one() -> None:
    for shape in ((4, 6, 3, 4), (1, 1, 3, 4)):
        assert stimulus_movies({"a": found_stimuli(3, shape)}) == {}
    assert stimulus_movies({"a": ExperimentResult(found_stimuli(3).table)}) == {}
    assert np.isnan(stimulus_movies({"a": found_stimuli(3, unit="bin")})["stimuli"].rate_hz)
