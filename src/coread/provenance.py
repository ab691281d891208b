"""Where a number comes from: code version, library versions, machine, and digests of files.

What changes from run to run (machine, time) belongs into reports and logs, never into a file that the workflow
compares.
"""

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from coread import __version__

LIBRARIES = ("torch", "pytorch-lightning", "numpy", "h5py", "pandas", "scipy", "snakemake", "hydra-core")


def code_version() -> str:
    """Return the package version, with commit and `+edited` where the package runs from a git checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return __version__
    commit = _git(root, "rev-parse", "--short=12", "HEAD")
    if not commit:
        return __version__
    edited = "+edited" if _git(root, "status", "--porcelain", "--untracked-files=no") else ""
    return f"{__version__} ({commit}{edited})"


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def library_versions() -> dict[str, str]:
    """Return the installed version of every library that can move a number."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def machine() -> dict[str, Any]:
    """Return what this machine is: operating system, processor, cores this process may use, GPUs."""
    import torch  # here, because the rest of this module must not cost its import

    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


# ------------------------------------------------------------------------------------------------------------- digests


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unchanged_sha256(path: Path) -> str:
    """Return the sha256 of a file, read once per process for as long as its size and modification time stay."""
    status = path.stat()
    return _sha256_of_version(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _sha256_of_version(path: Path, size: int, mtime_ns: int) -> str:
    return file_sha256(path)


def combined_digest(files: Iterable[Path], *values: object) -> str:
    """Return one short digest of the contents of files and of further values; names and places do not count."""
    sha = hashlib.sha256(repr(values).encode())
    for path in files:
        sha.update(file_sha256(path).encode())
    return sha.hexdigest()[:16]


def write_digest(path: Path) -> Path:
    """Write the sha256 of a file beside it as `<stem>.sha256`, atomically, and return that path."""
    target = path.with_suffix(".sha256")
    write_text(target, file_sha256(path) + "\n")
    return target


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def describe_sources(files: Sequence[Path], known: Path | None = None) -> list[dict[str, Any]]:
    """Return name, size, modification time and sha256 of raw files.

    A file whose name, size and time stand in the record `known` (written when it was last read) is not hashed again.
    """
    remembered: dict[tuple[str, int, int], set[str]] = {}
    if known is not None and known.is_file():
        for entry in json.loads(known.read_text(encoding="utf-8")):
            remembered.setdefault((entry["name"], entry["size"], entry["mtime_ns"]), set()).add(entry["sha256"])
    described = []
    for path in sorted(files):
        status = path.stat()
        key = (path.name, status.st_size, status.st_mtime_ns)
        # files of one name lie in many folders, and an archive may give them one time: then only their content tells
        contents = remembered.get(key, set())
        sha256 = next(iter(contents)) if len(contents) == 1 else unchanged_sha256(path)
        described.append({"name": key[0], "size": key[1], "mtime_ns": key[2], "sha256": sha256})
    return described


def sources_digest(files: Sequence[Path], known: Path | None = None) -> str:
    """Return one digest of the names and contents of raw files; their folder and times do not count."""
    named = [(entry["name"], entry["sha256"]) for entry in describe_sources(files, known)]
    return hashlib.sha256(repr(named).encode()).hexdigest()[:16] if named else "none"
