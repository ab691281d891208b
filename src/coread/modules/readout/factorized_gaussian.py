"""Readout through a Gaussian mask per neuron."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coread.modules.nonlinearities import get_nonlinearity
from coread.modules.readout.base import Readout, Reduction, projected_clamp, weighted
from coread.modules.readout.multi_readout import MultiReadoutBase


class GaussianMaskReadout(Readout):
    """Feature weights times the feature maps averaged under a circular Gaussian mask (Hoefling et al. 2024).

    Grid coordinates run from -1 to 1 along the longer side of the feature maps. A neuron's mask has its mean at
    `gaussian_mean_scale * mask_mean` (y, x) and the variance `exp(gaussian_var_scale * mask_log_var)`, and sums to 1.

    Args:
        in_shape: `(channel, time, height, width)` of the feature maps.
        outdims: number of neurons.
        mean_activity: mean response `(neuron,)`, from which the bias starts.
        gaussian_mean_scale: units of `mask_mean`; larger values let it learn faster.
        gaussian_var_scale: units of `mask_log_var`.
        positive: clip feature weights at 0.
        scale: learn a factor per neuron.
        bias: learn an offset per neuron.
        nonlinearity_function: "softplus", "elu1", "exp" or "identity".
        mask_l1_reg: weight of the sum of variances and squared means.
        feature_weights_l1_reg: weight of the absolute feature weights.
        published_behaviour: copy the mean rate into the bias, as openretina 1.1.1 does.

    """

    bias: Tensor
    grid_y: Tensor
    grid_x: Tensor

    def __init__(
        self,
        in_shape: Sequence[int],
        outdims: int,
        mean_activity: Float[Tensor, " neuron"] | None = None,
        gaussian_mean_scale: float = 1.0,
        gaussian_var_scale: float = 1.0,
        positive: bool = False,
        scale: bool = False,
        bias: bool = True,
        nonlinearity_function: str | Callable[[Tensor], Tensor] = "softplus",
        mask_l1_reg: float = 1.0,
        feature_weights_l1_reg: float = 1.0,
        published_behaviour: bool = False,
    ):
        super().__init__(in_shape, outdims, get_nonlinearity(nonlinearity_function), published_behaviour)
        self.gaussian_mean_scale = gaussian_mean_scale
        self.gaussian_var_scale = gaussian_var_scale
        self.positive = positive
        self.mask_l1_reg = mask_l1_reg
        self.feature_weights_l1_reg = feature_weights_l1_reg
        n_channels, _, height, width = self.in_shape
        self.mask_mean = nn.Parameter(torch.zeros(outdims, 2))
        self.mask_log_var = nn.Parameter(torch.zeros(outdims))
        grid_y, grid_x = grid_axes(height, width)
        self.register_buffer("grid_y", grid_y, persistent=False)
        self.register_buffer("grid_x", grid_x, persistent=False)
        self.features = nn.Parameter(torch.normal(1 / n_channels, 0.01, size=(1, n_channels, 1, outdims)))
        if scale:
            self.scale_param = nn.Parameter(torch.normal(1.0, 0.01, size=(outdims,)))
        else:
            self.register_buffer("scale_param", torch.ones(outdims))
        if bias:
            self.bias = nn.Parameter(torch.zeros(outdims))
        else:
            self.register_buffer("bias", torch.zeros(outdims))
        self.initialize(mean_activity)

    @property
    def grid_extent(self) -> tuple[float, float]:
        """Half height and half width of the feature maps in grid units."""
        height, width = self.in_shape[2:]
        return height / max(height, width), width / max(height, width)

    @property
    def grid(self) -> Float[Tensor, "neuron height width 2"]:
        """Published form of the grid, (y, x) of every pixel, the same for every neuron."""
        pixels = torch.stack(torch.meshgrid(self.grid_y, self.grid_x, indexing="ij"), dim=2)
        return pixels.expand(self.outdims, -1, -1, -1)

    @staticmethod
    def make_mask_grid(outdims: int, w: int, h: int) -> Float[Tensor, "neuron w h 2"]:
        """Return the `grid` of a readout for feature maps of `w` rows and `h` columns (the published names)."""
        pixels = torch.stack(torch.meshgrid(*grid_axes(w, h), indexing="ij"), dim=2)
        return pixels.expand(outdims, -1, -1, -1)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Save the grid too, as one view for all neurons, because published state dicts have it."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}grid"] = self.grid

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Check a stored grid against this readout's, which follows from the shape and needs no loading."""
        grid = state_dict.pop(f"{prefix}grid", None)
        super()._load_from_state_dict(state_dict, prefix, *args)
        if grid is not None and grid.shape != self.grid.shape:
            errors = args[-1]
            errors.append(f"{prefix}grid is {tuple(grid.shape)}, this readout's is {tuple(self.grid.shape)}")

    @property
    def feature_weights(self) -> Float[Tensor, "1 channel 1 neuron"]:
        """Feature weights, clipped at 0 if they have to be positive."""
        return projected_clamp(self.features, 0.0) if self.positive else self.features

    def get_mask(self) -> Float[Tensor, "neuron height width"]:
        """Return the masks; the exponent is cut at -10, so that no mask is zero anywhere."""
        center = self.gaussian_mean_scale * self.mask_mean
        variance = torch.exp((self.gaussian_var_scale * self.mask_log_var).clamp(-20, 20)) + 1e-8
        y = (self.grid_y - center[:, :1]).square()[:, :, None]
        x = (self.grid_x - center[:, 1:]).square()[:, None, :]
        mask = torch.exp(-0.5 * ((y + x) / variance[:, None, None]).clamp(max=20))
        return mask / mask.sum((1, 2), keepdim=True)

    @property
    def masks(self) -> Float[Tensor, "height width neuron"]:
        """The masks, neurons last."""
        return self.get_mask().permute(1, 2, 0)

    def forward(self, x: Float[Tensor, "batch channel time height width"]) -> Float[Tensor, "batch time neuron"]:
        """Return the responses; raises ValueError for feature maps of another size."""
        if x.shape[3:] != self.in_shape[2:]:
            raise ValueError(f"feature maps are {tuple(x.shape[3:])}, the readout was made for {self.in_shape[2:]}")
        # space first, as one matrix product: nothing is ever (..., height, width, neuron)
        seen = x.flatten(3) @ self.get_mask().flatten(1).T
        y = (seen * self.feature_weights).sum(1)
        return self.nonlinearity(y * self.scale_param + self.bias)

    def feature_l1(self, average: bool = False) -> Float[Tensor, ""]:
        """Return the sum (or mean) of the absolute feature weights."""
        weights = self.feature_weights.abs()
        return weights.mean() if average else weights.sum()

    def mask_l1(self, average: bool = False) -> Float[Tensor, ""]:
        """Return the sum (or mean) of the variances plus that of the squared means."""
        variance = torch.exp(self.gaussian_var_scale * self.mask_log_var)
        squared_mean = (self.gaussian_mean_scale * self.mask_mean).square()
        return variance.mean() + squared_mean.mean() if average else variance.sum() + squared_mean.sum()

    def penalties(self, reduction: Reduction = "sum") -> dict[str, Float[Tensor, ""]]:
        """Return the penalties on masks and feature weights, summed or averaged over neurons."""
        average = reduction == "mean"
        return weighted(
            mask_l1=(self.mask_l1_reg, lambda: self.mask_l1(average)),
            feature_weights_l1=(self.feature_weights_l1_reg, lambda: self.feature_l1(average)),
        )

    @torch.no_grad()
    def initialize_positions(self, positions: Float[Tensor, "neuron 2"], sigma: float | Tensor | None = None) -> None:
        """Centre the masks on `positions`, (x, y) in [-1, 1] with (-1, -1) the centre of the first pixel.

        `sigma`, a number or one per neuron, is the standard deviation in grid units, where the longer side of the
        feature maps runs from -1 to 1; None keeps it.
        """
        extent_y, extent_x = self.grid_extent
        center = self.check_positions(positions).flip(1) * torch.tensor([extent_y, extent_x])
        self.mask_mean.copy_(center / self.gaussian_mean_scale)
        if sigma is not None:
            log_variance = 2 * torch.log(torch.as_tensor(sigma, dtype=torch.float32, device="cpu"))
            self.mask_log_var.copy_((log_variance / self.gaussian_var_scale).expand(self.outdims))


