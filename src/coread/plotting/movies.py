"""Stimuli as movies: GIF files through Pillow, MP4 files through ffmpeg, at their true frame rate."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from coread.extras import import_extra
from coread.provenance import write_text

GAP = 0.5  # of contrast range: what separates the panels of a mosaic, a dark grey
SHORTER_SIDE = 160  # pixels of the file; each pixel of the stimulus becomes a square of them
LARGEST = 960  # pixels of the longer side of the file
GIF_FPS = 50  # a GIF counts hundredths of a second, and browsers slow down what is shown for less than two of them
UNKNOWN_RATE_HZ = 30.0
MAX_CHANNELS = 3
LEVELS = {1: (256,), 2: (16, 16), 3: (6, 7, 6)}  # of each channel in the palette of a GIF
Format = Literal["gif", "mp4"]


class Movie(NamedTuple):
    """A stimulus to watch: contrasts at `rate_hz` (NaN: unknown), and the caption that says what is shown.

    Contrast 0 is mean grey, `limit` is as bright as the screen gets and -`limit` black; what is beyond is cut off.
    """

    frames: Float[np.ndarray, "time channel height width"]
    rate_hz: float
    caption: str
    limit: float = 1.0


def mosaic(
    stimuli: Float[np.ndarray, "movie channel time height width"], n_columns: int = 6, limit: float = 1.0
) -> Float[np.ndarray, "time channel rows columns"]:
    """Return one movie that shows several side by side, in rows of at most `n_columns`, a dark line between them."""
    n_movies, n_channels, n_time, height, width = stimuli.shape
    n_columns = min(n_columns, n_movies)
    n_rows = -(-n_movies // n_columns)
    line = -GAP * limit
    sheet = np.full((n_rows * n_columns, n_channels, n_time, height + 1, width + 1), line, stimuli.dtype)
    sheet[:n_movies, ..., :height, :width] = stimuli
    grid = sheet.reshape(n_rows, n_columns, n_channels, n_time, height + 1, width + 1)
    joined = grid.transpose(3, 2, 0, 4, 1, 5).reshape(n_time, n_channels, n_rows * (height + 1), -1)
    return joined[..., :-1, :-1]


def screen_rgb(
    frames: Float[np.ndarray, "time channel height width"], limit: float = 1.0
) -> UInt8[np.ndarray, "time height width 3"]:
    """Return the frames as colours: one channel grey, two green and magenta, three red, green and blue.

    Of two channels the first is shown green and the second magenta, which colour-blind readers can tell apart; where
    both agree the pixel is grey. Raises ValueError for more than three channels.
    """
    light = _light(frames, limit)
    return np.rint(255 * light[:, _order(frames.shape[1])]).astype(np.uint8).transpose(0, 2, 3, 1)


def available_formats() -> tuple[Format, ...]:
    """Return the formats that this installation writes: an MP4 needs the extra `movies`."""
    return ("gif", "mp4") if find_spec("imageio_ffmpeg") is not None else ("gif",)


def save_movie(movie: Movie, path: Path, formats: Sequence[Format] = ("gif",)) -> list[Path]:
    """Write `<path>.gif` and what else is asked for, and the caption `<path>.txt`, atomically; return the movies.

    The movie lasts as long as the stimulus: of a stimulus of more than GIF_FPS frames per second a GIF leaves some out.
    Raises ValueError for more than three channels, MissingExtraError for an MP4 without ffmpeg (the extra `movies`).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rate_hz = movie.rate_hz if np.isfinite(movie.rate_hz) else UNKNOWN_RATE_HZ
    written = []
    for suffix in formats:
        target = path.with_name(f"{path.name}.{suffix}")
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp.{suffix}")
        try:
            (_write_gif if suffix == "gif" else _write_mp4)(movie, rate_hz, temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        written.append(target)
    write_text(path.with_name(f"{path.name}.txt"), f"{movie.caption} {_told(movie)}\n")
    return written


def _told(movie: Movie) -> str:
    """Say how contrasts are shown and how fast."""
    colours = {1: "", 2: "first channel green, second magenta, both alike grey; ", 3: "channels red, green, blue; "}
    n_frames, n_channels = movie.frames.shape[:2]
    if not np.isfinite(movie.rate_hz):
        return f"({colours[n_channels]}frame rate unknown, shown at {UNKNOWN_RATE_HZ:g} Hz.)"
    return (
        f"({colours[n_channels]}black to white: contrast -{movie.limit:.3g} to {movie.limit:.3g}; {n_frames} frames at "
        f"{movie.rate_hz:.4g} Hz, {n_frames / movie.rate_hz:.3g} s.)"
    )


def _order(n_channels: int) -> list[int]:
    """Return the channels that red, green and blue show."""
    if n_channels > MAX_CHANNELS:
        raise ValueError(f"a movie shows one, two or three channels, found {n_channels}")
    return {1: [0, 0, 0], 2: [1, 0, 1], 3: [0, 1, 2]}[n_channels]


def _light(frames: Float[np.ndarray, "time channel height width"], limit: float) -> np.ndarray:
    return np.clip(0.5 + 0.5 * np.nan_to_num(frames.astype(np.float64)) / limit, 0.0, 1.0)


def _scale(height: int, width: int) -> int:
    """Return how many pixels of the file a pixel of the stimulus is wide."""
    return max(1, min(-(-SHORTER_SIDE // min(height, width)), LARGEST // max(height, width)))


def _write_gif(movie: Movie, rate_hz: float, path: Path) -> None:
    shown, durations_ms = _gif_timing(len(movie.frames), rate_hz)
    frames = movie.frames[shown]
    palette, indices = _palette(frames.shape[1]), _palette_indices(_light(frames, movie.limit))
    scale = _scale(*indices.shape[1:])
    images = [Image.fromarray(_enlarged(frame, scale)) for frame in indices]
    for image in images:
        image.putpalette(palette)
    first, *others = images
    first.save(path, save_all=True, append_images=others, duration=durations_ms, loop=0, optimize=False, disposal=1)


def _gif_timing(n_frames: int, rate_hz: float) -> tuple[np.ndarray, list[int]]:
    """Return the frames that a GIF shows, and for how many milliseconds each, multiples of ten.

    Rounding does not add up: every frame begins within 5 ms of its time.
    """
    if rate_hz <= GIF_FPS:
        starts = np.rint(100 / rate_hz * np.arange(n_frames + 1)).astype(int)
        return np.arange(n_frames), (10 * np.diff(starts)).tolist()
    n_shown = max(1, round(n_frames / rate_hz * GIF_FPS))
    shown = np.floor(np.arange(n_shown) * rate_hz / GIF_FPS + 1e-6).astype(int)
    return np.minimum(shown, n_frames - 1), [1000 // GIF_FPS] * n_shown


def _palette(n_channels: int) -> list[int]:
    """Return the colours of a GIF as red, green, blue, ...: every combination of the channels' levels."""
    order = _order(n_channels)
    axes = np.meshgrid(*(np.rint(np.linspace(0, 255, n)) for n in LEVELS[n_channels]), indexing="ij")
    channels = np.stack([axis.ravel() for axis in axes], axis=1).astype(int)
    return channels[:, order].ravel().tolist()


def _palette_indices(light: Float[np.ndarray, "time channel height width"]) -> UInt8[np.ndarray, "time height width"]:
    levels = LEVELS[light.shape[1]]
    index = np.zeros(light[:, 0].shape, dtype=int)
    for channel, n in enumerate(levels):
        index = index * n + np.rint(light[:, channel] * (n - 1)).astype(int)
    return index.astype(np.uint8)


def _write_mp4(movie: Movie, rate_hz: float, path: Path) -> None:
    ffmpeg: Any = import_extra("imageio_ffmpeg", "movies", "an MP4 file")
    frames = screen_rgb(movie.frames, movie.limit)
    scale = _scale(*frames.shape[1:3])
    scale += scale % 2  # the codec takes even sizes, and has one colour for two by two pixels
    height, width = scale * frames.shape[1], scale * frames.shape[2]
    writer = ffmpeg.write_frames(
        str(path), (width, height), fps=rate_hz, codec="libx264", quality=9, macro_block_size=1
    )
    writer.send(None)
    try:
        for frame in frames:
            writer.send(np.ascontiguousarray(_enlarged(frame, scale)))
    finally:
        writer.close()


def _enlarged(frame: np.ndarray, scale: int) -> np.ndarray:
    """Return an image (height, width, ...) in which every pixel is a square."""
    return frame.repeat(scale, axis=0).repeat(scale, axis=1)
