"""Space-time convolutions of the core: valid in time, so that an output frame never sees a later input frame.

All four take the same arguments, `(in_channels, out_channels, log_speed_dict, temporal_kernel_size,
spatial_kernel_size, ...)`, map `(batch, channel, time, height, width)` to
`(batch, out_channels, time - lag, out_height, out_width)` and tell their `lag`. See `resolve_padding` for padding.
"""

import math
import warnings
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from coread.modules.layers.padding import Padding, divided, pad_sides, resolve_padding
from coread.modules.layers.regularizers import temporal_smoothing as temporal_smoothing  # a published place
from coread.modules.layers.space_time_conv import LayerInput, SpaceTimeConv
from coread.modules.layers.time_filters import block_length, correlate_pairs, correlate_shared

# What writing, copying and reading back one element of an intermediate tensor costs, in multiply-adds, and one
# multiply-add of a dense convolution. With these the fastest of the three ways below was chosen for 42 of 45 layers
# that were timed on CPU cores, from crops of a few pixels to whole movies; the others took at most 1.3 times as long.
ELEMENT_COST = {"pairs": 250, "shared": 40}
DENSE_COST = 1.25


class TorchFullConv3D(SpaceTimeConv):
    """One dense space-time filter per pair of input and output channel; log speeds have no effect."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        log_speed_dict: Mapping[str, float | Tensor],
        temporal_kernel_size: int,
        spatial_kernel_size: int,
        spatial_kernel_size2: int | None = None,
        stride: int = 1,
        padding: Padding = 0,
        bias: bool = True,
        num_scans: int = 1,
        published_behaviour: bool = False,
    ):
        kernel_size = (temporal_kernel_size, spatial_kernel_size, spatial_kernel_size2 or spatial_kernel_size)
        super().__init__(in_channels, out_channels, log_speed_dict, kernel_size, stride, num_scans)
        self.register_buffer("_log_speed_default", torch.zeros(1))
        self.sides = resolve_padding(padding, kernel_size, published_behaviour)
        self.lag -= sum(self.sides[0])
        self.conv = nn.Conv3d(in_channels, out_channels, kernel_size, bias=bias)

    @property
    def weight_spatial(self) -> Float[Tensor, "out in_time 1 height width"]:
        """Every time slice of every filter, `(out, in * time, 1, height, width)`."""
        return self.conv.weight.flatten(1, 2).unsqueeze(2)

    @property
    def weight_grouped(self) -> Float[Tensor, "out in time height width"]:
        """The dense filters."""
        return self.conv.weight

    def forward(self, input_: LayerInput) -> Float[Tensor, "batch out out_time out_height out_width"]:
        """Convolve `(batch, channel, time, height, width)`."""
        x, _ = self._unpack(input_)
        return self.conv(pad_sides(x, self.sides))


class TorchSTSeparableConv3D(SpaceTimeConv):
    """A spatial convolution, then a temporal one that mixes the output channels; a log speed scales the output.

    `published_behaviour=True` applies the padding to both convolutions, so that space is padded twice.
    """

    _log_speed_default: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        log_speed_dict: Mapping[str, float | Tensor],
        temporal_kernel_size: int,
        spatial_kernel_size: int,
        spatial_kernel_size2: int | None = None,
        stride: int = 1,
        padding: Padding = 0,
        bias: bool = True,
        num_scans: int = 1,
        published_behaviour: bool = False,
    ):
        kernel_size = (temporal_kernel_size, spatial_kernel_size, spatial_kernel_size2 or spatial_kernel_size)
        super().__init__(in_channels, out_channels, log_speed_dict, kernel_size, stride, num_scans)
        self.register_buffer("_log_speed_default", torch.zeros(1))
        space_kernel, time_kernel = (1, *kernel_size[1:]), (temporal_kernel_size, 1, 1)
        time, height, width = resolve_padding(padding, kernel_size)
        self.space_sides, self.time_sides = ((0, 0), height, width), (time, (0, 0), (0, 0))
        if published_behaviour:
            self.space_sides = resolve_padding(padding, space_kernel, published_behaviour)
            self.time_sides = resolve_padding(padding, time_kernel, published_behaviour)
        self.lag -= sum(self.space_sides[0]) + sum(self.time_sides[0])
        self.space_conv = nn.Conv3d(in_channels, out_channels, space_kernel, bias=bias)
        self.time_conv = nn.Conv3d(out_channels, out_channels, time_kernel, bias=bias)

    @property
    def padding_before(self) -> tuple[int, int]:
        """Rows of zeros above and columns of zeros left of the input, over both convolutions."""
        (_, above, left), (_, above_time, left_time) = self.space_sides, self.time_sides
        return above[0] + above_time[0], left[0] + left_time[0]

    @property
    def weight_spatial(self) -> Float[Tensor, "out in 1 height width"]:
        """Spatial filters."""
        return self.space_conv.weight

    def filters(self) -> Float[Tensor, "out in time height width"]:
        """Return the dense filters between every pair of channels, over both convolutions."""
        time, space = self.time_conv.weight[..., 0, 0], self.space_conv.weight[:, :, 0]
        return torch.einsum("omt,mihw->oithw", time, space)

    def forward(self, input_: LayerInput) -> Float[Tensor, "batch out out_time out_height out_width"]:
        """Convolve `(batch, channel, time, height, width)`."""
        x, data_key = self._unpack(input_)
        log_speed = self.log_speed(data_key)
        scale = torch.exp(self._log_speed_default if log_speed is None else log_speed)
        return scale * self.time_conv(pad_sides(self.space_conv(pad_sides(x, self.space_sides)), self.time_sides))


class TimeIndependentConv3D(SpaceTimeConv):
    """The same spatial convolution for every frame; `temporal_kernel_size` and log speeds have no effect."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        log_speed_dict: Mapping[str, float | Tensor],
        temporal_kernel_size: int,
        spatial_kernel_size: int,
        spatial_kernel_size2: int | None = None,
        stride: int = 1,
        padding: Padding = 0,
        bias: bool = True,
        num_scans: int = 1,
        published_behaviour: bool = False,
    ):
        kernel_size = (1, spatial_kernel_size, spatial_kernel_size2 or spatial_kernel_size)
        super().__init__(in_channels, out_channels, log_speed_dict, kernel_size, stride, num_scans)
        self.sides = resolve_padding(padding, kernel_size, published_behaviour)
        self.lag -= sum(self.sides[0])
        self.conv = nn.Conv3d(in_channels, out_channels, kernel_size, bias=bias)

    @property
    def weight_spatial(self) -> Float[Tensor, "out in 1 height width"]:
        """Spatial filters."""
        return self.conv.weight

    def forward(self, input_: LayerInput) -> Float[Tensor, "batch out out_time out_height out_width"]:
        """Convolve `(batch, channel, time, height, width)`."""
        x, _ = self._unpack(input_)
        return self.conv(pad_sides(x, self.sides))


