"""Linear-nonlinear readout of the stimulus around each neuron's receptive field, every neuron as if it were alone."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from coread.modules.layers.regularizers import Laplace, Laplace1d
from coread.modules.nonlinearities import get_nonlinearity
from coread.modules.readout.base import Readout, Reduction, projected_clamp, weighted
from coread.modules.readout.linear_nonlinear import START_GAIN, relative_power
from coread.modules.readout.multi_readout import MultiReadoutBase

PARAMETRIZED = "parametrized_softplus"


class SeparableLNPReadout(Readout):
    """Linear-nonlinear-Poisson models (Chichilnisky 2001) of patches around the neurons' receptive fields.

    A filter is the sum of `rank` products of an image `space_weights (neuron, rank, channel, height, width)` and a time
    course `time_weights (neuron, rank, frame)`, whose last frame is the current one. No number of one neuron depends on
    another neuron: all start from the same draw (of the generator's seed alone), penalties are means over neurons. For
    use with a `DummyCore`; the output is `lag = temporal_kernel_size - 1` bins shorter than the stimulus.

    Args:
        in_shape: `(channel, time, height, width)` of the stimulus.
        outdims: number of neurons.
        mean_activity: mean response `(neuron,)`, from which the bias starts, if there is one.
        rf_location: (y, x) of the centre of all patches, by default that of the frame; `initialize_positions` gives
            every neuron its own. At the border patches are moved inside.
        spat_kernel_size: (height, width) of a patch, at most those of the frame.
        temporal_kernel_size: frames per filter.
        rank: number of space-time products per filter.
        smooth_weight_spat: weight of the roughness of the images relative to their power.
        smooth_weight_temp: weight of the roughness of the time courses relative to their power.
        sparse_weight: weight of the mean absolute image plus the mean absolute time course.
        laplace_padding: pixels (frames) added around them before their roughness is taken; None keeps their size.
        nonlinearity: "softplus", "exp", "elu1", "identity", or "parametrized_softplus": gain w times softplus(x + b)
            with both learned per neuron.
        normalize_weights: use images and time courses divided by their length.
        bias: learn an offset per neuron.

    Raises ValueError for a patch larger than the frame.

    """

    rf_location: Tensor
    output_gain: Tensor | None

    def __init__(
        self,
        in_shape: Sequence[int],
        outdims: int,
        mean_activity: Float[Tensor, " neuron"] | None = None,
        rf_location: Sequence[int] | None = None,
        spat_kernel_size: Sequence[int] = (15, 15),
        temporal_kernel_size: int = 30,
        rank: int = 1,
        smooth_weight_spat: float = 0.0,
        smooth_weight_temp: float = 0.0,
        sparse_weight: float = 0.0,
        laplace_padding: int | None = None,
        nonlinearity: str | Callable[[Tensor], Tensor] = "softplus",
        normalize_weights: bool = False,
        bias: bool = True,
    ):
        parametrized = nonlinearity == PARAMETRIZED
        super().__init__(in_shape, outdims, get_nonlinearity("softplus" if parametrized else nonlinearity))
        channels, _, height, width = self.in_shape
        size = (int(spat_kernel_size[0]), int(spat_kernel_size[1]))
        if not (1 <= size[0] <= height and 1 <= size[1] <= width):
            raise ValueError(f"spat_kernel_size {size} is larger than the frame {(height, width)}, make it smaller")
        if not 1 <= rank <= temporal_kernel_size:
            raise ValueError(f"need 1 <= rank <= temporal_kernel_size, got {rank} and {temporal_kernel_size}")
        self.kernel_size = size
        self.lag = temporal_kernel_size - 1
        self.rank = rank
        self.smooth_weight_spat = smooth_weight_spat
        self.smooth_weight_temp = smooth_weight_temp
        self.sparse_weight = sparse_weight
        self.normalize_weights = normalize_weights
        location = torch.tensor([height // 2, width // 2] if rf_location is None else list(rf_location))
        self.register_buffer("rf_location", location.expand(outdims, 2).clone())
        # not from the global generator: a cell must not start elsewhere because of the sessions before it
        generator = torch.Generator().manual_seed(torch.initial_seed())
        space = torch.randn(rank, channels, *size, generator=generator)
        time = torch.randn(rank, temporal_kernel_size, generator=generator)
        gain = (channels * size[0] * size[1] * temporal_kernel_size) ** -0.25
        self.space_weights = nn.Parameter((gain * space).repeat(outdims, 1, 1, 1, 1))
        self.time_weights = nn.Parameter((gain * time).repeat(outdims, 1, 1))
        self.register_parameter("bias", nn.Parameter(torch.zeros(outdims)) if bias or parametrized else None)
        self.register_parameter("output_gain", nn.Parameter(torch.ones(outdims)) if parametrized else None)
        self._laplace = Laplace(padding=laplace_padding, persistent_buffer=False)
        self._laplace_time = Laplace1d(padding=laplace_padding, persistent_buffer=False)
        self.initialize(mean_activity)

    @property
    def _space(self) -> Float[Tensor, "neuron rank channel height width"]:
        return _unit(self.space_weights) if self.normalize_weights else self.space_weights

    @property
    def _time(self) -> Float[Tensor, "neuron rank frame"]:
        return _unit(self.time_weights) if self.normalize_weights else self.time_weights

    @property
    def filters(self) -> Float[Tensor, "neuron lag channel height width"]:
        """The space-time filters on their patches, the current frame first."""
        return torch.einsum("nkt,nkchw->ntchw", self._time, self._space).flip(1)

    @property
    def masks(self) -> Float[Tensor, "height width neuron"]:
        """The first image of every neuron in its place, summed over channels, neurons last."""
        height, width = self.in_shape[2:]
        frame = torch.zeros(self.outdims, height * width, device=self.device)
        images = self._space[:, 0].sum(1).flatten(1)
        return frame.scatter(1, self.patches(), images).unflatten(1, (height, width)).permute(1, 2, 0)

    def patches(self) -> Int[Tensor, "neuron pixel"]:
        """Return the pixels of every neuron's patch, counted row by row through the frame."""
        height, width = self.in_shape[2:]
        first = self.rf_location - torch.tensor(self.kernel_size, device=self.rf_location.device) // 2
        top = first[:, 0].clamp(min=0, max=height - self.kernel_size[0])
        left = first[:, 1].clamp(min=0, max=width - self.kernel_size[1])
        rows = top[:, None] + torch.arange(self.kernel_size[0], device=top.device)
        columns = left[:, None] + torch.arange(self.kernel_size[1], device=left.device)
        return (rows[:, :, None] * width + columns[:, None, :]).flatten(1)

    def forward(
        self, x: Float[Tensor, "batch channel time height width"], data_key: str | None = None
    ) -> Float[Tensor, "batch out_time neuron"]:
        """Return the responses to whole frames, or to frames that are cut to the patch size.

        Raises ValueError for a stimulus of another size or shorter than the filters.
        """
        sizes = (self.in_shape[2:], self.kernel_size)
        if x.shape[1] != self.in_shape[0] or tuple(x.shape[3:]) not in sizes or x.shape[2] <= self.lag:
            raise ValueError(
                f"stimulus is {tuple(x.shape[1:])}, the readout needs {self.in_shape}, or frames of "
                f"{self.kernel_size}, with more than {self.lag} frames"
            )
        batch, _, time = x.shape[:3]
        pixels = x.transpose(1, 2).flatten(3)
        if tuple(x.shape[3:]) == self.in_shape[2:]:
            seen = pixels[..., self.patches()].permute(3, 0, 1, 2, 4)
        else:
            seen = pixels.expand(self.outdims, *pixels.shape)
        # one product per neuron, whose rounding does not depend on how many neurons there are
        drive = torch.bmm(seen.reshape(self.outdims, batch * time, -1), self._space.flatten(2).transpose(1, 2))
        drive = drive.unflatten(1, (batch, time)).permute(1, 0, 3, 2).flatten(1, 2)
        y = F.conv1d(drive, self._time, groups=self.outdims).transpose(1, 2)
        y = self.nonlinearity(y if self.bias is None else y + self.bias)
        return y if self.output_gain is None else projected_clamp(self.output_gain, 0.0) * y

    def penalties(self, reduction: Reduction = "sum") -> dict[str, Float[Tensor, ""]]:
        """Return the penalties on the filters; both reductions are the mean over neurons."""
        space, time = self._space, self._time
        images, traces = space.flatten(0, 2).unsqueeze(1), time.flatten(0, 1).unsqueeze(1)
        n = self.outdims
        return weighted(
            smooth_spat=(
                self.smooth_weight_spat,
                lambda: relative_power(self._laplace(images), images, n).mean(),
            ),
            smooth_temp=(
                self.smooth_weight_temp,
                lambda: relative_power(self._laplace_time(traces), traces, n).mean(),
            ),
            sparse=(self.sparse_weight, lambda: space.abs().mean() + time.abs().mean()),
        )

    @torch.no_grad()
    def initialize_positions(
        self, positions: Float[Tensor, "neuron 2"], sigma: float | Float[Tensor, " neuron"] | None = None
    ) -> None:
        """Centre the patches on the pixels nearest to `positions`, (x, y) in [-1, 1]; `sigma` is not used."""
        size = torch.tensor(self.in_shape[2:])
        pixels = (self.check_positions(positions).flip(1) + 1) / 2 * (size - 1)
        self.rf_location.copy_(pixels.round())

    @torch.no_grad()
    def initialize_filters(self, sta: Float[Tensor, "neuron lag channel height width"]) -> None:
        """Start from the best approximation of rank `rank` to the patches of spike-triggered averages.

        Lag 0 is the current bin. Neurons without one (all zero, or not finite) keep their filters. Raises ValueError
        for another shape.
        """
        sta = torch.as_tensor(sta, dtype=torch.float32, device=self.device)
        shape = (self.outdims, self.lag + 1, self.in_shape[0], *self.in_shape[2:])
        if sta.shape != shape:
            raise ValueError(f"the filters need spike-triggered averages {shape}, got {tuple(sta.shape)}")
        index = self.patches()[:, None, None].expand(-1, *shape[1:3], -1)
        patch = sta.flatten(3).gather(3, index).flip(1).flatten(2)
        usable = torch.isfinite(patch).flatten(1).all(1) & (patch.flatten(1).abs().amax(1) > 0)
        matrices = patch[usable]
        matrices = START_GAIN * matrices / torch.linalg.matrix_norm(matrices)[:, None, None]
        temporal, power, spatial = torch.linalg.svd(matrices, full_matrices=False)
        root = power[:, : self.rank].sqrt()
        n_found = root.shape[1]  # few pixels have fewer products than asked for
        self.time_weights[usable, :n_found] = (temporal[:, :, :n_found] * root[:, None]).transpose(1, 2)
        self.space_weights[usable, :n_found] = (spatial[:, :n_found] * root[:, :, None]).unflatten(
            2, self.space_weights.shape[2:]
        )


def _unit(weights: Float[Tensor, "neuron *shape"]) -> Float[Tensor, "neuron *shape"]:
    """Return every neuron's weights divided by their length."""
    norm = weights.flatten(1).norm(dim=1).clamp(min=1e-12)
    return weights / norm.reshape(-1, *[1] * (weights.dim() - 1))


class MultiSeparableLNPReadout(MultiReadoutBase):
    """One `SeparableLNPReadout` per session."""

    _base_readout_cls = SeparableLNPReadout

    def __init__(
        self,
        in_shape: Sequence[int],
        n_neurons_dict: Mapping[str, int],
        rf_location: Sequence[int] | None = None,
        spat_kernel_size: Sequence[int] = (15, 15),
        temporal_kernel_size: int = 30,
        rank: int = 1,
        smooth_weight_spat: float = 0.0,
        smooth_weight_temp: float = 0.0,
        sparse_weight: float = 0.0,
        laplace_padding: int | None = None,
        nonlinearity: str | Callable[[Tensor], Tensor] = "softplus",
        normalize_weights: bool = False,
        bias: bool = True,
        mean_activity_dict: Mapping[str, Float[Tensor, " neuron"]] | None = None,
        readout_reg_avg: bool = False,
    ):
        super().__init__(
            in_shape=in_shape,
            n_neurons_dict=n_neurons_dict,
            mean_activity_dict=mean_activity_dict,
            readout_reg_avg=readout_reg_avg,
            rf_location=rf_location,
            spat_kernel_size=spat_kernel_size,
            temporal_kernel_size=temporal_kernel_size,
            rank=rank,
            smooth_weight_spat=smooth_weight_spat,
            smooth_weight_temp=smooth_weight_temp,
            sparse_weight=sparse_weight,
            laplace_padding=laplace_padding,
            nonlinearity=nonlinearity,
            normalize_weights=normalize_weights,
            bias=bias,
        )
