"""What a campaign asks SLURM: which of its jobs are in the queue, what they run, and to cancel them.

An unanswered question is never taken for an empty queue: every failure of a command is an error. Standard library and
psutil only.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

# id, state, name, node, run time, reason, working directory, comment (last: it may hold anything but a line's end)
_FIELDS = "\t".join(("%i", "%T", "%j", "%N", "%M", "%r", "%Z", "%k"))
_TIMEOUT_S = 120.0  # a controller that is busy answers late
_CANCELLED_AT_ONCE = 500  # ids on one command line


class QueueError(OSError):
    """SLURM was asked and gave no answer; the message says what it said."""


@dataclass(frozen=True)
class QueuedJob:
    """A job that waits, runs or is about to end."""

    job_id: str
    state: str
    run_id: str  # the job's name: the executor plugin names every job of one run alike
    node: str
    elapsed: str
    reason: str
    folder: str
    comment: str

    @property
    def is_grouped(self) -> bool:
        """Whether the submission holds several jobs of the workflow, as far as the plugin's comment tells."""
        return self.comment.startswith("group_") or "_wildcards_" not in self.comment


def has_queue() -> bool:
    """Return whether SLURM's commands are on this machine's PATH."""
    return shutil.which("squeue") is not None


def queued_jobs() -> list[QueuedJob]:
    """Return this user's jobs that wait, run or are ending; raises QueueError if the queue cannot be asked."""
    lines = _answer("squeue", "--noheader", f"--user={os.geteuid()}", f"--format={_FIELDS}").splitlines()
    jobs = []
    for line in filter(None, lines):
        fields = line.split("\t", 7)
        if len(fields) != 8:
            raise QueueError(f"squeue: expected 8 fields separated by tabs, found {line!r}")
        jobs.append(QueuedJob(*(field.strip() for field in fields)))
    return jobs


def cancel_jobs(job_ids: Sequence[str]) -> None:
    """Ask SLURM to cancel jobs; raises QueueError if it refuses. Jobs that ended in the meantime are no error."""
    for start in range(0, len(job_ids), _CANCELLED_AT_ONCE):
        chunk = job_ids[start : start + _CANCELLED_AT_ONCE]
        try:
            _answer("scancel", *chunk)
        except QueueError:
            left = {job.job_id for job in queued_jobs()}
            if left & set(chunk):
                raise


def target_jobs(job_id: str) -> list[tuple[str, dict[str, str]]]:
    """Return (rule, wildcards) of every job of the workflow that a submission holds, from its batch script.

    Raises QueueError if SLURM does not show the script.
    """
    return list(_targets(_answer("scontrol", "write", "batch_script", job_id, "-")))


def _targets(script: str) -> Iterator[tuple[str, dict[str, str]]]:
    words = shlex.split(script, comments=True)
    for position, word in enumerate(words):
        if word != "--target-jobs":
            continue
        for target in words[position + 1 :]:
            if target.startswith("-"):
                return
            rule, _, wildcards = target.partition(":")
            found = re.findall(r'(\w+)=("[^"]*"|[^,]*)(?:,|$)', wildcards)
            yield rule, {name: value.strip('"') for name, value in found}


def submissions_in_flight(folder: str | Path) -> list[int]:
    """Return the pids of `sbatch` calls of this user for `folder` on this machine: they outlive a killed Snakemake."""
    found = []
    for process in psutil.process_iter(["name", "cmdline", "uids"]):
        info = process.info
        if info["name"] != "sbatch" or info["uids"] is None or info["uids"].effective != os.geteuid():
            continue
        if str(folder) in (info["cmdline"] or []):
            found.append(process.pid)
    return found


def describe(jobs: Iterable[QueuedJob]) -> str:
    """Return how many jobs are in which state: `2 RUNNING, 1 PENDING`."""
    states = [job.state for job in jobs]
    return ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states), reverse=True))


def _answer(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except FileNotFoundError:
        raise QueueError(f"{command[0]} is not on this machine's PATH: run this on a host of the cluster") from None
    except subprocess.TimeoutExpired:
        raise QueueError(f"{command[0]} gave no answer within {_TIMEOUT_S:.0f} s: is SLURM's controller up?") from None
    if done.returncode != 0:
        said = " ".join((done.stderr.strip() or done.stdout.strip()).split())
        raise QueueError(f"the queue cannot be asked: {command[0]} exited with {done.returncode}: {said}")
    return done.stdout
