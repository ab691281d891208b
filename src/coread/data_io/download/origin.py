"""Where published files come from: an address prefix, a folder of this machine, or a dataset repository of the hub.

A `source` of a data_io config is `url: PREFIX` (http, https or file), or `kind: huggingface_dataset` with `repository`,
`revision` and optionally `endpoint`; `licence` and `citation` are for people. An address of the hub,
https://huggingface.co/datasets/OWNER/NAME/resolve/REVISION/, means its repository.
"""

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from urllib.parse import quote, unquote, urlsplit
from urllib.request import url2pathname

from coread.data_io.download.connection import (
    BrokenConnectionError,
    DownloadError,
    OfflineError,
    UnreachableError,
    read_json,
)
from coread.data_io.download.transfer import LONGEST_PAUSE_S, RETRY_PAUSES_S, Expected

HUB = "https://huggingface.co"
HUB_ADDRESS = re.compile(
    r"https://huggingface\.co/datasets/(?P<repository>[^/]+/[^/]+)/(?:resolve|tree|blob)/(?P<revision>[^/]+)"
    r"(?:/(?P<path>.*))?"
)
KEYS = frozenset({"kind", "url", "repository", "revision", "endpoint", "licence", "citation"})
FOR_PEOPLE = frozenset({"licence", "citation"})
KINDS = ("http", "huggingface_dataset")


class Origin(Protocol):
    """What the places that files come from have in common; paths are those of the registry."""

    def identity(self) -> dict[str, str]:
        """Return what must be the same for a download to go on."""

    def label(self, path: str) -> str:
        """Return which file a path means, wherever it is fetched from; empty where only its content can tell."""

    def address(self, path: str) -> str:
        """Return where a file is fetched from; may ask the network which version is meant."""

    def listing(self, path: str) -> dict[str, Expected] | None:
        """Return the files of a folder, by their paths, or the one file; None where there are no listings."""


@dataclass(frozen=True)
class AddressPrefix:
    """A web server or, with a file address, a folder."""

    url: str

    def identity(self) -> dict[str, str]:
        """Return nothing: a mirror that moves serves the same files, which their digests prove."""
        return {}

    def label(self, path: str) -> str:
        """Return nothing, for the same reason."""
        return ""

    def address(self, path: str) -> str:
        """Return the prefix with the path."""
        return f"{self.url.rstrip('/')}/{quote(path)}"

    def listing(self, path: str) -> dict[str, Expected] | None:
        """Return the files below a folder of this machine; a web server has no listing. Raises DownloadError."""
        parts = urlsplit(self.url)
        if parts.scheme != "file":
            if path.endswith("/"):
                raise DownloadError(f"{self.url}: {path} is a folder, which a web server does not list: name its files")
            return None
        root = Path(url2pathname(parts.path))
        files = (root / path,) if not path.endswith("/") else sorted((root / path).rglob("*"))
        found = {
            file.relative_to(root).as_posix(): Expected(file.stat().st_size)
            for file in files
            if file.is_file() and not file.name.startswith(".")
        }
        if not found:
            raise DownloadError(f"{root / path}: there is no such {'folder with files' if path[-1] == '/' else 'file'}")
        return found


