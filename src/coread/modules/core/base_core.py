"""Cores: what all sessions share, from the stimulus to feature maps."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from coread.modules.layers.convolutions import (
    STSeparableBatchConv3d,
    TimeIndependentConv3D,
    TorchFullConv3D,
    TorchSTSeparableConv3D,
    get_conv_class,
)
from coread.modules.layers.padding import Padding
from coread.modules.layers.reducers import WeightedChannelSumLayer
from coread.modules.layers.regularizers import (
    FlatLaplaceL23dnorm,
    TimeLaplaceL23dnorm,
    group_sparsity,
    temporal_smoothing,
)
from coread.modules.layers.scaling import Bias3DLayer
from coread.modules.layers.space_time_conv import SpaceTimeConv

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Core(nn.Module):
    """Maps stimuli to feature maps with `lag` frames less, all lost from the front.

    Output pixel i along (height, width) looks at a neighbourhood of input pixel `spatial_offset + spatial_stride * i`.
    """

    lag: int = 0
    spatial_stride: tuple[float, float] = (1.0, 1.0)
    spatial_offset: tuple[float, float] = (0.0, 0.0)
    session_dependent: bool = False  # whether `forward` answers differently to another `data_key`

    def session_parameters(self) -> dict[str, nn.Parameter]:
        """Return what sessions have of their own, by its names in the state dict; zeros are a session without any."""
        return {}

    def add_sessions(self, sessions: Iterable[str]) -> None:
        """Give new sessions parameters of their own, at zero, if the core's sessions have any."""

    def penalties(self) -> dict[str, Float[Tensor, ""]]:
        """Return the weighted terms of the penalty by name; none by default."""
        return {}

    def regularizer(self) -> Float[Tensor, ""]:
        """Return the penalty to add to the loss: the sum of the terms."""
        return sum(self.penalties().values(), start=torch.zeros(()))

    def save_weight_visualizations(
        self, folder_path: str | Path, file_format: str = "jpg", state_suffix: str = ""
    ) -> None:
        """Draw every filter of layer i into `weights_layer_<i>` below a folder; nothing for a core without filters."""
        for i, conv in enumerate(getattr(self, "convolutions", ())):
            conv.save_weight_visualizations(Path(folder_path) / f"weights_layer_{i}", file_format, state_suffix)


class Core3d(Core):
    """A core that draws the weights of its 3-D convolutions anew when it is asked to."""

    def initialize(self) -> None:
        """Draw all 3-D convolutions from Glorot and Bengio's (2010) normal distribution; their biases become zero."""
        self.apply(self.init_conv)

    @staticmethod
    def init_conv(m: nn.Module) -> None:
        """Do so with a module, if it is a 3-D convolution."""
        if isinstance(m, nn.Conv3d):
            nn.init.xavier_normal_(m.weight)
            if m.bias is not None:
                nn.init.zeros_(m.bias)


class DummyCore(Core):
    """Passes the stimulus on, for models that are a readout only; `channels` and `n_neurons_dict` have no effect."""

    def __init__(
        self,
        cut_first_n_frames: int = 0,
        channels: Sequence[int] | None = None,
        n_neurons_dict: Mapping[str, int] | None = None,
    ):
        super().__init__()
        self.lag = cut_first_n_frames

    def forward(
        self, x: Float[Tensor, "batch channel time height width"], data_key: str | None = None
    ) -> Float[Tensor, "batch channel out_time height width"]:
        """Return the stimulus without its first frames."""
        return x[:, :, self.lag :]


