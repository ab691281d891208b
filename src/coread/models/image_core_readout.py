"""Models of responses to single images: core, readouts, shifters and modulators (SENSORIUM, Willeke et al. 2022)."""

from collections.abc import Mapping, Sequence
from typing import Any

import hydra.utils
import torch
from jaxtyping import Float, Int
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from coread.models.core_readout import BaseCoreReadout, OptimizerFactory, SchedulerFactory
from coread.models.output_shape import core_output_shape
from coread.modules.nonlinearities import OutputNonlinearity

Node = DictConfig | Mapping[str, Any]
CONTEXT = ("behaviour", "pupil_center", "history", "state", "time_order")


class ImageCoreReadout(BaseCoreReadout):
    """A core and readouts for images, with what else is known of a trial: one bin is one image, and there is no lag.

    `core`, `readout`, `shifter` and `modulator` are named by `_target_` in Hydra configs; sizes are filled in from the
    data. Core and shifter see behaviour and eye of the trial, the modulator its past (`HistoryStateGainModulator`).
    `data_info` must give `neurons_dict` for readouts that ask for positions in the tissue, and `n_trials_dict` for a
    gain per trial and for a loss that is scaled by the number of trials.

    Args:
        in_shape: `(channel, time, height, width)` of the stimulus.
        n_neurons_dict: neurons of every session.
        core: of two dimensions; takes `input_channels` and `planes` (`Stacked2dCore`).
        readout: readouts of all sessions, whose output is not yet a rate (`MultiSampledGaussianReadout`).
        shifter: from the pupil's centre to a shift of all receptive fields, one per session; None for none.
        modulator: one per session; None for none.
        output_nonlinearity: from the readout's (or modulator's) sum to a rate: "elu1", "softplus", "exp".
        elu_offset: added before the nonlinearity.
        softplus_beta: steepness of "softplus".
        behaviour_channels: behavioural variables that enter the core as constant planes.
        start_at_mean_activity: start the biases so that the output without input is the neuron's mean response;
            published models start them at zero.
        learning_rate: of the optimiser.
        loss: by default the mean Poisson loss.

    Raises ValueError for parts that do not fit each other.

    """

    def __init__(
        self,
        in_shape: Sequence[int],
        n_neurons_dict: Mapping[str, int],
        core: Node,
        readout: Node,
        shifter: Node | None = None,
        modulator: Node | None = None,
        output_nonlinearity: str = "elu1",
        elu_offset: float = 0.0,
        softplus_beta: float = 1.0,
        behaviour_channels: int = 0,
        start_at_mean_activity: bool = True,
        learning_rate: float = 1e-3,
        loss: nn.Module | None = None,
        evaluation_loss: nn.Module | None = None,
        data_info: Mapping[str, Any] | None = None,
        optimizer: OptimizerFactory | None = None,
        lr_scheduler: SchedulerFactory | None = None,
        correlation_loss: nn.Module | None = None,
    ) -> None:
        nodes: dict[str, Any] = {
            "core": _plain(core),
            "readout": _plain(readout),
            "shifter": None if shifter is None else _plain(shifter),
            "modulator": None if modulator is None else _plain(modulator),
        }
        info = dict(data_info or {}) | {"model_config": nodes}
        channels = int(in_shape[0]) + behaviour_channels
        nonlinearity = OutputNonlinearity(output_nonlinearity, elu_offset, softplus_beta)
        core_module = _partial(nodes["core"])(input_channels=channels)
        super().__init__(
            core_module,
            _make_readout(
                nodes["readout"],
                core_output_shape(core_module, (channels, *in_shape[1:])),
                n_neurons_dict,
                info,
            ),
            learning_rate=learning_rate,
            loss=loss,
            correlation_loss=correlation_loss,
            evaluation_loss=evaluation_loss,
            data_info=info,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
        )
        self.behaviour_channels = behaviour_channels
        self.start_at_mean_activity = start_at_mean_activity
        self.nonlinearity = nonlinearity
        self.shifter = nn.ModuleDict()
        self.modulator = nn.ModuleDict()
        self.make_session_parts(n_neurons_dict)

    def make_session_parts(self, n_neurons_dict: Mapping[str, int]) -> None:
        """Make shifters and modulators of sessions, of which `data_info` says what they need."""
        nodes = self.data_info["model_config"]
        for session, n_neurons in n_neurons_dict.items():
            self._start_bias(session)
            if nodes["shifter"] is not None:
                self.shifter[session] = _partial(nodes["shifter"])()
            if nodes["modulator"] is not None:
                self.modulator[session] = _partial(nodes["modulator"])(
                    nr_neurons=int(n_neurons),
                    nr_trials=self.data_info.get("n_trials_dict", {}).get(session),
                    mean_activity=self._mean_activity(session),
                    nonlinearity=self.nonlinearity,
                )
        first: Any = next(iter(self.modulator.values()), None)  # all have the same parts
        wanted = {
            "behaviour": self.behaviour_channels > 0,
            "pupil_center": len(self.shifter) > 0,
            **{name: first is not None and name in first.context_names for name in CONTEXT[2:]},
        }
        self.context_names = tuple(name for name in CONTEXT if wanted[name])

    def _mean_activity(self, session: str) -> Float[Tensor, " neuron"] | None:
        activity = (self.data_info.get("mean_activity_dict") or {}).get(session)
        return None if activity is None else torch.as_tensor(activity, dtype=torch.float32)

    @torch.no_grad()
    def _start_bias(self, session: str) -> None:
        """Start a readout's bias at what gives the mean activity, or at zero; the nonlinearity is not the readout's."""
        readout: Any = self.readout[session]
        activity = self._mean_activity(session)
        if self.start_at_mean_activity and activity is not None:
            readout.initialize_bias(self.nonlinearity.inverse(activity))
        elif readout.bias is not None:
            readout.bias.zero_()

    def forward(
        self,
        x: Float[Tensor, "batch channel *time height width"],
        data_key: str | None = None,
        *,
        behaviour: Float[Tensor, "batch *time variable"] | None = None,
        pupil_center: Float[Tensor, "batch *time 2"] | None = None,
        history: Float[Tensor, "batch *time neuron lag"] | None = None,
        state: Float[Tensor, "batch *time component"] | None = None,
        time_order: Int[Tensor, "batch *time"] | None = None,
    ) -> Float[Tensor, "batch *time neuron"]:
        """Return the rates of one session's neurons to images, or to the frames of windows, each on its own.

        What else is known of a trial has the leading axes of the images. Without `behaviour` its channels must be in
        `x`. Context that the model does not use is left aside. Raises ValueError if some is missing, or no session is
        named and there are several.
        """
        session = self._session(data_key)
        context = {
            "behaviour": behaviour,
            "pupil_center": pupil_center,
            "history": history,
            "state": state,
            "time_order": time_order,
        }
        used = {name: value for name in self.context_names if (value := context[name]) is not None}
        if x.dim() == 5:
            shape = (x.shape[0], x.shape[2])
            x = x.transpose(1, 2).flatten(0, 1)
            flat = {name: _flatten_time(name, value, shape) for name, value in used.items()}
            return self._predict(x, session, flat).unflatten(0, shape)
        return self._predict(x, session, used)

    def _session(self, data_key: str | None) -> str:
        sessions = self.readout.readout_keys()
        if data_key is None and len(sessions) == 1:
            return sessions[0]
        if data_key is None:
            raise ValueError(f"data_key is needed, because context belongs to one session: one of {sessions}")
        if data_key not in sessions:
            raise KeyError(f"no readout for session {data_key!r}; known are {sessions}")
        return data_key

    def _predict(
        self, x: Float[Tensor, "sample channel height width"], session: str, context: Mapping[str, Tensor]
    ) -> Float[Tensor, "sample neuron"]:
        maps = self.core(x, planes=context.get("behaviour"))
        arguments = {}
        if session in self.shifter:
            if "pupil_center" not in context:
                raise ValueError(
                    f"session {session!r}: the model shifts receptive fields with the eye, pupil_center (batch, 2) is "
                    "needed; as z-scores, zeros are its mean"
                )
            arguments["shift"] = self.shifter[session](context["pupil_center"])
        sums = self.readout(maps.unsqueeze(2), data_key=session, **arguments).squeeze(1)
        if session not in self.modulator:
            return self.nonlinearity(sums)
        modulator: Any = self.modulator[session]
        return modulator(sums, **{name: context.get(name) for name in modulator.context_names})

    def penalties(self, data_key: str) -> dict[str, Float[Tensor, ""]]:
        """Return the weighted terms of the penalty by name: `core_`, `readout_`, `shifter_` and `modulator_<term>`."""
        terms = super().penalties(data_key)
        for part, modules in (("shifter", self.shifter), ("modulator", self.modulator)):
            if data_key in modules:
                module: Any = modules[data_key]
                terms |= {f"{part}_{name}": value for name, value in module.penalties().items()}
        return terms


