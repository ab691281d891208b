"""Readout at a point per neuron, which is drawn from a Gaussian while training."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from coread.modules.nonlinearities import get_nonlinearity
from coread.modules.readout.base import Readout, Reduction, projected_clamp

GaussType = Literal["full", "uncorrelated", "isotropic"]
SIGMA_SHAPES = {"full": (2, 2), "uncorrelated": (1, 2), "isotropic": (1, 1)}


class PointGaussianReadout(Readout):
    """Feature weights times the feature maps at one point per neuron (Lurz et al. 2021).

    Points are (x, y) in [-1, 1], (-1, -1) being the centre of the first pixel (its corner without `align_corners`).
    While training they are drawn from a Gaussian around `mu`, once per batch item, so that a neuron does not jump
    within a window; in evaluation mode they are `mu`.

    Args:
        in_shape: `(channel, time, height, width)` of the feature maps.
        outdims: number of neurons.
        bias: learn an offset per neuron.
        init_mu_range: start points are uniform in plus or minus this.
        init_sigma_range: start standard deviation; "full": entries uniform in plus or minus this.
        batch_sample: draw one point per batch item, otherwise one per batch.
        align_corners: whether -1 and 1 are the centres of the outer pixels.
        gauss_type: "full", "uncorrelated" or "isotropic" covariance.
        grid_mean_predictor: `{hidden_layers, hidden_features, final_tanh}` of a network from `source_grid` to `mu`.
        source_grid: `(neuron, dimension)` positions in the tissue for `grid_mean_predictor`.
        init_grid: start points `(neuron, 2)`.
        mean_activity: mean response `(neuron,)`, from which the bias starts.
        gamma_readout: weight of the absolute feature weights.
        nonlinearity_function: "identity", "softplus", "elu1" or "exp".
        jitter_per_frame: draw one point per frame instead, as openretina does.
        published_behaviour: openretina 1.1.1: `jitter_per_frame`, and the mean rate itself as bias.

    """

    def __init__(
        self,
        in_shape: Sequence[int],
        outdims: int,
        bias: bool = True,
        init_mu_range: float = 0.1,
        init_sigma_range: float = 0.15,
        batch_sample: bool = True,
        align_corners: bool = True,
        gauss_type: GaussType = "full",
        grid_mean_predictor: Mapping[str, Any] | None = None,
        source_grid: Float[Tensor, "neuron dimension"] | None = None,
        init_grid: Float[Tensor, "neuron 2"] | None = None,
        mean_activity: Float[Tensor, " neuron"] | None = None,
        gamma_readout: float = 1.0,
        nonlinearity_function: str | Callable[[Tensor], Tensor] = "identity",
        jitter_per_frame: bool = False,
        published_behaviour: bool = False,
    ):
        super().__init__(in_shape, outdims, get_nonlinearity(nonlinearity_function), published_behaviour)
        if not 0 < init_mu_range <= 1 or init_sigma_range <= 0:
            raise ValueError(
                f"need 0 < init_mu_range <= 1 and init_sigma_range > 0: {init_mu_range}, {init_sigma_range}"
            )
        if gauss_type not in SIGMA_SHAPES:
            raise ValueError(f"unknown gauss_type {gauss_type!r}, expected one of {sorted(SIGMA_SHAPES)}")
        self.gamma_readout = gamma_readout
        self.batch_sample = batch_sample
        self.align_corners = align_corners
        self.gauss_type = gauss_type
        self.jitter_per_frame = jitter_per_frame or published_behaviour
        if grid_mean_predictor is None:
            start = torch.empty(1, outdims, 1, 2).uniform_(-init_mu_range, init_mu_range)
            self._mu = nn.Parameter(
                start if init_grid is None else self.check_positions(init_grid)[None, :, None].clone()
            )
        else:
            self._predict_points(source_grid, **grid_mean_predictor)
        sigma = torch.full((1, outdims, *SIGMA_SHAPES[gauss_type]), float(init_sigma_range))
        self.sigma = nn.Parameter(
            sigma.uniform_(-init_sigma_range, init_sigma_range) if gauss_type == "full" else sigma
        )
        self._features = nn.Parameter(torch.full((1, self.in_shape[0], 1, outdims), 1 / self.in_shape[0]))
        self.register_parameter("bias", nn.Parameter(torch.zeros(outdims)) if bias else None)
        self.initialize(mean_activity)

    def _predict_points(
        self,
        source_grid: Float[Tensor, "neuron dimension"] | None,
        hidden_layers: int = 0,
        hidden_features: int = 20,
        final_tanh: bool = False,
    ) -> None:
        if source_grid is None or len(source_grid) != self.outdims:
            raise ValueError(f"grid_mean_predictor needs a source_grid ({self.outdims}, dimension)")
        grid = torch.as_tensor(source_grid, dtype=torch.float32)
        grid = grid - grid.mean(0)
        self.register_buffer("source_grid", grid / grid.abs().max())
        sizes = [grid.shape[1], *[hidden_features] * hidden_layers, 2]
        layers: list[nn.Module] = []
        for i in range(hidden_layers + 1):
            layers += [nn.ELU()] if i else []
            layers += [nn.Linear(sizes[i], sizes[i + 1])]
        self.mu_transform = nn.Sequential(*layers, *([nn.Tanh()] if final_tanh else []))

    @property
    def features(self) -> Float[Tensor, "1 channel 1 neuron"]:
        """Feature weights."""
        return self._features

    @property
    def mu(self) -> Float[Tensor, "1 neuron 1 2"]:
        """Mean points within the feature maps."""
        mu = self._mu if hasattr(self, "_mu") else self.mu_transform(self.source_grid)[None, :, None]
        return projected_clamp(mu, -1.0, 1.0)

    def sample_grid(self, n_samples: int, sample: bool | None = None) -> Float[Tensor, "sample neuron 1 2"]:
        """Return `n_samples` points per neuron: drawn while training (or as `sample` says), `mu` otherwise."""
        if not (self.training if sample is None else sample):
            return self.mu.expand(n_samples, -1, -1, -1)
        n_draws = n_samples if self.batch_sample else 1
        noise = torch.randn(n_draws, self.outdims, 1, 2, device=self.sigma.device, dtype=self.sigma.dtype)
        full = self.gauss_type == "full"
        jitter = torch.einsum("ancd,bnid->bnic", self.sigma, noise) if full else noise * self.sigma
        return projected_clamp(self.mu + jitter, -1.0, 1.0).expand(n_samples, -1, -1, -1)

    def forward(
        self, x: Float[Tensor, "batch channel *time height width"], sample: bool | None = None
    ) -> Float[Tensor, "batch *time neuron"]:
        """Return the responses to feature maps with or without time; raises ValueError for another size."""
        if x.shape[-2:] != self.in_shape[2:] or x.shape[1] != self.in_shape[0] or x.dim() not in (4, 5):
            raise ValueError(f"feature maps are {tuple(x.shape)}, the readout was made for {self.in_shape}")
        if x.dim() == 4:
            return self.forward(x.unsqueeze(2), sample).squeeze(1)
        batch, channels, time = x.shape[:3]
        if self.jitter_per_frame:
            maps, n_samples = x.transpose(1, 2).flatten(0, 1), batch * time
        else:
            maps, n_samples = x.flatten(1, 2), batch
        points = self.sample_grid(n_samples, sample).to(maps.dtype)
        seen = F.grid_sample(maps, points, align_corners=self.align_corners).squeeze(3)
        if self.jitter_per_frame:
            y = torch.einsum("btcn,cn->btn", seen.unflatten(0, (batch, time)), self.features[0, :, 0])
        else:
            y = torch.einsum("bctn,cn->btn", seen.unflatten(1, (channels, time)), self.features[0, :, 0])
        return self.nonlinearity(y if self.bias is None else y + self.bias)

    def feature_l1(self, reduction: Reduction = "sum") -> Float[Tensor, ""]:
        """Return the sum (or mean) of the absolute feature weights."""
        weights = self.features.abs()
        return weights.mean() if reduction == "mean" else weights.sum()

    def regularizer(self, reduction: Reduction = "sum") -> Float[Tensor, ""]:
        """Return the penalty on the feature weights."""
        return self.gamma_readout * self.feature_l1(reduction)

    @torch.no_grad()
    def initialize_positions(
        self, positions: Float[Tensor, "neuron 2"], sigma: float | Float[Tensor, " neuron"] | None = None
    ) -> None:
        """Set the mean points to `positions`, (x, y) in [-1, 1] with (-1, -1) the centre of the first pixel.

        `sigma` is the standard deviation in the same units; None keeps it. Raises ValueError if the points are
        predicted from positions in the tissue.
        """
        if not hasattr(self, "_mu"):
            raise ValueError("the points are predicted by grid_mean_predictor, they cannot be set")
        positions = self.check_positions(positions)
        if not self.align_corners:
            size = torch.tensor([self.in_shape[3], self.in_shape[2]])
            positions = positions * (size - 1) / size
        self._mu.copy_(positions[None, :, None])
        if sigma is not None:
            spread = torch.as_tensor(sigma, dtype=torch.float32, device="cpu").reshape(1, -1, 1, 1)
            self.sigma.copy_(spread * torch.eye(2) if self.gauss_type == "full" else spread)