class ConvolutionalCore(Core):
    """What cores of `features.layer<i>` with a `conv` each share: the four penalties and the geometry.

    Args:
        gamma_input: weight of the spatial roughness of layer 0.
        gamma_temporal: weight of the roughness in time ("custom_separable": all layers, otherwise layer 0).
        gamma_in_sparse: weight of the group sparsity over input channels in all layers.
        gamma_hidden: weight of the group sparsity over input channels in all layers but layer 0.
        laplace_padding: zeros around a filter before its roughness is taken.
        average: divide by means instead of sums where roughness is taken.

    """

    features: nn.Sequential

    def __init__(
        self,
        gamma_input: float = 0.0,
        gamma_temporal: float = 0.0,
        gamma_in_sparse: float = 0.0,
        gamma_hidden: float = 0.0,
        laplace_padding: int | None = 0,
        average: bool = False,
    ):
        super().__init__()
        self.gamma_input = gamma_input
        self.gamma_temporal = gamma_temporal
        self.gamma_in_sparse = gamma_in_sparse
        self.gamma_hidden = gamma_hidden
        self._average = average
        self._input_weights_regularizer_spatial = FlatLaplaceL23dnorm(padding=laplace_padding)
        self._input_weights_regularizer_temporal = TimeLaplaceL23dnorm(padding=laplace_padding, persistent_buffer=False)

    def _check_penalties(self) -> None:
        """Raise ValueError for a penalty that the filters of layer 0 are too small or of the wrong kind for."""
        first = self.convolutions[0]
        if self.gamma_temporal != 0 and isinstance(first, TimeIndependentConv3D):
            raise ValueError(
                "gamma_temporal must be 0 for time_independent convolutions, which have no temporal filter"
            )
        smallest = 3 - 2 * self._input_weights_regularizer_spatial.laplace.padding_size
        time, *space = first.kernel_size
        if self.gamma_input != 0 and min(space) < smallest:
            raise ValueError(
                f"gamma_input needs filters of at least {smallest} x {smallest} pixels in layer 0, got {space}"
            )
        if self.gamma_temporal != 0 and not isinstance(first, STSeparableBatchConv3d) and time < smallest:
            raise ValueError(f"gamma_temporal needs filters of at least {smallest} frames in layer 0, got {time}")

    def plot_weight_visualization(self, layer: int, in_channel: int, out_channel: int) -> "Figure":
        """Return a figure of one filter of a layer; raises ValueError for a layer that there is not."""
        if not 0 <= layer < len(self.convolutions):
            raise ValueError(f"layer {layer} is none of the {len(self.convolutions)} layers of the core")
        return self.convolutions[layer].plot_weights(in_channel, out_channel)

    @property
    def convolutions(self) -> list[SpaceTimeConv]:
        """The convolution of every layer."""
        return [layer.conv for layer in self.features if hasattr(layer, "conv")]  # type: ignore[misc]

    def session_parameters(self) -> dict[str, nn.Parameter]:
        """Return the log speeds, in every layer, by their names in the state dict."""
        return {
            f"features.{name}.conv.log_speed_{session}": layer.conv.log_speed(session)  # type: ignore[union-attr, operator]
            for name, layer in self.features.named_children()
            if hasattr(layer, "conv")
            for session in layer.conv.log_speed_sessions  # type: ignore[union-attr]
        }

    def add_sessions(self, sessions: Iterable[str]) -> None:
        """Give new sessions log speeds of 0, which all layers share, if the core's sessions have any."""
        speeds = {session: nn.Parameter(torch.zeros(1)) for session in sessions}
        for conv in self.convolutions:
            if conv.log_speed_sessions:
                conv.add_log_speeds(speeds)

    def spatial_laplace(self) -> Float[Tensor, ""]:
        """Return the spatial roughness of layer 0."""
        return self._input_weights_regularizer_spatial(self.convolutions[0].weight_spatial, avg=self._average)

    def temporal_smoothness(self) -> Float[Tensor, ""]:
        """Return the roughness in time of all layers ("custom_separable") or layer 0; raises TypeError if timeless."""
        first = self.convolutions[0]
        if isinstance(first, STSeparableBatchConv3d):
            layers = [conv for conv in self.convolutions if isinstance(conv, STSeparableBatchConv3d)]
            return torch.stack([temporal_smoothing(conv.sin_weights, conv.cos_weights) for conv in layers]).sum()
        if isinstance(first, TorchSTSeparableConv3D):
            return self._input_weights_regularizer_temporal(first.time_conv.weight, avg=self._average)
        if isinstance(first, TorchFullConv3D):
            traces = first.conv.weight.movedim(2, -1).reshape(-1, 1, first.kernel_size[0], 1, 1)
            return self._input_weights_regularizer_temporal(traces, avg=self._average)
        raise TypeError(f"{type(first).__name__} has no temporal filter")

    def temporal_laplace(self) -> Float[Tensor, ""]:
        """Return the roughness in time of layer 0, for convolutions with free temporal filters.

        Raises TypeError for "custom_separable", whose filters `temporal_smoothness` penalises by their frequencies, and
        without temporal filters.
        """
        if isinstance(self.convolutions[0], STSeparableBatchConv3d):
            raise TypeError("temporal_laplace is of free temporal filters; of sines and cosines: temporal_smoothness")
        return self.temporal_smoothness()

    def group_sparsity_0(self) -> Float[Tensor, ""]:
        """Return the group sparsity over input channels, summed over all layers (the published name)."""
        return self.group_sparsity(first_layer=0)

    def group_sparsity(self, first_layer: int = 1) -> Float[Tensor, ""]:
        """Return the group sparsity over input channels, summed over the layers from `first_layer` on."""
        penalties = [group_sparsity(conv.weight_grouped) for conv in self.convolutions[first_layer:]]
        return torch.stack(penalties).sum() if penalties else torch.zeros(())

    def penalties(self) -> dict[str, Float[Tensor, ""]]:
        """Return the weighted penalties whose weight is not zero, by the name of the weight without `gamma_`."""
        terms = {
            "input": (self.gamma_input, self.spatial_laplace),
            "hidden": (self.gamma_hidden, lambda: self.group_sparsity(first_layer=1)),
            "temporal": (self.gamma_temporal, self.temporal_smoothness),
            "in_sparse": (self.gamma_in_sparse, lambda: self.group_sparsity(first_layer=0)),
        }
        return {name: gamma * term() for name, (gamma, term) in terms.items() if gamma}


