"""The smallest type that holds a stimulus exactly."""

import numpy as np

from coread.recording_checks import RecordingError


def smallest_exact(frames: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Return (stored frames, scale, offset) in the smallest dtype that gives every float32 value back exactly.

    Tried in order: uint8, int8, uint16, then uint8 and uint16 on an even grid, float16, float32. Values of a wider
    type are first rounded to float32, in which models see them; `frames * scale + offset` is float64 arithmetic.
    """
    if frames.dtype in (np.uint8, np.int8, np.float16):
        return frames, 1.0, 0.0
    values = frames.astype(np.float32)
    if not np.isfinite(values).all():
        raise RecordingError(f"a stimulus holds {int((~np.isfinite(values)).sum())} values that are not finite")
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    if (values == np.rint(values)).all():
        for dtype in (np.uint8, np.int8, np.uint16):
            if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
                return values.astype(dtype), 1.0, 0.0
    for dtype in (np.uint8, np.uint16):
        if (grid := _even_grid(values, dtype)) is not None:
            return grid
    half = values.astype(np.float16)
    return (half, 1.0, 0.0) if (half.astype(np.float32) == values).all() else (values, 1.0, 0.0)


def _even_grid(values: np.ndarray, dtype: type) -> tuple[np.ndarray, float, float] | None:
    levels = np.iinfo(dtype).max
    low, high = float(values.min()), float(values.max())
    sample = np.unique(values.reshape(-1)[:: max(1, values.size // 100_000)])
    if len(sample) < 2 or len(sample) > levels + 1:
        return None
    # rounding to float32 blurs the steps between neighbours: the smallest or the typical one gives their number
    for neighbours in (np.diff(sample).min(), np.median(np.diff(sample))):
        n_steps = round((high - low) / float(neighbours))
        if n_steps <= levels:
            step = (high - low) / n_steps
            stored = np.rint((values.astype(np.float64) - low) / step)
            if ((stored * step + low).astype(np.float32) == values).all():
                return stored.astype(dtype), step, low
    return None
