"""Linear filters of neurons for white noise in time alone (full-field flicker) and in space alone (flashed images)."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from coread.data_io.artificial_stimuli import generate_noise_stimulus
from coread.insilico.experiment import ExperimentResult, Quantity
from coread.insilico.population import Population
from coread.insilico.separable import biphasic_index, latency_s
from coread.insilico.tuning_analyses.member_table import MemberTable
from coread.insilico.tuning_analyses.responses import (
    after_grey,
    bins_per_second,
    is_memoryless,
    respond_to,
    stimulus_shape,
)
from coread.plotting.style import Drawing
from coread.plotting.tuning import draw_trace_gallery
from coread.plotting.tuning_summary import Measure, draw_histograms, draw_image_gallery


class _Filters(NamedTuple):
    """Least-squares filters of white noise, the share of the response's variance they explain, and their peaks' z."""

    values: Float[np.ndarray, "row neuron *shape"]
    linear_r2: Float[np.ndarray, "row neuron"]
    z: Float[np.ndarray, "row neuron"]


class NoiseTuning:
    """What a linear neuron would make of white noise: temporal filters of flicker, spatial maps of flashed noise.

    A filter is the covariance of response and noise over the variance of the noise: the spike-triggered average
    (Chichilnisky 2001, Network 12:199) in units of response per contrast. `linear_r2` is the share of the response's
    variance that it explains, less what as many free values would explain by chance: near 0 for complex and ON-OFF
    cells. Models of single images see the images alone.

    Args:
        n_sequences: of flicker.
        sequence_s: of each.
        flicker_contrast: standard deviation of the Gaussian flicker.
        n_images: of binary noise.
        image_contrast: of their checks.
        check_px: side of a check.
        image_s: how long an image is flashed; the response is the largest within it.
        min_z: smallest standard score of a filter's peak to count as a response.
        reliable_correlation: smallest mean correlation between members' filters of reliable neurons.
        seed: of the noise.

    """

    def __init__(
        self,
        n_sequences: int,
        sequence_s: float,
        flicker_contrast: float,
        n_images: int,
        image_contrast: float,
        check_px: int,
        image_s: float,
        min_z: float,
        reliable_correlation: float,
        seed: int,
    ) -> None:
        self.n_sequences, self.sequence_s, self.flicker_contrast = n_sequences, sequence_s, flicker_contrast
        self.n_images, self.image_contrast, self.check_px, self.image_s = n_images, image_contrast, check_px, image_s
        self.min_z, self.reliable_correlation, self.seed = min_z, reliable_correlation, seed

    def run(self, population: Population, neurons: Int[np.ndarray, "neuron"]) -> ExperimentResult:
        """Return temporal filters (neuron, channel, lag) and spatial maps (neuron, channel, height, width)."""
        table, unit = MemberTable(population, neurons), f"{population.unit} / contrast"
        spatial = self._spatial(population, neurons)
        arrays: dict[str, Quantity] = {}
        axes: dict[str, Quantity] = {}
        filters, z = spatial.values.reshape(*spatial.z.shape, -1), spatial.z
        if not is_memoryless(population):
            temporal = self._temporal(population, neurons)
            lag_s = np.arange(population.lag + 1) / bins_per_second(population)
            arrays["temporal_filter"] = Quantity(temporal.values[0], ("neuron", "channel", "lag_s"), unit)
            axes["lag_s"] = Quantity(lag_s, ("lag_s",), "s")
            filters = np.concatenate([filters, temporal.values.reshape(*z.shape, -1)], axis=2)
            z = np.maximum(z, temporal.z)
        table.judge(z >= self.min_z, filters, self.reliable_correlation)
        _add_spatial(table, spatial, self.min_z)
        if not is_memoryless(population):
            _add_temporal(table, temporal, self.min_z, 1 / bins_per_second(population))
        arrays["spatial_map"] = Quantity(
            spatial.values[0].astype(np.float32), ("neuron", "channel", "height", "width"), unit
        )
        return ExperimentResult(table.frame(), arrays | table.members(), axes)

    def _temporal(self, population: Population, neurons: Int[np.ndarray, "neuron"]) -> _Filters:
        n_bins = population.lag + round(self.sequence_s * bins_per_second(population))
        channels, height, width = population.frame_shape
        noise = generate_noise_stimulus(
            (self.n_sequences, channels, n_bins, 1, 1), "temporal", "gaussian", self.flicker_contrast, seed=self.seed
        )

        def make(index: Int[np.ndarray, "stimulus"]) -> Tensor:
            return noise[index].expand(-1, -1, -1, height, width)

        def measure(responses: Tensor, index: Int[np.ndarray, "stimulus"]) -> Tensor:
            return responses.movedim(2, 3)

        responses = respond_to(population, neurons, self.n_sequences, make, measure)
        # the window that ends in the current bin, turned so that lag 0 comes first
        seen = noise[..., 0, 0].unfold(2, population.lag + 1, 1).flip(3).permute(0, 2, 1, 3).double().numpy()
        shape = (channels, population.lag + 1)
        found = _least_squares(responses.reshape(*responses.shape[:2], -1), seen.reshape(-1, int(np.prod(shape))))
        return found._replace(values=found.values.reshape(*responses.shape[:2], *shape))

    def _spatial(self, population: Population, neurons: Int[np.ndarray, "neuron"]) -> _Filters:
        n_bins = 1 if is_memoryless(population) else max(1, round(self.image_s * bins_per_second(population)))
        shape = stimulus_shape(population, self.n_images, 1)
        images = generate_noise_stimulus(
            shape, "spatial", "binary", self.image_contrast, check_size=self.check_px, seed=self.seed + 1
        )

        def make(index: Int[np.ndarray, "stimulus"]) -> Tensor:
            return after_grey(population, images[index].expand(-1, -1, n_bins, -1, -1))

        def measure(responses: Tensor, index: Int[np.ndarray, "stimulus"]) -> Tensor:
            return responses.amax(dim=2)

        responses = respond_to(population, neurons, self.n_images, make, measure)
        checks = images[:, :, 0, :: self.check_px, :: self.check_px].double().numpy()
        found = _least_squares(responses, checks.reshape(self.n_images, -1))
        values = found.values.reshape(*responses.shape[:2], *checks.shape[1:])
        values = values.repeat(self.check_px, axis=3).repeat(self.check_px, axis=4)
        return found._replace(values=values[..., : shape[3], : shape[4]])

    def draw(self, results: Mapping[str, ExperimentResult]) -> Mapping[str, Drawing]:
        """Return spatial maps of the first channel, temporal filters, and histograms."""
        first = next(iter(results.values()))
        maps = {
            session: ExperimentResult(result.table, {"map": _strongest_map(result)})
            for session, result in results.items()
        }
        drawings = {
            "spatial_maps": draw_image_gallery(maps, "map", "Spatial maps from flashed binary noise, strongest channel")
        }
        if "temporal_filter" in first.arrays:
            names = [f"channel {number}" for number in range(first.arrays["temporal_filter"].data.shape[1])]
            drawings["temporal_filters"] = draw_trace_gallery(
                results,
                ("temporal_filter", "lag_s"),
                ("time before the response (s)", f"filter ({first.arrays['temporal_filter'].unit})"),
                names=names if len(names) > 1 else (),
            )
        drawings["summary"] = draw_histograms(
            results,
            (
                Measure("temporal_linear_r2", "share explained by a linear filter of flicker", (0.0, 1.0)),
                Measure("spatial_linear_r2", "share explained by a linear map", (0.0, 1.0)),
                Measure("latency_s", "latency of the temporal filter (s)", None),
                Measure("biphasic_index", "biphasic index", (0.0, 1.0)),
            ),
            "Linear filters from white noise",
        )
        return drawings


def _strongest_map(result: ExperimentResult) -> Quantity:
    maps = result.arrays["spatial_map"]
    channel = np.square(maps.data).sum(axis=(2, 3)).argmax(axis=1)
    return Quantity(maps.data[np.arange(len(channel)), channel], ("neuron", "height", "width"), maps.unit)


def _least_squares(
    responses: Float[np.ndarray, "row neuron sample"], noise: Float[np.ndarray, "sample value"]
) -> _Filters:
    """Return covariance over variance of white noise, what it explains without chance, and the z of its peak."""
    n_samples, n_values = noise.shape
    change = responses - responses.mean(axis=-1, keepdims=True)
    power = np.square(noise).mean()
    filters = change @ (noise - noise.mean(axis=0)) / (n_samples * power)
    variance = np.square(change).mean(axis=-1)
    explained = np.divide(
        np.square(filters).sum(axis=-1) * power, variance, out=np.full(variance.shape, np.nan), where=variance > 1e-20
    )
    by_chance = n_values / n_samples
    error = np.sqrt(variance / (n_samples * power))
    z = np.divide(np.abs(filters).max(axis=-1), error, out=np.zeros_like(error), where=variance > 1e-20)
    return _Filters(filters, (explained - by_chance) / (1 - by_chance), z)


def _add_spatial(table: MemberTable, spatial: _Filters, min_z: float) -> None:
    table.add("spatial_z", spatial.z)
    table.add("spatial_linear_r2", spatial.linear_r2)
    maps = spatial.values
    height, width = maps.shape[-2:]
    flat = maps.reshape(*maps.shape[:2], -1)
    peak = np.abs(flat).argmax(axis=-1)
    sign = np.sign(np.take_along_axis(flat, peak[..., None], axis=-1)[..., 0])
    found = spatial.z >= min_z
    table.add("peak_y_px", np.where(found, peak // width % height, np.nan))
    table.add("peak_x_px", np.where(found, peak % width, np.nan))
    table.add("spatial_polarity", np.where(found, sign, np.nan))


def _add_temporal(table: MemberTable, temporal: _Filters, min_z: float, bin_s: float) -> None:
    filters = temporal.values
    strongest = np.square(filters).sum(axis=-1).argmax(axis=-1)
    course = np.take_along_axis(filters, strongest[..., None, None], axis=2)[:, :, 0]
    flat = course.reshape(-1, course.shape[-1])
    peak = np.take_along_axis(course, np.abs(course).argmax(axis=-1)[..., None], axis=-1)[..., 0]
    found = temporal.z >= min_z
    columns = {
        "temporal_z": temporal.z,
        "temporal_linear_r2": temporal.linear_r2,
        "temporal_polarity": np.where(found, np.sign(peak), np.nan),
        "latency_s": np.where(found, latency_s(flat, bin_s).reshape(found.shape), np.nan),
        "biphasic_index": np.where(found, biphasic_index(flat).reshape(found.shape), np.nan),
    }
    for name, values in columns.items():
        table.add(name, values)
