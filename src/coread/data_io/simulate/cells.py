"""Ganglion cells with known receptive fields: linear-nonlinear and nonlinear-subunit models.

An LN cell passes the image through one centre-surround filter, then a softplus. A subunit cell passes it through many
small filters of one class (a lattice of model bipolar cells), rectifies each and raises it to a power, pools them with
a Gaussian and then applies the softplus; an ON-OFF cell pools an ON and an OFF lattice (Liu et al. 2017, Nature
Communications 8:149; Karamanlis & Gollisch 2021, Journal of Neuroscience 41:5479). Filters are space x time: a
difference of Gaussians (Enroth-Cugell & Robson 1966) and a difference of gamma functions.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

MODELS = ("LN", "subunit")
POLARITIES = {"ON": 1, "OFF": -1, "ON-OFF": 0}


@dataclass(frozen=True)
class Kinetics:
    """A temporal filter: two gamma functions of the same shape, the later one subtracted."""

    peak_s: float
    rebound_s: float  # peak of the subtracted part
    rebound_weight: float  # its area relative to the first part's
    shape: float  # exponent of both gamma functions

    def filter(self, n_bins: int, rate_hz: float, speed: Float[np.ndarray, "cell"]) -> Float[np.ndarray, "cell lag"]:
        """Return unit-norm filters, lag 0 (the current bin) first; `speed` > 1 makes a cell faster than its type."""
        seconds = (np.arange(n_bins) + 0.5) / rate_hz * speed[:, None]
        parts = [
            (seconds / peak) ** self.shape * np.exp(-self.shape * (seconds / peak - 1)) / peak
            for peak in (self.peak_s, self.rebound_s)
        ]
        return _unit_norm(parts[0] - self.rebound_weight * parts[1])


@dataclass(frozen=True)
class CellType:
    """Cells that share kinetics, polarity, model and sizes; sigmas in pixels.

    LN cells have a centre and a surround; for subunit cells the same two numbers describe ONE subunit, and
    `pool_sigma_px` the Gaussian over subunits.
    """

    count: int
    model: str
    polarity: str
    kinetics: str
    center_sigma_px: float
    surround_sigma_px: float
    surround_weight: float
    pool_sigma_px: float = 0.0
    on_share: float = 0.5  # of an ON-OFF cell's pooled weight; away from .5 it has a spike-triggered average

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise ValueError(f"a cell type's model is one of {MODELS}, found {self.model!r}")
        if self.polarity not in POLARITIES:
            raise ValueError(f"a cell type's polarity is one of {sorted(POLARITIES)}, found {self.polarity!r}")
        if self.model == "LN" and self.polarity == "ON-OFF":
            raise ValueError("an ON-OFF cell needs the subunit model: one linear filter cannot prefer both")
        if self.model == "subunit" and self.pool_sigma_px <= 0:
            raise ValueError("a subunit cell type needs pool_sigma_px > 0")
        if not 0 <= self.on_share <= 1:
            raise ValueError(f"on_share is a share of 0..1, found {self.on_share}")

    @property
    def halves(self) -> dict[int, float]:
        """Sign of the subunits -> their weight in the pool."""
        if self.polarity == "ON-OFF":
            return {1: self.on_share, -1: 1 - self.on_share}
        return {POLARITIES[self.polarity]: 1.0}

    @property
    def subunit_class(self) -> tuple[str, float, float, float]:
        """What decides a subunit's response; types that agree in it pool the same lattice."""
        return self.kinetics, self.center_sigma_px, self.surround_sigma_px, self.surround_weight

    @property
    def preferred_sign(self) -> int:
        """Return +1 or -1: the sign of the centre in the linear receptive field."""
        return max(self.halves, key=lambda sign: self.halves[sign])


@dataclass(frozen=True)
class CellVariation:
    """How cells differ within their type and how strongly they respond."""

    filter_bins: int
    margin_px: float  # no centre is nearer to the frame's border
    size_jitter: float  # standard deviation of log size
    speed_jitter: float  # standard deviation of log speed
    subunit_spacing_px: float
    subunit_threshold: float  # in standard deviations of the subunit's own drive
    subunit_exponent: float
    mean_rate_hz: tuple[float, float]
    explainable_variance: tuple[
        float, float
    ]  # single-trial, in training bins; the output's threshold is set to reach it
    output_gain: float  # of the softplus, per standard deviation of the pooled drive


@dataclass(frozen=True)
class Population:
    """Cells of one session with their filters; `types` gives every cell's row of the configuration."""

    names: list[str]
    types: list[CellType]
    center_px: Float[np.ndarray, "cell 2"]
    size: Float[np.ndarray, "cell"]
    speed: Float[np.ndarray, "cell"]
    mean_rate_hz: Float[np.ndarray, "cell"]
    explainable_variance: Float[np.ndarray, "cell"]
    temporal: Float[np.ndarray, "cell lag"]
    spatial: Float[np.ndarray, "cell pixel"]

    @property
    def truth_filter(self) -> Float[np.ndarray, "cell lag pixel"]:
        """Return the linear receptive fields, unit norm, with their sign.

        A subunit cell's is its subunits' filters summed with their weights: the direction of the average of its pooled
        drive to Gaussian white noise. In an ON-OFF cell's the weaker half cancels part of the stronger, whose sign it
        has.
        """
        sign = np.array([kind.preferred_sign for kind in self.types])
        return sign[:, None, None] * self.temporal[:, :, None] * self.spatial[:, None, :]


