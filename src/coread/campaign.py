"""A campaign: the workflow in one folder, the one process that drives it, and what earlier ones left behind.

The head (the main Snakemake process) holds a lock as long as it lives and leaves a record of itself and of the jobs it
meant to run. From these a later process knows whether a head lives, which jobs in the queue belong to a dead one
(`coread.orphans`), and which outputs were finished after its death. Paths are relative to the campaign's folder, the
working directory. Imports neither torch, pandas nor snakemake.
"""

import dataclasses
import difflib
import getpass
import json
import os
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from filelock import BaseFileLock, FileLock, Timeout

from coread.attempt_log import LOGS, read_records

FOLDER = LOGS / "campaign"
RECORD, JOBS, LOCK = FOLDER / "head.json", FOLDER / "jobs.json", FOLDER / "head.lock"
STOPPED = FOLDER / "stopped"  # the supervisor starts no job that has a file here
MEMBERS = "train_member/"
_REMEMBERED = 100  # runs whose jobs are recognised in the queue by name
_CLOCK_S = 60.0  # what a process's start, counted from the boot, may differ by when the clock is set meanwhile


class CampaignError(ValueError):
    """What was asked cannot be done with this campaign; the message is one sentence for its user."""


# ---------------------------------------------------------------------------------------------------------------- head


@dataclass(frozen=True)
class Head:
    """The process that drives, or drove, the campaign."""

    pid: int
    host: str
    started: str
    command: list[str]  # the arguments of snakemake
    run_id: str
    executor: str
    folder: str  # where Snakemake was started, which is the working directory of its jobs
    earlier: list[str] = field(default_factory=list)  # run ids of the heads before it
    outcome: str | None = None  # success | failure | interrupted; None: it lives or was killed
    user: str = field(default_factory=getpass.getuser)

    def __str__(self) -> str:
        return f"pid {self.pid} of {self.user} on {self.host}, since {self.started}"

    def write(self) -> None:
        """Replace the record."""
        _write_json(RECORD, dataclasses.asdict(self))


@dataclass(frozen=True)
class ListedJob:
    """A job of the workflow as the head saw it when it started."""

    job: str  # the declared log's path without logs/ and .log
    rule: str
    wildcards: dict[str, str]
    outputs: list[str]
    attempts: int  # made before this head started
    record: dict[str, Any] | None = None  # what Snakemake will note about its outputs; None: it does not need to run

    @property
    def comment(self) -> str:
        """What the executor plugin writes beside the job in the queue."""
        values = "_".join(self.wildcards.values()).replace("/", "_")
        return f"rule_{self.rule}_wildcards_{values}" if values else f"rule_{self.rule}"


def read_head() -> Head | None:
    """Return the record of the newest head, None if none was started here."""
    record = _read_json(RECORD)
    known = {entry.name for entry in dataclasses.fields(Head)}
    return None if record is None else Head(**{key: value for key, value in record.items() if key in known})


def listed_jobs() -> dict[str, ListedJob]:
    """Return the jobs that the newest head listed, by name."""
    return {entry["job"]: ListedJob(**entry) for entry in _read_json(JOBS) or []}


def hold_lock() -> BaseFileLock:
    """Take the lock of the head, which the kernel releases when this process ends; raises CampaignError if it is held.

    Waits a moment, because `coread campaign status` takes the lock to see whether it is held.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    lock = FileLock(LOCK, fallback_to_soft=False)
    if _is_held(lock, timeout_s=2.0):
        head = read_head()
        who = f"the newest one is {head}" if head is not None and head.outcome is None else "it is just starting"
        raise CampaignError(
            f"another process drives the campaign in {Path.cwd()} ({who}): one at a time; "
            "`coread campaign status` shows it, `coread campaign stop` ends it"
        )
    return lock


def head_lives() -> bool:
    """Return whether a process holds the lock of the head."""
    if not LOCK.exists():
        return False
    lock = FileLock(LOCK, fallback_to_soft=False)
    held = _is_held(lock, timeout_s=0.0)
    lock.release()
    return held


def _is_held(lock: BaseFileLock, timeout_s: float) -> bool:
    """Take a lock if another process does not hold it; without locks in the file system the record has to tell."""
    try:
        lock.acquire(timeout=timeout_s)
    except Timeout:
        return True
    except OSError:
        head = read_head()
        return head is not None and head_process(head) is not None
    return False


def head_process(head: Head) -> psutil.Process | None:
    """Return the process of a head on this machine, None if it is gone or its pid belongs to another one by now."""
    return _process(head.pid, head.started, "snakemake")


def begin(head: Head, jobs: Iterable[ListedJob]) -> Head:
    """Record a new head and its jobs, the lock being held; returns the head with the run ids before it."""
    before = read_head()
    earlier = [] if before is None else [*before.earlier, before.run_id][-_REMEMBERED:]
    head = dataclasses.replace(head, earlier=earlier)
    # a head that is killed between the two has submitted nothing yet
    _write_json(JOBS, [vars(job) for job in jobs])
    head.write()
    return head


def end(outcome: str) -> None:
    """Record how the newest head ended."""
    if (head := read_head()) is not None:
        dataclasses.replace(head, outcome=outcome).write()


# ------------------------------------------------------------------------------------------------------------- attempts


@dataclass(frozen=True)
class Running:
    """An attempt whose supervisor runs on this machine."""

    job: str
    job_id: str | None
    supervisor: psutil.Process


def last_attempt(job: str) -> tuple[dict[str, Any], dict[str, Any] | None] | None:
    """Return the start and end records of a job's newest attempt: no end while it runs or if it was cut off."""
    records = read_records(LOGS / f"{job}.attempts.jsonl")
    if not records:
        return None
    number = max(int(record["attempt"]) for record in records)
    events = {record["event"]: record for record in records if int(record["attempt"]) == number}
    return events.get("start", {"attempt": number}), events.get("end")


