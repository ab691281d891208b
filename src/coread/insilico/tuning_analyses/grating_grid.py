"""Responses to a grid of gratings: every direction at every spatial and temporal frequency."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from coread.data_io.artificial_stimuli import generate_gratings, parameter_grid
from coread.insilico.population import Population
from coread.insilico.tuning_analyses.harmonics import harmonic_weights, mean_and_modulation
from coread.insilico.tuning_analyses.responses import (
    bins_per_second,
    grey_response,
    is_memoryless,
    pixel_size,
    respond_own,
    respond_to,
    stimulus_shape,
)

MEASURES = ("F0", "F1", "larger", "F0_unless_linear")
LINEAR_RATIO = 4.0  # F1 / F0 of half-wave rectified responses is at most 2; far above, hardly anything is rectified


class GratingTimes(NamedTuple):
    """How gratings are shown: bins per second, grey or moving bins before, and bins that are measured.

    To a model of single images the phases of a static grating are shown one after the other: one cycle of `n_bins`.
    """

    rate_hz: float
    n_before: int
    n_bins: int


class GratingResponses(NamedTuple):
    """Mean above the response to grey (F0) and modulation (F1) of the responses to a grid of gratings.

    Gratings that cannot be shown, at or above half a cycle per pixel or bin (`can_space`, `can_time`), are NaN.
    Directions of a model of single images are within 180 degrees, and its only temporal frequency is 0.
    """

    f0: Float[np.ndarray, "row neuron direction spatial temporal"]
    f1: Float[np.ndarray, "row neuron direction spatial temporal"]
    baseline: Float[np.ndarray, "row neuron"]
    directions_deg: Float[np.ndarray, "direction"]
    spatial_cyc_px: Float[np.ndarray, "spatial"]
    temporal_hz: Float[np.ndarray, "temporal"]
    can_space: Bool[np.ndarray, "spatial"]
    can_time: Bool[np.ndarray, "temporal"]


class Variants(NamedTuple):
    """How stimuli of a neuron differ from its grating: contrast, further turn, and diameter of an aperture."""

    contrast: Float[np.ndarray, "variant"]
    turn_deg: Float[np.ndarray, "variant"]
    diameter_px: Float[np.ndarray, "variant"] | None = None


@dataclass(frozen=True)
class GratingGrid:
    """Which gratings are shown, on the whole screen; lengths in `length_unit`, px, um or deg."""

    directions_deg: Sequence[float]
    spatial_frequencies: Sequence[float]
    temporal_frequencies_hz: Sequence[float]
    contrast: float
    length_unit: str
    duration_s: float  # that is measured; longer where a cycle of the slowest grating takes longer
    settle_s: float  # that a grating drifts before
    n_phases: int  # of the static gratings of image models

    def axes(self, population: Population) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return directions in degrees, cycles per pixel, and Hz."""
        directions = np.unique(np.asarray(self.directions_deg, float) % 360)
        spatial = np.asarray(self.spatial_frequencies, float) * pixel_size(population, self.length_unit)
        temporal = np.asarray(self.temporal_frequencies_hz, float)
        if is_memoryless(population):
            return np.unique(np.round(directions % 180, 9)), spatial, np.zeros(1)
        return directions, spatial, temporal

    def times(self, population: Population) -> GratingTimes:
        """Return how long gratings are shown."""
        if is_memoryless(population):
            return GratingTimes(float(self.n_phases), 0, self.n_phases)
        rate = bins_per_second(population)
        drifting = [hz for hz in self.temporal_frequencies_hz if hz > 0]
        duration_s = max(self.duration_s, *(1 / hz for hz in drifting)) if drifting else self.duration_s
        return GratingTimes(rate, population.lag + round(self.settle_s * rate), int(np.ceil(duration_s * rate)))

    def respond(self, population: Population, neurons: Int[np.ndarray, "neuron"]) -> GratingResponses:
        """Return the responses of some neurons to all gratings; raises ValueError if none can be shown."""
        directions, spatial, temporal = self.axes(population)
        times = self.times(population)
        can_space, can_time = (spatial > 0) & (spatial < 0.5), _shown_hz(population, temporal) < times.rate_hz / 2
        if not can_space.any() or not can_time.any():
            raise ValueError(
                f"no grating can be shown: of {spatial.tolist()} cycles per pixel none is within 0..0.5, or of "
                f"{temporal.tolist()} Hz none below half of {times.rate_hz:g} Hz"
            )
        grid = parameter_grid(direction=directions, spatial=spatial[can_space], temporal=temporal[can_time])
        shown_hz = _shown_hz(population, grid["temporal"])
        weights = harmonic_weights(shown_hz, times.n_bins, times.rate_hz)

        def make(index: Int[np.ndarray, "stimulus"]) -> Tensor:
            return self._gratings(
                population, times, grid["direction"][index], grid["spatial"][index], shown_hz[index], self.contrast
            )

        def measure(responses: Tensor, index: Int[np.ndarray, "stimulus"]) -> Tensor:
            return mean_and_modulation(responses, weights[index])

        values = respond_to(population, neurons, len(shown_hz), make, measure)
        shape = (*values.shape[:2], len(directions), len(spatial), len(temporal), 2)
        filled = np.full(shape, np.nan)
        inside = np.ix_(*(np.arange(size) for size in shape[:3]), np.flatnonzero(can_space), np.flatnonzero(can_time))
        filled[inside] = values.reshape(*shape[:3], can_space.sum(), can_time.sum(), 2)
        baseline = grey_response(population, neurons, times.n_before - population.lag)
        f0 = filled[..., 0] - baseline[:, :, None, None, None]
        return GratingResponses(f0, filled[..., 1], baseline, directions, spatial, temporal, can_space, can_time)

    def respond_own_gratings(
        self,
        population: Population,
        neurons: Int[np.ndarray, "neuron"],
        gratings: Float[np.ndarray, "neuron 3"],
        variants: "Variants",
        centers_px: Float[np.ndarray, "neuron 2"] | None = None,
    ) -> Float[np.ndarray, "row neuron variant 2"]:
        """Return F0 and F1 (F0 with the response to grey) to variants of each neuron's grating.

        A grating is its direction in degrees, cycles per pixel, and Hz (0 to models of single images). Apertures lie
        around the neuron's centre `(y, x)` from the middle of the screen. Neurons of the same grating share stimuli.
        """
        times = self.times(population)
        keys = gratings if centers_px is None else np.column_stack([gratings, centers_px])
        kinds, group = np.unique(keys, axis=0, return_inverse=True)
        shown_hz = _shown_hz(population, kinds[:, 2])
        weights = harmonic_weights(shown_hz, times.n_bins, times.rate_hz)
        n_each = len(variants.contrast)

        def make(groups: Int[np.ndarray, "group"]) -> Tensor:
            direction, cycles, hz = (np.repeat(v[groups], n_each) for v in (kinds[:, 0], kinds[:, 1], shown_hz))
            turned = direction + np.tile(variants.turn_deg, len(groups))
            center = None if centers_px is None else np.repeat(kinds[groups, 3:], n_each, axis=0)
            diameter = None if variants.diameter_px is None else np.tile(variants.diameter_px, len(groups))
            contrast = np.tile(variants.contrast, len(groups))
            return self._gratings(population, times, turned, cycles, hz, contrast, diameter, center)

        def measure(responses: Tensor, groups: Int[np.ndarray, "stimulus"]) -> Tensor:
            return mean_and_modulation(responses, weights[groups])

        return respond_own(population, neurons, group.reshape(-1), make, measure)

    def _gratings(
        self,
        population: Population,
        times: GratingTimes,
        direction_deg: np.ndarray,
        cycles_per_px: np.ndarray,
        hz: np.ndarray,
        contrast: float | np.ndarray,
        diameter_px: np.ndarray | None = None,
        center_px: np.ndarray | None = None,
    ) -> Float[Tensor, "stimulus channel time height width"]:
        return generate_gratings(
            stimulus_shape(population, len(hz), times.n_before + times.n_bins),
            hz,
            cycles_per_px,
            direction_deg,
            torch.as_tensor(contrast, dtype=torch.float64),
            diameter=diameter_px,
            center=center_px,
            rate_hz=times.rate_hz,
        )