class STSeparableBatchConv3d(SpaceTimeConv):
    """A rank-one filter, spatial times temporal, per pair of input and output channel (Hoefling et al. 2024).

    The temporal filter is a weighted sum of masked sines and cosines, its length over `subsampling_factor` of each (at
    least one; `published_behaviour=True` has none where the filter is shorter, and the output is zero).

    The dense filters `weight` are rarely expanded: either every pair is filtered in space and then in time, or the
    input is filtered with the temporal basis functions that all pairs share and then in space. Both give the dense
    convolution up to rounding, with fewer operations; `cheapest_way` counts them.
    """

    weight_spatial: nn.Parameter
    _log_speed_default: Tensor
    _basis: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        log_speed_dict: Mapping[str, float | Tensor],
        temporal_kernel_size: int,
        spatial_kernel_size: int,
        spatial_kernel_size2: int | None = None,
        stride: int = 1,
        padding: Padding = 0,
        num_scans: int = 1,
        bias: bool = True,
        subsampling_factor: int = 3,
        published_behaviour: bool = False,
    ):
        kernel_size = (temporal_kernel_size, spatial_kernel_size, spatial_kernel_size2 or spatial_kernel_size)
        super().__init__(in_channels, out_channels, log_speed_dict, kernel_size, stride, num_scans)
        self.sides = resolve_padding(padding, kernel_size, published_behaviour)
        self.lag -= sum(self.sides[0])
        if subsampling_factor < 1:
            raise ValueError(f"subsampling_factor must be at least 1, got {subsampling_factor}")
        n_frequencies = temporal_kernel_size // subsampling_factor
        if n_frequencies == 0 and published_behaviour:
            warnings.warn(f"{temporal_kernel_size=} has no temporal basis, the output is zero", stacklevel=2)
        elif n_frequencies == 0:
            n_frequencies = 1
        self.sin_weights = nn.Parameter(0.01 * torch.randn(out_channels, in_channels, n_frequencies))
        self.cos_weights = nn.Parameter(0.01 * torch.randn(out_channels, in_channels, n_frequencies))
        self.weight_spatial = nn.Parameter(0.01 * torch.randn(out_channels, in_channels, 1, *kernel_size[1:]))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.register_buffer("_log_speed_default", torch.zeros(1))
        self.register_buffer("_basis", self._compute_basis(self._log_speed_default), persistent=False)
        self.register_load_state_dict_post_hook(_refresh_basis)

    @staticmethod
    def mask_tf(time: Float[Tensor, " time"], stretch: Float[Tensor, "1"], T: int) -> Float[Tensor, " time"]:  # noqa: N803
        """Return the sigmoid that fades the basis functions out towards the oldest frames."""
        return torch.sigmoid(time + int(T * 0.95) / stretch)

    @staticmethod
    def temporal_basis(
        stretches: Float[Tensor, "1"],
        length: int,
        subsampling_factor: int = 3,
        n_frequencies: int | None = None,
    ) -> tuple[Float[Tensor, "frequency time"], Float[Tensor, "frequency time"]]:
        """Return masked sines and cosines of 0, 1, ... periods over `length` frames, the current frame last.

        There are `n_frequencies` of each, by default `length // subsampling_factor`.
        """
        n_frequencies = length // subsampling_factor if n_frequencies is None else n_frequencies
        time = torch.arange(-length, 0, dtype=stretches.dtype, device=stretches.device)
        frequencies = torch.arange(n_frequencies, dtype=stretches.dtype, device=stretches.device)
        phase = frequencies[:, None] * (2 * math.pi / length) * stretches * time
        mask = STSeparableBatchConv3d.mask_tf(time, stretches, length)
        return mask * torch.sin(phase), mask * torch.cos(phase)

    def _compute_basis(self, log_speed: Tensor) -> Float[Tensor, "function time"]:
        """Return the basis functions, the sines first and without the one of no periods, which is zero.

        Computed in float64, to lose nothing to rounding.
        """
        stretch = torch.exp(log_speed.double())
        sines, cosines = self.temporal_basis(stretch, self.kernel_size[0], n_frequencies=self.sin_weights.shape[2])
        return torch.cat([sines[1:], cosines]).to(self.sin_weights.dtype)

    def temporal_basis_of(self, data_key: str | None = None) -> Float[Tensor, "function time"]:
        """Return the basis functions of a session: cached, unless the session has its own log speed."""
        log_speed = self.log_speed(data_key)
        return self._basis if log_speed is None else self._compute_basis(log_speed)

    @property
    def weights_temporal(self) -> Float[Tensor, "out in function"]:
        """Weights of the basis functions, the sines first."""
        return torch.cat([self.sin_weights[..., 1:], self.cos_weights], dim=2)

    def weight(self, data_key: str | None = None) -> Float[Tensor, "out in time height width"]:
        """Return the dense filters."""
        kernels = self.weights_temporal @ self.temporal_basis_of(data_key)
        return kernels[..., None, None] * self.weight_spatial

    def filters(self) -> Float[Tensor, "out in time height width"]:
        """Return the dense filters of a session without a log speed."""
        return self.weight()

    def cheapest_way(self, time: int, height: int, width: int) -> str:
        """Return "pairs", "shared" or "dense" for a padded input of this size, by a count of operations."""
        n_taps, kernel_height, kernel_width = self.kernel_size
        pairs, area = self.in_channels * self.out_channels, kernel_height * kernel_width
        points_in, points_out = height * width, (height - kernel_height + 1) * (width - kernel_width + 1)
        out_time = time - n_taps + 1
        banded = block_length(out_time, n_taps) + n_taps - 1  # frames read per output frame, zeros included
        functions = self.in_channels * self._basis.shape[0]
        if functions == 0:
            return "dense"
        shared_time = functions * out_time * points_in * (banded + ELEMENT_COST["shared"])
        operations = {
            "pairs": pairs * points_out * (area * time + out_time * banded + ELEMENT_COST["pairs"] * time),
            "shared": shared_time + functions * out_time * points_out * self.out_channels * area,
            "dense": DENSE_COST * pairs * n_taps * area * out_time * points_out,
        }
        return min(operations, key=lambda way: operations[way])

    def forward(self, input_: LayerInput) -> Float[Tensor, "batch out out_time out_height out_width"]:
        """Convolve `(batch, channel, time, height, width)`; raises ValueError for an input shorter than the filter."""
        x, data_key = self._unpack(input_)
        before, around = divided(self.sides)
        x = pad_sides(x, before)
        if x.shape[2] < self.kernel_size[0]:
            raise ValueError(
                f"input of {x.shape[2]} frames is shorter than the temporal filter of {self.kernel_size[0]}"
            )
        time, height, width = x.shape[2:]
        way = self.cheapest_way(time, height + 2 * around[0], width + 2 * around[1])
        if way == "pairs":
            y = self._convolve_pairs(x, self.temporal_basis_of(data_key), around)
        elif way == "shared":
            y = self._convolve_shared(x, self.temporal_basis_of(data_key), around)
        else:
            y = F.conv3d(x, self.weight(data_key), padding=(0, *around))
        return y if self.bias is None else y + self.bias[:, None, None, None]

    def _convolve_pairs(self, x: Tensor, basis: Float[Tensor, "function time"], around: tuple[int, int]) -> Tensor:
        batch, _, time = x.shape[:3]
        of_channels = self._filtered_in_space(x, around)
        height, width = of_channels[0].shape[2:]
        # (out, in, time, batch, point), copied once into the order in which time is filtered
        maps = torch.stack([y.unflatten(0, (batch, time)).flatten(3).permute(2, 1, 0, 3) for y in of_channels], dim=1)
        y = correlate_pairs(maps.flatten(3).transpose(0, 1), self.weights_temporal @ basis)
        return y.view(self.out_channels, -1, batch, height, width).permute(2, 0, 1, 3, 4)

    def _filtered_in_space(self, x: Tensor, around: tuple[int, int]) -> tuple[Tensor, ...]:
        """Return the frames `(batch time, out, height, width)` of every input channel, filtered."""
        if x.requires_grad:  # gradients with respect to single channels are slow
            kernels = self.weight_spatial.transpose(0, 1).flatten(0, 2).unsqueeze(1)
            maps = F.conv2d(x.transpose(1, 2).flatten(0, 1), kernels, groups=self.in_channels, padding=around)
            return maps.unflatten(1, (self.in_channels, -1)).unbind(1)
        # of stimuli: a grouped convolution takes three times as long
        of_channels = zip(x.unbind(1), self.weight_spatial.unbind(1), strict=True)
        return tuple(F.conv2d(y.flatten(0, 1).unsqueeze(1), kernels, padding=around) for y, kernels in of_channels)

    def _convolve_shared(self, x: Tensor, basis: Float[Tensor, "function time"], around: tuple[int, int]) -> Tensor:
        batch, n_in, _, height, width = x.shape
        filtered = correlate_shared(x.flatten(3).flatten(0, 1), basis).unflatten(0, (batch, n_in))
        # channels last in memory, in which the convolution takes half the time or less
        frames = filtered.permute(0, 2, 4, 1, 3).flatten(3).flatten(0, 1).unflatten(1, (height, width))
        kernels = (self.weights_temporal[..., None, None] * self.weight_spatial).flatten(1, 2)
        y = F.conv2d(frames.permute(0, 3, 1, 2), kernels, padding=around)
        return y.unflatten(0, (batch, -1)).transpose(1, 2).contiguous()


