"""Linear-nonlinear readout of the stimulus itself: one space-time filter per neuron, the baseline of all models."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from coread.modules.layers.regularizers import EPSILON, Laplace, Laplace1d
from coread.modules.nonlinearities import get_nonlinearity
from coread.modules.readout.base import Readout, Reduction, weighted
from coread.modules.readout.multi_readout import MultiReadoutBase

START_GAIN = 0.1  # norm of a filter that starts from an STA, whose scale says nothing about the gain


class LNPReadout(Readout):
    """Linear-nonlinear-Poisson model (Chichilnisky 2001) with filters that are sums of `rank` space-time products.

    For use with a `DummyCore`. Output bin t sees the `temporal_kernel_size` frames that end with frame t, so that the
    output is `lag = temporal_kernel_size - 1` bins shorter than the stimulus. Parameters: `spatial_weights (neuron,
    rank, channel, height, width)` and `temporal_weights (neuron, rank, frame)`, whose last frame is the current one.
    The published readout, one static image per neuron, is `temporal_kernel_size=1`; its state dict can be loaded then.

    Args:
        in_shape: `(channel, time, height, width)` of the stimulus.
        outdims: number of neurons.
        mean_activity: mean response `(neuron,)`, from which the bias starts.
        smooth_weight: weight of the spatial roughness of the filters relative to their power.
        sparse_weight: weight of the mean absolute spatial weight.
        smooth_regularizer: how spatial roughness is taken: "LaplaceL2norm", the only one.
        laplace_padding: pixels added around the filters before their roughness is taken; None keeps their size.
        nonlinearity: "softplus", "exp" (the published default), "elu1" or "identity".
        bias: learn an offset per neuron; the published default is none.
        temporal_kernel_size: frames per filter.
        rank: number of space-time products per filter.
        temporal_smooth_weight: weight of the roughness of the filters in time relative to their power.
        published_behaviour: openretina 1.1.1: copy the mean rate into the bias; roughness of all filters together over
            their power together.

    Penalties are means over neurons. The arguments from `temporal_kernel_size` on are not among the published ones.
    Raises ValueError for a rank that is more than the number of frames, or another `smooth_regularizer`.

    """

    def __init__(
        self,
        in_shape: Sequence[int],
        outdims: int,
        mean_activity: Float[Tensor, " neuron"] | None = None,
        smooth_weight: float = 0.0,
        sparse_weight: float = 0.0,
        smooth_regularizer: str = "LaplaceL2norm",
        laplace_padding: int | None = None,
        nonlinearity: str | Callable[[Tensor], Tensor] = "softplus",
        bias: bool = True,
        temporal_kernel_size: int = 21,
        rank: int = 1,
        temporal_smooth_weight: float = 0.0,
        published_behaviour: bool = False,
    ):
        super().__init__(in_shape, outdims, get_nonlinearity(nonlinearity), published_behaviour)
        if smooth_regularizer != "LaplaceL2norm":
            raise ValueError(f"smooth_regularizer must be 'LaplaceL2norm', got {smooth_regularizer!r}")
        if not 1 <= rank <= temporal_kernel_size:
            raise ValueError(f"need 1 <= rank <= temporal_kernel_size, got {rank} and {temporal_kernel_size}")
        self.lag = temporal_kernel_size - 1
        self.rank = rank
        self.smooth_weight = smooth_weight
        self.temporal_smooth_weight = temporal_smooth_weight
        self.sparse_weight = sparse_weight
        channels, _, height, width = self.in_shape
        fan_in = channels * height * width * temporal_kernel_size
        self.spatial_weights = nn.Parameter(torch.randn(outdims, rank, channels, height, width) / fan_in**0.25)
        self.temporal_weights = nn.Parameter(torch.randn(outdims, rank, temporal_kernel_size) / fan_in**0.25)
        self.register_parameter("bias", nn.Parameter(torch.zeros(outdims)) if bias else None)
        self._laplace = Laplace(padding=laplace_padding, persistent_buffer=False)
        self._laplace_time = Laplace1d(persistent_buffer=False)
        self.initialize(mean_activity)

    @property
    def filters(self) -> Float[Tensor, "neuron lag channel height width"]:
        """The space-time filters, the current frame first."""
        return torch.einsum("nkt,nkchw->ntchw", self.temporal_weights, self.spatial_weights).flip(1)

    def forward(
        self, x: Float[Tensor, "batch channel time height width"], data_key: str | None = None
    ) -> Float[Tensor, "batch out_time neuron"]:
        """Return the responses, the same for any `data_key`.

        Raises ValueError for a stimulus of another size or shorter than the filters.
        """
        if (x.shape[1], *x.shape[3:]) != (self.in_shape[0], *self.in_shape[2:]) or x.shape[2] <= self.lag:
            raise ValueError(
                f"stimulus is {tuple(x.shape[1:])}, the readout needs {self.in_shape} with more than {self.lag} frames"
            )
        seen = x.transpose(1, 2).flatten(2) @ self.spatial_weights.flatten(0, 1).flatten(1).T
        y = F.conv1d(seen.transpose(1, 2), self.temporal_weights, groups=self.outdims)
        y = y if self.bias is None else y + self.bias[:, None]
        return self.nonlinearity(y).transpose(1, 2)

    def weights_l1(self, average: bool = True) -> Float[Tensor, ""]:
        """Return the mean (or sum) of the absolute spatial weights."""
        weights = self.spatial_weights.abs()
        return weights.mean() if average else weights.sum()

    def laplace(self) -> Float[Tensor, ""]:
        """Return the spatial roughness of the filters relative to their power, averaged over neurons."""
        images = self.spatial_weights.flatten(0, 2).unsqueeze(1)
        return self._roughness(self._laplace(images), images)

    def penalties(self, reduction: Reduction = "sum") -> dict[str, Float[Tensor, ""]]:
        """Return the penalties on the filters; both reductions are the mean over neurons."""
        traces = self.temporal_weights.flatten(0, 1).unsqueeze(1)
        return weighted(
            smooth=(self.smooth_weight, self.laplace),
            temporal_smooth=(self.temporal_smooth_weight, lambda: self._roughness(self._laplace_time(traces), traces)),
            sparse=(self.sparse_weight, self.weights_l1),
        )

    def _roughness(self, filtered: Tensor, original: Tensor) -> Float[Tensor, ""]:
        n_groups = 1 if self.published_behaviour else self.outdims
        return relative_power(filtered, original, n_groups).mean()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Read also the published names, of filters without time; the kernel of their penalty is a constant here."""
        state_dict.pop(f"{prefix}_smooth_reg_fn.laplace.filter", None)
        static = state_dict.pop(f"{prefix}inner_product_kernel.weight", None)
        if static is not None:
            state_dict[f"{prefix}spatial_weights"] = static.movedim(2, 1)
            state_dict[f"{prefix}temporal_weights"] = torch.ones(len(static), 1, 1)
            bias = state_dict.pop(f"{prefix}inner_product_kernel.bias", None)
            if bias is not None:
                state_dict[f"{prefix}bias"] = bias
        super()._load_from_state_dict(state_dict, prefix, *args)

    @torch.no_grad()
    def initialize_filters(self, sta: Float[Tensor, "neuron lag channel height width"]) -> None:
        """Start from the best approximation of rank `rank` to spike-triggered averages, whose lag 0 is the current bin.

        Neurons without one (all zero, or not finite) keep their random filters. Raises ValueError for another shape.
        """
        sta = torch.as_tensor(sta, dtype=torch.float32, device=self.spatial_weights.device)
        shape = (self.outdims, self.lag + 1, *self.spatial_weights.shape[2:])
        if sta.shape != shape:
            raise ValueError(f"the filters need spike-triggered averages {shape}, got {tuple(sta.shape)}")
        usable = torch.isfinite(sta).flatten(1).all(1) & (sta.flatten(1).abs().amax(1) > 0)
        matrices = sta[usable].flip(1).flatten(2)
        matrices = START_GAIN * matrices / torch.linalg.matrix_norm(matrices)[:, None, None]
        temporal, power, spatial = torch.linalg.svd(matrices, full_matrices=False)
        root = power[:, : self.rank].sqrt()
        self.temporal_weights[usable] = (temporal[:, :, : self.rank] * root[:, None]).transpose(1, 2)
        self.spatial_weights[usable] = (spatial[:, : self.rank] * root[:, :, None]).unflatten(2, shape[2:])


