"""One file from an http(s) or file address to a path: resumed, verified, then renamed into place.

While it is fetched, `<name>.part` grows and `<name>.part.json` holds what tells a changed file from the same one.
"""

import hashlib
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import filelock

from coread.data_io.download.connection import (
    BrokenConnectionError,
    DownloadError,
    OfflineError,
    UnreachableError,
    opened,
    read_chunk,
    total_bytes,
)

log = logging.getLogger(__name__)

RETRY_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # after that many attempts in a row without progress it gives up
LONGEST_PAUSE_S = 300.0  # whatever a server asks for
REPORT_EVERY_S = 10.0


@dataclass(frozen=True)
class Content:
    """Size and digests of a file; `git_sha1` is git's own name for it (sha1 of "blob <size>", NUL and the bytes)."""

    n_bytes: int
    sha256: str
    git_sha1: str


@dataclass(frozen=True)
class Expected:
    """What is known of a file beforehand; None is unknown."""

    n_bytes: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None

    @property
    def has_digest(self) -> bool:
        """Whether the content can be told from any other."""
        return self.sha256 is not None or self.git_sha1 is not None

    def mismatch(self, found: Content) -> str | None:
        """Return in words how a file differs, with both digests; None if it does not."""
        if self.sha256 is not None and self.sha256.lower() != found.sha256:
            return f"sha256 is {found.sha256} ({found.n_bytes} bytes), expected {self.sha256.lower()}"
        if self.git_sha1 is not None and self.git_sha1 != found.git_sha1:
            return f"git's sha1 is {found.git_sha1} ({found.n_bytes} bytes), expected {self.git_sha1}"
        if self.n_bytes is not None and self.n_bytes != found.n_bytes:
            return f"it has {found.n_bytes} bytes (sha256 {found.sha256}), expected {self.n_bytes}"
        return None

    def __str__(self) -> str:
        known = {"bytes": self.n_bytes, "sha256": self.sha256, "git sha1": self.git_sha1}
        return ", ".join(f"{name} {value}" for name, value in known.items() if value is not None) or "size unknown"


@dataclass
class Progress:
    """Counts received bytes of all threads, says so now and then, and ends transfers when it is stopped."""

    label: str
    n_files: int = 1
    done: int = 0
    received: int = 0
    _told: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        """Let every transfer end at its next chunk."""
        self._stopped.set()

    def add(self, n_bytes: int = 0, n_files: int = 0) -> None:
        """Count what arrived; raises DownloadError after `stop`."""
        if self._stopped.is_set():
            raise DownloadError(f"{self.label}: stopped; started again, it goes on")
        with self._lock:
            self.received += n_bytes
            self.done += n_files
            if time.monotonic() - self._told > REPORT_EVERY_S:
                self._told = time.monotonic()
                log.info(
                    "%s: %d of %d files, %.1f MB received", self.label, self.done, self.n_files, self.received / 1e6
                )

    def wait(self, seconds: float) -> None:
        """Pause; raises DownloadError after `stop`."""
        self._stopped.wait(seconds)
        self.add()


def fetch(url: str, target: str | Path, sha256: str | None = None, bytes: int | None = None) -> Path:
    """Fetch a file unless it is there, verify it either way and return its path.

    `sha256` and `bytes` (its size) are checked where given. A file that differs is never replaced: raises DownloadError
    (an OSError) that names both digests. An interrupted transfer is resumed at the next call.
    """
    path = Path(target).expanduser()
    obtain(url, path, Expected(bytes, sha256))
    return path


def obtain(url: str, target: Path, expected: Expected, progress: Progress | None = None) -> Content:
    """Return the verified content of `target`, fetched unless it is there, by one process; raises DownloadError."""
    if target.exists():  # whole, for it was renamed into place; needs no lock, so its folder may be read-only
        return _verified(target, expected)
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target):
        if target.exists():
            return _verified(target, expected)
        part = _Part(target)
        found = _received(url, part, expected, Progress(target.name) if progress is None else progress)
        part.path.replace(target)
        part.discard()
        return found


def _verified(target: Path, expected: Expected) -> Content:
    found = content_of(target)
    if problem := expected.mismatch(found):
        raise DownloadError(f"{target}: {problem}; it is left as it is: move it away to have it fetched anew")
    return found