def draw_population(
    cell_types: Mapping[str, CellType],
    kinetics: Mapping[str, Kinetics],
    variation: CellVariation,
    frame_shape: tuple[int, int],
    rate_hz: float,
    rng: np.random.Generator,
) -> Population:
    """Return a population, type by type in the order of names, at random places `margin_px` or more from the border."""
    # Sorted, because the order of keys in a configuration must not change a number.
    names = [name for name in sorted(cell_types) for _ in range(cell_types[name].count)]
    types = [cell_types[name] for name in names]
    n_cells = len(names)
    low = np.full(2, variation.margin_px)
    high = np.array(frame_shape) - 1 - variation.margin_px
    if (high <= low).any():
        raise ValueError(f"margin_px {variation.margin_px} leaves no room for cells in frames of {frame_shape} pixels")
    size = np.exp(variation.size_jitter * rng.standard_normal(n_cells))
    # One bipolar lattice serves a whole type, so only LN cells have a speed of their own.
    linear = np.array([kind.model == "LN" for kind in types])
    speed = np.where(linear, np.exp(variation.speed_jitter * rng.standard_normal(n_cells)), 1.0)
    center = rng.uniform(low, high, (n_cells, 2))
    filters = [
        kinetics[kind.kinetics].filter(variation.filter_bins, rate_hz, speed[cell : cell + 1])[0]
        for cell, kind in enumerate(types)
    ]
    spatial = [_linear_field(kind, center[cell], size[cell], variation, frame_shape) for cell, kind in enumerate(types)]
    return Population(
        names=names,
        types=types,
        center_px=center,
        size=size,
        speed=speed,
        mean_rate_hz=rng.uniform(*variation.mean_rate_hz, n_cells),
        explainable_variance=rng.uniform(*variation.explainable_variance, n_cells),
        temporal=np.stack(filters),
        spatial=np.stack(spatial),
    )


def expected_counts(
    population: Population,
    contrast: Float[np.ndarray, "bin pixel"],
    lead: Int[np.ndarray, "bin"],
    training: Bool[np.ndarray, "bin"],
    variation: CellVariation,
    frame_shape: tuple[int, int],
    rate_hz: float,
) -> Float[np.ndarray, "bin cell"]:
    """Return every cell's noise-free spike count per bin.

    `lead` counts the bins of the same presentation before each bin (before them the screen is grey); `training` marks
    the bins on which drives are standardised and mean rate and explainable variance reach their targets.
    """
    drive = np.empty((len(contrast), len(population.names)))
    linear = np.array([kind.model == "LN" for kind in population.types])
    sign = np.array([kind.preferred_sign for kind in population.types])
    if linear.any():
        images = contrast @ population.spatial[linear].T
        drive[:, linear] = sign[linear] * causal_filter(images, population.temporal[linear], lead)
    classes = [None if kind.model == "LN" else kind.subunit_class for kind in population.types]
    for subunit_class in dict.fromkeys(found for found in classes if found is not None):
        members = np.array([found == subunit_class for found in classes])
        drive[:, members] = _subunit_drive(population, members, contrast, lead, training, variation, frame_shape)
    drive /= drive[training].std(axis=0)
    counts = _spike_counts(drive, training, population, variation.output_gain, rate_hz)
    # Rounded so that the order in which a linear-algebra library adds cannot change a spike.
    return np.round(counts, 5)


def causal_filter(
    signal: Float[np.ndarray, "bin column"],
    kernel: Float[np.ndarray, "column lag"],
    lead: Int[np.ndarray, "bin"],
) -> Float[np.ndarray, "bin column"]:
    """Return each column filtered with its own kernel over the current and past bins of the same presentation."""
    filtered = signal * kernel[:, 0]
    for lag in range(1, kernel.shape[1]):
        past = signal[:-lag] * kernel[:, lag]
        past[lead[lag:] < lag] = 0.0
        filtered[lag:] += past
    return filtered


def difference_of_gaussians(
    points: Float[np.ndarray, "cell 2"],
    center_sigma: Float[np.ndarray, "cell"] | float,
    surround_sigma: Float[np.ndarray, "cell"] | float,
    surround_weight: float,
    frame_shape: tuple[int, int],
) -> Float[np.ndarray, "cell pixel"]:
    """Return centre-surround fields of unit norm; the surround has `surround_weight` times the centre's volume."""
    grid = np.stack(np.meshgrid(*(np.arange(size) for size in frame_shape), indexing="ij"), axis=-1).reshape(-1, 2)
    squared = ((grid[None] - points[:, None]) ** 2).sum(axis=-1)
    parts = [
        np.exp(-squared / (2 * width**2)) / width**2
        for width in (np.broadcast_to(sigma, len(points))[:, None] for sigma in (center_sigma, surround_sigma))
    ]
    return _unit_norm(parts[0] - surround_weight * parts[1])


