"""What a stimulus is optimised for.

An objective gives one value per item of a batch of stimuli, a plain number for a batch of one. The items do not
interact: the model is asked in eval mode. A stimulus no longer than the model looks back is preceded by mean grey.
"""

import warnings
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coread.insilico.frozen_model import frozen
from coread.insilico.stimulus_optimization.reducer import MeanReducer as MeanReducer
from coread.insilico.stimulus_optimization.reducer import ResponseReducer as ResponseReducer
from coread.insilico.stimulus_optimization.reducer import SliceMeanReducer as SliceMeanReducer
from coread.models.typical_context import respond_typically


class AbstractObjective(ABC):
    """What objectives share: the model's response.

    `data_key` is the session; None asks a model of one session, or for the neurons of all sessions in sorted order.
    What the model wants beside the stimulus is held at its mean in training.
    """

    def __init__(self, model: Any, data_key: str | None = None):
        self._model = model
        self._data_key = data_key
        self._warned = False

    @property
    def model(self) -> Any:
        """The model that is asked."""
        return self._model

    def model_forward(self, stimulus: Float[Tensor, "item channel time height width"]) -> Float[Tensor, "..."]:
        """Return the response, (time, neuron) of a single item and (item, time, neuron) of several."""
        return self.responses(stimulus).squeeze(0)

    def responses(
        self, stimulus: Float[Tensor, "item channel time height width"]
    ) -> Float[Tensor, "item time_out neuron"]:
        """Return the response to every item, in eval mode and without gradients of the weights."""
        stimulus = self.preceded_by_grey(stimulus)
        with frozen(self._model) if isinstance(self._model, nn.Module) else nullcontext():
            if self._data_key is None:
                return self._model(stimulus)
            return respond_typically(self._model, stimulus, self._data_key)

    def preceded_by_grey(
        self, stimulus: Float[Tensor, "item channel time height width"]
    ) -> Float[Tensor, "item channel longer height width"]:
        """Return the stimulus, behind `lag` frames of mean grey if it is no longer than these, with a warning."""
        lag = int(getattr(self._model, "lag", 0))
        if stimulus.shape[2] > lag:
            return stimulus
        if not self._warned:
            warnings.warn(
                f"the stimulus has {stimulus.shape[2]} frames and the model looks back {lag}: it is preceded by {lag} "
                "frames of mean grey",
                stacklevel=3,
            )
            self._warned = True
        grey = stimulus.new_zeros(*stimulus.shape[:2], lag, *stimulus.shape[3:])
        return torch.cat([grey, stimulus], dim=2)

    @abstractmethod
    def forward(self, stimulus: Float[Tensor, "item channel time height width"]) -> Float[Tensor, "*item"]:
        """Return what is to be maximised."""


class IncreaseObjective(AbstractObjective):
    """Mean response of neurons, reduced over time.

    Published form: `neuron_indices` are averaged, and `response_reducer` reduces their trace `(time,)`. Documented
    form: `reducer`, the same under another name, chooses the neurons itself from `(time, neuron)`; what it leaves of
    neurons is averaged. Raises TypeError unless exactly one reducer is given.
    """

    def __init__(
        self,
        model: Any,
        neuron_indices: Sequence[int] | int | None = None,
        data_key: str | None = None,
        response_reducer: ResponseReducer | None = None,
        *,
        reducer: ResponseReducer | None = None,
    ):
        super().__init__(model, data_key)
        chosen = reducer if response_reducer is None else response_reducer
        if chosen is None or (reducer is not None and response_reducer is not None):
            raise TypeError("give exactly one of response_reducer and reducer, which name the same thing")
        self._neuron_indices = [neuron_indices] if isinstance(neuron_indices, int) else neuron_indices
        self._response_reducer = chosen

    def forward(self, stimulus: Float[Tensor, "item channel time height width"]) -> Float[Tensor, "*item"]:
        """Return the response of every item."""
        responses = self.responses(stimulus)
        if self._neuron_indices is not None:
            responses = responses[..., list(self._neuron_indices)].mean(dim=-1)
        values = self._response_reducer.reduce_items(responses)
        return (values if values.dim() == 1 else values.flatten(1).mean(dim=1)).squeeze(0)


