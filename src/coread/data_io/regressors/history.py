"""Response history: means over the last responses of every neuron, computed on the fly.

For a bin with c available bins before it in time, the history of lag l is (S[c] - S[max(c - l, 0)]) / l, where S is the
cumulative sum of the available responses in time order. It divides by l also where fewer than l responses came before,
and holds still where responses are not available, as in the Model-4 entry to SENSORIUM 2022. No array of (bin, neuron,
lag) exists.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor


@dataclass(frozen=True, eq=False)
class AvailableBins:
    """The bins whose responses may be looked at, in time order, and how many of them come before each bin."""

    bins: Int64[np.ndarray, "available"]
    before: Int64[np.ndarray, "bin"]

    @classmethod
    def find(cls, available: Bool[np.ndarray, "bin"], in_time: Int64[np.ndarray, "bin"]) -> "AvailableBins":
        """Count through all bins in the order of time; a bin never comes before itself."""
        in_order = available[in_time]
        before = np.empty(len(in_time), np.int64)
        before[in_time] = np.cumsum(in_order) - in_order
        return cls(in_time[in_order], before)


def cumulative_sum(responses: Float32[np.ndarray, "available neuron"]) -> Float64[Tensor, "available_and_one neuron"]:
    """Return the sums over the first 0, 1, 2, ... rows.

    In float64: the difference of two sums over thousands of trials must still be a single response, which float32
    would know to about 1e-3 of its size only. Memory: 8 bytes per available bin and neuron.
    """
    total = np.zeros((len(responses) + 1, responses.shape[1]))
    step = 64
    for start in range(0, len(responses), step):
        rows = slice(start + 1, start + 1 + step)
        np.cumsum(responses[start : start + step], axis=0, dtype=np.float64, out=total[rows])
        total[rows] += total[start]
    return torch.from_numpy(total)


def mean_of_last(
    total: Float64[Tensor, "available_and_one neuron"], before: Int64[Tensor, "*batch"], lags: Sequence[int]
) -> Float32[Tensor, "*batch neuron lag"]:
    """Return the mean over the last l available responses before each bin, for every lag l; zeros fill the start."""
    until_now = total[before]
    history = torch.empty((*until_now.shape, len(lags)), dtype=torch.float32, device=total.device)
    for place, lag in enumerate(lags):
        history[..., place] = (until_now - total[(before - lag).clamp(min=0)]) / lag
    return history
