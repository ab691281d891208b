"""Checks of a recording against its format, one sentence per problem."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from coread.recording import Recording

TIERS = ("train", "validation", "test", "final_test")
MIRRORS = ("none", "width", "height")
BLANK = -1
CHUNK_VALUES = 2**18  # responses looked at at a time: 1 MiB of float32


class RecordingError(ValueError):
    """A recording breaks its own format; the message names the session, what was expected and what was found."""


def validate(recording: Recording) -> None:
    """Check a recording against its format; raises RecordingError with everything that is wrong."""
    problems = [*_length_problems(recording), *_table_problems(recording)]
    if not problems:
        problems = [*_index_problems(recording), *_response_problems(recording)]
    if problems:
        raise RecordingError(f"session {recording.session!r} ({recording.dataset}): " + "; ".join(problems))


def _length_problems(recording: Recording) -> list[str]:
    n_bins = recording.n_bins
    names = ("frame", "responses", "valid", "behaviour", "pupil_center")
    problems = [
        f"{name} has {values.shape[0]} bins, trial has {n_bins}"
        for name in names
        if (values := getattr(recording, name)) is not None and values.shape[0] != n_bins
    ]
    if recording.responses.ndim != 2:
        problems.append(f"responses must be (bin, neuron), found shape {tuple(recording.responses.shape)}")
    elif len(recording.neurons) != recording.responses.shape[1]:
        problems.append(f"neurons lists {len(recording.neurons)} rows, responses have {recording.responses.shape[1]}")
    if n_bins == 0:
        problems.append("there are no bins")
    return problems


def _table_problems(recording: Recording) -> list[str]:
    columns = {"stimulus", "tier", "repeat", "time_order", "withheld"}
    if missing := sorted(columns - set(recording.trials.columns)):
        return [f"trials lacks the columns {missing}, found {sorted(recording.trials.columns)}"]
    problems = []
    if unknown := sorted(set(recording.trials["tier"]) - set(TIERS)):
        problems.append(f"unknown tiers {unknown}, expected {list(TIERS)}")
    if absent := sorted(set(recording.trials["stimulus"]) - set(recording.stimuli)):
        problems.append(f"trials show the stimuli {absent}, but only {sorted(recording.stimuli)} exist")
    if recording.mirror not in MIRRORS:
        problems.append(f"mirror is {recording.mirror!r}, expected one of {list(MIRRORS)}")
    for name, stimulus in recording.stimuli.items():
        if stimulus.frames.ndim != 4:
            shape = tuple(stimulus.frames.shape)
            problems.append(f"stimulus {name!r} must be (frame, channel, height, width), found shape {shape}")
    return problems


def _index_problems(recording: Recording) -> list[str]:
    trial, frame = recording.trial, recording.frame
    if trial.min() < 0 or trial.max() >= len(recording.trials):
        found = f"{trial.min()}..{trial.max()}"
        return [f"bins point to trials {found}, but there are {len(recording.trials)} trials"]
    problems = []
    if (np.diff(trial) < 0).any():
        problems.append("the bins of a trial are not contiguous and in time order")
    lengths = np.array([recording.stimuli[name].frames.shape[0] for name in recording.trials["stimulus"]])
    outside = (frame < BLANK) | (frame >= lengths[trial])
    if outside.any():
        bin_index = int(np.flatnonzero(outside)[0])
        row = int(trial[bin_index])
        name = recording.trials["stimulus"].iloc[row]
        problems.append(
            f"bin {bin_index} shows frame {frame[bin_index]} of stimulus {name!r}, which has {lengths[row]} frames"
        )
    return problems


def _response_problems(recording: Recording) -> list[str]:
    """Look for NaN in bins that count, chunk by chunk so that streamed responses stay on disk."""
    bad: list[np.ndarray] = []
    step = max(1, CHUNK_VALUES // max(1, recording.n_neurons))
    for start in range(0, recording.n_bins, step):
        chunk = np.asarray(recording.responses[start : start + step])
        wrong = ~np.isfinite(chunk) & recording.valid[start : start + step, None]
        bad.append(np.argwhere(wrong) + np.array([start, 0]))
    found = np.concatenate(bad)
    if not len(found):
        return []
    first_bin, first_neuron = found[0]
    return [
        f"{len(found)} response values are not finite in bins that are not masked, "
        f"the first at bin {first_bin}, neuron {first_neuron} (mask such bins with valid=False)"
    ]
