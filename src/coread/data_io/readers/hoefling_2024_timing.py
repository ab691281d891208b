"""When what was on the screen in Hoefling et al. 2024: triggers, frames, presentations, and responses at frame times.

A trigger marks the start of every clip. The test movie was shown before, between and after blocks of training clips,
whose order differs between sessions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Int, Int32

from coread.recording import RecordingError

TRAIN, TEST = "train", "test"


@dataclass(frozen=True)
class ClipTiming:
    """How one kind of stimulus follows its triggers.

    A clip has `clip_length` frames, the first at its trigger and the last `clip_duration_s` later; it has
    `triggers_per_clip` triggers, of which the first counts.
    """

    clip_length: int
    clip_duration_s: float
    triggers_per_clip: int = 1

    def frame_times(self, triggers: Float[np.ndarray, "trigger"]) -> Float[np.ndarray, "frame"]:
        """Return when every frame of every clip was shown, in seconds."""
        starts = triggers[:: self.triggers_per_clip]
        return np.linspace(starts, starts + self.clip_duration_s, self.clip_length, axis=1).reshape(-1)

    def pauses(self, triggers: Float[np.ndarray, "trigger"], longest_s: float, where: str) -> Bool[np.ndarray, "clip"]:
        """Return before which clips the screen rested for more than `longest_s`; raises RecordingError for overlaps."""
        starts = triggers[:: self.triggers_per_clip]
        steps = np.diff(starts)
        # half a clip: triggers may jitter, but a trigger too many would shift everything behind it
        if not np.isfinite(starts).all() or (steps < self.clip_duration_s / 2).any():
            found = "not all numbers" if not np.isfinite(starts).all() else f"{steps.min():.4g} s apart in one place"
            raise RecordingError(f"{where}: trigger times must be {self.clip_duration_s:.4g} s apart, they are {found}")
        return np.concatenate([[False], steps - self.clip_duration_s > longest_s])


@dataclass(frozen=True)
class Presentations:
    """Trials in true time order, and trial and frame of every bin."""

    trials: pd.DataFrame
    trial: Int32[np.ndarray, "bin"]
    frame: Int32[np.ndarray, "bin"]


def movie_presentations(
    order: Int[np.ndarray, "clip"],
    n_test_clips: int,
    train_blocks: Sequence[int],
    clip_length: int,
    pauses: Bool[np.ndarray, "shown_clip"],
) -> Presentations:
    """Return test movie, block of training clips, test movie, block, ..., test movie.

    `order` is the clip of the training movie shown at each place. Every block is a trial of its own, and so is what
    follows a pause. `repeat` counts the showings of the test movie.
    """
    shown = shown_clips(order, n_test_clips, train_blocks)
    starts = pauses | (np.diff(shown["block"], prepend=-1) != 0)
    first = shown[starts].reset_index(drop=True)
    trials = first[["stimulus", "repeat"]].assign(tier=first["stimulus"])  # the stimuli are named after their tiers
    frame = shown["clip"].to_numpy()[:, None] * clip_length + np.arange(clip_length)
    trial = np.repeat(np.cumsum(starts) - 1, clip_length)
    return _presentations(trials, trial, frame.reshape(-1))


def shown_clips(order: Int[np.ndarray, "clip"], n_test_clips: int, train_blocks: Sequence[int]) -> pd.DataFrame:
    """Return (block, stimulus, repeat, clip) of every clip in the order in which they were shown."""
    blocks = [(TEST, 0, np.arange(n_test_clips))]
    for repeat, clips in enumerate(np.split(order.astype(int), np.cumsum(train_blocks)[:-1]), start=1):
        blocks += [(TRAIN, 0, clips), (TEST, repeat, np.arange(n_test_clips))]
    return pd.concat(
        [
            pd.DataFrame({"block": index, "stimulus": stimulus, "repeat": repeat, "clip": clips})
            for index, (stimulus, repeat, clips) in enumerate(blocks)
        ],
        ignore_index=True,
    )


def repeated_presentations(stimulus: str, tier: str, n_frames: int, n_repeats: int) -> Presentations:
    """Return a stimulus shown whole, several times, each time as a trial of its own."""
    trials = pd.DataFrame({"stimulus": stimulus, "repeat": np.arange(n_repeats), "tier": tier})
    return _presentations(trials, np.repeat(np.arange(n_repeats), n_frames), np.tile(np.arange(n_frames), n_repeats))


def joined(parts: Sequence[Presentations]) -> Presentations:
    """Return presentations one after another."""
    before = np.cumsum([0, *(len(part.trials) for part in parts)])
    return _presentations(
        pd.concat([part.trials for part in parts], ignore_index=True),
        np.concatenate([part.trial + n for part, n in zip(parts, before, strict=False)]),
        np.concatenate([part.frame for part in parts]),
    )


def _presentations(trials: pd.DataFrame, trial: np.ndarray, frame: np.ndarray) -> Presentations:
    table = trials.assign(time_order=np.arange(len(trials)), withheld=False)
    return Presentations(table, trial.astype(np.int32), frame.astype(np.int32))


# ------------------------------------------------------------------------------------------------------------ responses


def responses_at(
    frame_times: Float[np.ndarray, "bin"],
    traces: Float[np.ndarray, "neuron sample"],
    trace_times: Float[np.ndarray, "neuron sample"],
    where: str,
) -> Float32[np.ndarray, "bin neuron"]:
    """Return every trace at the times of the frames, linearly interpolated; NaN where there is no sample near.

    The published interpolation goes on with the last value for as long as frames are shown; here it does so for one
    sampling interval. Raises RecordingError for times that do not increase.
    """
    steps = np.diff(trace_times, axis=1)
    if not np.isfinite(trace_times).all() or (steps <= 0).any():
        raise RecordingError(f"{where}: the times of the traces must be numbers that increase")
    # every ROI was scanned at times of its own, and np.interp knows one time axis
    values = [np.interp(frame_times, times, trace) for times, trace in zip(trace_times, traces, strict=True)]
    interval = np.median(steps, axis=1) * (1 + 1e-6)  # times are sums of intervals, each rounded
    first, last = trace_times[:, 0] - interval, trace_times[:, -1] + interval
    responses = np.stack(values, axis=1).astype(np.float32)
    responses[(frame_times[:, None] < first) | (frame_times[:, None] > last)] = np.nan
    return responses


def divided_by_std(responses: Float32[np.ndarray, "bin neuron"]) -> Float32[np.ndarray, "bin neuron"]:
    """Return responses divided by each neuron's standard deviation over all bins with a value, test bins included.

    The published normalisation; a neuron that never changes stays as it is.
    """
    deviation = np.nanstd(responses.astype(np.float64), axis=0)
    return (responses / np.where(deviation > 0, deviation, 1.0)).astype(np.float32)
