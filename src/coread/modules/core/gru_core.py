"""Cores that end in a recurrent layer, and such cores whose layers are modulated by a condition."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coread.modules.core.base_core import ConvolutionalCore, Core3d, run_layer, session_log_speeds
from coread.modules.layers.convolutions import STSeparableBatchConv3d, TorchFullConv3D, get_conv_class
from coread.modules.layers.gru import GRU_Module
from coread.modules.layers.padding import Padding
from coread.modules.layers.regularizers import group_sparsity
from coread.modules.layers.scaling import Bias3DLayer, FiLM, Scale3DLayer


class ConvGRUCore(ConvolutionalCore, Core3d):
    """Layers of space-time convolution, batch norm and nonlinearity, then a convolutional GRU over the frames.

    Penalties mean the same as in `SimpleCoreWrapper`; `recurrent` is the GRU's own, weighted by `gru_kwargs.gamma_rec`.
    The recurrent state starts at zero in every call, that is in every window of the training; `restart` lets it go on
    from call to call, with which `coread.eval.predictions.predict` starts it at the first bin of every trial only.

    Args:
        channels: numbers of channels `(stimulus, layer 0, layer 1, ...)`.
        n_neurons_dict: the sessions; needed only for `batch_adaptation`.
        temporal_kernel_sizes: frames per filter of each layer, or one number for all.
        spatial_kernel_sizes: height and width in pixels of each layer's filters, or one number for all.
        gamma_hidden: see `ConvolutionalCore`, as the other three.
        gamma_input: see there.
        gamma_in_sparse: see there.
        gamma_temporal: see there.
        final_nonlinearity: whether the last convolutional layer has a nonlinearity.
        bias: learn an offset per channel.
        input_padding: of layer 0, in space only; see `resolve_padding`.
        hidden_padding: of each other layer by its own filter size, so that it keeps its input's size.
        batch_norm: normalise every layer.
        batch_norm_scale: learn a factor per channel.
        batch_norm_momentum: of the running statistics.
        laplace_padding: zeros around a filter before its roughness is taken.
        batch_adaptation: learn one stretch in time per session for all filters.
        use_avg_reg: average roughness over filters instead of summing it.
        nonlinearity: name of a module of torch.nn.
        convolution_type: "custom_separable", "separable", "full" or "time_independent".
        use_gru: end in a GRU.
        use_projections: mix channels by a 1 x 1 x 1 convolution after layer 0.
        gru_kwargs: rec_channels, input_kern, rec_kern, groups, gamma_rec, pad_input: see `ConvGRUCell`.
        cut_first_n_frames: frames cut from the front of the output, while the recurrent state, which starts at zero,
            settles.
        published_behaviour: openretina 1.1.1: every layer has the padding of the layer before it, and layer 0 a
            nonlinearity only if the last one has; `gamma_hidden` weighs the group sparsity of all layers,
            `gamma_in_sparse` that of layer 0 as space-time filters, and penalties need "custom_separable".

    Raises ValueError for sizes that do not fit each other.

    """

    def __init__(
        self,
        channels: Sequence[int],
        n_neurons_dict: Mapping[str, int] | None = None,
        temporal_kernel_sizes: int | Sequence[int] = (21,),
        spatial_kernel_sizes: int | Sequence[int] = (14,),
        gamma_hidden: float = 0.0,
        gamma_input: float = 0.0,
        gamma_in_sparse: float = 0.0,
        gamma_temporal: float = 0.0,
        final_nonlinearity: bool = True,
        bias: bool = True,
        input_padding: Padding = False,
        hidden_padding: Padding = True,
        batch_norm: bool = True,
        batch_norm_scale: bool = True,
        batch_norm_momentum: float = 0.1,
        laplace_padding: int | None = 0,
        batch_adaptation: bool = False,
        use_avg_reg: bool = False,
        nonlinearity: str = "ELU",
        convolution_type: str = "custom_separable",
        use_gru: bool = False,
        use_projections: bool = False,
        gru_kwargs: Mapping[str, Any] | None = None,
        cut_first_n_frames: int = 0,
        published_behaviour: bool = False,
    ):
        super().__init__(gamma_input, gamma_temporal, gamma_in_sparse, gamma_hidden, laplace_padding, use_avg_reg)
        n_layers = len(channels) - 1
        temporal, spatial = _per_layer(temporal_kernel_sizes, n_layers), _per_layer(spatial_kernel_sizes, n_layers)
        if n_layers < 1 or len(temporal) != n_layers or len(spatial) != n_layers:
            raise ValueError(
                f"channels must name the stimulus and each layer, kernel sizes each layer, got {list(channels)}, "
                f"{temporal} and {spatial}"
            )
        self.cut_first_n_frames = cut_first_n_frames
        self.session_dependent = batch_adaptation
        self.published_behaviour = published_behaviour
        log_speeds = session_log_speeds(n_neurons_dict, convolution_type) if batch_adaptation else {}
        paddings = [input_padding, *[hidden_padding] * (n_layers - 1)]
        if published_behaviour and hidden_padding:
            # layer n gets what was meant for layer n - 1, and layer 1 nothing
            paddings = [input_padding, False, *[(0, size // 2, size // 2) for size in spatial[1:-1]]][:n_layers]

        conv_class = get_conv_class(convolution_type)
        self.features = nn.Sequential()
        for i in range(n_layers):
            conv = conv_class(
                channels[i], channels[i + 1], log_speeds, temporal[i], spatial[i], bias=False, padding=paddings[i]
            )
            layer: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
            layer |= _normalisation(channels[i + 1], batch_norm, bias, batch_norm_scale, batch_norm_momentum)
            if final_nonlinearity or (i < n_layers - 1 and (i > 0 or not published_behaviour)):
                layer["nonlin"] = getattr(nn, nonlinearity)()
            self.features.add_module(f"layer{i}", nn.Sequential(layer))
            if i == 0 and use_projections:
                mix = TorchFullConv3D(channels[1], channels[1], {}, 1, 1, bias=False)
                self.features.add_module("projection", nn.Sequential(mix, getattr(nn, nonlinearity)()))
        self.initialize()
        self._check_penalties()
        if use_gru:
            if gru_kwargs is None:
                raise ValueError("use_gru needs gru_kwargs: rec_channels, input_kern and rec_kern")
            self.features.add_module("gru", GRU_Module(channels[-1], **gru_kwargs))
        self.lag = cut_first_n_frames + sum(conv.lag for conv in self.convolutions)
        self.spatial_offset = self._offset(0), self._offset(1)
        self._carries = False
        self._state: Tensor | None = None

    def _offset(self, axis: int) -> float:
        """Return the input pixel under output pixel 0 along height (0) or width (1)."""
        centres = [(conv.kernel_size[1 + axis] - 1) / 2 - conv.padding_before[axis] for conv in self.convolutions]
        recurrent = self.recurrent
        if recurrent is not None:
            gate = recurrent.gru.reset_gate_input
            centres.append((gate.kernel_size[axis] - 1) / 2 - gate.sides[1 + axis][0])
        return float(sum(centres))

    @property
    def recurrent(self) -> GRU_Module | None:
        """The recurrent layer, if there is one."""
        return getattr(self.features, "gru", None)

    def restart(self, *, carry: bool) -> None:
        """Let the next call start at a state of zero, and with `carry` all calls after it at the state of the last one.

        A call that goes on must show the same sequences, from `lag` frames before those that have not been shown yet.
        """
        self._carries = carry and self.recurrent is not None
        self._state = None

    def _recur(
        self, x: Float[Tensor, "batch channel time height width"]
    ) -> Float[Tensor, "batch feature out_time out_height out_width"]:
        """Run the GRU, if there is one, and cut the first frames: a state that is carried has seen them already."""
        gru, cut = self.recurrent, self.cut_first_n_frames
        if gru is None:
            return x[:, :, cut:]
        x = gru(x)[:, :, cut:] if self._state is None else gru(x[:, :, cut:], self._state)
        if self._carries:
            self._state = x[:, :, -1].clone()  # a view would keep all frames
        return x

    def _layers(self) -> dict[int, nn.Module]:
        """Return the layers before the GRU by their place in `features`."""
        return {i: layer for i, layer in enumerate(self.features) if layer is not self.recurrent}

    def penalties(self) -> dict[str, Float[Tensor, ""]]:
        """Return the weighted penalties whose weight is not zero, with `recurrent` for that of the GRU."""
        if self.published_behaviour:
            return self._published_penalties()
        penalties = super().penalties()
        if self.recurrent is not None and self.recurrent.gru.gamma_rec:
            penalties["recurrent"] = self.recurrent.gru.regularizer()
        return penalties

    def _published_penalties(self) -> dict[str, Float[Tensor, ""]]:
        first = self.convolutions[0]
        if not isinstance(first, STSeparableBatchConv3d):
            return {}
        terms = {
            "input": (self.gamma_input, self.spatial_laplace),
            "hidden": (self.gamma_hidden, lambda: self.group_sparsity(first_layer=0)),
            "temporal": (self.gamma_temporal, self.temporal_smoothness),
            "in_sparse": (self.gamma_in_sparse, lambda: group_sparsity(first.weight())),
        }
        return {name: gamma * term() for name, (gamma, term) in terms.items() if gamma}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Read also a published state: there the core names what its layers hold, and the kernel of a penalty."""
        state_dict.pop(f"{prefix}_input_weights_regularizer_temporal.laplace.filter", None)
        for name in [name for name in state_dict if name.startswith(f"{prefix}log_speed_")]:
            del state_dict[name]
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(
        self, input_: Float[Tensor, "batch channel time height width"], data_key: str | None = None
    ) -> Float[Tensor, "batch feature out_time out_height out_width"]:
        """Return the feature maps, `lag` frames shorter than the stimulus."""
        x = input_
        for layer in self._layers().values():
            x = run_layer(layer, x, data_key)
        return self._recur(x)


