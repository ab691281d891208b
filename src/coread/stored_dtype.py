"""The smallest type that holds a stimulus exactly."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int

from coread.recording_checks import RecordingError

CHUNK_VALUES = 2**22  # values looked at at a time: 16 MiB of float32
N_SAMPLE = 100_000  # values from which the step of an even grid is guessed
N_LEVELS = 2**16  # at most, of an even grid
N_BISECTIONS = 80  # beyond the precision of float64

Release = Callable[[], object]
Stored = tuple[np.ndarray, float, float]  # frames, scale, offset


def smallest_exact(frames: np.ndarray, release: Release = lambda: None) -> Stored:
    """Return (stored frames, scale, offset) in the smallest dtype that gives every float32 value back to the bit.

    Tried in order: uint8, int8, uint16, then uint8 or uint16 on an even grid, float16, float32. Values of a wider
    type are first rounded to float32, in which models see them; `frames * scale + offset` is float64 arithmetic,
    and only the sign of zero is lost. Beside its result it takes little memory: values are looked at in chunks along
    the first axis, after each of which `release` is called, so that frames in a mapped file can be given back. float32
    frames that fit nothing smaller are returned as they are. Raises RecordingError for values that are not finite.
    """
    if frames.dtype in (np.uint8, np.int8, np.float16):
        return frames, 1.0, 0.0
    survey = _survey(frames, release)
    if survey.n_not_finite:
        raise RecordingError(f"a stimulus holds {survey.n_not_finite} values that are not finite")
    for dtype in (np.uint8, np.int8, np.uint16):
        if survey.is_integer and np.iinfo(dtype).min <= survey.low and survey.high <= np.iinfo(dtype).max:
            return _converted(frames, dtype, release), 1.0, 0.0
    for n_steps in _guessed_steps(survey):
        if (on_grid := _on_even_grid(frames, survey, n_steps, release)) is not None:
            return on_grid
    if (halves := _as_float16(frames, release)) is not None:
        return halves, 1.0, 0.0
    if frames.dtype == np.float32:
        return frames, 1.0, 0.0
    return _converted(frames, np.float32, release), 1.0, 0.0


@dataclass(frozen=True)
class _Survey:
    """What one pass over all values finds."""

    n_not_finite: int
    is_integer: bool
    low: float
    high: float
    sample: np.ndarray


def _chunks(frames: np.ndarray, release: Release) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield where a chunk lies and its values as float32."""
    rows = max(1, CHUNK_VALUES // max(1, int(np.prod(frames.shape[1:]))))
    for start in range(0, len(frames), rows):
        where = slice(start, start + rows)
        yield where, frames[where].astype(np.float32)
        release()


def _survey(frames: np.ndarray, release: Release) -> _Survey:
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


def _converted(frames: np.ndarray, dtype: type, release: Release) -> np.ndarray:
    stored: np.ndarray = np.empty(frames.shape, dtype)
    for where, values in _chunks(frames, release):
        stored[where] = values
    return stored


def _as_float16(frames: np.ndarray, release: Release) -> np.ndarray | None:
    """Return all frames as float16; None as soon as a chunk does not come back from it."""
    stored: np.ndarray = np.empty(frames.shape, np.float16)
    for where, values in _chunks(frames, release):
        with np.errstate(over="ignore"):  # too large for float16 is one way of not coming back
            stored[where] = values
        if not np.array_equal(stored[where].astype(np.float32), values):
            return None
    return stored


# ----------------------------------------------------------------------------------------------------------- even grids


def _guessed_steps(survey: _Survey) -> list[int]:
    """Return how many steps an even grid of at most 2^16 levels may have from the lowest to the highest value."""
    above = survey.sample.astype(np.float64) - survey.low
    if not 2 <= len(above) <= N_LEVELS:
        return []
    guesses = []
    # rounding to float32 blurs the steps between neighbours: the smallest or the typical one is near the true one
    for neighbours in (np.diff(above).min(), np.median(np.diff(above))):
        step, span = float(neighbours), 16
        if float(above[-1]) > 2 * N_LEVELS * step:  # too fine, and a fit would change it little
            continue
        while span * step < above[-1]:  # a step within 3% counts the near levels, whose fit then counts farther ones
            near = above[above < span * step]
            level = np.rint(near / step)
            step = float(near @ level) / float(level @ level) if level.any() else step
            span *= 4
        guesses.append(round((survey.high - survey.low) / step))
    return [n_steps for n_steps in dict.fromkeys(guesses) if n_steps < N_LEVELS]


def _on_even_grid(frames: np.ndarray, survey: _Survey, n_steps: int, release: Release) -> Stored | None:
    """Return all frames as levels of a grid from the lowest value; None if a value comes back as another."""
    step = (survey.high - survey.low) / n_steps
    stored: np.ndarray = np.empty(frames.shape, np.uint8 if n_steps < 2**8 else np.uint16)
    value_of = np.full(n_steps + 1, np.nan, np.float32)
    for where, values in _chunks(frames, release):
        stored[where] = np.rint((values.astype(np.float64) - survey.low) / step)
        new = np.isnan(value_of[stored[where]])
        value_of[stored[where][new]] = values[new]
        if not np.array_equal(value_of[stored[where]], values):  # two values on one level
            return None
    levels = np.flatnonzero(~np.isnan(value_of))
    for scale, offset in ((step, survey.low), line_through(levels, value_of[levels])):
        if np.array_equal((levels * scale + offset).astype(np.float32), value_of[levels]):
            return stored, scale, offset
    return None


def line_through(levels: Int[np.ndarray, " level"], values: Float32[np.ndarray, " level"]) -> tuple[float, float]:
    """Return the scale and offset for which `levels * scale + offset` rounds to every value, if there are any.

    Every value allows what rounds to it, an interval. A line with slope s passes through all of them if the highest
    lower end minus level * s lies below the lowest upper end; the room between the two is a concave function of s,
    whose maximum is found by bisection. `levels` increase.
    """
    exact = values.astype(np.float64)
    lower = (exact + np.nextafter(values, np.float32(-np.inf)).astype(np.float64)) / 2
    upper = (exact + np.nextafter(values, np.float32(np.inf)).astype(np.float64)) / 2
    scale = (exact[-1] - exact[0]) / (levels[-1] - levels[0])
    uncertain = float((upper - lower).max())
    flattest, steepest = scale - uncertain, scale + uncertain
    for _ in range(N_BISECTIONS):
        scale = (flattest + steepest) / 2
        highest, lowest = np.argmax(lower - levels * scale), np.argmin(upper - levels * scale)
        if highest == lowest:  # there cannot be more room than one interval has
            break
        if levels[highest] > levels[lowest]:  # the room grows with the slope
            flattest = scale
        else:
            steepest = scale
    offset = ((lower - levels * scale).max() + (upper - levels * scale).min()) / 2
    return float(scale), float(offset)
