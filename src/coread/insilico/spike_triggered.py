"""The experiment: white noise, spike-triggered average and covariance, and a map of where a neuron is sensitive."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from coread.insilico.experiment import ExperimentResult, Quantity, join_results
from coread.insilico.gaussian_fit import GaussianFit
from coread.insilico.noise_sta import (
    FRESH,
    NoiseStream,
    relative_weights,
    sensitivity_maps,
    spike_triggered_averages,
    sta_strength,
)
from coread.insilico.place_fits import place_of
from coread.insilico.population import Population
from coread.insilico.receptive_fields import member_consistency
from coread.insilico.separable import separate
from coread.insilico.stc import (
    Axes,
    HeldOut,
    Windows,
    covariance_axes,
    gradient_starts,
    held_out_changes,
    principal_angles,
    significant,
    windows_around,
)

if TYPE_CHECKING:
    from coread.plotting.style import Drawing

SEEN_VALUES = 2**26  # of the noise in the windows of all units at once: 256 MiB


@dataclass(frozen=True)
class _Found:
    """What the noise says of all units: neurons of the ensemble, then those of each member if there are several."""

    halves: Float[Tensor, "half unit lag_bin channel height width"]
    strength: Float[np.ndarray, "unit"]
    axes: Axes
    sta_test: HeldOut
    axes_test: HeldOut
    sta_counts: Bool[np.ndarray, "unit"]
    axes_count: Bool[np.ndarray, "unit axis"]

    def source(self, number: int, n_neurons: int) -> slice:
        """Return the units of the ensemble (0) or of a member (1, 2, ...)."""
        return slice(number * n_neurons, (number + 1) * n_neurons)

    def subspace(self, windows: Windows, units: slice) -> Float[np.ndarray, "unit direction lag_bin place"]:
        """Return spike-triggered average and axes of unit length; zeros where they are not significant."""
        average = windows.cut_filters(self.halves[:, units].mean(dim=0))
        average = average / average.flatten(1).norm(dim=1).clamp_min(1e-20)[:, None, None]
        directions = torch.cat([average[:, None], self.axes.direction[units]], dim=1).cpu().numpy()
        kept = np.concatenate([self.sta_counts[units, None], self.axes_count[units]], axis=1)
        return np.where(kept[:, :, None, None], directions, 0.0)


@dataclass(frozen=True)
class SpikeTriggered:
    """White noise analysis of model neurons; `configs/insilico/spike_triggered.yaml` explains each setting.

    Spike-triggered averages (Chichilnisky 2001) and covariances (Schwartz et al. 2006) of the ensemble's mean response
    and of each member's. A direction is significant if fresh noise, which did not help to find it, says so.
    """

    contrast: float
    n_bins: int
    n_pieces: int
    n_test_pieces: int
    seed: int
    window_px: int
    n_axes: int
    n_passes: int
    alpha: float
    n_gradients: int
    smoothing_px: float

    def run(self, population: Population, neurons: Int[np.ndarray, "neuron"]) -> ExperimentResult:
        """Return averages, axes and the place of some neurons, as many at a time as memory allows."""
        channels, height, width = population.frame_shape
        n_sources = 1 if population.n_members == 1 else 1 + population.n_members
        n_seen = channels * min(self.window_px, height) * min(self.window_px, width) * (self.n_bins + population.lag)
        n_group = max(1, SEEN_VALUES // (n_sources * n_seen))
        groups = [neurons[first : first + n_group] for first in range(0, len(neurons), n_group)]
        return join_results([self._run_group(population, group) for group in groups])

    def _run_group(self, population: Population, neurons: Int[np.ndarray, "neuron"]) -> ExperimentResult:
        stream = NoiseStream(self.n_bins, self.contrast, self.seed)
        maps = sensitivity_maps(stream, population, neurons, self.n_gradients)
        n_sources = 1 if population.n_members == 1 else 1 + population.n_members
        own = windows_around(maps, self.window_px)
        windows = Windows(own.origin.repeat(n_sources, 1), own.side)
        found = self._analyse(stream, population, neurons, windows)
        table = population.neurons.iloc[np.asarray(neurons)].reset_index(drop=True)
        fit = place_of(maps.cpu().numpy(), self.smoothing_px)
        return ExperimentResult(
            table.assign(**self._columns(found, own, fit, len(table))),
            self._arrays(found, own, maps.cpu().numpy(), len(table)),
            self._lags(population),
        )

    def draw(self, results: Mapping[str, ExperimentResult]) -> Mapping[str, "Drawing"]:
        """Return the gallery of averages and axes."""
        from coread.plotting.spike_triggered import draw_spike_triggered

        return {"spike_triggered": draw_spike_triggered(results)}

    def _analyse(
        self, stream: NoiseStream, population: Population, neurons: Int[np.ndarray, "neuron"], windows: Windows
    ) -> _Found:
        weights = relative_weights(stream.responses(population, neurons, range(self.n_pieces)))
        fresh = relative_weights(stream.responses(population, neurons, range(FRESH, FRESH + self.n_test_pieces)))
        halves = spike_triggered_averages(stream, population, weights)
        average = windows.cut_filters(halves.mean(dim=0))
        average = average / average.flatten(1).norm(dim=1).clamp_min(1e-20)[:, None, None]
        sta_test = held_out_changes(stream, population, fresh, windows, average[:, None])
        sta_counts = significant(sta_test.p_mean, self.alpha)[:, 0]
        removed = torch.where(sta_counts[:, None, None], average, 0.0)
        own = Windows(windows.origin[: len(neurons)], windows.side)
        start = gradient_starts(stream, population, neurons, own, self.n_axes)
        start = start.repeat(len(removed) // len(neurons), 1, 1, 1)
        axes = covariance_axes(stream, population, weights, windows, removed, start, self.n_passes)
        axes_test = held_out_changes(stream, population, fresh, windows, axes.direction)
        return _Found(
            halves=halves,
            strength=sta_strength(halves, self.contrast).cpu().numpy(),
            axes=axes,
            sta_test=sta_test,
            axes_test=axes_test,
            sta_counts=sta_counts.cpu().numpy(),
            axes_count=significant(axes_test.p_variance, self.alpha).cpu().numpy(),
        )

    def _columns(self, found: _Found, windows: Windows, fit: GaussianFit, n_neurons: int) -> dict[str, np.ndarray]:
        own = found.source(0, n_neurons)
        average = found.halves[:, own].mean(dim=0).cpu().numpy()
        polarity = separate(average, self.smoothing_px).polarity
        columns: dict[str, np.ndarray] = {
            "center_y_px": fit.center_px[:, 0],
            "center_x_px": fit.center_px[:, 1],
            "sigma_major_px": fit.sigma_px[:, 0],
            "sigma_minor_px": fit.sigma_px[:, 1],
            "angle_rad": fit.angle_rad,
            "polarity": np.where(found.sta_counts[own], polarity, 0),
            "color_angle_deg": _color_angle(found.subspace(windows, own), average.shape[2]),
            "sta_p": found.sta_test.p_mean[own, 0].cpu().numpy(),
        }
        spread = {
            "sta_strength": found.strength,
            "n_dimensions": found.sta_counts.astype(int) + found.axes_count.sum(axis=1),
        }
        for axis in range(self.n_axes):
            spread[f"stc_eigenvalue_{axis + 1}"] = found.axes_test.variance[:, axis].cpu().numpy()
            columns[f"stc_p_{axis + 1}"] = found.axes_test.p_variance[own, axis].cpu().numpy()
        for name, values in spread.items():
            members = values.reshape(-1, n_neurons)[1:]
            columns[name] = values[own]
            columns[f"{name}_sd_members"] = members.std(axis=0, ddof=1) if len(members) else np.full(n_neurons, np.nan)
        return columns | self._consistency(found, windows, n_neurons)

    def _consistency(self, found: _Found, windows: Windows, n_neurons: int) -> dict[str, np.ndarray]:
        """Return how well members agree: cosine of averages, largest angle between what their directions span."""
        averages = found.halves.mean(dim=0).unflatten(0, (-1, n_neurons))[1:].cpu().numpy()
        spaces = [
            found.subspace(windows, found.source(1 + member, n_neurons)).reshape(n_neurons, 1 + self.n_axes, -1)
            for member in range(len(averages))
        ]
        angles = [np.nanmax(principal_angles(a, b), axis=1, initial=-np.inf) for a, b in combinations(spaces, 2)]
        largest = np.mean(angles, axis=0) if angles else np.full(n_neurons, np.nan)
        return {
            "sta_consistency": member_consistency(averages) if len(averages) else np.full(n_neurons, np.nan),
            "subspace_angle_members_deg": np.where(np.isfinite(largest), largest, np.nan),
        }

    def _arrays(
        self, found: _Found, windows: Windows, maps: Float[np.ndarray, "neuron height width"], n_neurons: int
    ) -> dict[str, Quantity]:
        own = found.source(0, n_neurons)
        channels = found.halves.shape[3]
        direction = found.axes.direction[own].cpu().numpy()
        direction = direction.reshape(*direction.shape[:3], channels, *windows.side)
        pixel = ("lag_bin", "channel", "window_y", "window_x")
        return {
            "sta": Quantity(
                found.halves[:, own].mean(dim=0).cpu().numpy(),
                ("neuron", "lag_bin", "channel", "y", "x"),
                "contrast",
            ),
            "stc_axes": Quantity(direction, ("neuron", "axis", *pixel)),
            "stc_significant": Quantity(found.axes_count[own], ("neuron", "axis")),
            "sta_significant": Quantity(found.sta_counts[own], ("neuron",)),
            "stc_eigenvalue": Quantity(found.axes_test.variance[own].cpu().numpy(), ("neuron", "axis")),
            "window_origin_px": Quantity(windows.origin.cpu().numpy(), ("neuron", "y_x"), "px"),
            "sensitivity": Quantity(maps, ("neuron", "y", "x"), "response per contrast"),
        }

    def _lags(self, population: Population) -> dict[str, Quantity]:
        lag_s = np.arange(population.lag + 1) / population.rate_hz
        return {"lag_bin": Quantity(lag_s, ("lag_bin",), "s")}


def _color_angle(
    subspace: Float[np.ndarray, "neuron direction lag_bin place"], channels: int
) -> Float[np.ndarray, "neuron"]:
    """Return the angle of the weights of two channels in degrees, the stronger one positive; NaN without a direction.

    The weights are the main axis of all significant directions over channels.
    """
    if channels != 2:
        return np.full(len(subspace), np.nan)
    parts = subspace.reshape(*subspace.shape[:3], channels, -1)
    _, vectors = np.linalg.eigh(np.einsum("nklcp,nkldp->ncd", parts, parts))
    weights = vectors[..., -1]
    stronger = np.take_along_axis(weights, np.abs(weights).argmax(axis=1)[:, None], axis=1)
    weights = weights * np.where(stronger < 0, -1.0, 1.0)
    empty = np.abs(subspace).max(axis=(1, 2, 3)) == 0
    return np.where(empty, np.nan, np.rad2deg(np.arctan2(weights[:, 1], weights[:, 0])))


def relevant_subspace(result: ExperimentResult) -> Float[np.ndarray, "neuron direction lag_bin channel y x"]:
    """Return the significant directions of a result of this experiment in whole frames; zeros elsewhere.

    The first direction is the spike-triggered average inside the window, the others are the axes of the covariance.
    """
    arrays = {name: quantity.data for name, quantity in result.arrays.items()}
    average, axes = arrays["sta"], arrays["stc_axes"]
    n_neurons, n_lags, channels, height, width = average.shape
    rows, columns = (arrays["window_origin_px"][:, axis, None] + np.arange(axes.shape[-2 + axis]) for axis in (0, 1))
    every = np.arange(n_neurons)[:, None, None]
    # a view with pixels next to neurons: neuron, y, x, direction, lag_bin, channel
    frames = np.zeros((n_neurons, 1 + axes.shape[1], n_lags, channels, height, width))
    by_pixel = np.moveaxis(frames, (-2, -1), (1, 2))
    seen = np.concatenate([_cut(average, rows, columns)[:, None], axes], axis=1)
    by_pixel[every, rows[:, :, None], columns[:, None, :]] = np.moveaxis(seen, (-2, -1), (1, 2))
    kept = np.concatenate([arrays["sta_significant"][:, None], arrays["stc_significant"]], axis=1).astype(bool)
    return np.where(kept[:, :, None, None, None, None], frames, 0.0)


def _cut(
    average: Float[np.ndarray, "neuron lag_bin channel y x"],
    rows: Int[np.ndarray, "neuron window_y"],
    columns: Int[np.ndarray, "neuron window_x"],
) -> Float[np.ndarray, "neuron lag_bin channel window_y window_x"]:
    """Return the part of averages inside the windows, of unit length."""
    every = np.arange(len(average))[:, None, None]
    inside = np.moveaxis(average, (-2, -1), (1, 2))[every, rows[:, :, None], columns[:, None, :]]
    inside = np.moveaxis(inside, (1, 2), (-2, -1))
    norm = np.sqrt(np.square(inside).sum(axis=(1, 2, 3, 4), keepdims=True))
    return inside / np.where(norm > 0, norm, 1.0)
