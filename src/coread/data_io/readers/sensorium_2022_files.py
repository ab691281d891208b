"""The files of one session in the SENSORIUM layout, read in place from its folder or its zip archive.

Arrays are parsed from their bytes without pickle: numbers and text, nothing that could run.
"""

import hashlib
import io
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

import numpy as np

from coread.provenance import unchanged_sha256
from coread.recording import RecordingError

ANCHOR = "meta/trials/tiers.npy"  # the file that tells where inside an archive a session lies
DATA_KEYS = ("images", "responses", "behavior", "pupil_center")
NAMED = re.compile(r"static(?P<key>.+?)-(?:Gray|Color)ImageNet(?:\W.*)?")
NOT_DATA = ("__MACOSX",)
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError)


class SessionFiles:
    """One session's files by their path in the layout; a context manager that holds an archive open.

    Raises RecordingError that names the archive or folder and the file: damaged, missing, of another kind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive: zipfile.ZipFile | None = None
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._numbered: dict[str, dict[int, str]] = {}
        self._read_digests: dict[str, str] = {}
        if path.is_dir():
            if not (path / ANCHOR).is_file():
                raise RecordingError(f"{path.name}: no session of the SENSORIUM layout, {ANCHOR} is missing")
            return
        try:
            self._archive = zipfile.ZipFile(path)
        except DAMAGE as error:
            raise RecordingError(f"{path.name}: not a readable zip archive, truncated or damaged ({error})") from error
        try:
            self._members = _members(self._archive, path.name)
        except RecordingError:
            self._archive.close()
            raise

    def __enter__(self) -> "SessionFiles":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._archive is not None:
            self._archive.close()

    def where(self, name: str) -> str:
        """Return how messages call a file."""
        return f"{self.path.name}: {name}"

    def has(self, name: str) -> bool:
        """Return whether there is such a file."""
        return name in self._members if self._archive is not None else (self.path / name).is_file()

    def array(self, name: str) -> np.ndarray:
        """Return the array of one file, read-only; raises RecordingError."""
        return parse_npy(self._bytes(name), self.where(name))

    def numbered(self, key: str) -> list[str]:
        """Return the files data/<key>/<trial>.npy in the order of their numbers, none if there is no such folder.

        Raises RecordingError unless their numbers are 0, 1, ... without gaps.
        """
        if not self._numbered:
            self._numbered = {name: {} for name in DATA_KEYS}
            for name in self._names():
                _, key_of_file, file = name.split("/")
                self._numbered[key_of_file][int(file.removesuffix(".npy"))] = name
        found = self._numbered[key]
        if absent := sorted(set(range(len(found))) - set(found)):
            raise RecordingError(
                f"{self.where(f'data/{key}')} holds {len(found)} numbered files but no {absent[0]}.npy; their numbers "
                "are the rows of meta/trials, from 0 without gaps"
            )
        return [found[number] for number in range(len(found))]

    def sha256(self) -> str:
        """Return the sha256 of the archive; of a folder one over the names and contents of what was read of it."""
        if self._archive is not None:
            return unchanged_sha256(self.path)
        return hashlib.sha256(repr(sorted(self._read_digests.items())).encode()).hexdigest()

    def _names(self) -> Iterator[str]:
        """Yield the numbered files of all keys."""
        if self._archive is not None:
            yield from (name for name in self._members if _is_numbered(name))
            return
        for key in DATA_KEYS:
            folder = self.path / "data" / key
            names = (f"data/{key}/{name}" for name in (os.listdir(folder) if folder.is_dir() else ()))  # noqa: PTH208
            yield from filter(_is_numbered, names)

    def _bytes(self, name: str) -> bytes:
        if not self.has(name):
            raise RecordingError(f"{self.where(name)} is missing")
        try:
            if self._archive is not None:
                return self._archive.read(self._members[name])
            content = (self.path / name).read_bytes()
        except DAMAGE as error:
            raise RecordingError(f"{self.where(name)} cannot be read, truncated or damaged ({error})") from error
        self._read_digests[name] = hashlib.sha256(content).hexdigest()
        return content


def _is_numbered(name: str) -> bool:
    parts = name.split("/")
    is_data = len(parts) == 3 and parts[0] == "data" and parts[1] in DATA_KEYS
    return is_data and parts[2].endswith(".npy") and parts[2].removesuffix(".npy").isdecimal()


def _members(archive: zipfile.ZipFile, where: str) -> dict[str, zipfile.ZipInfo]:
    """Return the members by their path inside the session's folder, wherever in the archive that lies."""
    members = {
        info.filename: info for info in archive.infolist() if not info.filename.startswith(NOT_DATA) and info.file_size
    }
    roots = [name.removesuffix(ANCHOR) for name in members if name == ANCHOR or name.endswith(f"/{ANCHOR}")]
    if len(roots) != 1:
        found = f"found in {sorted(roots)}" if roots else "missing"
        raise RecordingError(f"{where}: expected one session of the SENSORIUM layout, {ANCHOR} is {found}")
    return {name.removeprefix(roots[0]): info for name, info in members.items() if name.startswith(roots[0])}


