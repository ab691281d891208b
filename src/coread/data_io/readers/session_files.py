"""Where the files of a data set are: its folder, its sessions, and the file of each."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from coread.recording import RecordingError


def data_folder(config: Mapping[str, Any], data_dir: Path | None) -> Path:
    """Return the folder with the published files; raises FileNotFoundError if none was named or it does not exist."""
    if data_dir is None:
        raise FileNotFoundError(f"dataset {config.get('dataset')!r} is read from a directory, but none was named")
    if not data_dir.is_dir():
        raise FileNotFoundError(f"dataset {config.get('dataset')!r}: there is no directory {data_dir}")
    return data_dir


def files_by_session(folder: Path, pattern: str, session_of: Callable[[Path], str | None]) -> dict[str, Path]:
    """Return the files below `folder` that match `pattern`, by session; `session_of` returns None for foreign files.

    Hidden files and folders (and what some archivers add, `__MACOSX`) are passed over. Raises RecordingError if two
    files are the same session.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob(pattern)):
        if any(part.startswith((".", "__MACOSX")) for part in path.relative_to(folder).parts):
            continue
        session = session_of(path)
        if session is None:
            continue
        if session in found:
            raise RecordingError(f"session {session!r} exists twice: {found[session]} and {path}")
        found[session] = path
    return found


def session_names(config: Mapping[str, Any], found: Callable[[], Iterable[str]], described: str) -> list[str]:
    """Return the configured sessions, else those `found`, sorted; raises FileNotFoundError if there are none."""
    if config.get("sessions"):
        return [str(name) for name in config["sessions"]]
    if names := sorted(found()):
        return names
    raise FileNotFoundError(f"dataset {config.get('dataset')!r}: no sessions found, expected {described}")


def session_file(found: Mapping[str, Path], session: str, described: str) -> Path:
    """Return the file of a session; raises FileNotFoundError that says what was expected and what is there."""
    if session in found:
        return found[session]
    raise FileNotFoundError(f"session {session!r} needs {described}; found the sessions {sorted(found)}")


def named_file(folder: Path, session: str, suffix: str) -> Path:
    """Return `<folder>/<session><suffix>`; raises FileNotFoundError that lists the files with this suffix."""
    path = folder / f"{session}{suffix}"
    if not path.is_file():
        found = sorted(other.name for other in folder.glob(f"*{suffix}"))
        raise FileNotFoundError(f"{folder}: session {session!r} needs {path.name}; found {found}")
    return path
