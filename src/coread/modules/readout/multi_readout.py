"""One readout per session."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coread.modules.readout.base import Readout, Reduction
from coread.modules.readout.factorized_gaussian import GaussianMaskReadout


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