def content_of(path: Path) -> Content:
    """Return size and digests of a file."""
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            sha256.update(chunk)
            git.update(chunk)
        return Content(file.tell(), sha256.hexdigest(), git.hexdigest())


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold a lock on a path, waiting for another process; the kernel frees it however this process ends."""
    path = target.with_name(f".{target.name}.lock")
    lock = filelock.FileLock(path, fallback_to_soft=False)
    try:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            log.info("%s: another process fetches it: waiting", target)
            lock.acquire()
    except PermissionError as error:
        raise DownloadError(f"{path} cannot be locked: {error}") from error
    except OSError as error:
        log.warning("%s: the file system has no locks (%s); start no second download into this folder", path, error)
        yield
        return
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: who waits for this file then asks for a new one
        lock.release()


class _Part:
    """The growing file of a transfer and, beside it, what the server said of the file."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self._facts = target.with_name(f"{target.name}.part.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def facts(self, url: str) -> dict[str, Any]:
        """Return what the server said when this transfer from `url` began, empty if there was none."""
        try:
            facts = json.loads(self._facts.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return facts if isinstance(facts, dict) and facts.get("url") == url else {}

    def begin(self, url: str, headers: Any) -> None:
        """Forget what was received and note which file this is."""
        self.path.unlink(missing_ok=True)
        facts = {"url": url, "etag": headers.get("ETag"), "last_modified": headers.get("Last-Modified")}
        self._facts.write_text(json.dumps(facts), encoding="utf-8")

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._facts.unlink(missing_ok=True)


def _received(url: str, part: _Part, expected: Expected, progress: Progress) -> Content:
    """Fetch into the part, again after what passes by itself, and verify it; raises DownloadError."""
    failures, furthest, resumed = 0, 0, False
    while True:
        try:
            resumed |= _receive(url, part, expected, progress)
        except UnreachableError as error:
            if furthest == 0:
                raise OfflineError(f"{error}; {_by_hand(part.target, expected)}") from error
            problem: Exception = error
        except BrokenConnectionError as error:
            problem = error
        else:
            found = content_of(part.path)
            if (wrong := expected.mismatch(found)) is None:
                return found
            part.discard()
            if not resumed:
                raise DownloadError(f"{url}: not the expected file: {wrong}")
            log.warning("%s: what was resumed is damaged (%s): starting anew", part.target.name, wrong)
            resumed = False
            continue
        # an attempt counts as progress only past the furthest byte ever reached: a server that cuts every answer short
        # and cannot resume must not be asked for ever
        failures = 0 if part.size > furthest else failures + 1
        furthest = max(furthest, part.size)
        if failures >= len(RETRY_PAUSES_S):
            raise DownloadError(
                f"{problem}, {failures} times in a row; start again to go on, or {_by_hand(part.target, expected)}"
            ) from problem
        asked = getattr(problem, "retry_after_s", None)
        pause = RETRY_PAUSES_S[failures] if asked is None else min(asked, LONGEST_PAUSE_S)
        log.info("%s: trying again in %g s", problem, pause)
        progress.wait(pause)


def _by_hand(target: Path, expected: Expected) -> str:
    return f"put the file ({expected}) by hand at {target}: it is verified and used"


def _receive(url: str, part: _Part, expected: Expected, progress: Progress) -> bool:
    """Make one attempt; returns whether it went on from what was there. Raises BrokenConnectionError, DownloadError."""
    facts = part.facts(url)
    # a known digest tells in the end whether the parts belong together, and some servers change their entity tags
    validator = None if expected.has_digest else _validator(facts)
    start = part.size if facts and (validator or expected.has_digest) else 0
    headers = {"Range": f"bytes={start}-"} if start else {}
    if start and validator:
        headers["If-Range"] = validator
    try:
        response = opened(url, headers)
    except HTTPError as error:
        if error.code != 416 or not start:
            raise
        if str(error.headers.get("Content-Range", "")).rpartition("/")[2] == str(start):
            return True  # all of it had arrived
        part.discard()
        raise BrokenConnectionError(f"{url}: it is shorter than what was received before") from None
    with response:
        if start and not _goes_on(response, start, facts if validator else {}):
            start = 0
            if getattr(response, "status", None) == 206:
                part.discard()
                raise BrokenConnectionError(f"{url}: it changed since the transfer began: starting anew")
        if not start:
            part.begin(url, response.headers)
        total = total_bytes(response, start) or expected.n_bytes
        _check_space(part.path, (total or 0) - start)
        with part.path.open("ab") as file:
            while chunk := read_chunk(url, response):
                file.write(chunk)
                progress.add(len(chunk))
            file.flush()
            os.fsync(file.fileno())
    if total is not None and part.size < total:
        raise BrokenConnectionError(f"{url}: the connection ended after {part.size} of {total} bytes")
    return start > 0


def _check_space(path: Path, n_bytes: int) -> None:
    if n_bytes > (free := shutil.disk_usage(path.parent).free):
        raise DownloadError(f"{path}: {n_bytes / 1e6:.1f} MB are to come, but its disk has {free / 1e6:.1f} MB free")


def _validator(facts: dict[str, Any]) -> str | None:
    """Return what `If-Range` may hold: a strong entity tag, else the time of the last change (RFC 9110, 13.1.5)."""
    etag = facts.get("etag")
    return etag if etag and not etag.startswith("W/") else facts.get("last_modified")


def _goes_on(response: Any, start: int, facts: dict[str, Any]) -> bool:
    """Return whether the answer is the rest of the same file."""
    if getattr(response, "status", None) != 206:
        return False
    if not str(response.headers.get("Content-Range", "")).startswith(f"bytes {start}-"):
        return False
    names = {"etag": "ETag", "last_modified": "Last-Modified"}
    pairs = [(facts.get(key), response.headers.get(name)) for key, name in names.items()]
    return all(before == now for before, now in pairs if before and now)
