"""Where the files of trained models lie: released ones by name, in the cache or else downloaded; hub repositories."""

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from coread.config import closest, config_directory
from coread.data_io.download.dataset import download_dataset
from coread.data_io.download.manifest import Manifest
from coread.models.pretrained.folder import is_whole
from coread.models.pretrained.safe_pickle import CheckpointError
from coread.provenance import file_sha256

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")


@functools.cache
def read_registry() -> Mapping[str, Any]:
    """Return configs/pretrained/released.yaml: the source of the released models, and their files by name."""
    return yaml.safe_load((config_directory() / "pretrained" / "released.yaml").read_text(encoding="utf-8"))


def released_models() -> Mapping[str, Mapping[str, Any]]:
    """Return the released models by name: path in their repository, size in bytes and sha256 where known."""
    return read_registry()["models"]


def released_file(name: str, cache: Path) -> Path:
    """Return the checkpoint of a released model, from the cache without any network, or else downloaded into it.

    In the cache it may lie at its published path or directly as `<name>.ckpt`. Raises CheckpointError for an unknown
    name, or a file whose sha256 is not the registered one; DownloadError, which names the file, for a failed download
    or a downloaded file that was altered.
    """
    entry = released_models().get(name)
    if entry is None:
        raise CheckpointError(f"there is no released model {name!r}{closest(name, released_models())}")
    target = cache / entry["path"]
    present = [path for path in (target, cache / target.name) if path.is_file()]
    if not present:
        download_dataset({"dataset": name, "files": [dict(entry)], "source": read_registry()["source"]}, cache)
        return target
    Manifest.read(cache).check_files(present)
    if entry["sha256"] is not None and (found := file_sha256(present[0])) != entry["sha256"]:
        raise CheckpointError(f"{present[0]}: its sha256 is {found}, that of {name} is {entry['sha256']}: remove it")
    return present[0]


def is_hub_name(text: str) -> bool:
    """Return whether a text has the form of a repository of the Hugging Face hub, `owner/name` or `owner/name@rev`."""
    return HUB_NAME.fullmatch(text) is not None


def hub_folder(name: str, cache: Path) -> Path:
    """Return the local copy of a hub repository; what is in the cache whole is used without any network.

    A copy that lacks files, of a download that was interrupted, is completed. Raises CheckpointError if huggingface_hub
    is not installed or the repository cannot be had.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise CheckpointError(f"{name}: models of the hub need huggingface_hub: pip install huggingface_hub") from error
    repository, _, revision = name.partition("@")
    options: dict[str, Any] = {"revision": revision or None, "cache_dir": cache / "hub"}
    try:
        cached = Path(snapshot_download(repository, local_files_only=True, **options))
    except (OSError, ValueError):  # not in the cache; huggingface_hub's own errors are of these types
        cached = None
    if cached is not None and is_whole(cached):
        return cached
    try:
        return Path(snapshot_download(repository, **options))
    except (OSError, ValueError) as error:
        here = "no folder here" if cached is None else f"{cached} is no whole model"
        raise CheckpointError(f"{name}: {here}, and not to be had from the hub ({error})") from error
