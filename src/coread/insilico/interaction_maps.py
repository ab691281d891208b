"""Experiment: how contrast in the surround changes the response to contrast in the centre of a receptive field.

The maps are read with two of the models of Turner, Schwartz & Rieke 2018 (eLife 7:e38841): centre and surround whose
responses add up after all nonlinearities, or whose drives add up before a common output nonlinearity.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from coread.data_io.artificial_stimuli import generate_annuli, generate_spots, parameter_grid
from coread.insilico.additivity import after_output_interaction, before_output_interaction
from coread.insilico.consistency import member_columns
from coread.insilico.experiment import ExperimentResult, Quantity
from coread.insilico.flashed_images import flash
from coread.insilico.population import Population
from coread.insilico.receptive_field_places import FieldPlaces, locate_receptive_fields
from coread.insilico.tuning_analyses.member_table import agreement
from coread.insilico.tuning_analyses.responses import respond_own
from coread.plotting.interaction_maps import draw_interaction_indices, draw_interaction_maps
from coread.plotting.style import Drawing


class CentreSurround:
    """Responses to every pair of a spot's contrast and a surrounding annulus' contrast, at each neuron's place.

    `interaction_index` is the share of a map's variance that no sum of a response to the centre and one to the surround
    explains, `interaction_before_output` the share that no sum of drives before one rising output nonlinearity
    explains (`coread.insilico.additivity`): the first alone is above 0 in a linear-nonlinear neuron, both are where a
    surround divides. `surround_effect` is the relative change of the response to the centre's best contrast when the
    surround shows the same: -1 where it silences the neuron, 0 for no surround.

    Args:
        place: arguments of `locate_receptive_fields`: n_samples, contrast and seed of the noise.
        center_sigmas: radius of the spot in standard deviations of the neuron's sensitivity.
        inner_sigmas: inner radius of the annulus.
        outer_sigmas: outer radius of the annulus.
        contrasts: of spot and annulus, rising, with 0 among them.
        grey_s: grey before the stimulus, beyond the lag of the model.
        shown_s: how long spot and annulus are shown.
        window_s: start and end of the responses that are averaged, from the onset.
        certain_correlation: correlation between members' maps below which a neuron is marked uncertain.
        n_drawn: maps drawn.

    """

    def __init__(
        self,
        place: Mapping[str, Any],
        center_sigmas: float,
        inner_sigmas: float,
        outer_sigmas: float,
        contrasts: Sequence[float],
        grey_s: float,
        shown_s: float,
        window_s: Sequence[float],
        certain_correlation: float,
        n_drawn: int,
    ) -> None:
        if not 0 < center_sigmas <= inner_sigmas < outer_sigmas:
            raise ValueError(
                "radii must be 0 < center_sigmas <= inner_sigmas < outer_sigmas, got "
                f"{center_sigmas}, {inner_sigmas}, {outer_sigmas}"
            )
        self.contrasts = np.asarray(contrasts, dtype=float)
        if 0 not in self.contrasts or len(self.contrasts) < 3 or (np.diff(self.contrasts) <= 0).any():
            raise ValueError(f"contrasts must be 3 or more, rising, with 0 among them, got {list(contrasts)}")
        self.place, self.radii_sigmas = dict(place), (center_sigmas, inner_sigmas, outer_sigmas)
        self.grey_s, self.shown_s, self.window_s = grey_s, shown_s, tuple(window_s)
        self.certain_correlation, self.n_drawn = certain_correlation, n_drawn

    def run(self, population: Population, neurons: Int[np.ndarray, "neuron"]) -> ExperimentResult:
        """Return the interaction map of every neuron and its indices."""
        places = locate_receptive_fields(population, neurons, **self.place)
        radii = self._radii_px(places)
        window = flash(population, self._images(population, places, radii)(np.arange(1)), *self._timing).window
        rows = respond_own(
            population,
            neurons,
            np.arange(len(neurons)),  # every neuron has stimuli of its own
            lambda shown: flash(population, self._images(population, places, radii)(shown), *self._timing).stimuli,
            lambda responses, _shown: responses[:, :, window].mean(dim=2),
        )
        maps = rows.reshape(*rows.shape[:2], len(self.contrasts), len(self.contrasts))
        return self._result(population, neurons, places, radii, maps)

    @property
    def _timing(self) -> tuple[float, float, Sequence[float]]:
        return self.grey_s, self.shown_s, self.window_s

    def _radii_px(self, places: FieldPlaces) -> Float[np.ndarray, "neuron 3"]:
        """Return radii of spot and annulus in pixels; a spot has at least half a pixel, an annulus one of width."""
        center, inner, outer = (sigmas * places.sigma_px for sigmas in self.radii_sigmas)
        center = np.maximum(center, 0.5)
        inner = np.maximum(inner, center)
        return np.stack([center, inner, np.maximum(outer, inner + 1.0)], axis=1)

    def _images(
        self, population: Population, places: FieldPlaces, radii: Float[np.ndarray, "neuron 3"]
    ) -> Callable[[Int[np.ndarray, "chosen"]], Float[Tensor, "image channel height width"]]:
        """Return a function from numbers of neurons to the images of each, the surround's contrast varying fastest."""
        channels, height, width = population.frame_shape
        grid = parameter_grid(center=self.contrasts, surround=self.contrasts)
        middle = np.array([(height - 1) / 2, (width - 1) / 2])

        def images(chosen: Int[np.ndarray, "chosen"]) -> Float[Tensor, "image channel height width"]:
            n_each = len(grid["center"])
            from_middle = (places.center_px[chosen] - middle) * [-1.0, 1.0]  # of a screen, y points upwards
            center = np.repeat(from_middle, n_each, axis=0)
            spot, inner, outer = (np.repeat(2 * radius, n_each) for radius in radii[chosen].T)
            shape = (1, channels, 1, height, width)
            spots = generate_spots(shape, spot, center, np.tile(grid["center"], len(chosen)))
            annuli = generate_annuli(shape, inner, outer, center, np.tile(grid["surround"], len(chosen)))
            return torch.add(spots, annuli)[:, :, 0].clamp(-1.0, 1.0)  # both cover a part of the pixels between them

        return images

    def _result(
        self,
        population: Population,
        neurons: Int[np.ndarray, "neuron"],
        places: FieldPlaces,
        radii: Float[np.ndarray, "neuron 3"],
        maps: Float[np.ndarray, "row neuron center surround"],
    ) -> ExperimentResult:
        table = population.neurons.iloc[neurons].reset_index(drop=True)
        table = table.assign(
            center_y_px=places.center_px[:, 0],
            center_x_px=places.center_px[:, 1],
            center_radius_px=radii[:, 0],
            surround_radius_px=radii[:, 2],
            field_found=places.found,
        )
        for unit, size in (("um", population.pixel_um), ("deg", population.pixel_deg)):
            if size:
                table[f"center_radius_{unit}"] = radii[:, 0] * size
        members = maps[1:] if len(maps) > 1 else maps
        arrays = {"map": Quantity(maps[0], ("neuron", "center_contrast", "surround_contrast"), population.unit)}
        for name, measure in (
            ("interaction_index", after_output_interaction),
            ("interaction_before_output", before_output_interaction),
            ("surround_effect", self._surround_effect),
        ):
            of_members = np.stack([measure(member) for member in members], axis=1)
            columns, kept = member_columns(name, measure(maps[0]), of_members)
            table, arrays = table.assign(**columns), arrays | kept
        table["map_correlation_members"] = agreement(maps)
        table["interaction_uncertain"] = table["map_correlation_members"] < self.certain_correlation
        axes = {name: Quantity(self.contrasts, (name,), "contrast") for name in arrays["map"].dims[1:]}
        return ExperimentResult(table, arrays, axes)

    def _surround_effect(self, maps: Float[np.ndarray, "neuron center surround"]) -> Float[np.ndarray, "neuron"]:
        """Return the relative change of the response to the best centre by a surround of the same extreme contrast."""
        grey = int(np.flatnonzero(self.contrasts == 0)[0])
        neuron = np.arange(len(maps))
        best = maps[:, :, grey].argmax(axis=1)
        extreme = np.where(self.contrasts[best] < 0, 0, len(self.contrasts) - 1)
        alone, both = maps[neuron, best, grey], maps[neuron, best, extreme]
        evoked = alone - maps[:, grey, grey]
        responds = evoked > 1e-6 * np.maximum(np.abs(alone), 1e-12)
        return np.divide(both - alone, evoked, out=np.full(len(maps), np.nan), where=responds)

    def draw(self, results: Mapping[str, ExperimentResult]) -> Mapping[str, Drawing]:
        """Return the maps of some neurons, and the indices of all."""
        return {
            "interaction_maps": draw_interaction_maps(results, self.n_drawn),
            "interaction_indices": draw_interaction_indices(results),
        }
