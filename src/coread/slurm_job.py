"""What Slurm says about one job, asked from inside it; None wherever it cannot be asked."""

import re
import subprocess
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

TIMEOUT_S = 5.0
UNITS_MB = {"K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2}


class SlurmJob(NamedTuple):
    """One job as the scheduler sees it; times are UTC, None is unknown or unlimited."""

    state: str
    reason: str
    submitted: datetime | None
    started: datetime | None
    preempted: datetime | None
    restarts: int | None
    partition: str | None
    mem_mb: float | None
    runtime_min: float | None
    gpus: int | None

    @property
    def is_over_time(self) -> bool:
        """Whether this run of the job has used up its time limit."""
        if self.started is None or self.runtime_min is None:
            return False
        time_is_up = datetime.now(UTC) >= self.started + timedelta(minutes=self.runtime_min)
        return time_is_up or self.reason == "TimeLimit"

    @property
    def is_being_preempted(self) -> bool:
        """Whether a job of a higher partition has asked this running job to leave, in this run of it."""
        in_this_run = self.preempted is not None and (self.started is None or self.preempted >= self.started)
        return in_this_run and self.state == "RUNNING"


def describe_job(job_id: str | None) -> SlurmJob | None:
    """Return what the scheduler knows of a job; None without a job, a scheduler, or an answer in time."""
    text = None if job_id is None else _scontrol("show", "job", "-o", job_id)
    return None if text is None else parse_job(text)


def requeue_job(job_id: str) -> bool:
    """Ask the scheduler to end this job and start it again later; returns whether it will."""
    return _scontrol("requeue", job_id) is not None


def parse_job(text: str) -> SlurmJob:
    """Read the one line that `scontrol show job -o` prints."""
    fields = dict(re.findall(r"(?:^|\s)([A-Za-z][\w/:]*)=(\S*)", text))
    restarts, partition = fields.get("Restarts", ""), fields.get("Partition")
    return SlurmJob(
        state=fields.get("JobState", ""),
        reason=fields.get("Reason", ""),
        submitted=_time(fields.get("SubmitTime")),
        started=_time(fields.get("StartTime")),
        preempted=_time(fields.get("PreemptTime")),
        restarts=int(restarts) if restarts.isdigit() else None,
        partition=None if partition in (None, "(null)") else partition,
        mem_mb=_memory_mb(fields),
        runtime_min=_minutes(fields.get("TimeLimit", "")),
        gpus=_gpus(fields),
    )


def _scontrol(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["scontrol", *arguments], capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _time(text: str | None) -> datetime | None:
    """Return a time of Slurm, which is in the time zone of the machine that asks, in UTC."""
    try:
        return datetime.fromisoformat(text or "").astimezone(UTC)
    except ValueError:
        return None


def _memory_mb(fields: dict[str, str]) -> float | None:
    found = re.search(r"(?:^|,)mem=([\d.]+)([KMGT])", fields.get("AllocTRES") or fields.get("TRES", ""))
    return None if found is None else float(found[1]) * UNITS_MB[found[2]]


def _minutes(text: str) -> float | None:
    """Return `[days-]hours:minutes:seconds` in minutes."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return days * 1440 + hours * 60 + minutes + seconds / 60


def _gpus(fields: dict[str, str]) -> int | None:
    """Return the GPUs of a job: what was allocated if that is tracked, else what was asked for."""
    allocated = fields.get("AllocTRES") or fields.get("TRES", "")
    asked = ",".join(fields.get(key, "") for key in ("TresPerJob", "TresPerNode", "TresPerTask"))
    for pattern, text in ((r"gres/gpu=(\d+)", allocated), (r"gres[:/]gpu(?::[^:=,]+)?[:=](\d+)", asked)):
        if counts := re.findall(pattern, text):
            return sum(int(count) for count in counts)
    return None
