"""The documented way to read a file that may be remote: its local path, fetched into the cache where needed."""

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from coread.data_io.download.dataset import download_dataset
from coread.data_io.download.manifest import Manifest, unpacked_folder
from coread.data_io.download.origin import HubDataset, make_origin, split_address
from coread.data_io.download.registry import ARCHIVE
from coread.data_io.download.transfer import log

CACHE_VARIABLES = ("COREAD_CACHE_DIRECTORY", "OPENRETINA_CACHE_DIRECTORY")


def cache_directory(path: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of downloads: `path`, $COREAD_CACHE_DIRECTORY, $OPENRETINA_CACHE_DIRECTORY or ~/.cache/coread.

    The first of these that is there and not empty.
    """
    given = [path, *(os.environ.get(name) for name in CACHE_VARIABLES)]
    return Path(next((folder for folder in given if folder), "~/.cache/coread")).expanduser()


def get_local_file_path(file_path: str | Path, cache_folder: str | Path | None = None) -> Path:
    """Return a local path as it is; fetch an http(s) or file address into the cache and return where it lies there.

    Files of https://huggingface.co/datasets/... lie at `<cache>/<path in the repository>`, others at
    `<cache>/<host>/<path>`. Of a .zip archive that is the folder it is unpacked to, or the one file that it holds; of a
    folder's address (.../tree/...) the folder. What was fetched needs no network again. Raises DownloadError.
    """
    text = os.fspath(file_path)
    if "://" not in text:
        return Path(text).expanduser()
    cache = cache_directory(cache_folder)
    source, path, may_be_folder = split_address(text)
    if "url" in source:
        parts = urlsplit(source["url"])
        cache = cache / parts.netloc / unquote(parts.path).strip("/")
    is_archive = path.endswith(ARCHIVE)
    if is_archive and _is_unpacked_elsewhere(cache, path):
        log.warning("%s: unpacked by another program and taken as it is", unpacked_folder(cache / path))
        return unpacked_folder(cache / path)
    if may_be_folder and _is_folder(cache, source, path):
        path += "/"
    entry = {"path": path, "unpack": is_archive or path.endswith("/")}
    download_dataset({"dataset": path, "files": [entry], "source": source}, cache)
    if not is_archive:
        return cache / path
    members = Manifest.read(cache).unpacked(path) or []
    folder = unpacked_folder(cache / path)
    return folder / members[0] if len(members) == 1 else folder


def _is_unpacked_elsewhere(cache: Path, path: str) -> bool:
    """Return whether the folder of an archive that is not there is, and was not unpacked by this package."""
    if (cache / path).exists() or not unpacked_folder(cache / path).is_dir():
        return False
    return Manifest.read(cache).unpacked(path) is None


def _is_folder(cache: Path, source: dict[str, str], path: str) -> bool:
    """Return whether an address that may mean either is a folder's, without the network where the manifest knows it."""
    manifest = Manifest.read(cache)
    if manifest.listing(f"{path}/") is not None:
        return True
    if path.endswith(ARCHIVE) or manifest.record(path) is not None or (cache / path).is_file():
        return False
    origin = make_origin(source, path, manifest.origin)
    assert isinstance(origin, HubDataset), "only the hub's addresses may mean either"
    return not path or origin.is_folder(path)