def grid_axes(height: int, width: int) -> tuple[Float[Tensor, " height"], Float[Tensor, " width"]]:
    """Return the grid coordinates of rows and columns: -1 to 1 along the longer side."""
    longer = max(height, width)
    y, x = (torch.linspace(-size / longer, size / longer, size) for size in (height, width))
    return y, x


class MultiGaussianMaskReadout(MultiReadoutBase):
    """One `GaussianMaskReadout` per session."""

    _base_readout_cls = GaussianMaskReadout

    def __init__(
        self,
        in_shape: Sequence[int],
        n_neurons_dict: Mapping[str, int],
        scale: bool = True,
        bias: bool = True,
        gaussian_mean_scale: float = 6.0,
        gaussian_var_scale: float = 4.0,
        positive: bool = True,
        mask_l1_reg: float = 1.0,
        feature_weights_l1_reg: float = 1.0,
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
            scale=scale,
            bias=bias,
            gaussian_mean_scale=gaussian_mean_scale,
            gaussian_var_scale=gaussian_var_scale,
            positive=positive,
            mask_l1_reg=mask_l1_reg,
            feature_weights_l1_reg=feature_weights_l1_reg,
            nonlinearity_function=nonlinearity_function,
            published_behaviour=published_behaviour,
        )


MultiGaussianReadoutWrapper = MultiGaussianMaskReadout  # the name in the documents
