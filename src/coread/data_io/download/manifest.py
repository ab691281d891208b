"""`downloads.json`: what was fetched into a folder, with sizes and digests, so that later calls need no network."""

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coread.data_io.download.connection import DownloadError
from coread.data_io.download.transfer import Content, Expected, content_of
from coread.data_io.download.unpack import Members, file_digest
from coread.provenance import write_text

NAME = "downloads.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Record:
    """A verified file; `mtime_ns` tells that it was not touched since, `origin` is the label of its origin."""

    n_bytes: int
    sha256: str
    mtime_ns: int
    origin: str = ""

    def means(self, label: str) -> bool:
        """Return whether it is the file that an origin calls `label`; an origin without labels means what is there."""
        return label in ("", self.origin)


class Manifest:
    """The record of one folder; what it says is kept by `save`, from any thread."""

    def __init__(self, folder: Path, content: Mapping[str, Any]) -> None:
        self.folder = folder
        self.origin: dict[str, str] = dict(content.get("origin", {}))
        self._folders = {
            path: {name: Expected(**facts) for name, facts in files.items()}
            for path, files in content.get("folders", {}).items()
        }
        self._files = {path: Record(**facts) for path, facts in content.get("files", {}).items()}
        self._unpacked = {
            path: {name: Record(**facts) for name, facts in members.items()}
            for path, members in content.get("unpacked", {}).items()
        }
        self._lock = threading.Lock()

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Return the manifest of a folder, empty where there is none; raises DownloadError if it is damaged."""
        path = folder / NAME
        if not path.exists():
            return cls(folder, {})
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format_version"] != FORMAT_VERSION:
                raise DownloadError(f"{path}: format version {content['format_version']}, expected {FORMAT_VERSION}")
            return cls(folder, content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DownloadError(
                f"{path}: damaged ({error}); move it away: the files that lie there are then verified anew"
            ) from error

    def save(self) -> None:
        """Write the manifest atomically."""
        with self._lock:
            content = {
                "format_version": FORMAT_VERSION,
                "origin": self.origin,
                "folders": {
                    path: {name: asdict(facts) for name, facts in files.items()}
                    for path, files in sorted(self._folders.items())
                },
                "files": {path: asdict(record) for path, record in sorted(self._files.items())},
                "unpacked": {
                    path: {name: asdict(record) for name, record in sorted(members.items())}
                    for path, members in sorted(self._unpacked.items())
                },
            }
        write_text(self.folder / NAME, json.dumps(content, indent=1))

    # ------------------------------------------------------------------------------------------------------- contents

    def listing(self, path: str) -> dict[str, Expected] | None:
        """Return the files that a folder of the registry stands for, as listed at the first download."""
        return self._folders.get(path)

    def keep_listing(self, path: str, files: Mapping[str, Expected]) -> None:
        """Remember the files of a folder."""
        with self._lock:
            self._folders[path] = dict(files)

    def record(self, path: str) -> Record | None:
        """Return what is known of a file since it was fetched."""
        return self._files.get(path)

    def keep(self, path: str, content: Content, label: str = "") -> None:
        """Remember a verified file."""
        file = self.folder / path
        with self._lock:
            self._files[path] = Record(content.n_bytes, content.sha256, file.stat().st_mtime_ns, label)

    def keep_unpacked(self, path: str, members: Members, folder: Path) -> None:
        """Remember what an archive was unpacked to."""
        records = {
            name: Record(n_bytes, sha256, (folder / name).stat().st_mtime_ns)
            for name, (n_bytes, sha256) in members.items()
        }
        with self._lock:
            self._unpacked[path] = records

    def unpacked(self, path: str) -> list[str] | None:
        """Return the files that an archive was unpacked to, None if it was not."""
        members = self._unpacked.get(path)
        return None if members is None else sorted(members)

    def digests(self, paths: Iterable[str]) -> list[tuple[str, str]]:
        """Return path and sha256 of recorded files, sorted."""
        return [(path, self._files[path].sha256) for path in sorted(paths)]

    def n_bytes(self, paths: Iterable[str]) -> int:
        """Return the size of recorded files together."""
        return sum(self._files[path].n_bytes for path in paths)

    # --------------------------------------------------------------------------------------------------- verification

    def holds(self, path: str, *, verify: bool = False) -> bool:
        """Return whether a recorded file is there, read if touched or on request; raises DownloadError if changed."""
        record = self._files.get(path)
        if record is None or not (self.folder / path).exists():
            return False
        if verify or not _untouched(self.folder / path, record):
            _check(self.folder / path, record)
            self.keep(path, content_of(self.folder / path), record.origin)
        return True

    def holds_unpacked(self, path: str, folder: Path, *, verify: bool = False) -> bool:
        """Return whether an archive's folder is there as unpacked; raises DownloadError if files in it changed."""
        members = self._unpacked.get(path)
        if members is None or not folder.exists():
            return False
        for name, record in members.items():
            if not (folder / name).is_file():
                raise DownloadError(f"{folder / name}: it was unpacked and is gone; delete {folder} to unpack anew")
            if verify or not _untouched(folder / name, record):
                _check(folder / name, record)
        return True

    def check_files(self, files: Sequence[Path]) -> None:
        """Raise DownloadError for the first file of this folder that differs from its record; passes over others."""
        records = {(self.folder / path).resolve(): record for path, record in self._files.items()}
        for path, members in self._unpacked.items():
            inside = unpacked_folder(self.folder / path)
            records |= {(inside / name).resolve(): record for name, record in members.items()}
        for file in files:
            record = records.get(file.resolve())
            if record is not None and not _untouched(file, record):
                _check(file, record)


def unpacked_folder(archive: Path) -> Path:
    """Return the folder that an archive is unpacked to: its path without the suffix."""
    return archive.with_suffix("")


def downloaded_folder(summary: Path) -> Path:
    """Return the folder with the files that a summary of the workflow stands for, `<name>.json` -> `<name>`.

    Raises DownloadError if they were removed since.
    """
    folder = summary.with_suffix("")
    if not (folder / NAME).is_file():
        raise DownloadError(
            f"{folder} was downloaded but is gone: `snakemake --forcerun download_dataset` fetches it again"
        )
    return folder


def check_downloaded(summary: Path | None, files: Sequence[Path]) -> None:
    """Compare raw files with the digests recorded at their download; does nothing for None, a local dataset's.

    Raises DownloadError that names the file and both digests.
    """
    if summary is not None:
        Manifest.read(downloaded_folder(summary)).check_files(files)


def _untouched(file: Path, record: Record) -> bool:
    status = file.stat()
    return (status.st_size, status.st_mtime_ns) == (record.n_bytes, record.mtime_ns)


def _check(file: Path, record: Record) -> None:
    found = file_digest(file)
    if found != record.sha256:
        raise DownloadError(
            f"{file} is not what was downloaded: sha256 is {found} ({file.stat().st_size} bytes), recorded at its "
            f"download was {record.sha256}; move it away to have it made anew"
        )
