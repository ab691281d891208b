"""The order of trials in time, and which of them a regressor may look at."""

import numpy as np
from jaxtyping import Bool, Float32, Int, Int8, Int64

from coread.data_io.splits import GAP, TRAIN, VALIDATION
from coread.recording import Recording

CHUNK_VALUES = 2**20  # responses read at a time: 4 MiB of float32
# a gap bin was shown in training tiers and only must not be trained on, so its response is known like any other there
AVAILABLE = {"train": (TRAIN,), "train_and_validation": (TRAIN, VALIDATION, GAP)}


class RegressorError(ValueError):
    """A regressor cannot be fitted or made; the message names session, variable and setting."""


def bins_in_time(recording: Recording) -> Int64[np.ndarray, "bin"]:
    """Return all bins in the order in which they were recorded; raises RegressorError if trials share a rank."""
    rank = recording.trials["time_order"].to_numpy()
    if len(np.unique(rank)) < len(rank):
        raise RegressorError(
            f"session {recording.session!r}: time_order must give every trial its own rank, found "
            f"{len(rank)} trials with {len(np.unique(rank))} ranks"
        )
    return np.argsort(rank[recording.trial], kind="stable").astype(np.int64)


def available_bins(labels: Int8[np.ndarray, "bin"], which: str) -> Bool[np.ndarray, "bin"]:
    """Mark the bins whose responses may be looked at: those of a fold's training, or of training and validation.

    Test tiers, withheld responses and masked bins carry other labels, so they are never marked.
    """
    if which not in AVAILABLE:
        raise RegressorError(f"available must be one of {list(AVAILABLE)}, found {which!r}")
    return np.isin(labels, AVAILABLE[which])


def scaled_responses(
    recording: Recording,
    bins: Int[np.ndarray, "row"],
    response_scale: Float32[np.ndarray, "neuron"],
    *,
    withheld_as_zero: bool = False,
) -> Float32[np.ndarray, "row neuron"]:
    """Return the responses of these bins, divided by each neuron's scale, read from the file in its own order.

    `withheld_as_zero` is how the published files store withheld and masked responses. Raises RegressorError for
    responses that are not finite: one NaN would spread to every later sum.
    """
    withheld = recording.bin_column("withheld").astype(bool) | ~recording.valid
    place = np.full(recording.n_bins, -1)
    place[bins] = np.arange(len(bins))
    scaled = np.empty((len(bins), recording.n_neurons), np.float32)
    step = max(1, CHUNK_VALUES // max(1, recording.n_neurons))
    for start in range(0, recording.n_bins, step):
        rows = place[start : start + step]
        chunk = np.asarray(recording.responses[start : start + step])[rows >= 0] / response_scale
        if withheld_as_zero:
            chunk[withheld[start : start + step][rows >= 0]] = 0
        finite = np.isfinite(chunk).all(axis=1)
        if not finite.all():
            row = start + int(np.flatnonzero(rows >= 0)[~finite][0])
            raise RegressorError(f"session {recording.session!r}: the responses of bin {row} are not all finite")
        scaled[rows[rows >= 0]] = chunk
    return scaled
