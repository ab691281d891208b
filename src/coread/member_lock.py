"""One training of a member at a time, whoever starts it: the workflow, a second workflow, or `coread train`."""

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

log = logging.getLogger(__name__)

# a training that is being killed lets go within the scheduler's grace; a file server forgets a crashed node in 90 s
PATIENCE_S = 150.0
HOLDER = ".lock.holder"


class MemberLockError(OSError):
    """Another process trains this member."""


@contextmanager
def member_lock(folder: Path, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Hold the lock of a member's folder, `<folder>/.lock`; the kernel frees it however this process ends.

    Waits for another holder for a limited time, then raises MemberLockError that names its host, process and job.
    Where the file system has no locks, it warns and goes on without.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock", fallback_to_soft=False)
    if not _acquire(lock, folder, patience_s):
        yield
        return
    holder = folder / HOLDER
    try:
        facts = {"host": socket.gethostname(), "pid": os.getpid(), "job_id": os.environ.get("SLURM_JOB_ID")}
        holder.write_text(json.dumps(facts), encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _acquire(lock: filelock.BaseFileLock, folder: Path, patience_s: float) -> bool:
    """Wait for the lock; returns whether it is held, False where the file system has none."""
    try:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            log.info("%s is being trained by %s: waiting", folder, _holder(folder))
            lock.acquire(timeout=patience_s)
    except filelock.Timeout:
        raise MemberLockError(
            f"{folder} is being trained by {_holder(folder)}, which did not end within {patience_s:.0f} s: "
            f"wait for it or end it, then start again (if that machine is gone for good, delete {folder / '.lock'})"
        ) from None
    except PermissionError as error:
        raise MemberLockError(f"{folder / '.lock'} belongs to another user and cannot be locked: {error}") from None
    except OSError as error:
        log.warning("%s: the file system has no locks (%s), so nothing prevents a second training", folder, error)
        return False
    return True


def _holder(folder: Path) -> str:
    """Return who holds the lock, as far as it has said so."""
    try:
        holder = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        job = "" if holder["job_id"] is None else f", job {holder['job_id']}"
        return f"process {holder['pid']} on {holder['host']}{job}"
    except (OSError, ValueError, KeyError):
        return "another process"
