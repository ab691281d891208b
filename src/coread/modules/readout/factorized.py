"""Readout through a free mask per neuron."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coread.modules.layers.regularizers import FlatLaplaceL23dnorm
from coread.modules.nonlinearities import get_nonlinearity
from coread.modules.readout.base import Readout, Reduction, weighted
from coread.modules.readout.masks import gaussian_bumps
from coread.modules.readout.multi_readout import MultiReadoutBase

WeightsConstraint = Literal["abs", "norm", "absnorm"]
DEFAULT_SPREAD = 0.25  # of a start position, half the longer side being 1


class FactorizedReadout(Readout):
    """Feature weights times the feature maps summed under a free spatial mask per neuron (Klindt et al. 2017).

    Constraints act on the values that are used; the parameters themselves are never overwritten.

    Args:
        in_shape: `(channel, time, height, width)` of the feature maps.
        outdims: number of neurons.
        mask_l1_reg: weight of the absolute mask, averaged over neurons.
        weights_l1_reg: weight of the absolute feature weights, averaged over neurons.
        laplace_mask_reg: weight of the roughness of the masks.
        mask_size: height and width of the mask (or both in one number), by default those of the feature maps.
        readout_bias: learn an offset per neuron.
        weights_constraint: "abs", "norm" (length 1 per neuron), "absnorm" or None.
        mask_constraint: "abs" or None.
        init_mask: start masks `(neuron, 1, height, width)`, cut to their centre.
        init_weights: start feature weights `(channel, neuron)`.
        init_scales: (mean, standard deviation) of the random start of masks, and of feature weights.
        mean_activity: mean response `(neuron,)`, from which the bias starts.
        nonlinearity_function: "softplus", "elu1", "exp" or "identity".
        published_behaviour: copy the mean rate into the bias, as openretina 1.1.1 does.

    """

    bias: Tensor

    def __init__(
        self,
        in_shape: Sequence[int],
        outdims: int,
        mask_l1_reg: float,
        weights_l1_reg: float,
        laplace_mask_reg: float,
        mask_size: int | Sequence[int] | None = None,
        readout_bias: bool = False,
        weights_constraint: WeightsConstraint | None = None,
        mask_constraint: Literal["abs"] | None = None,
        init_mask: Float[Tensor, "neuron 1 init_height init_width"] | None = None,
        init_weights: Float[Tensor, "channel neuron"] | None = None,
        init_scales: Sequence[Sequence[float]] = ((0.0, 0.15), (0.0, 0.15)),
        mean_activity: Float[Tensor, " neuron"] | None = None,
        nonlinearity_function: str | Callable[[Tensor], Tensor] = "softplus",
        published_behaviour: bool = False,
    ):
        super().__init__(in_shape, outdims, get_nonlinearity(nonlinearity_function), published_behaviour)
        if weights_constraint not in (None, "abs", "norm", "absnorm") or mask_constraint not in (None, "abs"):
            raise ValueError(f"unknown constraint: {weights_constraint=}, {mask_constraint=}")
        self.mask_l1_reg = mask_l1_reg
        self.weights_l1_reg = weights_l1_reg
        self.laplace_mask_reg = laplace_mask_reg
        self.weights_constraint = weights_constraint
        self.mask_constraint = mask_constraint
        size = (mask_size, mask_size) if isinstance(mask_size, int) else tuple(mask_size or self.in_shape[2:])
        if size != self.in_shape[2:]:
            raise ValueError(f"mask_size {size} is not that of the feature maps {self.in_shape[2:]}")
        self.mask_size = size
        self._input_weights_regularizer_spatial = FlatLaplaceL23dnorm(padding=0)
        if init_mask is None:
            mean, std = init_scales[0]
            self.mask_weights = nn.Parameter(torch.normal(mean, std, size=(size[0] * size[1], outdims)))
        else:
            self.mask_weights = nn.Parameter(self._cut_center(init_mask).flatten(1).T.contiguous())
        if init_weights is None:
            mean, std = init_scales[1]
            init_weights = torch.normal(mean, std, size=(self.in_shape[0], outdims))
        self.feature_weights = nn.Parameter(torch.as_tensor(init_weights, dtype=torch.float32).clone())
        if readout_bias:
            self.bias = nn.Parameter(torch.zeros(outdims))
        else:
            self.register_buffer("bias", torch.zeros(outdims))
        self.initialize(mean_activity)

    def _cut_center(self, masks: Float[Tensor, "neuron 1 init_height init_width"]) -> Float[Tensor, "neuron h w"]:
        height, width = self.mask_size
        top, left = (masks.shape[2] - height) // 2, (masks.shape[3] - width) // 2
        if masks.shape[0] != self.outdims or min(top, left) < 0:
            raise ValueError(f"init_mask must be ({self.outdims}, 1, >={height}, >={width}), got {tuple(masks.shape)}")
        return masks[:, 0, top : top + height, left : left + width].float()

    @property
    def constrained_mask(self) -> Float[Tensor, "pixel neuron"]:
        """The masks as they are used."""
        return self.mask_weights.abs() if self.mask_constraint == "abs" else self.mask_weights

    @property
    def masks(self) -> Float[Tensor, "height width neuron"]:
        """The masks as they are used, neurons last."""
        return self.constrained_mask.unflatten(0, self.mask_size)

    @property
    def constrained_weights(self) -> Float[Tensor, "channel neuron"]:
        """The feature weights as they are used."""
        weights: Tensor = self.feature_weights
        if self.weights_constraint in ("abs", "absnorm"):
            weights = weights.abs()
        if self.weights_constraint in ("norm", "absnorm"):
            weights = weights / torch.sqrt(weights.square().sum(0, keepdim=True) + 1e-5)
        return weights

    @torch.no_grad()
    def apply_constraints(self) -> None:
        """Overwrite the parameters by the values that are used; the responses do not change, learning may."""
        self.mask_weights.copy_(self.constrained_mask)
        self.feature_weights.copy_(self.constrained_weights)

    def forward(
        self, x: Float[Tensor, "batch channel time height width"], data_key: str | None = None
    ) -> Float[Tensor, "batch time neuron"]:
        """Return the responses, the same for any `data_key`; raises ValueError for feature maps of another size."""
        if x.shape[3:] != self.mask_size:
            raise ValueError(f"feature maps are {tuple(x.shape[3:])}, the readout was made for {self.mask_size}")
        seen = x.flatten(3) @ self.constrained_mask
        y = (seen * self.constrained_weights[:, None]).sum(1)
        return self.nonlinearity(y + self.bias)

    def penalties(self, reduction: Reduction = "sum") -> dict[str, Float[Tensor, ""]]:
        """Return the penalties on masks and feature weights; "mean" counts a third of the roughness, as published."""
        mask, weights = self.constrained_mask, self.constrained_weights
        images = mask.T.reshape(-1, 1, 1, *self.mask_size)
        return weighted(
            mask_l1=(self.mask_l1_reg, lambda: mask.abs().sum(0).mean()),
            weights_l1=(self.weights_l1_reg, lambda: weights.abs().sum(0).mean()),
            laplace_mask=(
                self.laplace_mask_reg,
                lambda: self._input_weights_regularizer_spatial(images) / (3 if reduction == "mean" else 1),
            ),
        )

    @torch.no_grad()
    def initialize_positions(
        self, positions: Float[Tensor, "neuron 2"], sigma: float | Float[Tensor, " neuron"] | None = None
    ) -> None:
        """Set the masks to Gaussians of sum 1 at `positions`, (x, y) in [-1, 1] with (-1, -1) the first pixel's centre.

        `sigma` is the standard deviation in the same units along the longer side.
        """
        spread = DEFAULT_SPREAD if sigma is None else sigma
        bumps = gaussian_bumps(self.check_positions(positions), spread, *self.mask_size)
        self.mask_weights.copy_(bumps.flatten(1).T)


KlindtReadoutWrapper3D = FactorizedReadout  # a published name


class MultiFactorizedReadout(MultiReadoutBase):
    """One `FactorizedReadout` per session."""

    _base_readout_cls = FactorizedReadout

    def __init__(
        self,
        in_shape: Sequence[int],
        n_neurons_dict: Mapping[str, int],
        mask_l1_reg: float,
        weights_l1_reg: float,
        laplace_mask_reg: float,
        readout_bias: bool = False,
        weights_constraint: WeightsConstraint | None = None,
        mask_constraint: Literal["abs"] | None = None,
        init_mask: Float[Tensor, "neuron 1 height width"] | None = None,
        init_weights: Float[Tensor, "channel neuron"] | None = None,
        init_scales: Sequence[Sequence[float]] = ((0.0, 0.15), (0.0, 0.15)),
        readout_reg_avg: bool = False,
        mean_activity_dict: Mapping[str, Float[Tensor, " neuron"]] | None = None,
        nonlinearity_function: str | Callable[[Tensor], Tensor] = "softplus",
        clone_readout: bool = False,
        published_behaviour: bool = False,
    ):
        super().__init__(
            in_shape=in_shape,
            n_neurons_dict=n_neurons_dict,
            mean_activity_dict=mean_activity_dict,
            clone_readout=clone_readout,
            readout_reg_avg=readout_reg_avg,
            mask_l1_reg=mask_l1_reg,
            weights_l1_reg=weights_l1_reg,
            laplace_mask_reg=laplace_mask_reg,
            readout_bias=readout_bias,
            weights_constraint=weights_constraint,
            mask_constraint=mask_constraint,
            init_mask=init_mask,
            init_weights=init_weights,
            init_scales=init_scales,
            nonlinearity_function=nonlinearity_function,
            published_behaviour=published_behaviour,
        )
