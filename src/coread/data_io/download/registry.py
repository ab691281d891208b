"""Which files a dataset has: the keys `files` and `source` of its data_io config."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from coread.config import canonical_text
from coread.data_io.download.origin import FOR_PEOPLE, check_path
from coread.data_io.download.transfer import Expected
from coread.data_io.readers.parameters import parse_parameters

ARCHIVE = ".zip"


@dataclass(frozen=True)
class Entry:
    """A file of the source or, if `path` ends in /, a folder with all that is below it; None is unknown.

    `unpack` unpacks a zip archive, or the archives of a folder, beside: `a/b.zip` into `a/b/`. `match` takes only those
    files of a folder whose path below it fits a pattern such as `*mouse*`, upper and lower case alike.
    """

    path: str
    unpack: bool = False
    bytes: int | None = None
    sha256: str | None = None
    match: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.path, str):
            raise ValueError(f"files: path is text, found {self.path!r}")
        check_path(self.path, "files")
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", str(self.sha256)):
            raise ValueError(f"files: {self.path}: sha256 has 64 hexadecimal digits, found {self.sha256!r}")
        if self.bytes is not None and (not isinstance(self.bytes, int) or self.bytes < 0):
            raise ValueError(f"files: {self.path}: bytes is a number or null, found {self.bytes!r}")
        if self.is_folder and not (self.bytes is self.sha256 is None):
            raise ValueError(f"files: {self.path}: a folder has no bytes and sha256 of its own")
        if self.match is not None and not self.is_folder:
            raise ValueError(f"files: {self.path}: match chooses among the files of a folder, whose path ends in /")
        if self.unpack and not (self.is_folder or self.path.endswith(ARCHIVE)):
            raise ValueError(f"files: {self.path}: only {ARCHIVE} archives can be unpacked")

    @property
    def is_folder(self) -> bool:
        """Whether the entry stands for all files of a folder."""
        return self.path.endswith("/")

    @property
    def expected(self) -> Expected:
        """What the registry knows of the file."""
        return Expected(self.bytes, None if self.sha256 is None else self.sha256.lower())

    def chosen(self, files: Mapping[str, Expected]) -> dict[str, Expected]:
        """Return those files of a folder's listing that fit `match`; raises ValueError if none does."""
        if self.match is None:
            return dict(files)
        pattern = self.match.lower()
        found = {path: facts for path, facts in files.items() if fnmatchcase(path[len(self.path) :].lower(), pattern)}
        if not found:
            raise ValueError(f"files: {self.path}: none of its {len(files)} files matches {self.match!r}")
        return found

    def unpacks(self, path: str) -> bool:
        """Return whether a file of this entry is an archive to be unpacked."""
        return self.unpack and path.endswith(ARCHIVE)


def read_registry(config: Mapping[str, Any]) -> list[Entry]:
    """Return the files of a data_io config, none for data of this machine; raises ValueError that names the key."""
    files = config.get("files")
    if files is None:
        return []
    where = f"dataset {config.get('dataset')!r}: files"
    if isinstance(files, str | Mapping) or not all(isinstance(entry, Mapping) for entry in files):
        raise ValueError(f"{where} is a list of {{path, unpack, bytes, sha256}}")
    entries = [parse_parameters(Entry, entry, where) for entry in files]
    paths = [entry.path for entry in entries]
    if twice := sorted({path for path in paths if paths.count(path) > 1}):
        raise ValueError(f"{where}: {twice[0]} is listed twice")
    return entries


def registry_text(config: Mapping[str, Any]) -> str:
    """Return as YAML what a download depends on: dataset, files and source, without what is said for people."""
    source = {key: value for key, value in (config.get("source") or {}).items() if key not in FOR_PEOPLE}
    files = [asdict(entry) for entry in sorted(read_registry(config), key=lambda entry: entry.path)]
    return canonical_text({"dataset": str(config.get("dataset")), "files": files, "source": source})
