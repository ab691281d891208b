"""Trained models from files: released ones by name, checkpoints, published folders, hub repositories.

Model files are data here, not programs: what would run code is refused by name.
"""

import os
from pathlib import Path
from typing import Any

import torch

from coread.data_io.download.local_path import cache_directory, get_local_file_path
from coread.models.core_readout import BaseCoreReadout
from coread.models.ensemble import EnsembleModel
from coread.models.member import FORMAT_VERSION, Member, restore_member
from coread.models.pretrained.folder import CONFIG_FILE, MEMBERS, is_ensemble, is_published, read_ensemble, read_member
from coread.models.pretrained.lightning import build_published, is_lightning
from coread.models.pretrained.released import hub_folder, is_hub_name, released_file, released_models
from coread.models.pretrained.safe_pickle import CheckpointError, UnsafeCheckpointError, read_checkpoint
from coread.models.pretrained.targets import check_targets

__all__ = [
    "CheckpointError",
    "UnsafeCheckpointError",
    "find_model_file",
    "load_core_readout_from_remote",
    "load_core_readout_model",
    "load_ensemble",
    "load_model_file",
    "read_checkpoint",
    "released_models",
]


def load_core_readout_from_remote(
    model_path: str,
    device: str | torch.device,
    cache_directory_path: str | os.PathLike[str] | None = None,
) -> BaseCoreReadout:
    """Return a released model by its name, in eval mode; offline if its file lies in the cache.

    The cache is `cache_directory_path`, else COREAD_CACHE_DIRECTORY, OPENRETINA_CACHE_DIRECTORY or ~/.cache/coread.
    Raises CheckpointError for an unknown name or a file that is not the released model.
    """
    return load_model_file(released_file(model_path, cache_directory(cache_directory_path)), device)


def load_core_readout_model(
    model_path_or_name: str | os.PathLike[str],
    device: str | torch.device,
    cache_directory_path: str | os.PathLike[str] | None = None,
) -> BaseCoreReadout:
    """Return a trained model in eval mode.

    The first argument is the name of a released model, a published Lightning checkpoint or its web address, a
    `model.ckpt` of ours, a folder that `coread publish` wrote, or a repository `owner/name` of the hub that holds such
    a folder. Raises
    CheckpointError that names the file and what is wrong with it.
    """
    return load_model_file(find_model_file(model_path_or_name, cache_directory_path), device)


def load_ensemble(
    folder_or_name: str | os.PathLike[str],
    device: str | torch.device,
    cache_directory_path: str | os.PathLike[str] | None = None,
) -> EnsembleModel:
    """Return the ensemble that `coread publish` wrote into a folder or hub repository, in eval mode.

    Raises CheckpointError that names the file and what is wrong with it.
    """
    path = find_model_file(folder_or_name, cache_directory_path)
    if not is_ensemble(path):
        raise CheckpointError(f"{path}: no published ensemble")
    return EnsembleModel(*(member.model for member in read_ensemble(path, device))).to(device).eval()


def find_model_file(
    model_path_or_name: str | os.PathLike[str], cache_directory_path: str | os.PathLike[str] | None = None
) -> Path:
    """Return the local file or folder of a model, downloaded if need be; raises CheckpointError if there is none."""
    name = os.fspath(model_path_or_name)
    cache = cache_directory(cache_directory_path)
    if name in released_models():
        return released_file(name, cache)
    if "://" in name:
        return get_local_file_path(name, cache)
    path = Path(name).expanduser()
    if path.exists():
        return path
    if is_hub_name(name) and not path.suffix:
        return hub_folder(name, cache)
    raise CheckpointError(
        f"{name}: there is no such file or folder, and it is none of the released models {sorted(released_models())}"
    )


def load_model_file(path: Path, device: str | torch.device) -> BaseCoreReadout:
    """Return the model of a checkpoint or published folder, in eval mode; raises CheckpointError naming the file."""
    if path.is_dir():
        return _of_folder(path, device).model
    content = read_checkpoint(path)
    try:
        if is_lightning(content):
            return build_published(content).to(device).eval()
        return _of_member(content, path, device).model
    except CheckpointError as error:
        raise type(error)(f"{path}: {error}") from error


def _of_folder(path: Path, device: str | torch.device) -> Member:
    if is_published(path):
        return read_member(path, device)
    if is_ensemble(path):
        raise CheckpointError(f"{path}: an ensemble: use load_ensemble, or load one of its members, {MEMBERS}/<name>")
    raise CheckpointError(f"{path}: no published model (a folder that coread publish wrote holds {CONFIG_FILE})")


def _of_member(content: dict[str, Any], path: Path, device: str | torch.device) -> Member:
    if content.get("format_version") != FORMAT_VERSION or not isinstance(content.get("config"), dict):
        raise CheckpointError(
            "neither a Lightning checkpoint (state_dict and hyper_parameters) nor a coread member of format "
            f"{FORMAT_VERSION}; it holds {sorted(map(str, content))}"
        )
    check_targets(content["config"])
    return restore_member(content, device)
