"""The movies of Hoefling et al. 2024, as published: a pickle.

It holds `train` and `test` (channel, time, height, width), already normalised, `random_sequences` (clip, sequence) and,
in some, `movie_stats`. The arrays stay in the file until they are needed: a session only asks for the sequences.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from coread.data_io.restricted_pickle import PickleFile
from coread.recording import RecordingError, Stimulus, smallest_exact


class MovieFile:
    """The published pickle; raises PickleError or RecordingError that names it."""

    def __init__(self, path: Path) -> None:
        self._name, self._file = path.name, PickleFile(path)
        if not isinstance(self._file.content, dict):
            found = type(self._file.content).__name__
            raise RecordingError(f"{self._name}: expected a dictionary with train and test, found {found}")
        self._content: Mapping[str, Any] = self._file.content

    def stimulus(self, name: str, clip_length: int, rate_hz: float, pixel_um: float) -> Stimulus:
        """Return one of the movies, in the smallest dtype that holds it."""
        if name not in self._content:
            raise RecordingError(f"{self._name}: there is no {name}, found {sorted(map(str, self._content))}")
        where = f"{self._name}: {name}"
        return make_stimulus(self._content[name], where, clip_length, rate_hz, pixel_um, self._file.release)

    def sequences(self, n_clips: int) -> Int[np.ndarray, "clip sequence"]:
        """Return the clip shown at each place in every sequence; without `random_sequences` one, in base order."""
        sequences = self._content.get("random_sequences")
        if sequences is None:
            return np.arange(n_clips)[:, None]
        # published as uint8, in which 108 clips times 150 frames would overflow
        sequences = np.asarray(sequences).astype(np.int64)
        every_clip = np.arange(n_clips)[:, None]
        if sequences.ndim != 2 or len(sequences) != n_clips or (np.sort(sequences, axis=0) != every_clip).any():
            raise RecordingError(
                f"{self._name}: random_sequences must hold each of the {n_clips} clips once in every column (clip, "
                f"sequence), found shape {sequences.shape}"
            )
        return sequences

    def normalization(self) -> dict[str, np.ndarray]:
        """Return mean and std by which the published movie was normalised, where the file says them."""
        stats = (self._content.get("movie_stats") or {}).get("dichromatic") or {}
        names = {"movie_norm_mean": "mean", "movie_norm_std": "sd"}
        return {name: np.array(np.asarray(stats[key]).item()) for name, key in names.items() if key in stats}


def make_stimulus(
    movie: Any,
    where: str,
    clip_length: int,
    rate_hz: float,
    pixel_um: float,
    release: Callable[[], object] = lambda: None,
) -> Stimulus:
    """Return a movie (channel, time, height, width) of whole clips as a stimulus; raises RecordingError."""
    if not isinstance(movie, np.ndarray) or movie.ndim != 4 or movie.dtype.kind not in "buif":
        found = f"{movie.dtype} of shape {movie.shape}" if isinstance(movie, np.ndarray) else type(movie).__name__
        raise RecordingError(f"{where} must be numbers (channel, time, height, width), found {found}")
    if movie.shape[1] % clip_length:
        hint = "; it looks like (time, channel, height, width)" if movie.shape[0] % clip_length == 0 else ""
        raise RecordingError(f"{where} has {movie.shape[1]} frames, no multiple of clips of {clip_length}{hint}")
    try:
        frames, scale, offset = smallest_exact(movie.transpose(1, 0, 2, 3), release)
    except RecordingError as error:
        raise RecordingError(f"{where}: {error}") from error
    return Stimulus(frames, rate_hz, scale=scale, offset=offset, pixel_um=pixel_um)