def parse_npy(content: bytes, where: str) -> np.ndarray:
    """Return the array of a .npy file's bytes as a read-only view of them.

    Raises RecordingError for other bytes, for too few of them, and for arrays of Python objects, which need pickle.
    """
    stream = io.BytesIO(content)
    try:
        shape, is_fortran, dtype = HEADERS[np.lib.format.read_magic(stream)](stream)
    except (ValueError, KeyError) as error:
        raise RecordingError(f"{where} is not a readable .npy array, truncated or damaged ({error})") from error
    if dtype.hasobject:
        raise RecordingError(
            f"{where} is an array of Python objects, which only pickle reads and which is refused; "
            "save numbers, or text as array.astype(str)"
        )
    n_values, offset = int(np.prod(shape, dtype=np.int64)), stream.tell()
    if len(content) - offset != n_values * dtype.itemsize:
        raise RecordingError(
            f"{where} is truncated or damaged: {shape} of {dtype} are {n_values * dtype.itemsize} bytes, "
            f"found {len(content) - offset}"
        )
    if not n_values * dtype.itemsize:
        return np.zeros(shape, dtype)
    return np.frombuffer(content, dtype, n_values, offset).reshape(shape, order="F" if is_fortran else "C")


# -------------------------------------------------------------------------------------------------------------- finding


def find_sessions(folder: Path) -> dict[str, Path]:
    """Return the folder or archive of every session below `folder`, by data key.

    An archive that lies beside the folder it was unpacked to is read instead of it. Raises RecordingError if two other
    places are the same session.
    """
    found: dict[str, Path] = {}
    for path in _candidates(folder):
        key = data_key(path)
        other = found.get(key)
        if other is None:
            found[key] = path
        elif other.parent == path.parent and {other.suffix, path.suffix} == {".zip", ""}:
            found[key] = other if other.suffix else path
        else:
            raise RecordingError(f"session {key!r} exists twice: {other} and {path}")
    return found


def _candidates(folder: Path) -> Iterator[Path]:
    """Yield folders and archives that are sessions; folders of sessions, with their many files, are not searched."""
    for place, folders, files in os.walk(folder):
        if Path(place, ANCHOR).is_file():
            folders.clear()
            yield Path(place)
            continue
        folders[:] = sorted(name for name in folders if not name.startswith((".", *NOT_DATA)))
        for name in sorted(files):
            path = Path(place, name)
            if path.suffix == ".zip" and not name.startswith(".") and (_named_key(path) or _holds_session(path)):
                yield path


def _holds_session(path: Path) -> bool:
    """Return whether an archive of another name is a session; one that cannot be opened is not."""
    try:
        with SessionFiles(path):
            return True
    except RecordingError:
        return False


def data_key(path: Path) -> str:
    """Return the published key of a session: <animal>-<session>-<scan> from its name, else from meta/neurons.

    Names static<key>-GrayImageNet-<hash> and -ColorImageNet- as in 2022, static<key>-preproc<number> as before it.
    """
    if (key := _named_key(path)) is not None:
        return key
    with SessionFiles(path) as files:
        parts = [files.array(f"meta/neurons/{name}.npy") for name in ("animal_ids", "sessions", "scan_idx")]
    if not all(part.size for part in parts):
        raise RecordingError(f"{path.name}: meta/neurons lists no neurons, so the session has no name")
    return "-".join(str(part.reshape(-1)[0]) for part in parts)


def _named_key(path: Path) -> str | None:
    name = path.name.removesuffix(".zip")
    if match := NAMED.fullmatch(name):
        return match["key"]
    if "static" in name and "preproc" in name:
        key = name.rpartition("static")[2].partition(".")[0]
        return key.replace("preproc", "").replace("_nobehavior", "")
    return None


def session_sources(path: Path) -> list[Path]:
    """Return the files behind a session: its archive, or what the layout names in its folder."""
    if path.is_file():
        return [path]
    folders = [*(path / "data" / key for key in DATA_KEYS), path / "meta"]
    return sorted(file for folder in folders for file in folder.rglob("*.npy"))


def texts(values: np.ndarray) -> np.ndarray:
    """Return an array of text, also where it was saved as bytes; numbers become their decimal text."""
    return np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values.astype(str)


def named_array(files: SessionFiles, folder: str, names: tuple[str, ...]) -> tuple[str, np.ndarray] | None:
    """Return path and values of the first of several files that is there; raises RecordingError."""
    for name in names:
        path = f"{folder}/{name}.npy"
        if files.has(path):
            return path, files.array(path)
    return None


def statistics_over_all(files: SessionFiles, key: str, names: tuple[str, ...]) -> Mapping[str, np.ndarray]:
    """Return the published statistics over all trials, those of `names` that are there; raises RecordingError."""
    paths = {name: f"meta/statistics/{key}/all/{name}.npy" for name in names}
    return {name: files.array(path).astype(np.float64) for name, path in paths.items() if files.has(path)}
