"""A dataset's published files in one folder, as the registry in its data_io config lists them."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coread.data_io.download.connection import DownloadError, OfflineError
from coread.data_io.download.manifest import NAME, Manifest, unpacked_folder
from coread.data_io.download.origin import HubDataset, Origin, make_origin
from coread.data_io.download.registry import Entry, read_registry
from coread.data_io.download.transfer import Expected, Progress, locked, log, obtain
from coread.data_io.download.unpack import unpack

PARALLEL = 4  # files at once: a folder of thousands of small ones waits for answers, not for bytes
SAVE_EVERY_S = 20.0


@dataclass(frozen=True)
class Job:
    """One file that must be there; `expected` comes from the registry and, for a folder's files, from its listing."""

    path: str
    expected: Expected
    unpack: bool


def download_dataset(config: Mapping[str, Any], folder: str | Path, *, verify: bool = False) -> Path:
    """Bring the files of a data_io config into `folder`, archives unpacked beside, and return the folder.

    What is there and agrees with `<folder>/downloads.json` is not fetched, and if that is all, nothing touches the
    network; `verify` reads files again even if their size and time say that nobody touched them. An interrupted
    download goes on. Raises ValueError for a wrong registry, else DownloadError (an OSError) that names the file.
    """
    entries, name = read_registry(config), str(config.get("dataset"))
    folder = Path(folder).expanduser()
    if not entries:
        raise ValueError(
            f"dataset {name!r} lists no files: it is read from a folder of yours, nothing can be downloaded"
        )
    manifest = Manifest.read(folder)
    origin = make_origin(config.get("source"), f"dataset {name!r}", manifest.origin)
    if not verify and _is_complete(manifest, origin, entries):
        return folder  # without the lock, which a folder that others may only read does not allow
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / NAME):
        manifest = Manifest.read(folder)  # another process may have fetched everything meanwhile
        origin = make_origin(config.get("source"), f"dataset {name!r}", manifest.origin)
        try:
            jobs = _jobs(manifest, origin, entries)
            _bring(_Room(manifest, origin, folder, verify), jobs, name)
        finally:
            manifest.save()
    return folder


