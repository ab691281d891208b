"""Small cells whose tuning follows from their filters, and experiments with small settings to find it again."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coread.insilico.population import Population
from coread.insilico.tuning_analyses import GratingGrid

RATE, HEIGHT, WIDTH, LAG = 30.0, 21, 25, 9
GRID: dict[str, Any] = {
    "directions_deg": np.arange(0, 360, 30.0),
    "spatial_frequencies": [0.04, 0.07, 0.1, 0.13, 0.17, 0.22, 0.3, 0.6],
    "temporal_frequencies_hz": [2.0, 4.0, 7.0, 20.0],
    "contrast": 1.0,
    "length_unit": "px",
    "duration_s": 0.5,
    "settle_s": 0.0,
    "n_phases": 8,
}


class FilterCells(nn.Module):
    """Cells of two filters (neuron, 2, lag, height, width): rectified and added, or the root of the sum of squares.

    A filter of zeros adds nothing. `channel_weights (neuron, channel)` say how a cell weights the channels.
    """

    def __init__(
        self,
        filters: np.ndarray,
        energy: Sequence[bool],
        *,
        baseline: float = 0.2,
        channel_weights: np.ndarray | None = None,
        **info: Any,
    ) -> None:
        super().__init__()
        self.lag, self.baseline = filters.shape[2] - 1, baseline
        weights = np.ones((len(filters), 1)) if channel_weights is None else channel_weights
        kernels = np.einsum("nklyx,nc->nkclyx", filters[:, :, ::-1], weights)
        self.channels = weights.shape[1]
        self.kernels = nn.Parameter(torch.as_tensor(kernels.copy(), dtype=torch.float32))
        self.energy = torch.as_tensor(energy)[:, None]
        self.data_info = {
            "n_neurons_dict": {"a": len(filters)},
            "input_shape": [self.channels, *filters.shape[-2:]],
            "rate_hz": RATE,
            "stim_mean": 1.0,
            "stim_std": 1.0,
            "unit": "spikes / s",
            "neurons_dict": {"a": {"unit_id": [f"u{number}" for number in range(len(filters))]}},
            **info,
        }

    def forward(self, x: Tensor, data_key: str | None = None) -> Tensor:
        drive = F.conv3d(x, self.kernels.flatten(0, 1))[..., 0, 0].unflatten(1, self.kernels.shape[:2])
        added = drive.relu().sum(2)
        rooted = (drive.square().sum(2) + 1e-12).sqrt()
        return (self.baseline + torch.where(self.energy, rooted, added)).movedim(1, 2)

    def stimulus_shape(self, time_steps: int, num_batches: int = 1) -> tuple[int, ...]:
        return num_batches, self.channels, time_steps, *self.kernels.shape[-2:]


def population(*models: nn.Module) -> Population:
    return Population(models, "a")  # type: ignore[arg-type]


def grid(**changes: Any) -> GratingGrid:
    return GratingGrid(**(GRID | changes))


def offsets(center: tuple[float, float] = (0.0, 0.0)) -> tuple[np.ndarray, np.ndarray]:
    """Return y (upwards) and x from a centre that is given from the middle of the screen."""
    y, x = np.meshgrid((HEIGHT - 1) / 2 - np.arange(HEIGHT), np.arange(WIDTH) - (WIDTH - 1) / 2, indexing="ij")
    return y - center[0], x - center[1]


def course(lags: int = LAG + 1, peak: float = 2.0, hz: float = 4.0) -> np.ndarray:
    """Return a time course that prefers about `hz`; one lag is a cell without memory."""
    if lags == 1:
        return np.ones(1)
    lag = np.arange(lags)
    return np.exp(-0.5 * ((lag - peak - 1) / 1.6) ** 2) * np.cos(2 * np.pi * hz * (lag - peak) / RATE)


def gabor(
    direction_deg: float,
    cycles: float,
    *,
    sigma: float = 3.0,
    phase: float = 0.0,
    lags: int = LAG + 1,
    center: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """Return a filter (lag, height, width) that is separable: it prefers both directions along an axis."""
    y, x = offsets(center)
    angle = np.deg2rad(direction_deg)
    along = x * np.cos(angle) + y * np.sin(angle)
    envelope = np.exp(-(x**2 + y**2) / (2 * sigma**2))
    image = envelope * np.cos(2 * np.pi * cycles * along + phase)
    image -= envelope * image.sum() / envelope.sum()  # blind to the mean grey
    return course(lags)[:, None, None] * image


def moving_gabor(direction_deg: float, cycles: float, hz: float = 4.0, sigma: float = 3.0) -> np.ndarray:
    """Return a filter (lag, height, width) that is oriented in space-time and prefers one direction."""
    y, x = offsets()
    angle = np.deg2rad(direction_deg)
    along = x * np.cos(angle) + y * np.sin(angle)
    lag = np.arange(LAG + 1)[:, None, None]
    envelope = np.exp(-(x**2 + y**2) / (2 * sigma**2)) * np.exp(-0.5 * ((lag - 3.5) / 2.0) ** 2)
    # past frames lie further back along the way
    return envelope * np.cos(2 * np.pi * (cycles * along + hz * (lag - 3.5) / RATE))


def spot_filter(
    sigma: float, surround: float, sign: float = 1.0, center: tuple[float, float] = (0.0, 0.0), lags: int = LAG + 1
) -> np.ndarray:
    """Return a difference of Gaussians (lag, height, width); the surround is twice as wide, its volume `surround`."""
    y, x = offsets(center)
    squared = x**2 + y**2
    image = np.exp(-squared / (2 * sigma**2)) - surround / 4 * np.exp(-squared / (8 * sigma**2))
    slow = np.exp(-0.5 * ((np.arange(lags) - 2) / 1.2) ** 2)
    return sign * slow[:, None, None] * image / (2 * np.pi * sigma**2)


def pair(first: np.ndarray, second: np.ndarray | None = None) -> np.ndarray:
    return np.stack([first, np.zeros_like(first) if second is None else second])


def amplitude(filters: np.ndarray, direction_deg: float, cycles: np.ndarray | float, hz: float) -> np.ndarray:
    """Return how strongly a drifting grating of contrast 1 drives a filter (lag, height, width)."""
    y, x = offsets()
    angle = np.deg2rad(direction_deg)
    along = x * np.cos(angle) + y * np.sin(angle)
    back = np.exp(2j * np.pi * hz * np.arange(len(filters)) / RATE)
    waves = np.exp(2j * np.pi * np.atleast_1d(cycles)[:, None, None] * along)
    return np.abs(np.einsum("lyx,l,fyx->f", filters, back, waves))


def preferred_frequency(filters: np.ndarray, direction_deg: float, hz: float) -> float:
    """Return the spatial frequency of the largest drive."""
    cycles = np.linspace(0.02, 0.45, 2000)
    return float(cycles[amplitude(filters, direction_deg, cycles, hz).argmax()])


def circular_distance(first: np.ndarray, second: np.ndarray, period: float) -> np.ndarray:
    distance = np.abs(first - second) % period
    return np.minimum(distance, period - distance)
