"""New sessions on an old core: readouts for new recordings on a trained model, its core kept as it is."""

import json
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from coread.data_io.statistics import Statistics
from coread.models.core_readout import BaseCoreReadout
from coread.models.model_parts import refused_setting
from coread.models.pretrained import find_model_file, load_model_file
from coread.models.pretrained.folder import CONFIG_FILE
from coread.provenance import file_sha256

log = logging.getLogger(__name__)

MODEL_FILES = "COREAD_MODEL_FILES"  # JSON of names and files or folders: where trained models lie on this machine
TRAINING_ONLY = ("gamma_", "dropout_rate")  # arguments of a core that say how it is trained, not what it is
RATE_TOLERANCE = 1e-3
PIXEL_TOLERANCE = 0.01


class CoreMismatchError(ValueError):
    """A trained core does not fit new recordings; the message names both sides."""


@dataclass(frozen=True)
class PretrainedCore:
    """Setting `pretrained_core` of an experiment whose members start from the core of a trained model.

    `model` names the trained model: a released name, a hub repository, or a name that `model_files` of this machine
    maps to a file or folder. `sha256` is that of the checkpoint, or of `config.json` in a published folder: it stands
    in the settings, because another core makes another member. `freeze` keeps weights and batch statistics of the core
    as they are, but for what a session has of its own there (log speed, condition): that starts neutral for a session
    that the core does not know, and is learned with its readout. `model.core` and `model.hidden_channels` of the
    experiment give way to those of the trained model, all but penalties and dropout.
    """

    model: str
    sha256: str
    freeze: bool = True

    def load(self, model_files: Mapping[str, Path] | None = None) -> "TrainedCore":
        """Return the trained core; raises ValueError if it is not there, or another one than the settings mean."""
        named = json.loads(os.environ.get(MODEL_FILES, "{}")) if model_files is None else model_files
        path = find_model_file(named.get(self.model, self.model))
        if (found := model_digest(path)) != self.sha256:
            raise CoreMismatchError(
                f"pretrained_core.model {self.model} ({path}): its sha256 is {found}, the settings say {self.sha256}"
            )
        return TrainedCore(load_model_file(path, "cpu"), self.model, self.freeze)


