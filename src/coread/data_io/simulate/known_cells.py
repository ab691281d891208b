"""Model cells whose tuning is known from their filters.

A cell has one or two linear filters in space, time and colour. Their outputs pass through a softplus (linear-nonlinear
and ON-OFF cells) or are squared and added (the energy model). Centre-surround filters are differences of Gaussians
(Enroth-Cugell & Robson 1966, Journal of Physiology 187:517) with a difference of gamma functions in time. The others
are Gabor functions; those of an energy-model cell are in quadrature in space, those of a direction-selective cell in
space and time, which makes them inseparable (Adelson & Bergen 1985, JOSA A 2:284).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from coread.data_io.readers.parameters import parse_parameters
from coread.data_io.simulate.cells import Kinetics

N_SUBUNITS = 2  # filters per cell; the second one of a linear cell is empty
POLARITIES = {"ON": 1.0, "OFF": -1.0, "ON-OFF": 0.0}


@dataclass(frozen=True)
class CenterSurroundCell:
    """A difference of Gaussians times a time course; an ON-OFF cell adds the responses to it and to its negative."""

    cell_type: str
    polarity: str
    center_px: Sequence[float]  # (y, x)
    sigma_px: float
    surround_sigma_px: float
    surround_weight: float  # volume relative to the centre's
    channel_weights: Sequence[float]
    kinetics: str

    def __post_init__(self) -> None:
        if self.polarity not in POLARITIES:
            raise ValueError(f"a cell's polarity is one of {sorted(POLARITIES)}, found {self.polarity!r}")

    def filters(
        self, frame_shape: tuple[int, int], courses: Mapping[str, Float[np.ndarray, "lag"]]
    ) -> Float[np.ndarray, "subunit lag channel height width"]:
        """Return the filters, of unit norm: of ON-OFF cells the ON filter and its negative."""
        dy, dx = _offsets(self.center_px, frame_shape)
        squared = dy**2 + dx**2
        center, surround = (
            np.exp(-squared / (2 * sigma**2)) / sigma**2 for sigma in (self.sigma_px, self.surround_sigma_px)
        )
        image = center - self.surround_weight * surround
        own = _unit(_product(courses[self.kinetics], self.channel_weights, image))
        if self.polarity == "ON-OFF":
            return np.stack([own, -own])
        return np.stack([POLARITIES[self.polarity] * own, np.zeros_like(own)])


@dataclass(frozen=True)
class GaborCell:
    """A Gabor function that prefers gratings drifting in `direction_deg` (0: rightwards, 90: upwards).

    `motion` makes the filter inseparable: it prefers this direction to the opposite one. `energy` adds the squares of
    the filter and the one in quadrature to it.
    """

    cell_type: str
    energy: bool
    motion: bool
    center_px: Sequence[float]  # (y, x)
    sigma_px: float
    frequency_cyc_px: float
    direction_deg: float
    phase_deg: float
    channel_weights: Sequence[float]

    def filters(
        self, frame_shape: tuple[int, int], courses: Mapping[str, Float[np.ndarray, "lag"]]
    ) -> Float[np.ndarray, "subunit lag channel height width"]:
        """Return the filters, of unit norm on average, so that those of a pair stay in quadrature."""
        dy, dx = _offsets(self.center_px, frame_shape)
        angle = math.radians(self.direction_deg)
        along = math.cos(angle) * dx - math.sin(angle) * dy  # rows count downwards
        envelope = np.exp(-(dy**2 + dx**2) / (2 * self.sigma_px**2))
        phase = 2 * np.pi * self.frequency_cyc_px * along + math.radians(self.phase_deg)
        even, odd = envelope * np.cos(phase), envelope * np.sin(phase)
        fast, slow = (_product(courses[name], self.channel_weights, even) for name in ("fast", "slow"))
        odd_fast, odd_slow = (_product(courses[name], self.channel_weights, odd) for name in ("fast", "slow"))
        first, second = (fast - odd_slow, odd_fast + slow) if self.motion else (fast, odd_fast)
        if not self.energy:
            return np.stack([_unit(first), np.zeros_like(first)])
        return np.stack([first, second]) / math.sqrt((np.square(first).sum() + np.square(second).sum()) / 2)


@dataclass(frozen=True)
class ResponseLaw:
    """From the outputs of the filters to an expected spike count per bin."""

    slope: float  # of the softplus, per unit of a filter's output
    threshold: float  # where the softplus bends
    softplus_gain: float  # spikes per bin
    energy_gain: float  # spikes per bin and squared unit of a filter's output
    baseline: float  # spikes per bin


@dataclass(frozen=True)
class KnownCells:
    """Cells of known tuning: their filters and the weights of softplus and square of every filter's output."""

    unit_ids: list[str]
    cells: list[CenterSurroundCell | GaborCell]
    filters: Float[np.ndarray, "neuron subunit lag channel height width"]
    softplus_weight: Float[np.ndarray, "neuron subunit"]
    energy_weight: Float[np.ndarray, "neuron subunit"]
    law: ResponseLaw
    rate_hz: float

    @property
    def linear(self) -> np.ndarray:
        """Return which neurons have a single filter before their nonlinearity, bool (neuron,)."""
        return (self.softplus_weight > 0).sum(axis=1) + (self.energy_weight > 0).sum(axis=1) == 1

    def respond_to_drive(self, drive: Float[np.ndarray, "neuron subunit *shape"]) -> Float[np.ndarray, "neuron *shape"]:
        """Return expected spike counts per bin for given outputs of the filters."""
        law = self.law
        axes = (..., *[None] * (drive.ndim - 2))
        softplus = np.logaddexp(0.0, law.slope * (drive - law.threshold))
        terms = (
            law.softplus_gain * self.softplus_weight[axes] * softplus
            + law.energy_gain * self.energy_weight[axes] * drive**2
        )
        return law.baseline + terms.sum(axis=1)

    def expected_counts(
        self, contrast: Float[np.ndarray, "bin channel height width"], n_before: np.ndarray
    ) -> Float[np.ndarray, "bin neuron"]:
        """Return expected spike counts; `n_before (bin,)` bins of the same presentation come before each bin.

        Before a presentation the screen is grey.
        """
        pixels = contrast.reshape(len(contrast), -1)
        n_lags = self.filters.shape[2]
        kernels = self.filters.reshape(*self.filters.shape[:3], -1)
        drive = np.zeros((len(contrast), *self.filters.shape[:2]))
        for lag in range(n_lags):
            seen = np.einsum("tp,nkp->tnk", pixels, kernels[:, :, lag], optimize=True)
            drive[lag:] += np.where((n_before[lag:] >= lag)[:, None, None], seen[: len(seen) - lag], 0.0)
        return self.respond_to_drive(np.moveaxis(drive, 0, -1)).T


