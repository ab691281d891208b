"""The folder that `coread publish` writes: weights as safetensors, everything else as JSON.

`model.safetensors` holds the state dict, without the grids that follow from its shapes; `context.safetensors`, where a
model wants more than the stimulus, the arrays of its regressors; `config.json` what `FORMAT` says, with the sha256 of
both. An ensemble is a folder of such folders below `members/`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from coread.models.member import Member, build_model
from coread.models.pretrained.safe_pickle import CheckpointError
from coread.models.pretrained.targets import check_targets
from coread.provenance import file_sha256

FORMAT, ENSEMBLE_FORMAT = "coread model 1", "coread ensemble 1"
CONFIG_FILE, WEIGHTS_FILE, CARD_FILE, MEMBERS = "config.json", "model.safetensors", "README.md", "members"
CONTEXT_FILE, ARRAY = "context.safetensors", "_array_"  # the key that stands for an array of that file
NEEDED = ("train", "data_info", "fold", "seed", "weights")
# what is fitted per neuron, and needed to use the model: float32, which JSON keeps to the last bit
STATISTICS = ("response_scale", "mean_activity_dict")
CONTEXT = ("regressors", "typical_context", "labels")  # what a model needs to be told more than the stimulus


def is_published(folder: Path) -> bool:
    """Return whether a folder holds one published model."""
    return _format(folder) == FORMAT


def is_ensemble(folder: Path) -> bool:
    """Return whether a folder holds a published ensemble."""
    return _format(folder) == ENSEMBLE_FORMAT


def is_whole(folder: Path) -> bool:
    """Return whether every file of a published model or ensemble is there; what they hold is checked on reading."""
    if is_ensemble(folder):
        members = _read_config(folder).get("members", {})
        return all(is_published(path) and is_whole(path) for path in (folder / MEMBERS / Path(m).name for m in members))
    if not is_published(folder) or not (folder / WEIGHTS_FILE).is_file():
        return False
    return "context" not in _read_config(folder) or (folder / CONTEXT_FILE).is_file()


def read_member(folder: Path, device: torch.device | str = "cpu") -> Member:
    """Return the published model as a member, in eval mode.

    Raises CheckpointError naming the file if something is missing, was altered, or is more than data.
    """
    from safetensors.torch import load_file

    config = _read_config(folder)
    if missing := [key for key in NEEDED if key not in config]:
        raise CheckpointError(f"{folder / CONFIG_FILE}: lacks {missing}")
    path = folder / WEIGHTS_FILE
    _check_sha256(path, config["weights"].get("sha256"))
    try:
        check_targets(config["train"])
    except CheckpointError as error:
        raise type(error)(f"{folder / CONFIG_FILE}: {error}") from error
    info = statistics_from_json(config["data_info"])
    if "context" in config:
        _check_sha256(folder / CONTEXT_FILE, config["context"].get("sha256"))
        info |= _with_arrays(config["context"]["tree"], load_file(folder / CONTEXT_FILE))
    try:
        model = build_model(config["train"], info)
        model.load_state_dict(load_file(path))
    except (RuntimeError, TypeError, KeyError) as error:
        raise CheckpointError(f"{folder}: the weights do not fit the settings ({error})") from error
    fold, seed = int(config["fold"]), int(config["seed"])
    return Member(model.to(device).eval(), config["train"], fold, seed, info, recordings=_digests(config))


def _check_sha256(path: Path, expected: str | None) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path}: the weights are missing")
    if (found := file_sha256(path)) != expected:
        raise CheckpointError(f"{path}: the weights were altered: sha256 is {found}, {CONFIG_FILE} says {expected}")


def context_to_json(info: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what a model needs beside the stimulus as a tree for JSON and the arrays that it names.

    Empty for a model that is told nothing else.
    """
    arrays: dict[str, Tensor] = {}

    def replaced(node: Any, name: str) -> Any:
        if isinstance(node, Mapping):
            return {key: replaced(value, f"{name}/{key}") for key, value in node.items()}
        if not isinstance(node, Tensor):
            return node
        arrays[name] = node.detach().cpu().contiguous().clone()
        return {ARRAY: name}

    tree = {key: replaced(info[key], key) for key in CONTEXT if key in info}
    return tree, arrays


def _with_arrays(node: Any, arrays: Mapping[str, Tensor]) -> Any:
    """Return a tree with its arrays in place of their names."""
    if not isinstance(node, Mapping):
        return node
    if set(node) == {ARRAY}:
        return arrays[node[ARRAY]]
    return {key: _with_arrays(value, arrays) for key, value in node.items()}


def _digests(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the digests of the recordings that a config knows."""
    sessions = config.get("data", {}).get("sessions", {})
    return {session: str(entry["sha256"]) for session, entry in sessions.items() if entry.get("sha256")}


def read_ensemble(folder: Path, device: torch.device | str = "cpu") -> list[Member]:
    """Return the members of a published ensemble; raises CheckpointError also for a member that was replaced."""
    members = []
    for name, entry in _read_config(folder)["members"].items():
        path = folder / MEMBERS / Path(name).name
        if not (path / CONFIG_FILE).is_file() or file_sha256(path / CONFIG_FILE) != entry.get("sha256"):
            raise CheckpointError(f"{path / CONFIG_FILE}: missing, or not the one that {folder / CONFIG_FILE} lists")
        members.append(read_member(path, device))
    return members


def statistics_to_json(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the statistics per neuron as lists, which JSON and back leave bit-equal."""
    return {
        key: {session: torch.as_tensor(values).tolist() for session, values in info[key].items()}
        for key in STATISTICS
        if key in info
    }


def statistics_from_json(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return data_info with its statistics per neuron as tensors."""
    tensors: dict[str, dict[str, Float[Tensor, " neuron"]]] = {
        key: {session: torch.tensor(values, dtype=torch.float32) for session, values in info[key].items()}
        for key in STATISTICS
        if key in info
    }
    return {**info, **tensors}


def _format(folder: Path) -> str | None:
    return _read_config(folder).get("format") if (folder / CONFIG_FILE).is_file() else None


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: expected an object, found {type(config).__name__}")
    return config