@dataclass(frozen=True)
class TrainedCore:
    """A trained model of which the core is taken, as `PretrainedCore.load` returns it."""

    trained: BaseCoreReadout
    name: str
    freeze: bool

    def check(self, sizes: Mapping[str, Any]) -> None:
        """Compare the trained model with the sizes of new recordings.

        Raises CoreMismatchError for another (channel, height, width) or frame rate; another pixel size is a warning.
        """
        info = self.trained.data_info
        check_input_shape(self.name, info["input_shape"], sizes["input_shape"])
        for key, tolerance in (("rate_hz", RATE_TOLERANCE), ("pixel_um", PIXEL_TOLERANCE)):
            old, new = info.get(key), sizes.get(key)
            if old is None or new is None or math.isclose(float(old), float(new), rel_tol=tolerance):
                continue
            message = f"the core of {self.name} was trained at {key} {old}, the new recordings have {new}"
            if key == "rate_hz":
                raise CoreMismatchError(message)
            log.warning(message)

    def check_behaviour(self, regressors: Mapping[str, Any]) -> None:
        """Compare the behaviour that enters the core with that of new sessions, of which `regressors` are the maps.

        Raises CoreMismatchError for other variables, another order, or another scheme, as far as schemes differ in of
        which variables they take the magnitude.
        """
        if not getattr(self.trained, "behaviour_channels", 0):
            return
        old, new = ({_form(maps) for maps in known.values()} for known in (self._regressors(), regressors))
        if old and new and old != new:
            raise CoreMismatchError(
                f"behaviour enters the core of {self.name}, which was trained with {_told(old)}; the new sessions have "
                f"{_told(new)}: choose the `regressors` of the trained model"
            )

    def _regressors(self) -> Mapping[str, Any]:
        known: Mapping[str, Any] = self.trained.data_info.get("regressors", {})
        return known

    def model_settings(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """Return the model node of an experiment with the trained core's architecture in place of its own.

        Raises CoreMismatchError for a model that does not say what its core is, or that names a program as its core.
        """
        try:
            trained = self.trained.data_info["model_config"]
        except KeyError:
            raise CoreMismatchError(f"{self.name}: the model does not say what its core is (model_config)") from None
        if (refused := refused_setting({"model": trained})) is not None:
            raise CoreMismatchError(f"{self.name}: the core of the model asks for {refused}")
        own, core = dict(model.get("core") or {}), dict(trained["core"])
        if own.get("_target_") == core["_target_"]:
            core |= {key: value for key, value in own.items() if key.startswith(TRAINING_ONLY)}
        changed = sorted(key for key in core if key in own and own[key] != core[key])
        if changed:
            log.warning("the core of %s replaces model.core of the experiment: other %s", self.name, ", ".join(changed))
        widths = {"hidden_channels": list(trained["hidden_channels"])} if "hidden_channels" in trained else {}
        return {**model, "core": core, **widths}

    def keep_normalisation(self, statistics: Statistics) -> Statistics:
        """Return statistics of new sessions with the stimulus mean and std that the core was trained with."""
        info = self.trained.data_info
        return replace(statistics, stim_mean=float(info["stim_mean"]), stim_std=float(info["stim_std"]))

    def put_into(self, model: BaseCoreReadout) -> None:
        """Give a new model the trained weights and statistics of the core, and freeze it if so asked.

        Raises CoreMismatchError naming the first parameter with both shapes if the cores differ.
        """
        copy_core(self.trained, model, self.name)
        if self.freeze:
            _freeze_shared(model)


def _form(maps: Mapping[str, Any]) -> tuple[tuple[str, bool], ...]:
    """Return the behaviour variables of one session, each with whether its magnitude is taken."""
    behaviour = maps["behaviour"] or {"variables": (), "magnitude": ()}
    return tuple(zip(behaviour["variables"], behaviour["magnitude"], strict=True))


def _told(forms: set[tuple[tuple[str, bool], ...]]) -> str:
    return " or ".join(
        ", ".join(f"|{name}|" if magnitude else name for name, magnitude in form) or "none" for form in sorted(forms)
    )


def model_digest(path: Path) -> str:
    """Return the sha256 that stands for a model: of its file, or of config.json in a published folder."""
    return file_sha256(path / CONFIG_FILE if path.is_dir() else path)


def copy_core(source: BaseCoreReadout, target: BaseCoreReadout, name: str = "the trained model") -> None:
    """Copy parameters and buffers of a core; raises CoreMismatchError naming one that differs, with both shapes.

    What only sessions of the source have of their own is left out, what only sessions of the target have becomes
    neutral.
    """
    old, new = source.core.state_dict(), target.core.state_dict()
    known, wanted = source.core.session_parameters(), target.core.session_parameters()
    for key in known.keys() - wanted.keys():
        del old[key]
    for key in wanted.keys() - known.keys():
        old[key] = torch.zeros_like(new[key])
    for key in [*new, *(key for key in old if key not in new)]:
        shapes = [None if key not in state else tuple(state[key].shape) for state in (old, new)]
        if shapes[0] != shapes[1]:
            raise CoreMismatchError(f"core.{key} is {shapes[0]} in {name} and {shapes[1]} in the new model")
    target.core.load_state_dict(old)


def _freeze_shared(model: BaseCoreReadout) -> None:
    """Freeze what sessions share of the core; what one has of its own there is learned as its readout is."""
    model.freeze_core()
    for parameter in model.core.session_parameters().values():
        parameter.requires_grad_(True)


def add_sessions(
    model: BaseCoreReadout,
    n_neurons_dict: Mapping[str, int],
    mean_activity_dict: Mapping[str, Float[Tensor, " neuron"]] | None = None,
    response_scale: Mapping[str, Float[Tensor, " neuron"]] | None = None,
    freeze_core: bool = True,
    n_trials_dict: Mapping[str, int] | None = None,
    **session_tables: Mapping[str, Any],
) -> None:
    """Add readouts for new sessions to a trained model, beside its old ones; the core is kept as it is.

    So are added what else a model has of a session, such as shifter and modulator, where `n_trials_dict` is needed for
    a gain per trial, and what it has of its own in the core (log speed, condition), which starts neutral and is never
    frozen. What a new session's regressors were fitted to goes to `model.update_model_data_info`.

    `mean_activity_dict` are the mean responses in training, in units of `response_scale` (default 1), from which biases
    start. `session_tables` go to the readouts that need more of a session. Raises ValueError for sessions that the
    model has, or that lack mean activity.
    """
    model.readout.add_sessions(n_neurons_dict, mean_activity_dict, **session_tables)
    counts = {session: int(count) for session, count in n_neurons_dict.items()}
    scale = {session: torch.ones(count) for session, count in counts.items()} | dict(response_scale or {})
    new = {"n_neurons_dict": counts, "response_scale": scale, **session_tables}
    if mean_activity_dict is not None:
        new["mean_activity_dict"] = dict(mean_activity_dict)
    if n_trials_dict is not None:
        new["n_trials_dict"] = {session: int(count) for session, count in n_trials_dict.items()}
    model.update_model_data_info(new)
    model.make_session_parts(counts)
    model.core.add_sessions(counts)
    device = next(model.core.parameters(), torch.empty(0)).device
    model.to(device).train(model.training)
    if freeze_core:
        _freeze_shared(model)


def check_input_shape(name: str, trained: Any, new: Any) -> None:
    """Raise CoreMismatchError with both shapes if stimuli are not of the (channel, height, width) of a model."""
    if tuple(map(int, trained)) != tuple(map(int, new)):
        raise CoreMismatchError(
            f"{name} takes stimuli of (channel, height, width) {tuple(map(int, trained))}, "
            f"the new recordings have {tuple(map(int, new))}"
        )
