"""Functional fingerprints: what every neuron does with the same set of stimuli, wherever it looks.

Blocks of features are independent of a neuron's place, of the overall size of its responses and, where asked for, of
its preferred direction, so that they can be compared over neurons and sessions (after Baden et al. 2016, Nature
529:345).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from coread.data_io.artificial_stimuli import (
    chirp_course,
    generate_chirp,
    generate_flashes,
    generate_gratings,
    generate_moving_bar,
    parameter_grid,
)
from coread.insilico.flashed_images import ImageSettings, flash_natural_images
from coread.insilico.local_gradient import bins_of
from coread.insilico.population import Population

FLAT = 1e-5  # a response that varies less than this share of its mean does not vary


@dataclass(frozen=True)
class FingerprintSettings:
    """Which stimuli a fingerprint is made of, and how many numbers are kept of each."""

    blocks: tuple[str, ...]  # of chirp, flashes, bars, gratings (static), images
    trace_hz: float  # bins per second that are kept of chirp and flashes
    flash_s: float  # duration of a full-field flash and of the grey after it
    bar_s: float  # duration of a sweep over the whole screen
    n_directions: int  # of bars
    align_directions: bool  # whether tuning curves begin at the preferred direction or orientation
    n_orientations: int  # of static gratings
    grating_cycles: tuple[float, ...]  # of static gratings, over the shorter side of the screen
    n_phases: int  # of static gratings, of which the best counts
    images: ImageSettings
    n_quantiles: int  # kept of the responses to images

    def __post_init__(self) -> None:
        if unknown := [block for block in self.blocks if block not in BLOCKS]:
            raise ValueError(f"block {unknown[0]!r} of a fingerprint is unknown, expected some of {sorted(BLOCKS)}")

    def shown(self, population: Population) -> tuple[str, ...]:
        """Return the blocks that a population can be shown: a model of single images has no time courses."""
        timed = ("chirp", "flashes", "bars")
        return tuple(block for block in self.blocks if population.lag > 0 or block not in timed)


@dataclass(frozen=True)
class Fingerprints:
    """Features of every member's neurons; `block` and `name` belong to the features."""

    features: Float[np.ndarray, "member neuron feature"]
    block: list[str]
    name: list[str]


def fingerprints(
    population: Population, neurons: Int[np.ndarray, "neuron"], settings: FingerprintSettings
) -> tuple[Fingerprints, Float[np.ndarray, "neuron feature"]]:
    """Return the fingerprints of every member's neurons and of the ensemble's, whose response is the members' mean.

    Raises ValueError if no block suits the model.
    """
    values: list[np.ndarray] = []
    blocks: list[str] = []
    names: list[str] = []
    for block in settings.shown(population):
        found, own_names = BLOCKS[block](population, neurons, settings)
        values.append(found)
        blocks += [block] * len(own_names)
        names += own_names
    if not values:
        raise ValueError(f"none of the blocks {list(settings.blocks)} suits a model of single images: gratings, images")
    rows = np.concatenate(values, axis=2).astype(np.float32)
    return Fingerprints(rows[1:], blocks, names), rows[0]


def _responses(
    population: Population, neurons: Int[np.ndarray, "neuron"], stimuli: Tensor
) -> Float[np.ndarray, "row stimulus time neuron"]:
    """Return the responses of the ensemble, then those of every member."""
    responses = population.respond(stimuli)[..., torch.as_tensor(neurons, device=population.device)].cpu().numpy()
    return np.concatenate([responses.mean(axis=0, keepdims=True), responses])


def _shape(population: Population, n_bins: int) -> tuple[int, int, int, int, int]:
    channels, height, width = population.frame_shape
    return 1, channels, n_bins, height, width


def _after_grey(population: Population, stimulus: Tensor) -> Tensor:
    """Return a stimulus behind as much grey as the model looks back: responses then have the stimulus' bins."""
    grey = stimulus.new_zeros(len(stimulus), *_shape(population, population.lag)[1:])
    return torch.cat([grey, stimulus], dim=2)


def _resampled(
    traces: Float[np.ndarray, "*some time"], rate_hz: float, trace_hz: float
) -> Float[np.ndarray, "*some bin"]:
    """Return means over bins of 1 / `trace_hz`, whatever rate the responses have."""
    n_bins = max(1, int(np.floor(traces.shape[-1] / rate_hz * trace_hz + 1e-6)))
    position = np.linspace(0, n_bins / trace_hz * rate_hz, n_bins + 1)
    sums = np.concatenate([np.zeros((*traces.shape[:-1], 1)), np.cumsum(traces, axis=-1, dtype=np.float64)], axis=-1)
    before = np.minimum(position.astype(int), traces.shape[-1] - 1)
    at = sums[..., before] + (position - before) * traces[..., before]
    return np.diff(at, axis=-1) / np.diff(position)


def _shape_of(traces: Float[np.ndarray, "row neuron bin"]) -> Float[np.ndarray, "row neuron bin"]:
    """Return traces around their mean, scaled to a standard deviation of 1; zero where they do not vary."""
    mean, spread = traces.mean(axis=2, keepdims=True), traces.std(axis=2, keepdims=True)
    varies = spread > FLAT * np.abs(mean)
    return np.divide(traces - mean, spread, out=np.zeros_like(traces), where=varies)