def relative_power(
    filtered: Float[Tensor, "row *filtered"], original: Float[Tensor, "row *original"], n_groups: int
) -> Float[Tensor, " group"]:
    """Return the power of `filtered` over that of `original` for groups of consecutive rows, one group per neuron."""
    power, total = (x.reshape(n_groups, -1).square().sum(1) for x in (filtered, original))
    return power / (total + EPSILON)


class MultiLNPReadout(MultiReadoutBase):
    """One `LNPReadout` per session."""

    _base_readout_cls = LNPReadout

    def __init__(
        self,
        in_shape: Sequence[int],
        n_neurons_dict: Mapping[str, int],
        smooth_weight: float = 0.0,
        sparse_weight: float = 0.0,
        smooth_regularizer: str = "LaplaceL2norm",
        laplace_padding: int | None = None,
        nonlinearity: str | Callable[[Tensor], Tensor] = "softplus",
        bias: bool = True,
        temporal_kernel_size: int = 21,
        rank: int = 1,
        temporal_smooth_weight: float = 0.0,
        mean_activity_dict: Mapping[str, Float[Tensor, " neuron"]] | None = None,
        readout_reg_avg: bool = False,
        clone_readout: bool = False,
        published_behaviour: bool = False,
    ):
        super().__init__(
            in_shape=in_shape,
            n_neurons_dict=n_neurons_dict,
            mean_activity_dict=mean_activity_dict,
            clone_readout=clone_readout,
            readout_reg_avg=readout_reg_avg,
            smooth_weight=smooth_weight,
            sparse_weight=sparse_weight,
            smooth_regularizer=smooth_regularizer,
            laplace_padding=laplace_padding,
            nonlinearity=nonlinearity,
            bias=bias,
            temporal_kernel_size=temporal_kernel_size,
            rank=rank,
            temporal_smooth_weight=temporal_smooth_weight,
            published_behaviour=published_behaviour,
        )


MultipleLNPReadout = MultiLNPReadout  # the published name
