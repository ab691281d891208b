"""Spike-triggered averages of recorded responses, and the file that keeps them."""

import os
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from scipy import sparse

from coread.data_io.dataloader import read_rows
from coread.recording import BLANK, COMPRESSION, Recording, Stimulus

FORMAT_VERSION = 1
CHUNK_VALUES = 2**22  # stimulus values held at a time: 16 MiB of float32


class StaError(ValueError):
    """A spike-triggered average cannot be computed; the message names the session."""


def compute_sta(
    recording: Recording, bins: Bool[np.ndarray, "bin"], lag: int
) -> Float32[np.ndarray, "neuron lag_bin channel height width"]:
    """Return the spike-triggered average stimulus of every neuron over the selected bins, in physical stimulus units.

    Entry 0 along lag_bin is the current bin, entry `lag` the oldest. The mean stimulus is removed: the result is
    cov(response, stimulus) / mean |response|, which for spike counts is the classical average over spikes minus the
    average over bins (Chichilnisky 2001, eq. 1) and stays defined for signed responses. The recording's mirror is
    applied. Bins that are masked or lack `lag` predecessors in their trial are left out; frames and responses may be
    lazy h5py datasets and are read in bounded chunks. Raises StaError for mixed frame shapes or if no bin is left.
    """
    used = bins & recording.valid & (recording.bin_in_trial() >= lag)
    if not used.any():
        raise StaError(f"session {recording.session!r}: no bin to average over ({int(bins.sum())} were selected)")
    shape = _frame_shape(recording, used)
    chunk_length = max(64, CHUNK_VALUES // int(np.prod(shape)))
    level = _common_level(recording, used)
    mean, mean_magnitude = _response_means(recording, used, chunk_length)
    total = np.zeros((lag + 1, recording.n_neurons, int(np.prod(shape))), np.float32)
    for name, chunk in _chunks(recording, used, chunk_length):
        # weights that sum to zero remove the mean stimulus exactly, lag by lag
        weight = (read_rows(recording.responses, chunk) - mean).astype(np.float32)
        shown = recording.frame[chunk[:, None] - np.arange(lag + 1)]
        distinct, position = np.unique(shown, return_inverse=True)
        frames = _physical_frames(recording.stimuli[name], distinct) - level
        position = position.reshape(shown.shape)
        # lags side by side: one large matrix product is many times faster than a small one per lag
        n_block = max(1, CHUNK_VALUES // (len(distinct) * recording.n_neurons))
        for first in range(0, lag + 1, n_block):
            block = slice(first, min(first + n_block, lag + 1))
            of_frames = np.stack([_sum_by(rows, weight, len(distinct)) for rows in position.T[block]])
            total[block] += (of_frames.reshape(-1, len(distinct)) @ frames).reshape(total[block].shape)
    total /= (used.sum() * np.maximum(mean_magnitude, np.finfo(np.float32).tiny))[:, None]
    average = total.swapaxes(0, 1).reshape(recording.n_neurons, lag + 1, *shape)
    flipped = {"none": average, "height": average[..., ::-1, :], "width": average[..., ::-1]}[recording.mirror]
    return np.ascontiguousarray(flipped)


def _sum_by(
    rows: Int[np.ndarray, "bin"], weight: Float32[np.ndarray, "bin neuron"], n_rows: int
) -> Float32[np.ndarray, "neuron row"]:
    """Add up the weights of all bins with the same row."""
    entries = (np.ones(len(rows), np.float32), (rows, np.arange(len(rows))))
    return (sparse.csr_array(entries, (n_rows, len(rows))) @ weight).T


def _frame_shape(recording: Recording, used: Bool[np.ndarray, "bin"]) -> tuple[int, ...]:
    names = sorted(set(recording.bin_column("stimulus")[used]))
    shapes = {tuple(recording.stimuli[name].frames.shape[1:]) for name in names}
    if len(shapes) > 1:
        raise StaError(f"session {recording.session!r}: stimuli {names} have different frame shapes {sorted(shapes)}")
    return shapes.pop()


def _common_level(recording: Recording, used: Bool[np.ndarray, "bin"]) -> np.float32:
    """Return a typical pixel value: float32 sums around zero keep the digits that sums around grey 127 lose."""
    name, chunk = next(_chunks(recording, used, 16))
    return np.float32(_physical_frames(recording.stimuli[name], np.unique(recording.frame[chunk])).mean())


def _response_means(
    recording: Recording, used: Bool[np.ndarray, "bin"], chunk_length: int
) -> tuple[Float[np.ndarray, "neuron"], Float[np.ndarray, "neuron"]]:
    total, magnitude = np.zeros(recording.n_neurons), np.zeros(recording.n_neurons)
    for _, chunk in _chunks(recording, used, chunk_length):
        responses = read_rows(recording.responses, chunk).astype(np.float64)
        total += responses.sum(axis=0)
        magnitude += np.abs(responses).sum(axis=0)
    return total / used.sum(), magnitude / used.sum()


def _chunks(
    recording: Recording, used: Bool[np.ndarray, "bin"], chunk_length: int
) -> Iterator[tuple[str, Int[np.ndarray, "bin"]]]:
    """Yield (stimulus, used bins showing it) in pieces of at most `chunk_length` bins."""
    names = recording.bin_column("stimulus")
    for name in sorted(set(names[used])):
        shown = np.flatnonzero(used & (names == name))
        for first in range(0, len(shown), chunk_length):
            yield name, shown[first : first + chunk_length]


def _physical_frames(stimulus: Stimulus, frames: Int[np.ndarray, "frame"]) -> Float32[np.ndarray, "frame pixel"]:
    n_pixels = int(np.prod(stimulus.frames.shape[1:]))
    values = np.full((len(frames), n_pixels), stimulus.blank_value, np.float32)
    seen = frames != BLANK
    if seen.any():
        stored = read_rows(stimulus.frames, frames[seen]).reshape(int(seen.sum()), n_pixels)
        values[seen] = stored * np.float32(stimulus.scale) + np.float32(stimulus.offset)
    return values


# ---------------------------------------------------------------------------------------------------------------- files


def write_sta(
    sta: Float32[np.ndarray, "neuron lag_bin channel height width"], path: Path, *, session: str, fold: int
) -> None:
    """Write the averages of a session over the training bins of a fold to HDF5, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(temporary, "w") as file:
            file.attrs.update({"format_version": FORMAT_VERSION, "session": session, "fold": fold})
            file.create_dataset("sta", data=sta, chunks=(1, *sta.shape[1:]) if len(sta) else None, **COMPRESSION)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_sta(
    path: Path, *, session: str, fold: int, shape: tuple[int, ...]
) -> Float32[np.ndarray, "neuron lag_bin channel height width"]:
    """Read averages; raises StaError naming the file if they are not those of this session, fold and shape."""
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format_version") != FORMAT_VERSION:
                raise StaError(f"{path}: no file of spike-triggered averages of format {FORMAT_VERSION}")
            found = (str(file.attrs["session"]), int(file.attrs["fold"]), tuple(file["sta"].shape))
            if found != (session, fold, shape):
                raise StaError(f"{path}: expected session, fold and shape {(session, fold, shape)}, found {found}")
            return file["sta"][:]
    except FileNotFoundError:
        raise StaError(f"{path}: there is no such file of spike-triggered averages") from None
    except (OSError, KeyError) as error:
        raise StaError(f"{path}: not a readable file of spike-triggered averages ({error})") from error