class SimpleCoreWrapper(ConvolutionalCore):
    """Layers of space-time convolution, batch norm, bias, ELU and, if asked for, dropout and spatial max pooling.

    Args:
        channels: numbers of channels `(stimulus, layer 0, layer 1, ...)`.
        temporal_kernel_sizes: frames per filter of each layer.
        spatial_kernel_sizes: height and width in pixels of each layer's filters.
        gamma_input: weight of the spatial roughness of layer 0.
        gamma_temporal: weight of the roughness in time ("custom_separable": all layers, otherwise layer 0).
        gamma_in_sparse: weight of the group sparsity over input channels in all layers.
        gamma_hidden: weight of the group sparsity over input channels in all layers but layer 0.
        dropout_rate: probability of dropping a whole feature map.
        cut_first_n_frames: frames cut from the front of the output. The published default, 30, belongs to padded
            convolutions; valid ones have already lost the frames without a full history, hence 0 here.
        maxpool_every_n_layers: pool 2 x 2 pixels after layers 0, n, 2n, ...
        downsample_input_kernel_size: average pooling (time, height, width) of the stimulus; time must be 1.
        input_padding: of layer 0, see `resolve_padding`.
        hidden_padding: of the other layers.
        color_squashing_weights: fixed weights that turn a coloured stimulus into a grey one.
        convolution_type: "custom_separable", "separable", "full" or "time_independent".
        n_neurons_dict: the sessions; needed only for `learn_session_log_speed`.
        learn_session_log_speed: learn one stretch in time per session for all filters ("custom_separable" only); an
            unknown session gets the unstretched filters.
        published_behaviour: compute what openretina 1.1.1 does where that is a defect: padding in time, and in
            both convolutions of "separable".

    Raises ValueError for sizes that do not fit each other.

    """

    def __init__(
        self,
        channels: Sequence[int],
        temporal_kernel_sizes: Sequence[int],
        spatial_kernel_sizes: Sequence[int],
        gamma_input: float = 0.0,
        gamma_temporal: float = 0.0,
        gamma_in_sparse: float = 0.0,
        gamma_hidden: float = 0.0,
        dropout_rate: float = 0.0,
        cut_first_n_frames: int = 0,
        maxpool_every_n_layers: int | None = None,
        downsample_input_kernel_size: Sequence[int] | None = None,
        input_padding: Padding = False,
        hidden_padding: Padding = True,
        color_squashing_weights: Sequence[float] | None = None,
        convolution_type: str = "custom_separable",
        n_neurons_dict: Mapping[str, int] | None = None,
        learn_session_log_speed: bool = False,
        published_behaviour: bool = False,
    ):
        super().__init__(gamma_input, gamma_temporal, gamma_in_sparse, gamma_hidden)
        n_layers = len(channels) - 1
        if n_layers < 1 or len(temporal_kernel_sizes) != n_layers or len(spatial_kernel_sizes) != n_layers:
            raise ValueError(
                f"channels must name the stimulus and each layer, kernel sizes each layer, got {list(channels)}, "
                f"{list(temporal_kernel_sizes)} and {list(spatial_kernel_sizes)}"
            )
        if downsample_input_kernel_size is not None and downsample_input_kernel_size[0] != 1:
            raise ValueError(
                f"downsample_input_kernel_size must leave time alone, got {list(downsample_input_kernel_size)}"
            )
        self.cut_first_n_frames = cut_first_n_frames
        self.downsample_input_kernel_size = (
            tuple(downsample_input_kernel_size) if downsample_input_kernel_size is not None else None
        )
        self.color_squashing_layer = None
        n_channels = list(channels)
        if color_squashing_weights is not None:
            if n_channels[0] not in (1, len(color_squashing_weights)):
                raise ValueError(
                    f"{len(color_squashing_weights)} color_squashing_weights for {n_channels[0]} stimulus channels"
                )
            self.color_squashing_layer = WeightedChannelSumLayer(color_squashing_weights)
            n_channels[0] = 1
        conv_class = get_conv_class(convolution_type)
        self.session_dependent = learn_session_log_speed
        log_speeds = session_log_speeds(n_neurons_dict, convolution_type) if learn_session_log_speed else {}
        self.features = nn.Sequential()
        for i in range(n_layers):
            conv = conv_class(
                n_channels[i],
                n_channels[i + 1],
                log_speed_dict=log_speeds,
                temporal_kernel_size=temporal_kernel_sizes[i],
                spatial_kernel_size=spatial_kernel_sizes[i],
                bias=False,
                padding=input_padding if i == 0 else hidden_padding,
                published_behaviour=published_behaviour,
            )
            layer: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
            layer["norm"] = nn.BatchNorm3d(n_channels[i + 1], momentum=0.1)
            layer["bias"] = Bias3DLayer(n_channels[i + 1])
            layer["nonlin"] = nn.ELU()
            if dropout_rate > 0:
                layer["dropout"] = nn.Dropout3d(dropout_rate)
            if maxpool_every_n_layers is not None and i % maxpool_every_n_layers == 0:
                layer["pool"] = nn.MaxPool3d((1, 2, 2))
            self.features.add_module(f"layer{i}", nn.Sequential(layer))
        self._check_penalties()
        self.lag = cut_first_n_frames + sum(conv.lag for conv in self.convolutions)
        axes = [self._offset_and_stride(axis) for axis in (0, 1)]
        self.spatial_offset, self.spatial_stride = zip(*axes, strict=True)

    def _offset_and_stride(self, axis: int) -> tuple[float, float]:
        """Return input pixel under output pixel 0, and input pixels per output pixel, along height (0) or width (1)."""
        offset, stride = 0.0, 1.0
        if self.downsample_input_kernel_size is not None:
            size = self.downsample_input_kernel_size[1 + axis]
            offset, stride = (size - 1) / 2, float(size)
        for layer, conv in zip(self.features, self.convolutions, strict=True):
            offset += stride * ((conv.kernel_size[1 + axis] - 1) / 2 - conv.padding_before[axis])
            if hasattr(layer, "pool"):
                offset, stride = offset + stride / 2, stride * 2
        return offset, stride

    def forward(
        self, input_: Float[Tensor, "batch channel time height width"], data_key: str | None = None
    ) -> Float[Tensor, "batch feature out_time out_height out_width"]:
        """Return the feature maps, `lag` frames shorter than the stimulus."""
        x = input_
        if self.color_squashing_layer is not None:
            x = self.color_squashing_layer(x)
        if self.downsample_input_kernel_size is not None:
            x = F.avg_pool3d(x, self.downsample_input_kernel_size)
        for layer in self.features:
            x = run_layer(layer, x, data_key)
        return x[:, :, self.cut_first_n_frames :]


def run_layer(layer: nn.Module, x: Tensor, data_key: str | None) -> Tensor:
    """Return what a layer makes of `x`; its convolution, where it has one, is told the session."""
    if not hasattr(layer, "conv"):
        return layer(x)
    x = layer.conv((x, data_key))  # type: ignore[operator]
    for name, module in layer.named_children():
        if name != "conv":
            x = module(x)
    return x


def session_log_speeds(sessions: Mapping[str, int] | None, convolution_type: str) -> dict[str, nn.Parameter]:
    """Return a trainable log speed of 0 per session; raises ValueError without sessions or filters to stretch."""
    if not sessions:
        raise ValueError("a log speed per session needs n_neurons_dict, which names the sessions")
    if convolution_type != "custom_separable":
        raise ValueError(
            f"a log speed per session needs convolution_type custom_separable, not {convolution_type}: only filters "
            "made of sines and cosines can be stretched in time"
        )
    return {session: nn.Parameter(torch.zeros(1)) for session in sessions}
