"""Objectives of batches in which every item has a target of its own: a neuron, a group, a cluster, an inner unit."""

import copy
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from coread.insilico.local_response import LocalPopulation, OwnResponse
from coread.insilico.stimulus_optimization.objective import (
    ContrastiveNeuronObjective,
    InnerNeuronVisualizationObjective,
    unit_traces,
)
from coread.models.core_readout import BaseCoreReadout


class OwnNeuron:
    """`sign` times the response of every item's neuron (or group), averaged over bins, in recorded units."""

    def __init__(self, response: OwnResponse, sign: float = 1.0):
        self.response, self.sign = response, sign

    def __call__(self, patches: Float[Tensor, "item channel time height width"]) -> Float[Tensor, "item"]:
        """Return the value of every item's patch, in contrast."""
        return self.sign * self.response(patches).mean(dim=1)

    def select(self, kept: Int[Tensor, " kept"]) -> "OwnNeuron":
        """Return the objective of some items."""
        return OwnNeuron(self.response.select(kept), self.sign)


class ClusterContrast:
    """How much more every item's cluster responds than the others (Burg et al. 2024, ICLR), of whole stimuli.

    A cluster's response is the mean over members, bins of the window and neurons, of responses in units of the scale of
    each neuron in training. Without a temperature the value is the response of the item's own cluster alone.
    """

    def __init__(
        self,
        responses: LocalPopulation,
        clusters: Sequence[Sequence[int]],
        own: Int[Tensor, " item"],
        temperature: float | None,
    ):
        if not all(len(neurons) for neurons in clusters):
            raise ValueError("every cluster needs a neuron")
        self._responses, self._temperature, self._own = responses, temperature, own
        scales = responses.scales
        averages = scales.new_zeros(len(clusters), scales.shape[1])
        for row, neurons in zip(averages, clusters, strict=True):
            row[list(neurons)] = 1 / len(neurons)
        # members in units of the first one's scale
        self._averages = averages * (scales / scales[0])[:, None]

    def of_clusters(
        self, stimuli: Float[Tensor, "item channel time height width"]
    ) -> Float[Tensor, "member item cluster"]:
        """Return every member's responses of all clusters to stimuli in contrast."""
        source = self._responses
        parts = [
            source.full(member, source.shown_to(member, stimuli)).mean(dim=1) @ averages.T
            for member, averages in enumerate(self._averages)
        ]
        return torch.stack(parts)

    def __call__(self, stimuli: Float[Tensor, "item channel time height width"]) -> Float[Tensor, "item"]:
        """Return the contrast of every item, or the response of its cluster."""
        scores = self.of_clusters(stimuli).mean(dim=0)
        on = scores.gather(1, self._own[:, None])[:, 0]
        if self._temperature is None:
            return on
        return ContrastiveNeuronObjective.contrastive_objective(on, scores.T, self._temperature)

    def select(self, kept: Int[Tensor, " kept"]) -> "ClusterContrast":
        """Return the objective of some items."""
        chosen = copy.copy(self)
        chosen._own = self._own[kept]
        return chosen


class InnerUnit:
    """Output of every item's channel of an inner layer at one pixel, averaged over its last `n_bins` bins.

    Layers have the names of `InnerNeuronVisualizationObjective`. `shown` makes of stimuli what the model takes, by
    default they are in its normalisation already.
    """

    def __init__(
        self,
        model: BaseCoreReadout,
        layer: str,
        channels: Int[Tensor, " item"],
        n_bins: int,
        session: str | None = None,
        position_px: tuple[int, int] | None = None,
        shown: Callable[[Tensor], Tensor] | None = None,
    ):
        self._shown = shown
        self._objective = InnerNeuronVisualizationObjective(model, session, response_reducer=None)  # type: ignore[arg-type]
        if layer not in self._objective.features_dict:
            raise ValueError(f"layer {layer!r} is none of {list(self._objective.features_dict)}")
        self._layer, self._channels, self._n_bins, self._position_px = layer, channels, n_bins, position_px

    def __call__(self, stimuli: Float[Tensor, "item channel time height width"]) -> Float[Tensor, "item"]:
        """Return the output of every item's unit."""
        stimuli = stimuli if self._shown is None else self._shown(stimuli)
        output = self._objective.layer_output(self._layer, stimuli)
        traces = unit_traces(output, len(stimuli), self._layer, self._position_px)
        own = traces[torch.arange(len(stimuli), device=traces.device), self._channels]
        return own[:, -self._n_bins :].mean(dim=1)

    @classmethod
    def count(
        cls, model: BaseCoreReadout, layer: str, stimulus: Float[Tensor, "1 channel time height width"], session: str
    ) -> int:
        """Return the number of channels of a layer; raises ValueError for a layer that has none or is not there."""
        objective = cls(model, layer, torch.zeros(1, dtype=torch.long), 1, session)._objective
        with torch.no_grad():
            return unit_traces(objective.layer_output(layer, stimulus), 1, layer).shape[1]

    def select(self, kept: Int[Tensor, " kept"]) -> "InnerUnit":
        """Return the objective of some items."""
        chosen = copy.copy(self)
        chosen._channels = self._channels[kept]
        return chosen
