"""Jobs of a search: submitit submits them as arrays, SLURM (or this machine) says which are left.

The only module that imports submitit. Its `job.done()` asks sacct, which many clusters lack, so the queue is asked
here; an unanswered question is never taken for an empty queue.
"""

import json
import logging
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import psutil
import submitit
from submitit.core.utils import DelayedSubmission, FailedJobError

from coread.config import ConfigError, closest

EXECUTORS = ("slurm", "local", "debug")
UNLIMITED_MIN = 60 * 24 * 365  # submitit ends local jobs after two minutes unless it is told a limit
SQUEUE_TIMEOUT_S = 120.0  # a controller that is busy answers late


class SearchError(RuntimeError):
    """A search cannot go on; the message says why in one sentence."""


@dataclass(frozen=True)
class Submission:
    """Where and with what the trials run: the group `cluster`, explained in configs/cluster/default.yaml."""

    executor: str = "local"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus: int | str | None = None
    gres: str | None = None
    cpus: int | None = None
    mem_mb: int = 4000
    timeout_min: int | None = None
    signal_delay_s: int = 90
    max_timeouts: int = 20
    max_jobs: int = 1000
    retries: int = 2
    poll_s: float = 1.0
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Submission":
        """Read the group `cluster`; raises ConfigError for an unknown key or executor, or a number that is none."""
        known = [entry.name for entry in fields(cls)]
        if unknown := [key for key in config if key not in known]:
            raise ConfigError(f"unknown key 'cluster.{unknown[0]}'{closest(unknown[0], known)}")
        if (executor := config.get("executor", "local")) not in EXECUTORS:
            raise ConfigError(f"cluster.executor: unknown {executor!r}{closest(str(executor), EXECUTORS)}")
        for key in ("cpus", "mem_mb", "timeout_min", "signal_delay_s", "max_timeouts", "max_jobs", "retries"):
            value = config.get(key)
            if value is not None and (not isinstance(value, int) or value < 0):
                raise ConfigError(f"cluster.{key}: expected a whole number, found {value!r}")
        if executor == "slurm" and config.get("timeout_min") is None:
            raise ConfigError("cluster.timeout_min: a job of a cluster needs a time limit in minutes")
        return cls(**config)

    def trial_cpus(self, parallel: int) -> int | None:
        """Return the cores of one trial; None: those of the search itself, in whose process it runs."""
        if self.cpus is not None or self.executor != "local":
            return self.cpus or (1 if self.executor == "slurm" else None)
        return max(1, len(os.sched_getaffinity(0)) // parallel)


@dataclass(frozen=True)
class TrialTask:
    """What the job of one slot needs to know; pickled into the job's folder."""

    folder: Path
    slot: int
    recordings: tuple[Path, ...]
    memory_budget_bytes: float
    cpus: int | None
    devices: str | None  # CUDA_VISIBLE_DEVICES of the search, which submitit hides from local jobs; None: the job's own


class RunTrial:
    """The function of a job, which submitit calls again after a time limit or a pre-emption."""

    def __call__(self, task: TrialTask) -> None:
        """Run a trial in this process."""
        if task.devices is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = task.devices
        import torch  # after the devices are chosen

        from coread.search.trial import run_trial

        if task.cpus is not None:
            torch.set_num_threads(task.cpus)
        job_id = _own_job_id()
        if job_id is not None:
            logging.basicConfig(level=logging.INFO, format="%(message)s")  # epochs and errors into the job's log
        life = {"job_id": job_id, "node": os.environ.get("SLURMD_NODENAME", socket.gethostname())}
        try:
            run_trial(task.folder, task.slot, task.recordings, life, memory_budget_bytes=task.memory_budget_bytes)
        except SystemExit:
            self._requeue_if_preempted(job_id)
            raise

    def checkpoint(self, task: TrialTask) -> DelayedSubmission:
        """Return what goes on: the same slot; its trial and last epoch are on disk.

        Called from a signal handler in the middle of training, so it must not touch the study, whose lock may be held.
        """
        return DelayedSubmission(self, task)

    @staticmethod
    def _requeue_if_preempted(job_id: str | None) -> None:
        """Queue this job again if training ended by SIGTERM because SLURM wants the node, and gave no other warning."""
        if job_id is not None and "SLURM_JOB_ID" in os.environ:
            from coread.slurm_job import describe_job

            described = describe_job(job_id)
            if described is not None and described.is_being_preempted:
                signal.raise_signal(signal.SIGUSR2)  # submitit's own: checkpoint and requeue


def _own_job_id() -> str | None:
    try:
        return str(submitit.JobEnvironment().job_id)
    except RuntimeError:  # run inside the search itself
        return None


# ---------------------------------------------------------------------------------------------------------- submitting


def submit(
    submission: Submission, folder: Path, name: str, tasks: Sequence[TrialTask], parallel: int
) -> list[dict[str, Any]]:
    """Submit one job per task, on SLURM as one array of which `parallel` run at once; return their records.

    Raises SearchError with the scheduler's own words if it refuses.
    """
    log_folder = folder / "jobs"
    executor = submitit.AutoExecutor(
        folder=log_folder, cluster=submission.executor, slurm_max_num_timeout=submission.max_timeouts
    )
    executor.update_parameters(**_parameters(submission, name, parallel))
    try:
        jobs = executor.map_array(RunTrial(), tasks)
    except (FailedJobError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        said = said.decode() if isinstance(said, bytes) else said
        raise SearchError(f"sbatch refused the trials: {' '.join(said.split())}") from error
    if submission.executor == "debug":
        for job in jobs:
            job.exception()  # runs it; what went wrong is in the study
    return [_record(submission, task, job.job_id) for task, job in zip(tasks, jobs, strict=True)]


def _parameters(submission: Submission, name: str, parallel: int) -> dict[str, Any]:
    if submission.executor == "debug":
        return {}
    if submission.executor == "local":
        return {"timeout_min": submission.timeout_min or UNLIMITED_MIN}
    options = {key: str(value) for key, value in submission.extra.items()}
    if submission.gpus:
        options["gpus"] = str(submission.gpus)
    chosen = {key: getattr(submission, key) for key in ("partition", "account", "qos", "constraint", "gres")}
    return {
        "name": name,
        "cpus_per_task": submission.trial_cpus(parallel),
        "timeout_min": submission.timeout_min,
        "slurm_mem": f"{submission.mem_mb}M",
        "slurm_array_parallelism": parallel,
        "slurm_signal_delay_s": submission.signal_delay_s,
        # a pre-empted job, and one whose node crashed, is put back by SLURM itself
        "slurm_additional_parameters": {**options, "requeue": True},
        **{f"slurm_{key}": value for key, value in chosen.items() if value},
    }


def _record(submission: Submission, task: TrialTask, job_id: str) -> dict[str, Any]:
    record: dict[str, Any] = {"slot": task.slot, "executor": submission.executor, "job_id": job_id}
    if submission.executor == "local":
        record |= {"host": socket.gethostname(), "created": psutil.Process(int(job_id)).create_time()}
    return record


# ----------------------------------------------------------------------------------------------------- what was started


class Ledger:
    """Every job that was ever submitted for a study, kept on disk so that a restarted search finds them again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        self._separator = "" if text.endswith("\n") or not text else "\n"  # after a line that a crash cut off
        self.records: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def add(self, records: Iterable[dict[str, Any]]) -> None:
        """Append records and wait until they are on disk."""
        records = list(records)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines([self._separator, *(json.dumps(record) + "\n" for record in records)])
            file.flush()
            os.fsync(file.fileno())
        self._separator = ""
        self.records += records

    def of_slot(self, slot: int) -> list[dict[str, Any]]:
        """Return the jobs of a slot, oldest first."""
        return [record for record in self.records if record["slot"] == slot]


def live_jobs(records: Sequence[Mapping[str, Any]], name: str) -> dict[str, str]:
    """Return the ids of those recorded jobs that wait or run, with the reason to wait; raises SearchError."""
    live = {str(r["job_id"]): "None" for r in records if r["executor"] == "local" and _is_running(r)}
    slurm = {str(r["job_id"]) for r in records if r["executor"] == "slurm"}
    return live | {job_id: reason for job_id, reason in (queued(name) if slurm else {}).items() if job_id in slurm}


def queued(name: str) -> dict[str, str]:
    """Return the ids of this user's SLURM jobs of that name, array tasks one by one, and why those that wait do.

    Raises SearchError.
    """
    command = ["squeue", "--noheader", "--array", f"--user={os.geteuid()}", f"--name={name}", "--format=%i %r"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SQUEUE_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SearchError(f"the queue cannot be asked: {error}") from error
    if done.returncode != 0:
        raise SearchError(f"the queue cannot be asked: {shlex.join(command)}: {done.stderr.strip()}")
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line.strip())


def cancel(job_ids: Iterable[str]) -> None:
    """Ask SLURM to end jobs; those that have ended already are no error."""
    if ids := sorted(job_ids):
        subprocess.run(["scancel", *ids], capture_output=True, timeout=SQUEUE_TIMEOUT_S)


def end_jobs(records: Iterable[Mapping[str, Any]]) -> None:
    """End recorded jobs, wherever they run."""
    records = list(records)
    for record in records:
        if record["executor"] == "local":
            end_local(record)
    cancel(str(record["job_id"]) for record in records if record["executor"] == "slurm")


def end_local(record: Mapping[str, Any], patience_s: float = 5.0) -> None:
    """End the process of a local job and its children, first politely."""
    if not _is_running(record):
        return
    process = psutil.Process(int(record["job_id"]))
    tree = [process, *process.children(recursive=True)]
    for entry in tree:
        entry.terminate()
    for entry in psutil.wait_procs(tree, timeout=patience_s)[1]:
        entry.kill()


def wait_until_gone(name: str, job_ids: set[str], patience_s: float = 120.0) -> None:
    """Wait for cancelled SLURM jobs to leave the queue; raises SearchError if they do not."""
    deadline = time.monotonic() + patience_s
    while left := job_ids & set(queued(name)):
        if time.monotonic() > deadline:
            raise SearchError(f"jobs {', '.join(sorted(left))} were cancelled but stay in the queue")
        time.sleep(1.0)


def last_line(folder: Path, job_id: str) -> str:
    """Return the last line that a job wrote to its error log, or its output log."""
    for suffix in ("err", "out"):
        path = folder / "jobs" / f"{job_id}_0_log.{suffix}"
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
        if spoken := [line.strip() for line in lines if line.strip()]:
            return f"{spoken[-1]} ({path})"
    return f"no log in {folder / 'jobs'}"


def _is_running(record: Mapping[str, Any]) -> bool:
    if record["host"] != socket.gethostname():
        raise SearchError(
            f"a local trial of this search was started on {record['host']} and cannot be seen from here: "
            "go on there, or make sure that it has ended and delete its line in jobs.jsonl"
        )
    try:
        process = psutil.Process(int(record["job_id"]))
        return process.create_time() == record["created"] and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
