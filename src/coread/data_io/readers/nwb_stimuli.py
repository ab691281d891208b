"""Stimuli of an NWB file: which frames there are, and when each was on the screen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from coread.data_io.lazy_frames import LazyFrames
from coread.recording import BLANK, RecordingError, Stimulus, smallest_exact

AS_STORED = ("uint8", "int8", "uint16", "float16", "float32")  # kept in the file; others are read and made smaller


@dataclass(frozen=True)
class PresentedFrames:
    """A stimulus, and the frame on the screen from every time on (-1: blank)."""

    stimulus: Stimulus
    times: Float[np.ndarray, "shown"]  # s
    frame: Int[np.ndarray, "shown"]


def load_presentations(nwbfile: Any, names: Sequence[str] | None, transpose: bool) -> dict[str, PresentedFrames]:
    """Return the series of stimulus/presentation under these names (None: all that hold frames).

    Frames stay in the file where their dtype allows it. Raises RecordingError that lists what the file has.
    """
    found = dict(nwbfile.stimulus)
    listed = {name: type(series).__name__ for name, series in found.items()}
    if names is None:
        wanted = [name for name, series in found.items() if _holds_frames(series)]
    else:
        wanted = list(names)
        if unknown := sorted(set(wanted) - set(found)):
            raise RecordingError(f"data_io.stimuli names {unknown}, stimulus/presentation has {listed}")
    if not wanted:
        raise RecordingError(f"no series of stimulus/presentation holds frames, found {listed}")
    return {name: _presented(name, found[name], transpose) for name in sorted(wanted)}


def _holds_frames(series: Any) -> bool:
    return hasattr(series, "data") and (_is_index(series) or len(np.shape(series.data)) in (1, 3, 4))


def _is_index(series: Any) -> bool:
    return hasattr(series, "indexed_timeseries") or hasattr(series, "indexed_images")


def _presented(name: str, series: Any, transpose: bool) -> PresentedFrames:
    times = sample_times(series, f"stimulus {name!r}")
    if not _is_index(series):
        frames, scale, offset = _frames(name, series, transpose)
        index = np.arange(frames.shape[0])
    else:
        index = np.asarray(series.data[:]).astype(int)
        if series.indexed_timeseries is not None:
            frames, scale, offset = _frames(name, series.indexed_timeseries, transpose)
        else:
            frames, scale, offset = _images(name, series.indexed_images, transpose)
        if len(index) and (index.min() < BLANK or index.max() >= frames.shape[0]):
            raise RecordingError(
                f"stimulus {name!r} shows frames {index.min()} to {index.max()} of {frames.shape[0]} frames"
            )
    if len(times) != len(index):
        raise RecordingError(f"stimulus {name!r} has {len(index)} frames and {len(times)} timestamps")
    interval = np.diff(times)
    if not len(interval) or (interval <= 0).any():
        raise RecordingError(f"stimulus {name!r}: timestamps must increase, and there must be two or more of them")
    stimulus = Stimulus(frames, float(1 / np.median(interval)), scale=scale, offset=offset)
    return PresentedFrames(stimulus, times, index)


def sample_times(series: Any, where: str) -> Float[np.ndarray, "sample"]:
    """Return the times of a series' samples, s: its timestamps, or starting time and rate."""
    if series.timestamps is not None:
        return np.asarray(series.timestamps[:], float)
    if series.rate is None:
        raise RecordingError(f"{where} has neither timestamps nor a rate")
    return (series.starting_time or 0.0) + np.arange(np.shape(series.data)[0]) / series.rate


def _frames(name: str, series: Any, transpose: bool) -> tuple[Any, float, float]:
    """Return frames (frame, channel, height, width), lazily where possible, with scale and offset."""
    if getattr(series, "external_file", None) is not None and len(series.external_file):
        files = [str(path) for path in series.external_file[:]]
        raise RecordingError(f"stimulus {name!r}: its frames are in other files ({files}), which are not read")
    data = series.data
    shape = tuple(np.shape(data))
    if len(shape) not in (1, 3, 4) or np.dtype(data.dtype).kind not in "buif":
        raise RecordingError(
            f"stimulus {name!r} must be numbers (time), (time, height, width) or (time, height, width, channel), found "
            f"{data.dtype} of shape {shape}"
        )
    scale, offset = float(series.conversion), float(series.offset)
    arranged, arrange = _arrangement(shape, transpose)
    if np.dtype(data.dtype).name in AS_STORED:
        from coread.data_io.dataloader import read_rows  # here: it imports torch, which listing sessions does without

        return LazyFrames(arranged, data.dtype, lambda rows: arrange(read_rows(data, rows))), scale, offset
    frames, step, low = smallest_exact(arrange(np.asarray(data[:])))
    return frames, scale * step, offset + scale * low


def _arrangement(
    shape: tuple[int, ...], transpose: bool
) -> tuple[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]]:
    """Return the shape (frame, channel, height, width) of stored frames and the function that brings rows into it."""
    rows, columns = (shape[2], shape[1]) if transpose and len(shape) > 1 else (*shape, 1, 1)[1:3]
    n_channels = shape[3] if len(shape) == 4 else 1

    def arrange(stored: np.ndarray) -> np.ndarray:
        frames = stored.reshape(len(stored), *((1, 1) if len(shape) == 1 else shape[1:3]), n_channels)
        return frames.transpose(0, 3, 2, 1) if transpose and len(shape) > 1 else frames.transpose(0, 3, 1, 2)

    return (shape[0], n_channels, rows, columns), arrange


def _images(name: str, images: Any, transpose: bool) -> tuple[Any, float, float]:
    """Return a set of images, in the order that its IndexSeries counts them in, as frames."""
    ordered = images.order_of_images
    if ordered is None:
        raise RecordingError(
            f"stimulus {name!r}: its images have no order_of_images, so that no index means any of them"
        )
    pictures = [np.asarray(image.data[:]) for image in (ordered.data if hasattr(ordered, "data") else ordered)]
    shapes = sorted({picture.shape for picture in pictures})
    if len(shapes) != 1:
        raise RecordingError(f"stimulus {name!r}: its images have different shapes {shapes}")
    stacked = np.stack(pictures)
    _, arrange = _arrangement(stacked.shape, transpose)
    return smallest_exact(arrange(stacked))
