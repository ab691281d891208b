"""The smallest type that holds a stimulus exactly."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from coread.recording_checks import RecordingError

CHUNK_VALUES = 2**22  # values looked at at a time: 16 MiB of float32
N_SAMPLE = 100_000  # values from which the step of an even grid is guessed

Encoding = tuple[type, float, float]  # dtype, scale, offset


def smallest_exact(frames: np.ndarray, release: Callable[[], object] = lambda: None) -> tuple[np.ndarray, float, float]:
    """Return (stored frames, scale, offset) in the smallest dtype that gives every float32 value back exactly.

    Tried in order: uint8, int8, uint16, then uint8 and uint16 on an even grid, float16, float32. Values of a wider
    type are first rounded to float32, in which models see them; `frames * scale + offset` is float64 arithmetic.
    Beside its result it takes little memory: values are looked at in chunks along the first axis, after each of which
    `release` is called, so that frames in a mapped file can be given back. float32 frames that fit nothing smaller are
    returned as they are. Raises RecordingError for values that are not finite.
    """
    if frames.dtype in (np.uint8, np.int8, np.float16):
        return frames, 1.0, 0.0
    survey = _survey(frames, release)
    if survey.n_not_finite:
        raise RecordingError(f"a stimulus holds {survey.n_not_finite} values that are not finite")
    for dtype, scale, offset in _candidates(survey):
        if (stored := _stored(frames, dtype, scale, offset, release)) is not None:
            return stored, scale, offset
    if frames.dtype == np.float32:
        return frames, 1.0, 0.0
    rounded = np.empty(frames.shape, np.float32)
    for where, values in _chunks(frames, release):
        rounded[where] = values
    return rounded, 1.0, 0.0


@dataclass(frozen=True)
class _Survey:
    """What one pass over all values finds."""

    n_not_finite: int
    is_integer: bool
    low: float
    high: float
    sample: np.ndarray


def _chunks(frames: np.ndarray, release: Callable[[], object]) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield where a chunk lies and its values as float32."""
    rows = max(1, CHUNK_VALUES // max(1, int(np.prod(frames.shape[1:]))))
    for start in range(0, len(frames), rows):
        where = slice(start, start + rows)
        yield where, frames[where].astype(np.float32)
        release()


def _survey(frames: np.ndarray, release: Callable[[], object]) -> _Survey:
    n_not_finite, is_integer, low, high = 0, True, float("inf"), float("-inf")
    samples = [np.zeros(0, np.float32)]
    stride = max(1, frames.size // N_SAMPLE)
    for _, values in _chunks(frames, release):
        n_not_finite += int((~np.isfinite(values)).sum())
        if n_not_finite == 0:
            is_integer = is_integer and bool((values == np.rint(values)).all())
            low, high = min(low, float(values.min())), max(high, float(values.max()))
            samples.append(values.reshape(-1)[::stride])
    return _Survey(n_not_finite, is_integer, low, high, np.unique(np.concatenate(samples)))


def _candidates(survey: _Survey) -> Iterator[Encoding]:
    """Yield what may hold all values, the smallest first."""
    if survey.is_integer:
        for dtype in (np.uint8, np.int8, np.uint16):
            if np.iinfo(dtype).min <= survey.low and survey.high <= np.iinfo(dtype).max:
                yield dtype, 1.0, 0.0
    for dtype in (np.uint8, np.uint16):
        yield from _even_grids(survey, dtype)
    yield np.float16, 1.0, 0.0


def _even_grids(survey: _Survey, dtype: type) -> Iterator[Encoding]:
    levels = np.iinfo(dtype).max
    if not 2 <= len(survey.sample) <= levels + 1:
        return
    # rounding to float32 blurs the steps between neighbours: the smallest or the typical one gives their number
    for neighbours in (np.diff(survey.sample).min(), np.median(np.diff(survey.sample))):
        n_steps = round((survey.high - survey.low) / float(neighbours))
        if n_steps <= levels:
            yield dtype, (survey.high - survey.low) / n_steps, survey.low


def _stored(
    frames: np.ndarray, dtype: type, scale: float, offset: float, release: Callable[[], object]
) -> np.ndarray | None:
    """Return all frames in this encoding; None as soon as a chunk does not come back from it."""
    stored: np.ndarray = np.empty(frames.shape, dtype)
    for where, values in _chunks(frames, release):
        if dtype is np.float16:
            with np.errstate(over="ignore"):  # too large for float16 is one way of not coming back
                stored[where] = values
            back = stored[where].astype(np.float32)
        else:
            stored[where] = np.rint((values.astype(np.float64) - offset) / scale)
            back = (stored[where] * scale + offset).astype(np.float32)
        if not np.array_equal(back, values):
            return None
    return stored