def subunit_lattice(spacing_px: float, frame_shape: tuple[int, int]) -> Float[np.ndarray, "subunit 2"]:
    """Return the points (y, x) of a hexagonal lattice that covers the frame."""
    rows = np.arange(0, frame_shape[0], spacing_px * np.sqrt(3) / 2)
    columns = np.arange(0, frame_shape[1], spacing_px)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    x = x + np.where(np.arange(len(rows)) % 2, spacing_px / 2, 0.0)[:, None]
    return np.stack([y, x], axis=-1).reshape(-1, 2)


def _linear_field(
    kind: CellType, center: np.ndarray, size: float, variation: CellVariation, frame_shape: tuple[int, int]
) -> Float[np.ndarray, "pixel"]:
    if kind.model == "LN":
        sigmas = (kind.center_sigma_px * size, kind.surround_sigma_px * size)
        return difference_of_gaussians(center[None], *sigmas, kind.surround_weight, frame_shape)[0]
    lattice, fields = _subunits(kind, variation, frame_shape)
    pooled = _pooling_weights(center[None], np.array([kind.pool_sigma_px * size]), lattice) @ fields
    return _unit_norm(pooled)[0]


def _subunits(
    kind: CellType, variation: CellVariation, frame_shape: tuple[int, int]
) -> tuple[Float[np.ndarray, "subunit 2"], Float[np.ndarray, "subunit pixel"]]:
    lattice = subunit_lattice(variation.subunit_spacing_px, frame_shape)
    sigmas = (kind.center_sigma_px, kind.surround_sigma_px)
    return lattice, difference_of_gaussians(lattice, *sigmas, kind.surround_weight, frame_shape)


def _pooling_weights(
    center: Float[np.ndarray, "cell 2"], sigma: Float[np.ndarray, "cell"], lattice: Float[np.ndarray, "subunit 2"]
) -> Float[np.ndarray, "cell subunit"]:
    squared = ((lattice[None] - center[:, None]) ** 2).sum(axis=-1)
    weights = np.exp(-squared / (2 * sigma[:, None] ** 2))
    return weights / weights.sum(axis=1, keepdims=True)


def _subunit_drive(
    population: Population,
    members: Bool[np.ndarray, "cell"],
    contrast: Float[np.ndarray, "bin pixel"],
    lead: Int[np.ndarray, "bin"],
    training: Bool[np.ndarray, "bin"],
    variation: CellVariation,
    frame_shape: tuple[int, int],
) -> Float[np.ndarray, "bin member"]:
    """Return the pooled drive of cells whose subunits are of one class."""
    chosen = np.flatnonzero(members)
    types = [population.types[cell] for cell in chosen]
    lattice, fields = _subunits(types[0], variation, frame_shape)
    # Filtered in time first: a frame has fewer pixels than the lattice has subunits.
    kernel = np.broadcast_to(population.temporal[chosen[0]], (contrast.shape[1], variation.filter_bins))
    response = causal_filter(contrast, kernel, lead) @ fields.T
    response /= response[training].std()
    sigma = np.array([kind.pool_sigma_px for kind in types]) * population.size[members]
    weights = _pooling_weights(population.center_px[members], sigma, lattice)
    drive = np.zeros((len(contrast), len(types)))
    for sign in (1, -1):
        share = np.array([kind.halves.get(sign, 0.0) for kind in types])
        if share.any():
            rectified = np.maximum(sign * response - variation.subunit_threshold, 0.0)
            drive += rectified**variation.subunit_exponent @ (share[:, None] * weights).T
    return drive


def _spike_counts(
    drive: Float[np.ndarray, "bin cell"],
    training: Bool[np.ndarray, "bin"],
    population: Population,
    gain: float,
    rate_hz: float,
) -> Float[np.ndarray, "bin cell"]:
    """Return softplus(gain (drive - threshold)), scaled to the mean rate, with the threshold found by bisection.

    For Poisson spikes the explainable share of the variance is v / (v + m), with m the mean and v the variance of the
    expected count; it grows with the threshold, because a higher threshold makes the cell respond more sparsely.
    """
    mean_count = population.mean_rate_hz / rate_hz
    wanted = population.explainable_variance
    squared_variation = wanted / ((1 - wanted) * mean_count)
    seen = drive[training]
    low, high = seen.min(axis=0) - 10.0 / gain, seen.max(axis=0)
    for _ in range(30):
        threshold = (low + high) / 2
        rate = np.logaddexp(0.0, gain * (seen - threshold))
        sparse_enough = rate.var(axis=0) > squared_variation * rate.mean(axis=0) ** 2
        low, high = np.where(sparse_enough, low, threshold), np.where(sparse_enough, threshold, high)
    rate = np.logaddexp(0.0, gain * (drive - threshold))
    return rate * (mean_count / rate[training].mean(axis=0))


def _unit_norm(rows: Float[np.ndarray, "row column"]) -> Float[np.ndarray, "row column"]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
