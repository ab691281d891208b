"""Frames that are read, rendered or converted when somebody asks for them: a long stimulus never lies in memory."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Int

CHUNK_BYTES = 2**26  # frames made at a time when all are asked for


class LazyFrames:
    """A stimulus (frame, channel, height, width) behind a function from row numbers to frames.

    It answers what a stimulus' frames are asked: shape, dtype, a frame, a slice, rows by number, or all as an array.
    Rows of a slice are asked for in increasing order and at most `CHUNK_BYTES` at a time where all are wanted.
    """

    def __init__(
        self, shape: tuple[int, int, int, int], dtype: Any, read: Callable[[Int[np.ndarray, "row"]], np.ndarray]
    ) -> None:
        self.shape, self.dtype, self._read = tuple(int(size) for size in shape), np.dtype(dtype), read

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape))

    @property
    def nbytes(self) -> int:
        """Bytes of all frames in memory."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        """Return frames by number, slice, or array of numbers or truth values along the first axis."""
        if isinstance(key, tuple):
            rows, rest = self[key[0]], key[1:]
            return rows[(slice(None),) * (rows.ndim - self.ndim + 1) + rest]
        if isinstance(key, slice) and key == slice(None):
            return np.asarray(self)
        rows = np.arange(self.shape[0])[key]
        flat = rows.reshape(-1)
        if not len(flat):
            return np.empty((*rows.shape, *self.shape[1:]), self.dtype)
        return self._checked(flat).reshape(*rows.shape, *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return all frames."""
        frames = np.empty(self.shape, self.dtype)
        for chunk in self.chunks():
            frames[chunk] = self._checked(np.arange(chunk.start, chunk.stop))
        return frames if dtype is None else frames.astype(dtype, copy=False)

    def chunks(self) -> Iterator[slice]:
        """Yield slices of at most `CHUNK_BYTES` that cover all frames in order."""
        step = max(1, CHUNK_BYTES // max(1, self.nbytes // max(1, len(self))))
        for start in range(0, len(self), step):
            yield slice(start, min(start + step, len(self)))

    def _checked(self, rows: Int[np.ndarray, "row"]) -> np.ndarray:
        frames = self._read(rows)
        expected = (len(rows), *self.shape[1:])
        if frames.shape != expected or frames.dtype != self.dtype:
            raise ValueError(
                f"a reader promised frames {expected} of {self.dtype}, it gave {frames.shape} of {frames.dtype}"
            )
        return frames
