"""Receptive fields of a trained model alone: gradients at a grey screen, measured without a recording."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32

from coread.insilico.field_measures import measure_fields, members_spread
from coread.insilico.population import Population
from coread.insilico.receptive_fields import ReceptiveFields, member_consistency, response_gradient
from coread.insilico.separable import separate

if TYPE_CHECKING:
    from coread.models.core_readout import BaseCoreReadout


def fields_at_grey(models: Sequence["BaseCoreReadout"], config: Mapping[str, Any]) -> dict[str, ReceptiveFields]:
    """Return the receptive fields of every session that the models know, averaged over the models.

    They are those of `compute_receptive_fields` with `reference: mean`; `config` has `smoothing_px` and
    `contour_sigma`. Times are NaN where the models do not know their bins per second.
    """
    return {
        session: _describe(Population(models, session), float(config["smoothing_px"]), float(config["contour_sigma"]))
        for session in models[0].data_info["n_neurons_dict"]
    }


def _describe(population: Population, smoothing_px: float, contour_sigma: float) -> ReceptiveFields:
    filters = _filters(population)
    average, bin_s = filters.mean(axis=0), 1.0 / population.rate_hz
    parts = separate(average, smoothing_px)
    measures = measure_fields(parts, contour_sigma, bin_s, population.pixel_um)
    of_members = [
        measure_fields(separate(own, smoothing_px), contour_sigma, bin_s, population.pixel_um)
        for own in (filters if population.n_members > 1 else [])
    ]
    dataset = str(population.data_info.get("dataset", ""))
    identity = population.neurons.assign(dataset=dataset)
    table = pd.concat([identity, measures, members_spread(measures, of_members)], axis=1)
    table["member_consistency"] = member_consistency(filters)
    return ReceptiveFields(average, parts.spatial, parts.temporal, parts.channel, table, bin_s, population.pixel_um)


def _filters(population: Population) -> Float32[np.ndarray, "member neuron lag_bin channel height width"]:
    """Return d response / d stimulus in recorded response units per bin and physical stimulus unit."""
    scales, filters = population.scales().cpu().numpy(), []
    for model, scale in zip(population.models, scales, strict=True):
        grey = torch.zeros(model.stimulus_shape(model.lag + 1), device=population.device)
        gradient = response_gradient(model, population.session, grey, population.n_neurons).cpu().numpy()
        per_unit = scale / float(model.data_info.get("stim_std", 1.0))
        filters.append((gradient * per_unit[:, None, None, None, None]).astype(np.float32))
    return np.stack(filters)
