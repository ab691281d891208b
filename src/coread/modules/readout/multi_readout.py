"""One readout per session.

The classes for particular readouts stand beside these readouts; here they are found by their published names, each
imported when it is asked for, so that a config depends on the one readout that it names.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coread.modules.readout.base import Readout, Reduction
from coread.modules.readout.cloned import ClonedReadout

if TYPE_CHECKING:
    from coread.modules.readout.factorized import MultiFactorizedReadout
    from coread.modules.readout.factorized_gaussian import MultiGaussianMaskReadout, MultiGaussianReadoutWrapper
    from coread.modules.readout.gaussian import MultiSampledGaussianReadout
    from coread.modules.readout.linear_nonlinear import MultiLNPReadout, MultipleLNPReadout
    from coread.modules.readout.separable_lnp import MultiSeparableLNPReadout
    from coread.modules.readout.spatial_contrast_model_readout import MultiSpatialContrastReadout
    from coread.modules.readout.spline import MultiSplineMaskReadout

__all__ = [
    "ClonedReadout",
    "MultiFactorizedReadout",
    "MultiGaussianMaskReadout",
    "MultiGaussianReadoutWrapper",
    "MultiLNPReadout",
    "MultiReadoutBase",
    "MultiSampledGaussianReadout",
    "MultiSeparableLNPReadout",
    "MultiSpatialContrastReadout",
    "MultiSplineMaskReadout",
    "MultipleLNPReadout",
]

_HOMES = {
    "MultiFactorizedReadout": "factorized",
    "MultiGaussianMaskReadout": "factorized_gaussian",
    "MultiGaussianReadoutWrapper": "factorized_gaussian",
    "MultiLNPReadout": "linear_nonlinear",
    "MultiSampledGaussianReadout": "gaussian",
    "MultiSeparableLNPReadout": "separable_lnp",
    "MultiSpatialContrastReadout": "spatial_contrast_model_readout",
    "MultiSplineMaskReadout": "spline",
    "MultipleLNPReadout": "linear_nonlinear",
}


def __getattr__(name: str) -> Any:
    """Import a class from where it stands (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # not importlib, whose imports are missing in Python's import log
    return getattr(__import__(f"coread.modules.readout.{_HOMES[name]}", fromlist=[name]), name)


class MultiReadoutBase(nn.ModuleDict):
    """A dictionary of sessions and their readouts, all of one class with the same arguments.

    `readout_kwargs` go to the readouts, which refuse unknown ones. `readout_reg_avg` averages penalties over neurons
    instead of summing them. With `clone_readout` the first session has a readout of its own and all others, of the
    same neurons in the same order, a `ClonedReadout` of it. Raises ValueError for sessions without mean activity, if
    any has one.
    """

    _base_readout_cls: type[Readout] | None = None
    session_tables: ClassVar[Sequence[str]] = ()  # keys of data_info that are passed to the constructor

    def __init__(
        self,
        in_shape: Sequence[int],
        n_neurons_dict: Mapping[str, int],
        base_readout: type[Readout] | None = None,
        mean_activity_dict: Mapping[str, Float[Tensor, " neuron"]] | None = None,
        clone_readout: bool = False,
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
        self.clone_readout = clone_readout
        self.readout_reg_avg = readout_reg_avg
        self.readout_reg_reduction: Reduction = "mean" if readout_reg_avg else "sum"
        self.add_sessions(n_neurons_dict, mean_activity_dict)

    def add_sessions(
        self,
        n_neurons_dict: Mapping[str, int],
        mean_activity_dict: Mapping[str, Float[Tensor, " neuron"]] | None = None,
        **session_tables: Mapping[str, Any],
    ) -> None:
        """Add readouts for new sessions; raises ValueError for sessions that exist or lack mean activity.

        `session_tables` is what the class asks for in `session_tables`, by session.
        """
        existing = sorted(set(self.keys()) & set(n_neurons_dict))
        if existing:
            raise ValueError(f"sessions {existing} already have a readout")
        missing = sorted(set(n_neurons_dict) - set(mean_activity_dict or n_neurons_dict))
        if missing:
            raise ValueError(f"no mean activity for sessions {missing}")
        self.add_tables(**session_tables)
        for session, n_neurons in n_neurons_dict.items():
            mean_activity = None if mean_activity_dict is None else torch.as_tensor(mean_activity_dict[session])
            self[session] = self._new_readout(session, n_neurons, mean_activity, list(n_neurons_dict))

    def _new_readout(
        self, session: str, n_neurons: int, mean_activity: Float[Tensor, " neuron"] | None, sessions: Sequence[str]
    ) -> Readout:
        if self.clone_readout and len(self):
            return ClonedReadout(self._readout(next(iter(self))), mean_activity, n_neurons, session)
        return self._readout_class(
            in_shape=self._in_shape,
            outdims=n_neurons,
            mean_activity=mean_activity,
            **self._readout_kwargs,
            **self.session_arguments(session, sessions),
        )

    def session_arguments(self, session: str, sessions: Sequence[str]) -> dict[str, Any]:
        """Return arguments of one session's readout only; `sessions` are added together with it."""
        return {}

    def add_tables(self, **session_tables: Mapping[str, Any]) -> None:
        """Remember what `session_arguments` needs of further sessions; raises TypeError for what nothing reads."""
        if session_tables:
            raise TypeError(f"{type(self).__name__} takes no {sorted(session_tables)}")

    def initialize(self, mean_activity_dict: Mapping[str, Float[Tensor, " neuron"]] | None = None) -> None:
        """Start the readouts of all sessions at their mean rates, if there are any."""
        for session in self:
            self._readout(session).initialize(None if mean_activity_dict is None else mean_activity_dict[session])

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
        self, x: Float[Tensor, "batch channel time height width"], data_key: str | None = None, **kwargs: Any
    ) -> Float[Tensor, "batch time neuron"]:
        """Return the responses of one session, or of all in sorted order; raises KeyError for an unknown session.

        `kwargs` go to the readouts.
        """
        if data_key is None:
            return torch.cat([self[session](x, **kwargs) for session in self.readout_keys()], dim=-1)
        return self._readout(data_key)(x, **kwargs)

    def penalties(
        self, data_key: str | None = None, reduction: Reduction | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the weighted penalty terms of one session by name; raises ValueError as `regularizer` does."""
        return self._penalised(data_key).penalties(reduction or self.readout_reg_reduction)

    def regularizer(self, data_key: str | None = None, reduction: Reduction | None = None) -> Float[Tensor, ""]:
        """Return the penalty of one session; raises ValueError if none is named and there are several."""
        return self._penalised(data_key).regularizer(reduction or self.readout_reg_reduction)

    def save_weight_visualizations(
        self, folder_path: str | Path, file_format: str = "jpg", state_suffix: str = ""
    ) -> None:
        """Draw every neuron of every session, each session into a folder of its own name below a folder."""
        for session in self.readout_keys():
            self._readout(session).save_weight_visualizations(Path(folder_path) / session, file_format, state_suffix)

    def _penalised(self, data_key: str | None) -> Readout:
        if data_key is None and len(self) != 1:
            raise ValueError(f"data_key is needed, one of {self.readout_keys()}")
        return self._readout(self.readout_keys()[0] if data_key is None else data_key)

    def _readout(self, session: str) -> Readout:
        if session not in self:
            raise KeyError(f"no readout for session {session!r}; known are {self.readout_keys()}")
        return self[session]  # type: ignore[return-value]