def _plain(node: Node) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.create(dict(node)), resolve=True)  # type: ignore[return-value]


def _partial(node: Mapping[str, Any]) -> Any:
    """Return the class of a node with its settings; what is passed to it later stays as it is."""
    return hydra.utils.instantiate(node, _partial_=True)


def _make_readout(
    node: Mapping[str, Any],
    in_shape: Sequence[int],
    n_neurons_dict: Mapping[str, int],
    info: Mapping[str, Any],
) -> Any:
    """Return the readouts of all sessions, without a nonlinearity; raises ValueError if they should have one."""
    if node.get("nonlinearity_function", "identity") != "identity":
        raise ValueError(
            f"nonlinearity_function of the readout must be identity, got {node['nonlinearity_function']!r}: "
            "the model's output_nonlinearity follows it"
        )
    make = _partial(node)
    return make(
        in_shape=in_shape,
        n_neurons_dict=dict(n_neurons_dict),
        nonlinearity_function="identity",
        **{name: info[name] for name in getattr(make.func, "session_tables", ()) if name in info},
    )


def _flatten_time(name: str, value: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return context (batch, time, ...) with one axis of samples; raises ValueError for another batch or time."""
    if tuple(value.shape[:2]) != shape:
        raise ValueError(f"{name} must be (batch, time, ...) = {shape} as the stimulus, got {tuple(value.shape)}")
    return value.flatten(0, 1)
