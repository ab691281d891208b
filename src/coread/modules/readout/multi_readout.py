"""One readout per session."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coread.modules.readout.base import Readout, Reduction
from coread.modules.readout.factorized import FactorizedReadout, WeightsConstraint
from coread.modules.readout.factorized_gaussian import GaussianMaskReadout
from coread.modules.readout.gaussian import GaussType, PointGaussianReadout
from coread.modules.readout.linear_nonlinear import LNPReadout


class MultiReadoutBase(nn.ModuleDict):
    """A dictionary of sessions and their readouts, all of one class with the same arguments.

    `readout_kwargs` go to the readouts, which refuse unknown ones. `readout_reg_avg` averages penalties over neurons
    instead of summing them. Raises ValueError for sessions without mean activity, if any has one.
    """

    _base_readout_cls: type[Readout] | None = None

    def __init__(
        self,
        in_shape: Sequence[int],
        n_neurons_dict: Mapping[str, int],
        base_readout: type[Readout] | None = None,
        mean_activity_dict: Mapping[str, Float[Tensor, " neuron"]] | None = None,
        readout_reg_avg: bool = False,
        **readout_kwargs: Any,
    ):
        super().__init__()
        readout_class = self._base_readout_cls or base_readout
        if readout_class is None:
            raise ValueError("base_readout is needed, because the class does not set it")
        self._readout_class: Callable[..., Readout] = readout_class
        self._in_shape = tuple(in_shape)
        self._readout_kwargs = readout_kwargs
        self.readout_reg_reduction: Reduction = "mean" if readout_reg_avg else "sum"
        self.add_sessions(n_neurons_dict, mean_activity_dict)

    def add_sessions(
        self,
        n_neurons_dict: Mapping[str, int],
        mean_activity_dict: Mapping[str, Float[Tensor, " neuron"]] | None = None,
    ) -> None:
        """Add readouts for new sessions; raises ValueError for sessions that exist or lack mean activity."""
        existing = sorted(set(self.keys()) & set(n_neurons_dict))
        if existing:
            raise ValueError(f"sessions {existing} already have a readout")
        missing = sorted(set(n_neurons_dict) - set(mean_activity_dict or n_neurons_dict))
        if missing:
            raise ValueError(f"no mean activity for sessions {missing}")
        for session, n_neurons in n_neurons_dict.items():
            mean_activity = None if mean_activity_dict is None else torch.as_tensor(mean_activity_dict[session])
            self[session] = self._readout_class(
                in_shape=self._in_shape, outdims=n_neurons, mean_activity=mean_activity, **self._readout_kwargs
            )

    def readout_keys(self) -> list[str]:
        """Return the sessions, sorted."""
        return sorted(self.keys())

    @property
    def sessions(self) -> list[str]:
        """The sessions, sorted."""
        return self.readout_keys()

    @property
    def lag(self) -> int:
        """Bins that the readouts lose from the front."""
        return max((self._readout(session).lag for session in self), default=0)

    def forward(
        self, x: Float[Tensor, "batch channel time height width"], data_key: str | None = None
    ) -> Float[Tensor, "batch time neuron"]:
        """Return the responses of one session, or of all in sorted order; raises KeyError for an unknown session."""
        if data_key is None:
            return torch.cat([self[session](x) for session in self.readout_keys()], dim=-1)
        return self._readout(data_key)(x)

    def regularizer(self, data_key: str | None = None, reduction: Reduction | None = None) -> Float[Tensor, ""]:
        """Return the penalty of one session; raises ValueError if none is named and there are several."""
        if data_key is None and len(self) != 1:
            raise ValueError(f"data_key is needed, one of {self.readout_keys()}")
        session = self.readout_keys()[0] if data_key is None else data_key
        return self._readout(session).regularizer(reduction or self.readout_reg_reduction)

    def _readout(self, session: str) -> Readout:
        if session not in self:
            raise KeyError(f"no readout for session {session!r}; known are {self.readout_keys()}")
        return self[session]  # type: ignore[return-value]


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
        published_behaviour: bool = False,
    ):
        super().__init__(
            in_shape=in_shape,
            n_neurons_dict=n_neurons_dict,
            mean_activity_dict=mean_activity_dict,
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
        readout_bias: bool = True,
        weights_constraint: WeightsConstraint | None = None,
        mask_constraint: Literal["abs"] | None = None,
        init_mask: Float[Tensor, "neuron 1 height width"] | None = None,
        init_weights: Float[Tensor, "channel neuron"] | None = None,
        init_scales: Sequence[Sequence[float]] = ((0.0, 0.15), (0.0, 0.15)),
        readout_reg_avg: bool = False,
        mean_activity_dict: Mapping[str, Float[Tensor, " neuron"]] | None = None,
        nonlinearity_function: str | Callable[[Tensor], Tensor] = "softplus",
        published_behaviour: bool = False,
    ):
        super().__init__(
            in_shape=in_shape,
            n_neurons_dict=n_neurons_dict,
            mean_activity_dict=mean_activity_dict,
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


class MultiSampledGaussianReadout(MultiReadoutBase):
    """One `PointGaussianReadout` per session, with a nonlinearity."""

    _base_readout_cls = PointGaussianReadout

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
        source_grid: Float[Tensor, "neuron dimension"] | None = None,
        init_grid: Float[Tensor, "neuron 2"] | None = None,
        gamma: float = 1.0,
        reg_avg: bool = False,
        nonlinearity_function: str | Callable[[Tensor], Tensor] = "softplus",
        mean_activity_dict: Mapping[str, Float[Tensor, " neuron"]] | None = None,
        jitter_per_frame: bool = False,
        published_behaviour: bool = False,
    ):
        super().__init__(
            in_shape=in_shape,
            n_neurons_dict=n_neurons_dict,
            mean_activity_dict=mean_activity_dict,
            readout_reg_avg=reg_avg,
            bias=bias,
            init_mu_range=init_mu_range,
            init_sigma_range=init_sigma_range,
            batch_sample=batch_sample,
            align_corners=align_corners,
            gauss_type=gauss_type,
            grid_mean_predictor=grid_mean_predictor,
            source_grid=source_grid,
            init_grid=init_grid,
            gamma_readout=gamma,
            nonlinearity_function=nonlinearity_function,
            jitter_per_frame=jitter_per_frame,
            published_behaviour=published_behaviour,
        )


class MultiLNPReadout(MultiReadoutBase):
    """One `LNPReadout` per session."""

    _base_readout_cls = LNPReadout

    def __init__(
        self,
        in_shape: Sequence[int],
        n_neurons_dict: Mapping[str, int],
        temporal_kernel_size: int = 21,
        rank: int = 1,
        smooth_weight: float = 0.0,
        temporal_smooth_weight: float = 0.0,
        sparse_weight: float = 0.0,
        nonlinearity: str | Callable[[Tensor], Tensor] = "softplus",
        bias: bool = True,
        mean_activity_dict: Mapping[str, Float[Tensor, " neuron"]] | None = None,
        published_behaviour: bool = False,
    ):
        super().__init__(
            in_shape=in_shape,
            n_neurons_dict=n_neurons_dict,
            mean_activity_dict=mean_activity_dict,
            temporal_kernel_size=temporal_kernel_size,
            rank=rank,
            smooth_weight=smooth_weight,
            temporal_smooth_weight=temporal_smooth_weight,
            sparse_weight=sparse_weight,
            nonlinearity=nonlinearity,
            bias=bias,
            published_behaviour=published_behaviour,
        )
