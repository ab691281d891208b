"""Readout at a point per neuron, which is drawn from a Gaussian while training."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from coread.modules.nonlinearities import get_nonlinearity
from coread.modules.readout.base import Readout, Reduction, projected_clamp, weighted
from coread.modules.readout.multi_readout import MultiReadoutBase
from coread.modules.readout.point_sampling import look_at_points, read_points
from coread.modules.readout.sharing import match_indices

GaussType = Literal["full", "uncorrelated", "isotropic"]
GRID_NONLINEARITIES = {"ELU": nn.ELU, "ReLU": nn.ReLU}
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
        grid_mean_predictor: `{hidden_layers, hidden_features, nonlinearity, final_tanh}` of a network from the first
            `input_dimensions` (all) of `source_grid`, centred and divided by their largest absolute value, to `mu`.
        shared_features: `{match_ids, shared_features, ids}`: neurons with the same match id share a feature vector,
            each with a factor of its own (Lurz et al. 2021). `shared_features` is the parameter `(1, channel, 1, id)`
            of another readout, None makes one; its columns are `ids`, by default the sorted distinct match ids.
        shared_grid: `{match_ids, shared_grid}`: neurons with the same match id share `mu`; with the parameter `(1, id,
            1, 2)` of another readout through a learned linear map.
        init_grid: start points `(neuron, 2)`.
        source_grid: `(neuron, dimension)` positions in the tissue for `grid_mean_predictor`.
        mean_activity: mean response `(neuron,)`, from which the bias starts.
        gamma_readout: weight of the absolute feature weights.
        nonlinearity_function: "identity", "softplus", "elu1" or "exp".
        jitter_per_frame: draw one point per frame instead, as openretina does.
        init_sigma: the name of `init_sigma_range` in neuralpredictors, which wins if it is given.
        published_behaviour: openretina 1.1.1: `jitter_per_frame`, the mean rate itself as bias, and no penalty on
            features that another readout owns.

    """

    feature_sharing_index: Tensor
    grid_sharing_index: Tensor
    source_grid: Tensor
    mu_transform: nn.Module

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
        shared_features: Mapping[str, Any] | None = None,
        shared_grid: Mapping[str, Any] | None = None,
        init_grid: Float[Tensor, "neuron 2"] | None = None,
        source_grid: Float[Tensor, "neuron dimension"] | None = None,
        mean_activity: Float[Tensor, " neuron"] | None = None,
        gamma_readout: float = 1.0,
        nonlinearity_function: str | Callable[[Tensor], Tensor] = "identity",
        jitter_per_frame: bool = False,
        published_behaviour: bool = False,
        init_sigma: float | None = None,
    ):
        init_sigma_range = init_sigma_range if init_sigma is None else init_sigma
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
        if grid_mean_predictor is not None and shared_grid is not None:
            raise ValueError("grid_mean_predictor and shared_grid both set the points: give one of them")
        if grid_mean_predictor is not None:
            self._predict_points(source_grid, **grid_mean_predictor)
        elif shared_grid is not None:
            self._share_points(init_mu_range, **shared_grid)
        else:
            start = torch.empty(1, outdims, 1, 2).uniform_(-init_mu_range, init_mu_range)
            self._mu = nn.Parameter(
                start if init_grid is None else self.check_positions(init_grid)[None, :, None].clone()
            )
        sigma = torch.full((1, outdims, *SIGMA_SHAPES[gauss_type]), float(init_sigma_range))
        self.sigma = nn.Parameter(
            sigma.uniform_(-init_sigma_range, init_sigma_range) if gauss_type == "full" else sigma
        )
        self._owns_features = True
        if shared_features is None:
            self._features = nn.Parameter(torch.full((1, self.in_shape[0], 1, outdims), 1 / self.in_shape[0]))
        else:
            self._share_features(**shared_features)
        self.register_parameter("bias", nn.Parameter(torch.zeros(outdims)) if bias else None)
        self.initialize(mean_activity)

    def _predict_points(
        self,
        source_grid: Float[Tensor, "neuron dimension"] | None,
        hidden_layers: int = 0,
        hidden_features: int = 20,
        final_tanh: bool = False,
        nonlinearity: str = "ELU",
        input_dimensions: int | None = None,
        type: str = "cortex",
    ) -> None:
        if source_grid is None or len(source_grid) != self.outdims:
            raise ValueError(f"grid_mean_predictor needs a source_grid ({self.outdims}, dimension)")
        if type != "cortex" or nonlinearity not in GRID_NONLINEARITIES:
            raise ValueError(
                f"grid_mean_predictor must be of type cortex with a nonlinearity of {sorted(GRID_NONLINEARITIES)}, "
                f"got {type!r} with {nonlinearity!r}"
            )
        grid = torch.as_tensor(source_grid, dtype=torch.float32)[:, :input_dimensions]
        grid = grid - grid.mean(0)
        self.register_buffer("source_grid", grid / grid.abs().max())
        sizes = [grid.shape[1], *[hidden_features] * hidden_layers, 2]
        layers: list[nn.Module] = []
        for i in range(hidden_layers + 1):
            layers += [GRID_NONLINEARITIES[nonlinearity]()] if i else []
            layers += [nn.Linear(sizes[i], sizes[i + 1])]
        self.mu_transform = nn.Sequential(*layers, *([nn.Tanh()] if final_tanh else []))

    def _share_features(
        self,
        match_ids: Sequence[Any],
        shared_features: nn.Parameter | None = None,
        ids: Sequence[Any] | None = None,
    ) -> None:
        index, known = match_indices(match_ids, ids, self.outdims)
        shape = (1, self.in_shape[0], 1, len(known))
        if shared_features is not None and shared_features.shape != shape:
            raise ValueError(f"shared features must be {shape}, got {tuple(shared_features.shape)}")
        self._owns_features = shared_features is None
        self._features = (
            nn.Parameter(torch.full(shape, 1 / self.in_shape[0])) if shared_features is None else shared_features
        )
        self.scales = nn.Parameter(torch.ones(1, 1, 1, self.outdims))
        self.register_buffer("feature_sharing_index", index)

    def _share_points(
        self, init_mu_range: float, match_ids: Sequence[Any], shared_grid: nn.Parameter | None = None
    ) -> None:
        index, known = match_indices(match_ids, None, self.outdims)
        shape = (1, len(known), 1, 2)
        if shared_grid is not None:
            if shared_grid.shape != shape:
                raise ValueError(f"the shared grid must be {shape}, got {tuple(shared_grid.shape)}")
            transform = nn.Linear(2, 2)
            nn.init.eye_(transform.weight)
            nn.init.zeros_(transform.bias)
            self.mu_transform = transform
        start = torch.empty(shape).uniform_(-init_mu_range, init_mu_range)
        self._mu = nn.Parameter(start) if shared_grid is None else shared_grid
        self.register_buffer("grid_sharing_index", index)

    @property
    def shared_features(self) -> nn.Parameter:
        """The parameter behind the feature weights, for `shared_features` of another readout."""
        return self._features

    @property
    def shared_grid(self) -> nn.Parameter:
        """The parameter behind the mean points, for `shared_grid` of another readout."""
        return self._mu

    @property
    def features(self) -> Float[Tensor, "1 channel 1 neuron"]:
        """Feature weights of every neuron."""
        if not hasattr(self, "scales"):
            return self._features
        return self.scales * self._features[..., self.feature_sharing_index]

    @property
    def mu(self) -> Float[Tensor, "1 neuron 1 2"]:
        """Mean points within the feature maps."""
        if not hasattr(self, "_mu"):
            with torch.autocast(self.source_grid.device.type, enabled=False):  # points need their digits
                mu = self.mu_transform(self.source_grid)[None, :, None]
        else:
            mu = self.mu_transform(self._mu) if hasattr(self, "mu_transform") else self._mu
            mu = mu[:, self.grid_sharing_index] if hasattr(self, "grid_sharing_index") else mu
        return projected_clamp(mu, -1.0, 1.0)

    @property
    def mu_dispersion(self) -> Float[Tensor, ""]:
        """Standard deviation of the mean points over neurons, summed over x and y."""
        return self.mu[0, :, 0].std(0).sum()

    @property
    def grid(self) -> Float[Tensor, "1 neuron 1 2"]:
        """The points that evaluation mode reads."""
        return self.sample_grid(1, sample=False)

    @property
    def takes_positions(self) -> bool:  # type: ignore[override]
        """Whether every neuron has a point of its own that can be set."""
        return hasattr(self, "_mu") and not hasattr(self, "grid_sharing_index")

    def sample_grid(self, batch_size: int, sample: bool | None = None) -> Float[Tensor, "sample neuron 1 2"]:
        """Return `batch_size` points per neuron: drawn while training (or as `sample` says), `mu` otherwise."""
        if not (self.training if sample is None else sample):
            return self.mu.expand(batch_size, -1, -1, -1)
        n_draws = batch_size if self.batch_sample else 1
        noise = torch.randn(n_draws, self.outdims, 1, 2, device=self.sigma.device, dtype=self.sigma.dtype)
        full = self.gauss_type == "full"
        jitter = torch.einsum("ancd,bnid->bnic", self.sigma, noise) if full else noise * self.sigma
        return projected_clamp(self.mu + jitter, -1.0, 1.0).expand(batch_size, -1, -1, -1)

    def forward(
        self,
        x: Float[Tensor, "batch channel *time height width"],
        sample: bool | None = None,
        shift: Float[Tensor, "batch *time 2"] | None = None,
        out_idx: Int[Tensor, " chosen"] | Bool[Tensor, " neuron"] | None = None,
    ) -> Float[Tensor, "batch *time neuron"]:
        """Return the responses to feature maps with or without time; raises ValueError for another size.

        `shift` moves all points of a window, or of every frame, by (x, y) in grid units (eye position). `out_idx`
        chooses neurons, by number or as a mask.
        """
        if x.shape[-2:] != self.in_shape[2:] or x.shape[1] != self.in_shape[0] or x.dim() not in (4, 5):
            raise ValueError(f"feature maps are {tuple(x.shape)}, the readout was made for {self.in_shape}")
        if x.dim() == 4:
            return self.forward(x.unsqueeze(2), sample, shift, out_idx).squeeze(1)
        chosen = slice(None) if out_idx is None else torch.as_tensor(out_idx, device=x.device)
        batch, channels, time = x.shape[:3]
        per_frame = self.jitter_per_frame or (shift is not None and shift.dim() == 3)
        points = self.sample_grid(batch * time if self.jitter_per_frame else batch, sample)[:, chosen]
        if per_frame and not self.jitter_per_frame:
            points = points.repeat_interleave(time, dim=0)
        if shift is not None:
            points = points + self._shift_of(shift, batch, time if per_frame else 1)[:, None, None, :]
        maps = x.transpose(1, 2).flatten(0, 1) if per_frame else x.flatten(1, 2)
        weights = self.features[0, :, 0][:, chosen]
        if per_frame or time == 1:
            y = read_points(maps, points[:, :, 0], weights, self.align_corners).unflatten(0, (batch, time))
        else:
            seen = look_at_points(maps, points[:, :, 0], self.align_corners)
            y = torch.einsum("bctn,cn->btn", seen.unflatten(1, (channels, time)), weights)
        return self.nonlinearity(y if self.bias is None else y + self.bias[chosen])

    @staticmethod
    def _shift_of(shift: Float[Tensor, "batch *time 2"], batch: int, time: int) -> Float[Tensor, "sample 2"]:
        if shift.dim() == 2 and time > 1:
            shift = shift[:, None].expand(-1, time, -1)
        flat = shift.reshape(-1, 2)
        if len(flat) != batch * time:
            raise ValueError(f"shift must be (batch, 2) or (batch, time, 2), got {tuple(shift.shape)}")
        return flat

    def feature_l1(self, reduction: Reduction = "sum") -> Float[Tensor, ""]:
        """Return the sum (or mean) of the absolute feature weights."""
        weights = self.features.abs()
        return weights.mean() if reduction == "mean" else weights.sum()

    def penalties(self, reduction: Reduction = "sum") -> dict[str, Float[Tensor, ""]]:
        """Return the penalty on the feature weights, with the factors of shared ones."""
        if self.published_behaviour and not self._owns_features:
            return {}
        return weighted(feature_l1=(self.gamma_readout, lambda: self.feature_l1(reduction)))

    @torch.no_grad()
    def initialize_positions(
        self, positions: Float[Tensor, "neuron 2"], sigma: float | Float[Tensor, " neuron"] | None = None
    ) -> None:
        """Set the mean points to `positions`, (x, y) in [-1, 1] with (-1, -1) the centre of the first pixel.

        `sigma` is the standard deviation in the same units; None keeps it. Raises ValueError if the points are
        predicted from positions in the tissue or shared.
        """
        if not self.takes_positions:
            raise ValueError("the points are predicted by grid_mean_predictor or shared, they cannot be set")
        positions = self.check_positions(positions)
        if not self.align_corners:
            size = torch.tensor([self.in_shape[3], self.in_shape[2]])
            positions = positions * (size - 1) / size
        self._mu.copy_(positions[None, :, None])
        if sigma is not None:
            spread = torch.as_tensor(sigma, dtype=torch.float32, device="cpu").reshape(1, -1, 1, 1)
            self.sigma.copy_(spread * torch.eye(2) if self.gauss_type == "full" else spread)