def _shown_hz(population: Population, temporal_hz: np.ndarray) -> np.ndarray:
    """Return the frequencies on the time axis of the stimulus: the phases of a static grating are one cycle."""
    return np.ones_like(temporal_hz) if is_memoryless(population) else temporal_hz


def best_gratings(
    response: Float[np.ndarray, "neuron direction spatial temporal"], shown: GratingResponses
) -> tuple[Int[np.ndarray, "neuron 3"], Float[np.ndarray, "neuron 3"]]:
    """Return the shown grating of the largest response: places along the axes, and direction, cycles per pixel, Hz."""
    flat = response.reshape(len(response), -1)
    place = np.stack(np.unravel_index(np.nanargmax(flat, axis=1), response.shape[1:]), axis=1)
    axes = (shown.directions_deg, shown.spatial_cyc_px, shown.temporal_hz)
    return place, np.stack([axis[place[:, i]] for i, axis in enumerate(axes)], axis=1)


def evoked(
    f0: Float[np.ndarray, "row neuron *stimulus"], f1: Float[np.ndarray, "row neuron *stimulus"], measure: str
) -> tuple[Float[np.ndarray, "row neuron *stimulus"], np.ndarray]:
    """Return the response that tuning is measured by, and the name of it per neuron: F0 or F1.

    Per neuron, by the peaks of the ensemble: "larger" takes the modulation of cells that follow a grating's phase and
    the mean of those that do not; "F0_unless_linear" takes the mean but for cells whose response is hardly rectified,
    so that gratings modulate it LINEAR_RATIO times as much as they raise its mean. Raises ValueError for an unknown
    measure.
    """
    if measure not in MEASURES:
        raise ValueError(f"measure is one of {MEASURES}, found {measure!r}")
    peaks = [np.nanmax(values[0].reshape(values.shape[1], -1), axis=1) for values in (f0, f1)]
    ratio = {"F0": np.inf, "F1": -np.inf, "larger": 1.0, "F0_unless_linear": LINEAR_RATIO}[measure]
    modulated = np.full(f0.shape[1], ratio < 0) if np.isinf(ratio) else peaks[1] > ratio * np.maximum(peaks[0], 0.0)
    chosen = np.where(modulated.reshape(1, -1, *[1] * (f0.ndim - 2)), f1, f0)
    return chosen, np.where(modulated, "F1", "F0")
