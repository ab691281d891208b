"""Optimal stimuli in numbers: where their energy is, how they run in time, how they are shared by members."""

from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float32, Int

from coread.insilico.experiment import Quantity
from coread.insilico.population import Population
from coread.insilico.receptive_fields import cosine
from coread.insilico.separable import latency_s, separate


class OptimumParts(NamedTuple):
    """What describes each stimulus: a table of single numbers, and its best separable approximation.

    Entry 0 along lag_bin is the last frame. Spatial parts have unit norm and a positive centre, the time courses carry
    contrast and sign.
    """

    table: pd.DataFrame
    spatial: Float32[np.ndarray, "neuron channel height width"]
    temporal: Float32[np.ndarray, "neuron channel lag_bin"]


def describe(
    stimulus: Float[np.ndarray, "neuron channel time height width"], bin_s: float, smoothing_px: float
) -> OptimumParts:
    """Return the parts of stimuli; the table has one row per stimulus.

    `centre_y_px`, `centre_x_px` and `radius_px` are mean and root mean squared distance under the squared contrast.
    `peak_latency_s` is how long before the last frame the time course is largest, and `polarity` its sign there.
    """
    parts = separate(np.ascontiguousarray(stimulus[:, :, ::-1].swapaxes(1, 2)), smoothing_px)
    energy = np.square(stimulus.astype(np.float64)).sum(axis=(1, 2))
    total = energy.sum(axis=(1, 2), keepdims=True)
    energy = np.divide(energy, total, out=np.full_like(energy, np.nan), where=total > 0)
    y, x = np.mgrid[: energy.shape[1], : energy.shape[2]]
    centre_y, centre_x = (energy * y).sum(axis=(1, 2)), (energy * x).sum(axis=(1, 2))
    spread = (energy * ((y - centre_y[:, None, None]) ** 2 + (x - centre_x[:, None, None]) ** 2)).sum(axis=(1, 2))
    course = parts.temporal[np.arange(len(parts.channel)), parts.channel]
    table = pd.DataFrame(
        {
            "centre_y_px": centre_y,
            "centre_x_px": centre_x,
            "radius_px": np.sqrt(spread),
            "channel": parts.channel,
            "polarity": parts.polarity,
            "peak_latency_s": latency_s(course, bin_s),
            "separable_share": parts.explained,
        }
    )
    return OptimumParts(table, parts.spatial, parts.temporal)


def in_space(table: pd.DataFrame, population: Population) -> pd.DataFrame:
    """Return the table with centres and radii in micrometres or degrees beside those in pixels, where known."""
    for unit, size in (("um", population.pixel_um), ("deg", population.pixel_deg)):
        if size is not None:
            known = [str(name) for name in table if str(name).endswith("_px")]
            return table.assign(**{name.removesuffix("px") + unit: table[name] * size for name in known})
    return table


def responses_to(
    population: Population,
    stimulus: Float[np.ndarray, "neuron channel time height width"],
    neurons: Int[np.ndarray, "neuron"],
    batch_size: int = 64,
) -> Float[np.ndarray, "member neuron"]:
    """Return each neuron's mean response to its own stimulus by every whole model, in recorded units."""
    parts = []
    for first in range(0, len(neurons), batch_size):
        own = torch.as_tensor(neurons[first : first + batch_size], device=population.device)
        shown = torch.as_tensor(stimulus[first : first + batch_size])
        responses = population.respond(shown, batch_size).mean(dim=2)
        parts.append(responses[:, torch.arange(len(own), device=own.device), own])
    return torch.cat(parts, dim=1).cpu().numpy()


def beside_recorded(population: Population, neurons: Int[np.ndarray, "neuron"], measured: pd.DataFrame) -> pd.DataFrame:
    """Return the neurons as recorded with what was measured; a recorded column of the same name gives way."""
    recorded = population.neurons.iloc[neurons].reset_index(drop=True)
    kept = [str(name) for name in recorded if name not in measured]
    return pd.concat([recorded[kept], measured], axis=1)


def over_members(name: str, values: Float[np.ndarray, "member neuron"]) -> dict[str, np.ndarray]:
    """Return the columns `<name>`, the mean over members, and `<name>_sd_members`, NaN for one member."""
    return {name: values.mean(axis=0), f"{name}_sd_members": spread_of_members(values)}


def spread_of_members(values: Float[np.ndarray, "member neuron"]) -> Float[np.ndarray, "neuron"]:
    """Return the standard deviation over members; NaN for one member."""
    return np.std(values, axis=0, ddof=1) if len(values) > 1 else np.full(values.shape[1:], np.nan)


def member_cosine(
    stimuli: Float[np.ndarray, "member neuron channel time height width"],
) -> Float[np.ndarray, "neuron"]:
    """Return the mean cosine between the optima of any two members; NaN for less than two."""
    pairs = [cosine(stimuli[i], stimuli[j]) for i, j in combinations(range(len(stimuli)), 2)]
    return np.mean(pairs, axis=0) if pairs else np.full(stimuli.shape[1], np.nan)


def stimulus_axes(population: Population, n_frames: int) -> dict[str, Quantity]:
    """Return times of the frames relative to the end of the stimulus, and pixels along height and width."""
    _, height, width = population.frame_shape
    bins = np.arange(n_frames) - (n_frames - 1.0)
    known = np.isfinite(population.rate_hz)
    time = Quantity(bins / population.rate_hz, ("time",), "s") if known else Quantity(bins, ("time",), "bin")
    return {
        "time": time,
        "height": Quantity(np.arange(float(height)), ("height",), "px"),
        "width": Quantity(np.arange(float(width)), ("width",), "px"),
    }


def pixel_size(population: Population) -> Quantity:
    """Return the width of a pixel in micrometres, degrees, or pixels where neither is known."""
    for unit, size in (("um", population.pixel_um), ("deg", population.pixel_deg)):
        if size is not None:
            return Quantity(np.array(float(size)), (), unit)
    return Quantity(np.array(1.0), (), "px")
