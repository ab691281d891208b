"""Experiment: whether the members of an ensemble respond alike, and whether they agree about other experiments."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from coread.data_io.artificial_stimuli import generate_noise_stimulus
from coread.insilico.consistency import ConsistencySettings, consistency_table, mark_uncertain, member_columns
from coread.insilico.experiment import ExperimentResult, Quantity
from coread.insilico.flashed_images import ImageSettings, flash_natural_images
from coread.insilico.local_gradient import bins_of
from coread.insilico.population import Population
from coread.plotting.consistency import draw_consistency, draw_member_correlations
from coread.plotting.style import Drawing

STIMULI = ("noise", "images")


class SeedConsistency:
    """Mean and modulation (standard deviation over bins) of responses to white noise and to natural images.

    Columns per stimulus, `noise` and `images`: `<stimulus>_mean` and `<stimulus>_modulation` with their spread over
    members, and `<stimulus>_correlation_members`, the mean correlation between two members' responses. `compare` does
    the same for the quantities of other experiments.

    Args:
        noise_s: duration of the white noise (binary, one pixel per check, new in every frame).
        noise_contrast: of the noise.
        noise_seed: of the noise.
        images: arguments of `ImageSettings`; responses count in the window.
        certain_correlation: correlation between members below which a neuron's responses are marked uncertain.
        consistency: arguments of `ConsistencySettings`.

    """

    def __init__(
        self,
        noise_s: float,
        noise_contrast: float,
        noise_seed: int,
        images: Mapping[str, Any],
        certain_correlation: float,
        consistency: Mapping[str, Any],
    ) -> None:
        self.noise_s, self.noise_contrast, self.noise_seed = noise_s, noise_contrast, noise_seed
        self.images, self.consistency = ImageSettings(**images), ConsistencySettings(**consistency)
        self.certain_correlation = certain_correlation

    def run(self, population: Population, neurons: Int[np.ndarray, "neuron"]) -> ExperimentResult:
        """Return how alike the members' responses to white noise and natural images are."""
        flashed = flash_natural_images(population, self.images)
        chosen = torch.as_tensor(neurons)
        responses = {
            "noise": population.respond(self._noise(population))[..., chosen],
            "images": population.respond(flashed.stimuli)[:, :, flashed.window][..., chosen],
        }
        table = population.neurons.iloc[neurons].reset_index(drop=True)
        arrays: dict[str, Quantity] = {}
        for name, response in responses.items():
            traces = response.cpu().numpy().reshape(len(response), -1, len(neurons)).astype(np.float64)
            columns, kept = _described(name, traces, population.unit)
            table, arrays = table.assign(**columns), arrays | kept
        lowest = table[[f"{name}_correlation_members" for name in STIMULI]].min(axis=1)
        table["responses_uncertain"] = lowest < self.certain_correlation
        return ExperimentResult(table, arrays)

    def _noise(self, population: Population) -> Float[Tensor, "1 channel time height width"]:
        # of a model without lag every frame is an image, and its rate may be unknown
        n_bins = self.images.n_images if population.lag == 0 else bins_of(population, self.noise_s)
        channels, height, width = population.frame_shape
        shape = (1, channels, population.lag + n_bins, height, width)
        return generate_noise_stimulus(shape, contrast=self.noise_contrast, seed=self.noise_seed)

    def summarise(self, results: Mapping[str, ExperimentResult]) -> Mapping[str, ExperimentResult]:
        """Return the results with a column `<name>_uncertain` for every quantity."""
        return mark_uncertain(results, self.consistency)

    def draw(self, results: Mapping[str, ExperimentResult]) -> Mapping[str, Drawing]:
        """Return the correlations between members."""
        return {"member_correlation": draw_member_correlations(results, STIMULI)}

    def compare(
        self, experiments: Mapping[str, Mapping[str, ExperimentResult]], n_members: int
    ) -> tuple[pd.DataFrame, Drawing]:
        """Return how consistent the quantities of several experiments are, as a table and a figure."""
        table = consistency_table(experiments, n_members, self.consistency)
        return table, draw_consistency(table, self.consistency.min_icc, self.consistency.consistent_within)


def _described(
    name: str, traces: Float[np.ndarray, "member sample neuron"], unit: str
) -> tuple[dict[str, np.ndarray], dict[str, Quantity]]:
    ensemble = traces.mean(axis=0)
    columns: dict[str, np.ndarray] = {}
    arrays: dict[str, Quantity] = {}
    for measure, of_ensemble, of_members in (
        ("mean", ensemble.mean(axis=0), traces.mean(axis=1).T),
        ("modulation", ensemble.std(axis=0), traces.std(axis=1).T),
    ):
        found, kept = member_columns(f"{name}_{measure}", of_ensemble, of_members, unit=unit)
        columns, arrays = columns | found, arrays | kept
    return columns | {f"{name}_correlation_members": member_correlation(traces)}, arrays


def member_correlation(traces: Float[np.ndarray, "member sample neuron"]) -> Float[np.ndarray, "neuron"]:
    """Return the mean correlation between two members' responses; NaN for one member or where one does not vary."""
    centred = traces - traces.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(centred, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = centred / np.where(norm > 1e-9 * np.abs(traces).max(axis=1), norm, np.nan)[:, None]
    n_members = len(traces)
    if n_members < 2:
        return np.full(traces.shape[2], np.nan)
    total = np.square(unit.sum(axis=0)).sum(axis=0) - n_members
    return total / (n_members * (n_members - 1))
