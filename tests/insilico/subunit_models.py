"""Models of a few lines whose every response follows from their filters, for analyses of populations."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from coread.insilico.population import Population

SESSION = "a"
RATE_HZ = 30.0
Law = Callable[[Tensor], Tensor]  # (batch, neuron, subunit, time) -> (batch, neuron, time)


class SubunitCells(nn.Module):
    """Cells with filters `(neuron, subunit, lag_bin, channel, height, width)`, the current bin first, and a law."""

    def __init__(self, filters: np.ndarray, law: Law, session: str = SESSION) -> None:
        super().__init__()
        self.lag, self.law = filters.shape[2] - 1, law
        self.filters = nn.Parameter(torch.as_tensor(filters, dtype=torch.float32))
        self.dropout = nn.Dropout(0.5)  # noise for whoever forgets about the mode
        channels, height, width = filters.shape[3:]
        self.data_info = {
            "n_neurons_dict": {session: len(filters)},
            "input_shape": [channels, height, width],
            "rate_hz": RATE_HZ,
            "unit": "spike count",
            "stim_mean": 2.0,
            "stim_std": 1.0,  # so that contrast 1 is 2 deviations
        }

    def forward(self, x: Tensor, data_key: str | None = None) -> Tensor:
        kernels = self.filters.flatten(0, 1).flip(1).movedim(1, 2)
        drive = nn.functional.conv3d(self.dropout(x), kernels)[..., 0, 0]
        return self.law(drive.unflatten(1, self.filters.shape[:2])).movedim(1, 2)

    def stimulus_shape(self, time_steps: int, num_batches: int = 1) -> tuple[int, ...]:
        return num_batches, self.filters.shape[3], time_steps, *self.filters.shape[4:]


def population(*models: SubunitCells) -> Population:
    return Population(models, next(iter(models[0].data_info["n_neurons_dict"])))  # type: ignore[arg-type]


def linear(drive: Tensor) -> Tensor:
    return drive.sum(2)


def softplus(drive: Tensor) -> Tensor:
    return nn.functional.softplus(drive.sum(2))


def rectified(drive: Tensor) -> Tensor:
    """Sum rectified subunits, and let a little through, so that no response is ever flat."""
    return nn.functional.softplus(4 * drive).sum(2) / 4


def squared(drive: Tensor) -> Tensor:
    return drive.square().sum(2)


def gaussian(center: Sequence[float], sigma: float, height: int, width: int) -> np.ndarray:
    """Return a Gaussian of unit volume."""
    y, x = np.mgrid[:height, :width].astype(float)
    squared_distance = (y - center[0]) ** 2 + (x - center[1]) ** 2
    return np.exp(-squared_distance / (2 * sigma**2)) / (2 * np.pi * sigma**2)


def course(n_lags: int, peak: float = 1.0, rebound: float = 0.3) -> np.ndarray:
    """Return a biphasic time course of unit norm, the current bin first."""
    lags = np.arange(n_lags)
    shape = np.exp(-0.5 * ((lags - peak) / 0.8) ** 2) - rebound * np.exp(-0.5 * ((lags - 2.5 * peak) / 1.2) ** 2)
    return shape / np.linalg.norm(shape)


def separable(images: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Return filters (neuron, subunit, lag_bin, 1, height, width) from images (neuron, subunit, height, width)."""
    return (time[:, None, None, None] * images[:, :, None, None]).astype(np.float32)