def _chirp(
    population: Population, neurons: Int[np.ndarray, "neuron"], settings: FingerprintSettings
) -> tuple[Float[np.ndarray, "row neuron feature"], list[str]]:
    n_bins = len(chirp_course(population.rate_hz))
    stimulus = generate_chirp(_shape(population, n_bins), rate_hz=population.rate_hz)
    traces = np.moveaxis(_responses(population, neurons, _after_grey(population, stimulus))[:, 0], 1, 2)
    kept = _resampled(traces, population.rate_hz, settings.trace_hz)
    return _shape_of(kept), [f"chirp {bin_ / settings.trace_hz:.2f} s" for bin_ in range(kept.shape[2])]


def _flashes(
    population: Population, neurons: Int[np.ndarray, "neuron"], settings: FingerprintSettings
) -> tuple[Float[np.ndarray, "row neuron feature"], list[str]]:
    n_on = bins_of(population, settings.flash_s)
    stimulus = generate_flashes(
        _shape(population, 2 * n_on), [1.0, -1.0], duration_s=n_on / population.rate_hz, rate_hz=population.rate_hz
    )
    traces = np.moveaxis(_responses(population, neurons, _after_grey(population, stimulus)), 3, 1)
    kept = _resampled(traces, population.rate_hz, settings.trace_hz)
    names = [f"{kind} {bin_ / settings.trace_hz:.2f} s" for kind in ("white", "black") for bin_ in range(kept.shape[3])]
    return _shape_of(kept.reshape(*kept.shape[:2], -1)), names


def _bars(
    population: Population, neurons: Int[np.ndarray, "neuron"], settings: FingerprintSettings
) -> tuple[Float[np.ndarray, "row neuron feature"], list[str]]:
    directions = np.arange(settings.n_directions) * 360 / settings.n_directions
    grid = parameter_grid(contrast=[1.0, -1.0], direction=directions)
    stimulus = generate_moving_bar(
        _shape(population, bins_of(population, settings.bar_s)),
        grid["direction"],
        contrast=grid["contrast"],
        rate_hz=population.rate_hz,
    )
    responses = _responses(population, neurons, _after_grey(population, stimulus))
    peaks = np.moveaxis(responses.max(axis=2) - responses[:, :, 0], 2, 1)  # above the response to grey
    curves = _tuning(peaks.reshape(*peaks.shape[:2], 2, len(directions)), settings.align_directions)
    names = [f"{kind} bar {direction:g} deg" for kind in ("white", "black") for direction in directions]
    return curves, names


def _gratings(
    population: Population, neurons: Int[np.ndarray, "neuron"], settings: FingerprintSettings
) -> tuple[Float[np.ndarray, "row neuron feature"], list[str]]:
    orientations = np.arange(settings.n_orientations) * 180 / settings.n_orientations
    cycles = np.asarray(settings.grating_cycles) / min(population.frame_shape[1:])
    phases = np.arange(settings.n_phases) * 360 / settings.n_phases
    grid = parameter_grid(frequency=cycles, orientation=orientations, phase=phases)
    stimulus = generate_gratings(
        _shape(population, population.lag + 1),
        0.0,
        grid["frequency"],
        grid["orientation"] - 90,  # stripes are at right angles to the direction
        phase=grid["phase"],
        mode="static",
    )
    stimulus = torch.cat([stimulus, torch.zeros_like(stimulus[:1])])
    responses = np.moveaxis(_responses(population, neurons, stimulus)[:, :, -1], 2, 1)
    evoked = responses[..., :-1] - responses[..., -1:]  # above the response to grey
    curves = evoked.reshape(*evoked.shape[:2], len(cycles), len(orientations), len(phases)).max(axis=4)
    tuned = _tuning(curves, settings.align_directions)
    return tuned, [f"grating {c:g} cycles {o:g} deg" for c in settings.grating_cycles for o in orientations]


def _tuning(curves: Float[np.ndarray, "row neuron kind angle"], align: bool) -> Float[np.ndarray, "row neuron feature"]:
    """Return tuning curves relative to a neuron's largest value; `align` turns all kinds so that the best is first.

    Members are turned as the ensemble, row 0, is: a different preferred direction is a difference.
    """
    largest = np.abs(curves).max(axis=(2, 3), keepdims=True)
    relative = np.divide(curves, largest, out=np.zeros_like(curves), where=largest > 0)
    if align:
        best = relative[0].sum(axis=1).argmax(axis=1)
        n_angles = curves.shape[3]
        turned = (best[:, None] + np.arange(n_angles)) % n_angles
        relative = np.take_along_axis(relative, turned[None, :, None, :], axis=3)
    return relative.reshape(*curves.shape[:2], -1)


def _images(
    population: Population, neurons: Int[np.ndarray, "neuron"], settings: FingerprintSettings
) -> tuple[Float[np.ndarray, "row neuron feature"], list[str]]:
    shown = flash_natural_images(population, settings.images)
    responses = _responses(population, neurons, shown.stimuli)[:, :, shown.window].mean(axis=2)
    shares = (np.arange(settings.n_quantiles) + 0.5) / settings.n_quantiles
    quantiles = np.moveaxis(np.quantile(responses, shares, axis=1), 0, 2)  # which image it was depends on the place
    return _shape_of(quantiles), [f"images {100 * share:.0f} %" for share in shares]


BLOCKS: dict[str, Callable[[Population, np.ndarray, Any], tuple[np.ndarray, list[str]]]] = {
    "chirp": _chirp,
    "flashes": _flashes,
    "bars": _bars,
    "gratings": _gratings,
    "images": _images,
}
