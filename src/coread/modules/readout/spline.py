"""Readout through a smooth mask per neuron, a spline surface."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import BSpline
from torch import Tensor, nn

from coread.modules.layers.regularizers import EPSILON
from coread.modules.nonlinearities import get_nonlinearity
from coread.modules.readout.base import Readout, Reduction, weighted
from coread.modules.readout.factorized import DEFAULT_SPREAD
from coread.modules.readout.masks import gaussian_bumps
from coread.modules.readout.multi_readout import MultiReadoutBase

Surface = Literal["tensor", "separable"]


def spline_basis(size: int, n_splines: int, degree: int) -> Float[Tensor, "pixel spline"]:
    """Return `n_splines` B-splines on equally spaced clamped knots at `size` pixels; they sum to 1 at every pixel.

    Few pixels have fewer splines (at most one per pixel) of at most the degree that these allow.
    """
    n_splines = min(n_splines, size)
    degree = min(degree, n_splines - 1)
    if size == 1:
        return torch.ones(1, 1)
    inner = np.linspace(0, size - 1, n_splines - degree + 1)
    knots = np.concatenate([np.zeros(degree), inner, np.full(degree, size - 1.0)])
    basis = BSpline.design_matrix(np.arange(size, dtype=float), knots, degree).toarray()
    return torch.as_tensor(basis, dtype=torch.float32)


class SplineMaskReadout(Readout):
    """Feature weights times the feature maps summed under a B-spline surface per neuron.

    A mask is a sum of products of B-splines in y and x (tensor-product splines), as in the receptive-field estimates
    of Huang et al. (2021, Neurons Behav. Data Anal. Theory 5(3)), with the difference penalty of P-splines (Eilers and
    Marx 1996, Stat. Sci. 11:89). `surface="separable"` makes each mask of `rank` products of a curve in y and one in x.

    Args:
        in_shape: `(channel, time, height, width)` of the feature maps; any size.
        outdims: number of neurons.
        mean_activity: mean response `(neuron,)`, from which the bias starts.
        n_splines: splines along (y, x), or along both in one number; fewer where there are fewer pixels.
        degree: of the polynomials, 3 for cubic.
        surface: "tensor": one coefficient per pair of splines; "separable": `rank` products.
        rank: number of products of a separable surface.
        smooth_weight: weight of the squared `penalty_order`-th differences of neighbouring coefficients along y and x,
            relative to the squared coefficients, averaged over neurons.
        penalty_order: order of these differences.
        mask_l1_reg: weight of the absolute mask, averaged over neurons.
        feature_weights_l1_reg: weight of the absolute feature weights, summed or averaged over neurons.
        bias: learn an offset per neuron.
        nonlinearity_function: "softplus", "elu1", "exp" or "identity".
        init_sigma: spread of the start masks around the centre, where the longer side runs from -1 to 1.

    """

    bias: Tensor
    basis_y: Tensor
    basis_x: Tensor

    def __init__(
        self,
        in_shape: Sequence[int],
        outdims: int,
        mean_activity: Float[Tensor, " neuron"] | None = None,
        n_splines: int | Sequence[int] = 10,
        degree: int = 3,
        surface: Surface = "tensor",
        rank: int = 1,
        smooth_weight: float = 0.0,
        penalty_order: int = 2,
        mask_l1_reg: float = 0.0,
        feature_weights_l1_reg: float = 0.0,
        bias: bool = True,
        nonlinearity_function: str | Callable[[Tensor], Tensor] = "softplus",
        init_sigma: float = DEFAULT_SPREAD,
    ):
        super().__init__(in_shape, outdims, get_nonlinearity(nonlinearity_function))
        n_y, n_x = (n_splines, n_splines) if isinstance(n_splines, int) else n_splines
        if surface not in ("tensor", "separable") or min(n_y, n_x, degree + 1, rank, penalty_order) < 1:
            raise ValueError(
                "surface must be 'tensor' or 'separable', n_splines, rank and penalty_order at least 1, degree at "
                f"least 0: {surface=}, {n_splines=}, {rank=}, {penalty_order=}, {degree=}"
            )
        self.smooth_weight = smooth_weight
        self.penalty_order = penalty_order
        self.mask_l1_reg = mask_l1_reg
        self.feature_weights_l1_reg = feature_weights_l1_reg
        n_channels, _, height, width = self.in_shape
        self.register_buffer("basis_y", spline_basis(height, n_y, degree), persistent=False)
        self.register_buffer("basis_x", spline_basis(width, n_x, degree), persistent=False)
        n_y, n_x = self.basis_y.shape[1], self.basis_x.shape[1]
        if surface == "tensor":
            self.coefficients = nn.Parameter(torch.zeros(outdims, n_y, n_x))
        else:
            rank = min(rank, n_y, n_x)
            self.coefficients_y = nn.Parameter(torch.zeros(outdims, rank, n_y))
            self.coefficients_x = nn.Parameter(torch.zeros(outdims, rank, n_x))
        self.surface = surface
        self.features = nn.Parameter(torch.normal(1 / n_channels, 0.01, size=(1, n_channels, 1, outdims)))
        if bias:
            self.bias = nn.Parameter(torch.zeros(outdims))
        else:
            self.register_buffer("bias", torch.zeros(outdims))
        self.initialize_positions(torch.zeros(outdims, 2), init_sigma)
        self.initialize(mean_activity)

    @property
    def surface_coefficients(self) -> Float[Tensor, "neuron spline_y spline_x"]:
        """Coefficient of every product of splines, whatever the surface is made of."""
        if self.surface == "tensor":
            return self.coefficients
        return torch.einsum("nry,nrx->nyx", self.coefficients_y, self.coefficients_x)

    def get_mask(self) -> Float[Tensor, "neuron height width"]:
        """Return the masks."""
        return torch.einsum("hy,nyx,wx->nhw", self.basis_y, self.surface_coefficients, self.basis_x)

    @property
    def masks(self) -> Float[Tensor, "height width neuron"]:
        """The masks, neurons last."""
        return self.get_mask().permute(1, 2, 0)

    def forward(self, x: Float[Tensor, "batch channel time height width"]) -> Float[Tensor, "batch time neuron"]:
        """Return the responses; raises ValueError for feature maps of another size."""
        if x.shape[3:] != self.in_shape[2:]:
            raise ValueError(f"feature maps are {tuple(x.shape[3:])}, the readout was made for {self.in_shape[2:]}")
        seen = x.flatten(3) @ self.get_mask().flatten(1).T
        return self.nonlinearity((seen * self.features).sum(1) + self.bias)

    def roughness(self) -> Float[Tensor, ""]:
        """Return squared differences of neighbouring coefficients over squared coefficients, averaged over neurons."""
        coefficients = self.surface_coefficients
        power = coefficients.square().sum((1, 2)) + EPSILON
        rough = torch.zeros_like(power)
        for axis in (1, 2):
            if coefficients.shape[axis] > self.penalty_order:
                rough = rough + torch.diff(coefficients, self.penalty_order, dim=axis).square().sum((1, 2))
        return (rough / power).mean()

    def penalties(self, reduction: Reduction = "sum") -> dict[str, Float[Tensor, ""]]:
        """Return the penalties on masks and feature weights; `reduction` is that of the feature weights."""
        weights = self.features.abs()
        return weighted(
            smooth=(self.smooth_weight, self.roughness),
            mask_l1=(self.mask_l1_reg, lambda: self.get_mask().abs().sum((1, 2)).mean()),
            feature_weights_l1=(
                self.feature_weights_l1_reg,
                lambda: weights.mean() if reduction == "mean" else weights.sum(),
            ),
        )

    @torch.no_grad()
    def initialize_positions(
        self, positions: Float[Tensor, "neuron 2"], sigma: float | Float[Tensor, " neuron"] | None = None
    ) -> None:
        """Set the masks to the splines nearest to Gaussians of sum 1 at `positions`, (x, y) in [-1, 1].

        (-1, -1) is the centre of the first pixel; `sigma` is the standard deviation along the longer side. Further
        products of a separable surface start at zero in y and at random in x, so that each can grow its own way.
        """
        spread = DEFAULT_SPREAD if sigma is None else sigma
        bumps = gaussian_bumps(self.check_positions(positions), spread, *self.in_shape[2:]).to(self.device)
        inverse_y, inverse_x = torch.linalg.pinv(self.basis_y), torch.linalg.pinv(self.basis_x)
        if self.surface == "tensor":
            self.coefficients.copy_(torch.einsum("yh,nhw,xw->nyx", inverse_y, bumps, inverse_x))
            return
        # a circular Gaussian is the product of its margins
        self.coefficients_y.zero_()
        self.coefficients_y[:, 0] = bumps.sum(2) @ inverse_y.T
        curves = bumps.sum(1) @ inverse_x.T
        self.coefficients_x.normal_().mul_(curves.abs().amax(1)[:, None, None])
        self.coefficients_x[:, 0] = curves


class MultiSplineMaskReadout(MultiReadoutBase):
    """One `SplineMaskReadout` per session."""

    _base_readout_cls = SplineMaskReadout

    def __init__(
        self,
        in_shape: Sequence[int],
        n_neurons_dict: Mapping[str, int],
        n_splines: int | Sequence[int] = 10,
        degree: int = 3,
        surface: Surface = "tensor",
        rank: int = 1,
        smooth_weight: float = 0.0,
        penalty_order: int = 2,
        mask_l1_reg: float = 0.0,
        feature_weights_l1_reg: float = 0.0,
        bias: bool = True,
        nonlinearity_function: str | Callable[[Tensor], Tensor] = "softplus",
        init_sigma: float = DEFAULT_SPREAD,
        mean_activity_dict: Mapping[str, Float[Tensor, " neuron"]] | None = None,
        readout_reg_avg: bool = False,
        clone_readout: bool = False,
    ):
        super().__init__(
            in_shape=in_shape,
            n_neurons_dict=n_neurons_dict,
            mean_activity_dict=mean_activity_dict,
            readout_reg_avg=readout_reg_avg,
            clone_readout=clone_readout,
            n_splines=n_splines,
            degree=degree,
            surface=surface,
            rank=rank,
            smooth_weight=smooth_weight,
            penalty_order=penalty_order,
            mask_l1_reg=mask_l1_reg,
            feature_weights_l1_reg=feature_weights_l1_reg,
            bias=bias,
            nonlinearity_function=nonlinearity_function,
            init_sigma=init_sigma,
        )