def downloaded_summary(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return number, bytes and one digest of the downloaded files of a dataset: equal for equal files."""
    manifest, paths = Manifest.read(folder), set[str]()
    for entry in read_registry(config):
        paths |= set(entry.chosen(manifest.listing(entry.path) or {})) if entry.is_folder else {entry.path}
    digest = hashlib.sha256(repr(manifest.digests(paths)).encode()).hexdigest()
    return {
        "dataset": str(config["dataset"]),
        "n_files": len(paths),
        "bytes": manifest.n_bytes(paths),
        "sha256": digest,
    }


# ----------------------------------------------------------------------------------------------------------------- jobs


def _is_complete(manifest: Manifest, origin: Origin, entries: Sequence[Entry]) -> bool:
    """Return whether every file is there as recorded and listed in the registry."""
    for entry in entries:
        listing = manifest.listing(entry.path) if entry.is_folder else {entry.path: entry.expected}
        if listing is None or (entry.is_folder and not _same_origin(manifest, origin)):
            return False
        for path, expected in entry.chosen(listing).items():
            if not _is_held(manifest, Job(path, expected, entry.unpacks(path)), origin.label(path)):
                return False
    return True


def _jobs(manifest: Manifest, origin: Origin, entries: Sequence[Entry]) -> list[Job]:
    """Return the files that the registry stands for, folders listed once and then as the manifest remembers them."""
    jobs = []
    same = _same_origin(manifest, origin)
    for entry in entries:
        if not entry.is_folder:
            jobs.append(Job(entry.path, entry.expected, entry.unpacks(entry.path)))
            continue
        files = manifest.listing(entry.path) if same else None
        if files is None:
            try:
                files = origin.listing(entry.path)
            except OfflineError as error:
                raise OfflineError(
                    f"{error}, so nobody knows the files of {entry.path}: copy {manifest.folder} with its {NAME} from "
                    "a machine that has a network, or name a folder of yours in data_dirs"
                ) from error
            assert files is not None, "a place without listings refuses folders"
            _remember_origin(manifest, origin)
            manifest.keep_listing(entry.path, files)
        jobs += [Job(path, expected, entry.unpacks(path)) for path, expected in entry.chosen(files).items()]
    manifest.save()
    return jobs


def _same_origin(manifest: Manifest, origin: Origin) -> bool:
    identity = origin.identity()
    return {key: manifest.origin.get(key) for key in identity} == identity


def _remember_origin(manifest: Manifest, origin: Origin) -> None:
    if isinstance(origin, HubDataset):
        manifest.origin = {**origin.identity(), "commit": origin.pin()}


# ------------------------------------------------------------------------------------------------------------- fetching


@dataclass(frozen=True)
class _Room:
    manifest: Manifest
    origin: Origin
    folder: Path
    verify: bool


def _bring(room: _Room, jobs: Sequence[Job], name: str) -> None:
    """Bring all files, several at once; the first failure ends the others at their next chunk."""
    absent = [job for job in jobs if not (room.folder / job.path).exists()]
    missing = [job for job in absent if not (job.unpack and room.manifest.unpacked(job.path))]
    if missing:
        try:
            _remember_origin(room.manifest, room.origin)  # every later file comes from the same commit
        except OfflineError as error:
            where = ", ".join(str(room.folder / job.path) for job in missing[:3])
            raise OfflineError(
                f"{error}; {len(missing)} of {len(jobs)} files are missing: put them by hand where they belong ({where}"
                f"{', ...' if len(missing) > 3 else ''}), they are verified and used"
            ) from error
        room.manifest.save()
    progress, saved = Progress(name, len(jobs)), time.monotonic()
    pool = ThreadPoolExecutor(PARALLEL)
    try:
        for future in as_completed([pool.submit(_ensure, room, job, progress) for job in jobs]):
            future.result()
            if time.monotonic() - saved > SAVE_EVERY_S:
                room.manifest.save()
                saved = time.monotonic()
    except BaseException:
        progress.stop()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    log.info("%s: %d files are there, %.1f MB received", name, len(jobs), progress.received / 1e6)


def _ensure(room: _Room, job: Job, progress: Progress) -> None:
    """Bring one file and unpack it."""
    manifest, file, label = room.manifest, room.folder / job.path, room.origin.label(job.path)
    if not _is_held(manifest, job, label, verify=room.verify):
        record = manifest.record(job.path)
        if record is not None and record.means(label) and not job.expected.has_digest:
            expected = Expected(record.n_bytes, record.sha256)  # it was touched or removed: it must be the same again
        else:
            expected = _known(room, job)
        url = "" if file.exists() else room.origin.address(job.path)
        manifest.keep(job.path, obtain(url, file, expected, progress), label)
    if job.unpack and file.exists() and not manifest.holds_unpacked(job.path, unpacked_folder(file)):
        with locked(unpacked_folder(file)):
            manifest.keep_unpacked(job.path, unpack(file, unpacked_folder(file)), unpacked_folder(file))
    progress.add(n_files=1)


def _is_held(manifest: Manifest, job: Job, label: str, *, verify: bool = False) -> bool:
    """Return whether a file is there as recorded; raises DownloadError if it is another one than recorded or listed."""
    record = manifest.record(job.path)
    if record is None or not record.means(label):
        return False
    inside = unpacked_folder(manifest.folder / job.path)
    unpacked = job.unpack and manifest.holds_unpacked(job.path, inside, verify=verify)
    there = manifest.holds(job.path, verify=verify)
    if not (there or unpacked):
        return False
    for kind, listed, found in (
        ("sha256", job.expected.sha256, record.sha256),
        ("bytes", job.expected.n_bytes, record.n_bytes),
    ):
        if listed is not None and listed != found:
            raise DownloadError(
                f"{manifest.folder / job.path}: it was downloaded with {kind} {found}, but {listed} is expected; "
                "move it away to have it fetched anew"
            )
    return unpacked or not job.unpack


def _known(room: _Room, job: Job) -> Expected:
    """Return what is known of a file: from the registry, else from the source's listing where it has one."""
    if job.expected.has_digest:
        return job.expected
    file = room.folder / job.path
    try:
        listed = room.origin.listing(job.path)
    except OfflineError:
        if not file.exists():
            raise
        log.warning("%s: put there by hand; without a network its content is taken as it is and recorded", file)
        return job.expected
    if listed is None:
        if file.exists():
            log.warning("%s: put there by hand; nothing says what it must hold, so it is taken and recorded", file)
        return job.expected
    found = listed[job.path]
    size = found.n_bytes if job.expected.n_bytes is None else job.expected.n_bytes
    return Expected(size, found.sha256, found.git_sha1)