class HubDataset:
    """A dataset repository of the Hugging Face hub at one commit."""

    def __init__(self, repository: str, revision: str, endpoint: str, commit: str | None = None) -> None:
        self.repository, self.revision, self.endpoint = repository, revision, endpoint.rstrip("/")
        self.commit = commit
        self._listed: dict[str, list[dict[str, Any]]] = {}

    def identity(self) -> dict[str, str]:
        """Return repository and revision; the endpoint may be a mirror."""
        return {"repository": self.repository, "revision": self.revision}

    def label(self, path: str) -> str:
        """Return repository, revision and path."""
        return f"{self.repository}@{self.revision}/{path}"

    def pin(self) -> str:
        """Return the commit that the revision means, asked for once; raises DownloadError."""
        if self.commit is None:
            url = f"{self.endpoint}/api/datasets/{self.repository}/revision/{quote(self.revision, safe='')}"
            answer, _ = _patiently(url)
            commit = answer.get("sha") if isinstance(answer, dict) else None
            if not isinstance(commit, str) or not re.fullmatch(r"[0-9a-f]{40,64}", commit):
                raise DownloadError(f"{url}: the answer names no commit")
            self.commit = commit
        return self.commit

    def address(self, path: str) -> str:
        """Return the address of a file at the pinned commit."""
        return f"{self.endpoint}/datasets/{self.repository}/resolve/{self.pin()}/{quote(path)}"

    def listing(self, path: str) -> dict[str, Expected]:
        """Return the files of a folder, all levels, or the one file, with sizes and digests; raises DownloadError."""
        is_folder = path.endswith("/")
        parent = path.rstrip("/") if is_folder else str(PurePosixPath(path).parent)
        found = {
            entry["path"]: _expected(entry)
            for entry in self._tree("" if parent == "." else parent, recursive=is_folder)
            if entry["type"] == "file" and (is_folder or entry["path"] == path)
        }
        if not found:
            raise DownloadError(f"{self.endpoint}/datasets/{self.repository}: there is no {path} at {self.commit}")
        return found

    def is_folder(self, path: str) -> bool:
        """Return whether a path of the repository is a folder; raises DownloadError."""
        parent = str(PurePosixPath(path).parent)
        kinds = {entry["path"]: entry["type"] for entry in self._tree("" if parent == "." else parent, recursive=False)}
        return kinds.get(path) == "directory"

    def _tree(self, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
        """Return the entries of a folder from all pages of GET /api/datasets/<repository>/tree/<commit>/<folder>."""
        inside = f"/{quote(folder, safe='')}" if folder else ""
        tree = f"{self.endpoint}/api/datasets/{self.repository}/tree/{self.pin()}{inside}"
        url: str | None = (first := f"{tree}?recursive={str(recursive).lower()}&expand=false")
        if first in self._listed:
            return self._listed[first]
        entries: list[dict[str, Any]] = []
        while url is not None:
            page, url = _patiently(url)
            if not isinstance(page, list) or not all({"path", "type"} <= entry.keys() for entry in page):
                raise DownloadError(f"{self.endpoint}: the listing of {folder} is not what the hub's API promises")
            entries += page
        for entry in entries:
            check_path(str(entry["path"]), self.repository)
        self._listed[first] = entries
        return entries


def make_origin(source: Any, where: str, pinned: Mapping[str, str] | None = None) -> Origin:
    """Return the origin that a `source` node means; `pinned` is what the manifest says of it. Raises ValueError."""
    if not isinstance(source, Mapping):
        raise ValueError(f"{where}: files are listed, but source says not where they come from (url, or kind)")
    if unknown := sorted(set(source) - KEYS):
        raise ValueError(f"{where}: source has the unknown keys {unknown}; known keys are {sorted(KEYS)}")
    if (kind := source.get("kind", "http")) not in KINDS:
        raise ValueError(f"{where}: source.kind is one of {list(KINDS)}, found {kind!r}")
    url = str(source.get("url") or "")
    if kind == "http":
        if not urlsplit(url).scheme:
            raise ValueError(f"{where}: source.url is an address like https://... or file:///..., found {url!r}")
        match = HUB_ADDRESS.fullmatch(url.rstrip("/"))
        if match is None or match["path"]:
            return AddressPrefix(url)
        source = {"repository": match["repository"], "revision": match["revision"]}
    if not source.get("repository"):
        raise ValueError(f"{where}: source.kind {kind} needs source.repository (OWNER/NAME)")
    repository, revision = str(source["repository"]), str(source.get("revision") or "main")
    endpoint = str(source.get("endpoint") or os.environ.get("HF_ENDPOINT") or HUB)
    hub = HubDataset(repository, revision, endpoint)
    if pinned and {key: pinned.get(key) for key in hub.identity()} == hub.identity():
        hub.commit = pinned.get("commit")
    return hub


def check_path(path: str, where: str) -> None:
    """Refuse a path that would leave its folder; raises ValueError."""
    parts = path.rstrip("/").split("/")
    if not path or "\\" in path or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{where}: {path!r} is not a path inside a folder")


def split_address(url: str) -> tuple[dict[str, str], str, bool]:
    """Return source node and path of one address, and whether it may be that of a folder; raises ValueError."""
    if match := HUB_ADDRESS.fullmatch(url.partition("?")[0]):
        source = {"kind": "huggingface_dataset", "repository": match["repository"], "revision": match["revision"]}
        may_be_folder = url.startswith(f"{HUB}/datasets/{match['repository']}/tree/")
        return source, unquote(match["path"] or "").rstrip("/"), may_be_folder
    prefix, _, name = url.rpartition("/")
    if "?" in url or "#" in url or not name:
        raise ValueError(f"{url}: expected the address of a file, without a query")
    return {"url": prefix}, unquote(name), False


def _patiently(url: str) -> tuple[Any, str | None]:
    """Read JSON, again after failures that may pass; raises DownloadError."""
    for pause in (*RETRY_PAUSES_S, None):
        try:
            return read_json(url)
        except BrokenConnectionError as error:
            if isinstance(error, UnreachableError):
                raise OfflineError(str(error)) from error
            if pause is None:
                raise DownloadError(f"{error}, {len(RETRY_PAUSES_S) + 1} times in a row") from error
            asked = error.retry_after_s
            time.sleep(pause if asked is None else min(asked, LONGEST_PAUSE_S))
    raise AssertionError("the last attempt returns or raises")


def _expected(entry: Mapping[str, Any]) -> Expected:
    """Return size and digest of a hub's file: sha256 if it is stored apart (LFS), else git's name of its content."""
    lfs = entry.get("lfs")
    if lfs:
        return Expected(int(lfs["size"]), str(lfs["oid"]).removeprefix("sha256:"))
    return Expected(int(entry["size"]), None, str(entry["oid"]))