class ContrastiveNeuronObjective(AbstractObjective):
    """How much more one cluster responds than the others: most discriminative stimuli (Burg et al. 2024, ICLR).

    The value is the response of the cluster `on_cluster_idc` over `temperature`, minus the logarithm of the mean
    exponential of the same of all clusters. A cluster's response is the mean over its neurons.
    """

    def __init__(
        self,
        model: Any,
        on_cluster_idc: Sequence[int],
        off_cluster_idc_list: Sequence[Sequence[int]],
        data_key: str | None,
        response_reducer: ResponseReducer,
        temperature: float = 1.6,
    ):
        super().__init__(model, data_key)
        self._clusters = [list(on_cluster_idc), *[list(indices) for indices in off_cluster_idc_list]]
        if not all(self._clusters):
            raise ValueError("every cluster needs a neuron")
        self._response_reducer = response_reducer
        self._temperature = temperature

    @staticmethod
    def contrastive_objective(
        on_score: Float[Tensor, "*item"], all_scores: Float[Tensor, "cluster *item"], temperature: float
    ) -> Float[Tensor, "*item"]:
        """Return on/t - logsumexp(all/t) + log(number of clusters)."""
        n_clusters = torch.tensor(float(len(all_scores)), dtype=all_scores.dtype, device=all_scores.device)
        return on_score / temperature - torch.logsumexp(all_scores / temperature, dim=0) + torch.log(n_clusters)

    def forward(self, stimulus: Float[Tensor, "item channel time height width"]) -> Float[Tensor, "*item"]:
        """Return the contrast of every item."""
        scores = self._response_reducer.reduce_items(self.responses(stimulus))
        clusters = torch.stack([scores[:, indices].mean(dim=1) for indices in self._clusters])
        return self.contrastive_objective(clusters[0], clusters, self._temperature).squeeze(0)


class InnerNeuronVisualizationObjective(AbstractObjective):
    """Output of one channel of an inner layer at one pixel, the central one by default, reduced over time.

    Layers are called by their place in the model, joined by underscores: `core_features_layer0_conv`. The layer is
    watched only while the model computes.
    """

    def __init__(self, model: Any, data_key: str | None, response_reducer: ResponseReducer):
        super().__init__(model, data_key)
        self.features_dict: OrderedDict[str, nn.Module] = self.hook_model(model)
        self._response_reducer = response_reducer
        self.layer_name = ""
        self.channel_id = -1
        self.position_px: tuple[int, int] | None = None

    @staticmethod
    def hook_model(model: nn.Module) -> OrderedDict[str, nn.Module]:
        """Return the layers of a model by name; in spite of its published name it hooks nothing."""
        return OrderedDict((name.replace(".", "_"), module) for name, module in model.named_modules() if name)

    def set_layer_channel(self, layer: str, channel: int, position_px: tuple[int, int] | None = None) -> None:
        """Choose layer, channel and pixel (y, x); raises ValueError for a layer that there is not."""
        if layer not in self.features_dict:
            raise ValueError(f"layer {layer!r} is none of {list(self.features_dict)}")
        self.layer_name, self.channel_id, self.position_px = layer, channel, position_px

    def get_output_shape_for_layer(self, layer_name: str, stimulus_shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return the shape of a layer's output for a stimulus; None for a layer that there is not."""
        if layer_name not in self.features_dict:
            return None
        device = next(self._model.parameters()).device
        with torch.no_grad():
            return tuple(self.layer_output(layer_name, torch.zeros(stimulus_shape, device=device)).shape)

    def layer_output(self, layer_name: str, stimulus: Float[Tensor, "item channel time height width"]) -> Tensor:
        """Return what a layer puts out; raises ValueError if the model does not use it."""
        seen: list[Tensor] = []
        hook = self.features_dict[layer_name].register_forward_hook(lambda _module, _input, output: seen.append(output))
        try:
            self.responses(stimulus)
        finally:
            hook.remove()
        if not seen:
            raise ValueError(f"the model does not use layer {layer_name!r}")
        return seen[-1]

    def forward(self, stimulus: Float[Tensor, "item channel time height width"]) -> Float[Tensor, "*item"]:
        """Return the output of every item; raises ValueError if no channel is chosen or the layer has no pixels."""
        if not self.layer_name or self.channel_id < 0:
            raise ValueError("no layer and channel are chosen: call set_layer_channel first")
        output = self.layer_output(self.layer_name, stimulus)
        traces = unit_traces(output, len(stimulus), self.layer_name, self.position_px)
        if self.channel_id >= traces.shape[1]:
            raise ValueError(f"layer {self.layer_name!r} has {traces.shape[1]} channels, not channel {self.channel_id}")
        return self._response_reducer.reduce_items(traces[:, self.channel_id]).squeeze(0)


def unit_traces(
    output: Tensor, n_items: int, layer: str, position_px: tuple[int, int] | None = None
) -> Float[Tensor, "item channel time"]:
    """Return the traces of all channels of a layer at one pixel, by default the central one.

    Raises ValueError for an output that is neither (item, channel, time, height, width) nor that of single frames,
    (item times time, channel, height, width).
    """
    if output.dim() not in (4, 5):
        raise ValueError(f"layer {layer!r} puts out {tuple(output.shape)}, not (item, channel, time, height, width)")
    height, width = output.shape[-2:]
    y, x = (height // 2, width // 2) if position_px is None else position_px
    unit = output[..., y, x]
    return unit if output.dim() == 5 else unit.unflatten(0, (n_items, -1)).transpose(1, 2)
