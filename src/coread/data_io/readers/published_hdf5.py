"""What readers of published HDF5 files share: opening, checking, streaming of frames, bins that do not count."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Bool, Float32, Num, Shaped

from coread.recording import RecordingError, smallest_exact

CHUNK_VALUES = 2**20  # stimulus values read at a time, more where the file's own chunks are longer
MAX_LEVELS = 2**16  # more distinct values than this need float32
NAN_POLICIES = ("error", "mask")
MEAN_TOLERANCE = 1e-3  # of the root mean square: rounding to float32 passes, another unit or order of axes does not


# ------------------------------------------------------------------------------------------------------------- checking


@contextmanager
def opened(path: Path, where: str) -> Iterator[h5py.File]:
    """Open a file for reading; damage, found now or while reading, becomes a RecordingError that names `where`."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (RecordingError, FileNotFoundError):
        raise
    except (OSError, RuntimeError) as error:
        raise RecordingError(f"{where}: not a readable HDF5 file, truncated or damaged ({error})") from error


def numbers(file: h5py.File, key: str, axes: str, where: str) -> h5py.Dataset:
    """Return the dataset `key` of numbers with axes written as `(repeat, neuron, time)`.

    Raises RecordingError that names file and dataset, what was expected and what was found.
    """
    item = file.get(key)
    if not isinstance(item, h5py.Dataset):
        parent = file.get(key.rpartition("/")[0] or "/")
        found = sorted(parent) if isinstance(parent, h5py.Group) else sorted(file)
        raise RecordingError(f"{where}: no dataset {key}, found {found}")
    if item.ndim != axes.count(",") + 1 or item.dtype.kind not in "buif" or 0 in item.shape:
        raise RecordingError(f"{where}: {key} must be numbers {axes}, found {item.dtype} of shape {tuple(item.shape)}")
    return item


def numbered_cells(group: h5py.Group) -> list[str]:
    """Return the names cell<NN> or cell_<NN> of a group in the order of their numbers."""
    suffix = {name: name.removeprefix("cell").removeprefix("_") for name in group if name.startswith("cell")}
    number = {name: int(text) for name, text in suffix.items() if text.isdecimal()}
    return sorted(number, key=lambda name: number[name])


def close(found: Num[np.ndarray, "..."], expected: Num[np.ndarray, "..."]) -> bool:
    """Return whether two arrays of responses are equal up to rounding; missing values are passed over."""
    if found.shape != expected.shape:
        return False
    known = np.isfinite(found) & np.isfinite(expected)
    error = np.square(found[known] - expected[known], dtype=np.float64).sum()
    return bool(error <= MEAN_TOLERANCE**2 * np.square(expected[known], dtype=np.float64).sum())


def mask_missing(
    table: Float32[np.ndarray, "bin neuron"], policy: str, where: str
) -> tuple[Float32[np.ndarray, "bin neuron"], Bool[np.ndarray, "bin"]]:
    """Return responses and validity; a bin counts only if all neurons have a value in it.

    Raises RecordingError for missing values unless `policy` is "mask".
    """
    finite = np.isfinite(table)
    if finite.all():
        return table, np.ones(len(table), bool)
    if policy == "error":
        first_bin, first_neuron = np.argwhere(~finite)[0]
        raise RecordingError(
            f"{where}: {int((~finite).sum())} response values are not finite, the first at bin {first_bin}, neuron "
            f"{first_neuron}; set data_io.nan_responses to mask to leave such bins out"
        )
    return np.where(finite, table, np.float32(0)), finite.all(axis=1)


# ------------------------------------------------------------------------------------------------------------- stimuli


def read_frames(
    dataset: h5py.Dataset, where: str, *, transpose: bool = False
) -> tuple[Shaped[np.ndarray, "frame 1 height width"], float, float]:
    """Return (stored frames, scale, offset) of greyscale frames (frame, height, width) in the smallest exact dtype.

    The file is read in chunks, twice if its numbers are wider than a byte: one copy of the stimulus is held, in the
    type it is stored in. `transpose` swaps height and width. Raises RecordingError for values that are not finite.
    """
    dtype, scale, offset = _stored_type(dataset, where)
    n_frames, height, width = dataset.shape
    shape = (n_frames, 1, width, height) if transpose else (n_frames, 1, height, width)
    frames = np.empty(shape, dtype)
    for rows, chunk in _chunks(dataset):
        values = chunk.swapaxes(1, 2) if transpose else chunk
        if dtype != dataset.dtype:
            values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise RecordingError(f"{where}: frames {rows.start} to {rows.stop - 1} hold values that are not finite")
        if dtype.kind in "ui" and dtype != dataset.dtype:
            values = np.rint((values.astype(np.float64) - offset) / scale)
        frames[rows, 0] = values
    return frames, scale, offset


def _stored_type(dataset: h5py.Dataset, where: str) -> tuple[np.dtype, float, float]:
    """Return dtype, scale and offset of the smallest type for all distinct values of a stimulus."""
    if dataset.dtype in (np.uint8, np.int8, np.float16):
        return dataset.dtype, 1.0, 0.0
    levels = np.empty(0, np.float32)
    for _, chunk in _chunks(dataset):
        levels = np.union1d(levels, chunk.astype(np.float32))
        if len(levels) > MAX_LEVELS:
            return np.dtype(np.float32), 1.0, 0.0
    try:
        stored, scale, offset = smallest_exact(levels)
    except RecordingError as error:
        raise RecordingError(f"{where}: {error}") from error
    return stored.dtype, scale, offset


def _chunks(dataset: h5py.Dataset) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield stretches of frames that are whole chunks of the file, so that each chunk is decompressed once."""
    step = max(1, CHUNK_VALUES // int(np.prod(dataset.shape[1:])))
    if dataset.chunks:
        step = dataset.chunks[0] * -(-step // dataset.chunks[0])
    for start in range(0, dataset.shape[0], step):
        rows = slice(start, min(start + step, dataset.shape[0]))
        yield rows, dataset[rows]