def attempted_jobs() -> list[str]:
    """Return the names of the jobs of which any attempt was recorded."""
    return sorted(
        path.relative_to(LOGS).as_posix().removesuffix(".attempts.jsonl") for path in LOGS.rglob("*.attempts.jsonl")
    )


def lingering() -> list[Running]:
    """Return the attempts that are running on this machine."""
    found = []
    for job in attempted_jobs():
        attempt = last_attempt(job)
        if attempt is not None and attempt[1] is None and (process := _supervisor(attempt[0])) is not None:
            found.append(Running(job, attempt[0].get("job_id"), process))
    return found


def _supervisor(start: Mapping[str, Any]) -> psutil.Process | None:
    """Return the living supervisor of an attempt, None elsewhere or if its pid belongs to another process by now."""
    pid, started = start.get("supervisor_pid"), start.get("started")
    if start.get("host") != socket.gethostname() or pid is None or started is None:
        return None
    return _process(int(pid), started, "coread.supervisor")


def _process(pid: int, started: str, program: str) -> psutil.Process | None:
    """Return the process of this id if it runs a program and began no later than a record says."""
    try:
        process = psutil.Process(pid)
        is_later = process.create_time() > datetime.fromisoformat(started).timestamp() + _CLOCK_S
        is_other = not any(program in word for word in process.cmdline())
        return None if is_later or is_other or process.status() == psutil.STATUS_ZOMBIE else process
    except psutil.Error:
        return None


@dataclass(frozen=True)
class Aftermath:
    """What the jobs of a dead head came to."""

    finished: list[ListedJob]  # the newest attempt was made under that head and ended with exit status 0
    unfinished: list[ListedJob]


def aftermath(jobs: Iterable[ListedJob]) -> Aftermath:
    """Tell the finished jobs of a dead head from the others: a job counts as finished only if its attempt says so."""
    needed = [job for job in jobs if job.record is not None]
    finished = {job.job: job for job in needed if _was_finished(job)}
    return Aftermath(list(finished.values()), [job for job in needed if job.job not in finished])


def _was_finished(job: ListedJob) -> bool:
    attempt = last_attempt(job.job)
    if attempt is None or int(attempt[0]["attempt"]) <= job.attempts:
        return False
    return attempt[1] is not None and attempt[1].get("exit") == 0 and all(Path(path).exists() for path in job.outputs)


def attempts_made(job: str) -> int:
    """Return the number of a job's newest attempt, 0 before the first."""
    attempt = last_attempt(job)
    return 0 if attempt is None else int(attempt[0]["attempt"])


# ------------------------------------------------------------------------------------------------- what a user may name


def resolve_jobs(asked: Sequence[str], known: Collection[str]) -> list[str]:
    """Return the full names of jobs, `tiny/fold0/seed1` being short for `train_member/tiny/fold0/seed1`.

    Raises CampaignError, naming the closest, for one that the campaign does not know.
    """
    names = []
    for word in asked:
        candidates = [name for name in (word, MEMBERS + word) if name in known]
        if not candidates:
            spoken = [*known, *(name.removeprefix(MEMBERS) for name in known)]
            similar = difflib.get_close_matches(word, spoken, n=1, cutoff=0.5)
            together = [name for name in known if name.startswith(f"train_members/{word.split('/')[0]}/")]
            if together:
                similar = together  # members of a job that trains several stop with it
            hint = f"did you mean {similar[0]!r}?" if similar else f"known: {', '.join(sorted(known)[:3]) or 'none'}"
            raise CampaignError(f"the campaign has no member or job {word!r} ({hint})")
        names.append(candidates[0])
    return names


def marker(job: str) -> Path:
    """Return the file that keeps a job from being started again."""
    return STOPPED / job


def stopped_jobs() -> list[str]:
    """Return the names of the jobs that were stopped for good."""
    if not STOPPED.is_dir():
        return []
    return sorted(path.relative_to(STOPPED).as_posix() for path in STOPPED.rglob("*") if path.is_file())


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(content), encoding="utf-8")
    part.replace(path)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except json.JSONDecodeError as error:
        raise CampaignError(f"{path}: expected JSON, found {error}; move the file away to go on without it") from None