def _refresh_basis(module: nn.Module, _incompatible_keys: object) -> None:
    """Recompute the cached basis, because a loaded state may bring another default log speed."""
    assert isinstance(module, STSeparableBatchConv3d)
    module._basis = module._compute_basis(module._log_speed_default)


def compute_temporal_kernel(
    log_speed: Float[Tensor, "1"],
    sin_weights: Float[Tensor, "out in frequency"],
    cos_weights: Float[Tensor, "out in frequency"],
    length: int,
    subsampling_factor: int | None = None,
) -> Float[Tensor, "out in time 1 1"]:
    """Return the temporal filters of weights on the masked sines and cosines.

    Raises ValueError if there are not `length // subsampling_factor` weights, where a factor is given.
    """
    n_frequencies = sin_weights.shape[2]
    if subsampling_factor is not None and n_frequencies != length // subsampling_factor:
        raise ValueError(f"{n_frequencies} weights for {length=} and {subsampling_factor=}")
    sines, cosines = STSeparableBatchConv3d.temporal_basis(torch.exp(log_speed), length, n_frequencies=n_frequencies)
    return (sin_weights @ sines + cos_weights @ cosines)[..., None, None]


ConvolutionClass = (
    type[STSeparableBatchConv3d] | type[TorchSTSeparableConv3D] | type[TorchFullConv3D] | type[TimeIndependentConv3D]
)
CONVOLUTION_TYPES: dict[str, ConvolutionClass] = {
    "custom_separable": STSeparableBatchConv3d,
    "separable": TorchSTSeparableConv3D,
    "full": TorchFullConv3D,
    "time_independent": TimeIndependentConv3D,
}


def get_conv_class(conv_type: str) -> ConvolutionClass:
    """Return the convolution of a name; raises ValueError for an unknown one."""
    if conv_type not in CONVOLUTION_TYPES:
        raise ValueError(f"unknown convolution type {conv_type!r}, expected one of {sorted(CONVOLUTION_TYPES)}")
    return CONVOLUTION_TYPES[conv_type]
