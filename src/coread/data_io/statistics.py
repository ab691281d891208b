"""What is fitted on the training bins of a fold: stimulus mean and std, response scale, mean activity."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Int8
from torch import Tensor

from coread.data_io.splits import TRAIN
from coread.recording import BLANK, Recording, Stimulus

CHUNK_VALUES = 2**18  # values summed at a time: 2 MiB of float64
RESPONSE_SCALES = ("none", "std")


class QualityError(ValueError):
    """The data of a fold cannot be trained on; the message names session, neurons and fold."""


@dataclass(frozen=True)
class Statistics:
    """Numbers fitted on the training bins of one fold; `mean_activity` is in scaled units."""

    stim_mean: float
    stim_std: float
    response_scale: dict[str, Float[Tensor, "neuron"]]
    mean_activity: dict[str, Float[Tensor, "neuron"]]


def compute_statistics(
    recordings: Sequence[Recording],
    labels: Mapping[str, Int8[np.ndarray, "bin"]],
    *,
    normalize_stimulus: bool = True,
    response_scale: str = "none",
) -> Statistics:
    """Fit all statistics on the bins labelled train; `response_scale="std"` divides by the std of each neuron there.

    The floor of the scale is 1 % of the mean over neurons (Willeke et al. 2022). Raises QualityError for neurons whose
    training responses do not vary.
    """
    mean, std = stimulus_moments(recordings, labels) if normalize_stimulus else (0.0, 1.0)
    scales, activities = {}, {}
    for recording in recordings:
        average, deviation = response_moments(recording, labels[recording.session])
        scale = np.ones_like(average)
        if response_scale == "std":
            scale = np.maximum(deviation, 0.01 * deviation.mean())
        elif response_scale != "none":
            raise ValueError(f"response_scale {response_scale!r} is unknown, expected one of {list(RESPONSE_SCALES)}")
        scales[recording.session] = torch.as_tensor(scale, dtype=torch.float32)
        activities[recording.session] = torch.as_tensor(average / scale, dtype=torch.float32)
    return Statistics(mean, std, scales, activities)


def response_moments(
    recording: Recording, labels: Int8[np.ndarray, "bin"]
) -> tuple[Float[np.ndarray, "neuron"], Float[np.ndarray, "neuron"]]:
    """Return mean and std of every neuron over the training bins, read in chunks."""
    train = labels == TRAIN
    if not train.any():
        raise QualityError(f"session {recording.session!r} has no training bins in this fold")
    total, squares = np.zeros(recording.n_neurons), np.zeros(recording.n_neurons)
    step = max(1, CHUNK_VALUES // max(1, recording.n_neurons))
    for start in range(0, recording.n_bins, step):
        chunk = np.asarray(recording.responses[start : start + step], np.float64)[train[start : start + step]]
        total += chunk.sum(axis=0)
        squares += np.square(chunk).sum(axis=0)
    mean = total / train.sum()
    return mean, np.sqrt(np.maximum(squares / train.sum() - mean**2, 0.0))


def constant_neurons(recording: Recording, labels: Int8[np.ndarray, "bin"]) -> Int[np.ndarray, "neuron"]:
    """Return the neurons whose response is the same in every training bin."""
    mean, std = response_moments(recording, labels)
    return np.flatnonzero(std <= 1e-6 * np.maximum(np.abs(mean), 1e-6))


def stimulus_moments(
    recordings: Sequence[Recording], labels: Mapping[str, Int8[np.ndarray, "bin"]]
) -> tuple[float, float]:
    """Return mean and std of all pixels over the training bins of all sessions, each stimulus read once."""
    counts: dict[str, np.ndarray] = {}
    stimuli: dict[str, Stimulus] = {}
    for recording in recordings:
        names = recording.bin_column("stimulus")
        shown = (labels[recording.session] == TRAIN) & (recording.frame != BLANK)
        for name in sorted(set(names[shown])):
            stimulus = recording.stimuli[name]
            times = np.bincount(recording.frame[shown & (names == name)], minlength=stimulus.frames.shape[0])
            key = stimulus.digest()
            stimuli[key] = stimulus
            counts[key] = counts.get(key, 0) + times
    if not counts:
        return 0.0, 1.0
    moments = np.sum([_weighted_moments(stimuli[key], counts[key]) for key in counts], axis=0)
    mean = moments[1] / moments[0]
    std = float(np.sqrt(max(moments[2] / moments[0] - mean**2, 0.0)))
    return float(mean), std if std > 0 else 1.0


def _weighted_moments(stimulus: Stimulus, counts: Int[np.ndarray, "frame"]) -> Float[np.ndarray, "3"]:
    """Return number, sum and sum of squares of the physical values, each frame counted as often as it was shown."""
    total = np.zeros(3)
    pixels = int(np.prod(stimulus.frames.shape[1:]))
    step = max(1, CHUNK_VALUES // pixels)
    for start in range(0, len(counts), step):
        weight = counts[start : start + step].astype(np.float64)
        values = np.asarray(stimulus.frames[start : start + step], np.float64).reshape(len(weight), -1)
        values = values * stimulus.scale + stimulus.offset
        total += [weight.sum() * pixels, weight @ values.sum(axis=1), weight @ np.square(values).sum(axis=1)]
    return total
