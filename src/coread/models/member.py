"""A member: one trained model of an experiment (one fold and one seed), saved without any code in the file."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra.utils
import pandas as pd
import torch
from omegaconf import OmegaConf

from coread import __version__
from coread.data_io.statistics import Statistics
from coread.models.core_readout import BaseCoreReadout
from coread.models.model_parts import refused_setting
from coread.recording import Recording

FORMAT_VERSION = 1


class MemberError(ValueError):
    """A file is not a member, or not one that this version reads."""


@dataclass
class Member:
    """A trained model with everything needed to use it and to say where it came from.

    `recordings` are the content digests of the recordings it was trained on, by session; those that are absent are
    unknown, as in members of coread before it kept them.
    """

    model: BaseCoreReadout
    config: dict[str, Any]
    fold: int
    seed: int
    data_info: dict[str, Any]
    history: pd.DataFrame = field(default_factory=pd.DataFrame)
    recordings: dict[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the member atomically: plain types and tensors, readable with `torch.load(weights_only=True)`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "format_version": FORMAT_VERSION,
            "coread_version": __version__,
            "config": self.config,
            "fold": self.fold,
            "seed": self.seed,
            "data_info": self.data_info,
            "history": self.history.to_dict("list"),
            "recordings": self.recordings,
            "state_dict": self.model.state_dict(),
        }
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            torch.save(content, temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @property
    def statistics(self) -> Statistics:
        """What was fitted on the training bins of this member's fold."""
        info = self.data_info
        return Statistics(
            info["stim_mean"], info["stim_std"], dict(info["response_scale"]), dict(info["mean_activity_dict"])
        )


def load_member(path: Path, device: torch.device | str = "cpu") -> Member:
    """Read a member and return its model in eval mode.

    Raises MemberError that names the file, also for one whose settings ask for more than parts of models.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise MemberError(f"{path}: there is no such member") from None
    except Exception as error:
        raise MemberError(f"{path}: not a readable member, truncated or foreign ({error})") from error
    if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
        raise MemberError(f"{path}: not a coread member of format {FORMAT_VERSION}")
    if (refused := refused_setting(content["config"])) is not None:
        raise MemberError(f"{path}: the settings of the model ask for {refused}")
    return restore_member(content, device)


def restore_member(content: Mapping[str, Any], device: torch.device | str = "cpu") -> Member:
    """Return the member that the content of its file describes, with its model in eval mode."""
    model = build_model(content["config"], content["data_info"])
    model.load_state_dict(content["state_dict"])
    return Member(
        model=model.to(device).eval(),
        config=content["config"],
        fold=content["fold"],
        seed=content["seed"],
        data_info=content["data_info"],
        history=pd.DataFrame(content["history"]),
        recordings=dict(content.get("recordings", {})),
    )


def session_sizes(recordings: Sequence[Recording]) -> dict[str, Any]:
    """Return what a model is built from: neurons and trials of the sessions, shape of the stimulus, rates and units."""
    stimulus = next(iter(recordings[0].stimuli.values()))
    return {
        "n_neurons_dict": {recording.session: recording.n_neurons for recording in recordings},
        "n_trials_dict": {recording.session: len(recording.trials) for recording in recordings},
        "neurons_dict": {recording.session: _plain_columns(recording.neurons) for recording in recordings},
        "input_shape": [int(size) for size in stimulus.frames.shape[1:]],
        "rate_hz": float(recordings[0].rate_hz),
        "pixel_um": stimulus.pixel_um,
        "pixel_deg": stimulus.pixel_deg,
        "dataset": recordings[0].dataset,
        "unit": recordings[0].unit,
    }


def _plain_columns(table: pd.DataFrame) -> dict[str, list[Any]]:
    """Return the columns of a table as lists of numbers or texts."""
    numbers = {name: pd.api.types.is_numeric_dtype(table[name]) for name in table}
    return {str(name): table[name].tolist() if numbers[name] else table[name].astype(str).tolist() for name in table}


def build_model(config: Mapping[str, Any], data_info: Mapping[str, Any]) -> BaseCoreReadout:
    """Build the untrained model of a train slice for sessions of the given sizes."""
    plain: Any = OmegaConf.to_container(OmegaConf.create(dict(config)), resolve=True)
    channels, height, width = data_info["input_shape"]
    # partial first: Hydra would turn what is passed through it into its own containers
    make_model = hydra.utils.instantiate(plain["model"], _recursive_=False, _partial_=True)
    return make_model(
        in_shape=(channels, plain["dataloader"]["window_length"], height, width),
        n_neurons_dict=dict(data_info["n_neurons_dict"]),
        data_info=dict(data_info),
        loss=hydra.utils.instantiate(plain["loss"]),
        optimizer=hydra.utils.instantiate(plain["optimizer"]),
        lr_scheduler=hydra.utils.instantiate(plain.get("lr_scheduler")),
    )