class ConditionedGRUCore(ConvGRUCore):
    """A `ConvGRUCore` whose normalised layers are scaled and shifted by a condition (FiLM, Perez et al. 2018).

    The condition `(batch, cond_dim)` is given to `forward`, or else it is the learned vector of the session; zeros
    stand for a session that has none. The layers' modules are `film_<i>`, i counting the layers of `features`.
    """

    def __init__(self, cond_dim: int, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.cond_dim = cond_dim
        for i, layer in enumerate(self.features):
            if hasattr(layer, "norm"):
                self.add_module(f"film_{i}", FiLM(int(layer.norm.num_features), cond_dim))  # type: ignore[arg-type, union-attr]
        sessions = kwargs.get("n_neurons_dict") or (args[1] if len(args) > 1 else None) or {}
        self.session_conditions = nn.ParameterDict({session: torch.randn(cond_dim) for session in sessions})
        self.session_dependent = self.session_dependent or bool(sessions)

    def session_parameters(self) -> dict[str, nn.Parameter]:
        """Return log speeds and conditions by their names in the state dict."""
        conditions = {f"session_conditions.{session}": value for session, value in self.session_conditions.items()}
        return super().session_parameters() | conditions

    def add_sessions(self, sessions: Iterable[str]) -> None:
        """Give new sessions log speeds and conditions of 0, each if the core's sessions have any."""
        new = list(sessions)
        super().add_sessions(new)
        if self.session_conditions:
            self.session_conditions.update({session: nn.Parameter(torch.zeros(self.cond_dim)) for session in new})

    def condition_of(self, data_key: str | None, batch: int) -> Float[Tensor, "batch condition"]:
        """Return the learned condition of a session for every batch item, zeros for an unknown one."""
        if data_key is not None and data_key in self.session_conditions:
            return self.session_conditions[data_key].expand(batch, -1)
        return self.convolutions[0].weight_grouped.new_zeros(batch, self.cond_dim)

    def forward(  # type: ignore[override]
        self,
        x: Float[Tensor, "batch channel time height width"],
        conditioning: Float[Tensor, "batch condition"] | None = None,
        data_key: str | None = None,
    ) -> Float[Tensor, "batch feature out_time out_height out_width"]:
        """Return the modulated feature maps, `lag` frames shorter than the stimulus."""
        condition = self.condition_of(data_key, len(x)) if conditioning is None else conditioning
        for i, layer in self._layers().items():
            x = run_layer(layer, x, data_key)
            if hasattr(self, f"film_{i}"):
                x = getattr(self, f"film_{i}")(x, condition)
        return self._recur(x)


def _per_layer(sizes: int | Sequence[int], n_layers: int) -> list[int]:
    return [sizes] * n_layers if isinstance(sizes, int) else [int(size) for size in sizes]


def _normalisation(
    channels: int, batch_norm: bool, bias: bool, scale: bool, momentum: float
) -> "OrderedDict[str, nn.Module]":
    """Return batch norm with the offsets and factors that are learned beside it or in it."""
    layer: OrderedDict[str, nn.Module] = OrderedDict()
    if not batch_norm:
        return layer
    layer["norm"] = nn.BatchNorm3d(channels, momentum=momentum, affine=bias and scale)
    if bias and not scale:
        layer["bias"] = Bias3DLayer(channels)
    elif scale and not bias:
        layer["scale"] = Scale3DLayer(channels)
    return layer
