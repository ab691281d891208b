"""Trials of a movie: where a presentation was interrupted, and which bins belong to which repeat."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Int32, Shaped

from coread.recording import RecordingError


@dataclass(frozen=True)
class TrialCutting:
    """How movies fall into uninterrupted presentations.

    `length` is one length for all training stimuli or a length per stimulus name, `offsets` the first frame of every
    trial per stimulus name; a stimulus with neither is one presentation.
    """

    length: int | Mapping[str, int] | None
    offsets: Mapping[str, Sequence[int]]
    test_names: frozenset[str]

    def named(self) -> set[str]:
        """Return every stimulus that is mentioned by name."""
        lengths = set(self.length) if isinstance(self.length, Mapping) else set()
        return {*self.test_names, *self.offsets, *lengths}

    def starts(self, name: str, n_frames: int) -> np.ndarray:
        """Return the first frame of every trial of a stimulus; raises RecordingError where that does not fit."""
        if name in self.offsets:
            starts = np.asarray(self.offsets[name], int)
            if not len(starts) or starts[0] != 0 or (np.diff(starts) <= 0).any() or starts[-1] >= n_frames:
                raise RecordingError(
                    f"data_io.trial_offsets.{name} must start at 0 and increase to less than the stimulus's "
                    f"{n_frames} frames, found {starts.tolist()}"
                )
            return starts
        length = self._length(name, n_frames)
        if length < 1 or n_frames % length:
            raise RecordingError(
                f"stimulus {name} has {n_frames} frames, which is no multiple of data_io.trial_length {length}; "
                "name the first frame of every trial in data_io.trial_offsets"
            )
        return np.arange(0, n_frames, length)

    def _length(self, name: str, n_frames: int) -> int:
        if isinstance(self.length, Mapping):
            return int(self.length.get(name, n_frames))
        return n_frames if self.length is None or name in self.test_names else int(self.length)


def trial_table(
    layout: Mapping[str, tuple[int, int]], cutting: TrialCutting
) -> tuple[pd.DataFrame, Int32[np.ndarray, "bin"], Int32[np.ndarray, "bin"]]:
    """Return trials, and trial and frame of every bin.

    `layout` is stimulus -> (repeats, frames); bins follow it stimulus by stimulus, repeat by repeat.
    """
    rows, lengths, frames = [], [], []
    for name, (n_repeats, n_frames) in layout.items():
        starts = cutting.starts(name, n_frames)
        tier = "test" if name in cutting.test_names else "train"
        repeat = np.repeat(np.arange(n_repeats), len(starts))
        rows.append(pd.DataFrame({"stimulus": name, "tier": tier, "repeat": repeat}))
        lengths.append(np.tile(np.diff(starts, append=n_frames), n_repeats))
        frames.append(np.tile(np.arange(n_frames), n_repeats))
    table = pd.concat(rows, ignore_index=True)
    table = table.assign(time_order=np.arange(len(table)), withheld=False)
    trial = np.repeat(np.arange(len(table)), np.concatenate(lengths))
    return table, trial.astype(np.int32), np.concatenate(frames).astype(np.int32)


def table_of_bins(responses: Iterable[Shaped[np.ndarray, "repeat neuron time"]]) -> Shaped[np.ndarray, "bin neuron"]:
    """Return the responses of stimuli in the order of the bins of `trial_table`."""
    return np.concatenate([values.transpose(0, 2, 1).reshape(-1, values.shape[1]) for values in responses])