@dataclass(frozen=True)
class KnownCellParameters:
    """The cells of a simulation; the configuration file explains each key."""

    filter_bins: int
    quadrature_rate_hz: float
    response: ResponseLaw
    kinetics: Mapping[str, Kinetics]
    center_surround: Mapping[str, CenterSurroundCell]
    gabor: Mapping[str, GaborCell]

    def __post_init__(self) -> None:
        object.__setattr__(self, "response", parse_parameters(ResponseLaw, _mapping(self.response), "cells.response"))
        tables = {"kinetics": Kinetics, "center_surround": CenterSurroundCell, "gabor": GaborCell}
        for name, kind in tables.items():
            parsed: dict[str, Any] = {
                key: parse_parameters(kind, value, f"cells.{name}.{key}")
                for key, value in _mapping(getattr(self, name)).items()
            }
            object.__setattr__(self, name, parsed)
        if unknown := {cell.kinetics for cell in self.center_surround.values()} - set(self.kinetics):
            raise ValueError(f"cells: kinetics {sorted(unknown)} unknown, there are {sorted(self.kinetics)}")

    def make(self, frame_shape: tuple[int, int], rate_hz: float) -> KnownCells:
        """Return the cells, in the order of their names, for frames of a size and bins of a rate."""
        named: dict[str, CenterSurroundCell | GaborCell] = {**self.center_surround, **self.gabor}
        names = sorted(named)  # the order of keys in a configuration must not change a number
        cells = [named[name] for name in names]
        courses = self._courses(rate_hz)
        energy = np.array([isinstance(cell, GaborCell) and cell.energy for cell in cells])
        filters = np.stack([cell.filters(frame_shape, courses) for cell in cells])
        used = np.abs(filters).max(axis=(2, 3, 4, 5)) > 0
        return KnownCells(
            unit_ids=names,
            cells=cells,
            filters=filters,
            softplus_weight=np.where(energy[:, None], 0.0, used),
            energy_weight=np.where(energy[:, None], used, 0.0),
            law=self.response,
            rate_hz=rate_hz,
        )

    def _courses(self, rate_hz: float) -> dict[str, Float[np.ndarray, "lag"]]:
        """Return all time courses, lag 0 (the current bin) first; "fast" and "slow" are nearly in quadrature."""
        speed = np.ones(1)
        named = {name: kind.filter(self.filter_bins, rate_hz, speed)[0] for name, kind in self.kinetics.items()}
        scaled = self.quadrature_rate_hz * (np.arange(self.filter_bins) + 0.5) / rate_hz
        pair = {"fast": adelson_bergen(scaled, 3), "slow": adelson_bergen(scaled, 5)}
        return named | {name: course / np.linalg.norm(course) for name, course in pair.items()}


def adelson_bergen(scaled_time: Float[np.ndarray, "lag"], order: int) -> Float[np.ndarray, "lag"]:
    """Return (kt)^n exp(-kt) (1 / n! - (kt)^2 / (n + 2)!), equation 1 of Adelson & Bergen (1985)."""
    bracket = 1 / math.factorial(order) - scaled_time**2 / math.factorial(order + 2)
    return scaled_time**order * np.exp(-scaled_time) * bracket


def _offsets(center_px: Sequence[float], frame_shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.meshgrid(*(np.arange(size, dtype=float) for size in frame_shape), indexing="ij")
    return y - float(center_px[0]), x - float(center_px[1])


def _product(
    course: Float[np.ndarray, "lag"], channel_weights: Sequence[float], image: Float[np.ndarray, "height width"]
) -> Float[np.ndarray, "lag channel height width"]:
    return np.einsum("l,c,yx->lcyx", course, np.asarray(channel_weights, float), image)


def _unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values)


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"cells: expected a mapping of keys, found {value!r}")
    return value