FullGaussian2d = PointGaussianReadout  # the name in neuralpredictors


class MultiSampledGaussianReadout(MultiReadoutBase):
    """One `PointGaussianReadout` per session, with a nonlinearity.

    In addition to what one readout takes, positions and match ids can be named as columns of the sessions' tables of
    neurons (`neurons_dict`, which the trainer gives): `grid_mean_predictor` with `source_columns: [x, y]`, and
    `shared_features: {match_column: NAME}`, which shares feature vectors over all sessions. `source_grid` and
    `shared_features.match_ids` may also be dictionaries by session. Raises ValueError for a column that is missing.
    """

    _base_readout_cls = PointGaussianReadout
    session_tables = ("neurons_dict",)

    def __init__(
        self,
        in_shape: Sequence[int],
        n_neurons_dict: Mapping[str, int],
        bias: bool = True,
        init_mu_range: float = 0.1,
        init_sigma_range: float = 0.15,
        batch_sample: bool = True,
        align_corners: bool = True,
        gauss_type: GaussType = "full",
        grid_mean_predictor: Mapping[str, Any] | None = None,
        shared_features: Mapping[str, Any] | None = None,
        shared_grid: Mapping[str, Any] | None = None,
        init_grid: Float[Tensor, "neuron 2"] | None = None,
        gamma: float = 1.0,
        reg_avg: bool = False,
        nonlinearity_function: str | Callable[[Tensor], Tensor] = "softplus",
        mean_activity_dict: Mapping[str, Float[Tensor, " neuron"]] | None = None,
        source_grid: Float[Tensor, "neuron dimension"] | Mapping[str, Any] | None = None,
        source_columns: Sequence[str] | None = None,
        neurons_dict: Mapping[str, Mapping[str, Sequence[Any]]] | None = None,
        jitter_per_frame: bool = False,
        clone_readout: bool = False,
        published_behaviour: bool = False,
        init_sigma: float | None = None,
    ):
        self._source_grid, self._source_columns = source_grid, source_columns
        self._sharing = dict(shared_features or {})
        self._neurons = {session: dict(table) for session, table in (neurons_dict or {}).items()}
        self._feature_ids: Any = None
        super().__init__(
            in_shape=in_shape,
            n_neurons_dict=n_neurons_dict,
            mean_activity_dict=mean_activity_dict,
            clone_readout=clone_readout,
            readout_reg_avg=reg_avg,
            bias=bias,
            init_mu_range=init_mu_range,
            init_sigma_range=init_sigma_range,
            init_sigma=init_sigma,
            batch_sample=batch_sample,
            align_corners=align_corners,
            gauss_type=gauss_type,
            grid_mean_predictor=grid_mean_predictor,
            shared_grid=shared_grid,
            init_grid=init_grid,
            gamma_readout=gamma,
            nonlinearity_function=nonlinearity_function,
            jitter_per_frame=jitter_per_frame,
            published_behaviour=published_behaviour,
        )

    def session_arguments(self, session: str, sessions: Sequence[str]) -> dict[str, Any]:
        """Return positions and match ids of one session's neurons; `sessions` are added together with it."""
        arguments: dict[str, Any] = {}
        if self._readout_kwargs["grid_mean_predictor"] is not None:
            arguments["source_grid"] = self._positions(session)
        if self._sharing:
            arguments["shared_features"] = self._shared(session, sessions)
        return arguments

    def add_tables(self, neurons_dict: Mapping[str, Mapping[str, Sequence[Any]]] | None = None) -> None:  # type: ignore[override]
        """Remember the tables of neurons of further sessions."""
        self._neurons |= {session: dict(table) for session, table in (neurons_dict or {}).items()}

    def _positions(self, session: str) -> Any:
        if self._source_columns is not None:
            return np.stack([self._column(session, name) for name in self._source_columns], axis=1)
        grid = self._source_grid
        return grid.get(session) if isinstance(grid, Mapping) else grid

    def _shared(self, session: str, sessions: Sequence[str]) -> dict[str, Any]:
        if "shared_features" in self._sharing and self._sharing["shared_features"] is not None:
            return self._sharing
        if self._feature_ids is None:
            self._feature_ids = np.unique(np.concatenate([np.asarray(self._match_ids(name)) for name in sessions]))
        first = next(iter(self.values()), None)
        return {
            "match_ids": self._match_ids(session),
            "shared_features": None if first is None else first.shared_features,
            "ids": self._feature_ids,
        }

    def _match_ids(self, session: str) -> Any:
        if "match_column" in self._sharing:
            return self._column(session, self._sharing["match_column"])
        ids = self._sharing["match_ids"]
        return ids[session] if isinstance(ids, Mapping) else ids

    def _column(self, session: str, name: str) -> Any:
        table = self._neurons.get(session, {})
        if name not in table:
            raise ValueError(f"session {session!r}: the table of neurons has no column {name!r}, only {sorted(table)}")
        return np.asarray(table[name])
