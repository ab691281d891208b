"""Run one attempt of a job: `python -m coread.supervisor LOG -- command ...`.

The attempt keeps its own log (Snakemake deletes the declared one before a retry, which is therefore only a link to
the newest), leaves a record of what it used and why it ended, and ends with its workflow: a script whose Snakemake is
gone must not train on beside the attempt that a new Snakemake starts. Imports nothing heavy; it runs beside every job.
"""

import contextlib
import ctypes
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from coread.attempt_log import LOGS, Attempt, error_sentence, iso, killed_process, last_lines, now
from coread.gpu_usage import GpuUsage
from coread.slurm_job import SlurmJob, describe_job, requeue_job

STOPPED = LOGS / "campaign" / "stopped"
POLL_S = 0.5
GRACE_S = (
    20.0  # the scheduler kills what is left 30 s (KillWait) after its SIGTERM; the record has to be written before
)
REQUEUE_WAIT_S = 300.0
PR_SET_PDEATHSIG = 1

USAGE = "usage: python -m coread.supervisor [--parent PID] logs/RULE/....log -- command ..."


@dataclass
class Script:
    """The running command, in a process group of its own so that nothing it started is left behind."""

    process: subprocess.Popen[bytes]
    news: "queue.SimpleQueue[None]"
    usage: Any = None

    @classmethod
    def start(cls, command: Sequence[str], attempt: Attempt, news: "queue.SimpleQueue[None]") -> "Script":
        """Start the command with its output in the attempt's log; raises OSError if there is no such program.

        Its end is put into `news`.
        """
        with attempt.log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
                preexec_fn=_die_with_parent(),
                env={**os.environ, "COREAD_ATTEMPT": str(attempt.number), "COREAD_USAGE": str(_usage_folder(attempt))},
            )
        script = cls(process, news)
        threading.Thread(target=script._wait, daemon=True).start()
        return script

    @property
    def has_ended(self) -> bool:
        """Whether the command itself has ended."""
        return self.process.returncode is not None

    def send(self, number: int) -> None:
        """Send a signal to the command itself."""
        if not self.has_ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, number)

    def kill(self) -> None:
        """Kill the command and what it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def _wait(self) -> None:
        # wait4 tells the kernel's own high-water mark of memory, which no sampling can miss
        _, status, self.usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self.news.put(None)


def _die_with_parent() -> Callable[[], None] | None:
    """Return what the child runs before the command: on Linux the kernel kills it when the supervisor dies."""
    if not sys.platform.startswith("linux"):
        return None
    prctl, supervisor = ctypes.CDLL(None).prctl, os.getpid()

    def prepare() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != supervisor:  # it died between fork and prctl
            os._exit(128 + signal.SIGKILL)

    return prepare


class Signals:
    """The first SIGTERM or SIGINT is passed on to the script; the warning signals of schedulers are ignored.

    SIGUSR1 and SIGUSR2 stay ignored in the script, too: a handler there that asks for a requeue would make two parties
    that send the job again.
    """

    def __init__(self, news: "queue.SimpleQueue[None]") -> None:
        self.news = news  # a queue that a signal handler may write to at any moment
        self.received: int | None = None
        self.script: Script | None = None
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._pass_on)

    def forward_to(self, script: Script) -> None:
        """Pass signals on to this script, one that came before it was started as well."""
        self.script = script
        if self.received is not None:
            script.send(self.received)

    def _pass_on(self, number: int, frame: object) -> None:
        if self.received is None:
            self.received = number
            if self.script is not None:
                self.script.send(number)
            self.news.put(None)


def supervise(declared: Path, command: Sequence[str], parent: int) -> int:
    """Run one attempt and return its exit status, 128 + signal if a signal ended it.

    `parent` is the process that waits for this one; when it is gone, the script is killed. Raises ValueError for a log
    that is not below logs/.
    """
    news: queue.SimpleQueue[None] = queue.SimpleQueue()
    signals, attempt = Signals(news), Attempt.begin(declared)
    if (STOPPED / attempt.job).exists():
        return _refuse(attempt, command)
    job_id = os.environ.get("SLURM_JOB_ID")
    job = describe_job(job_id)
    begun, started = time.monotonic(), now()
    try:
        script = Script.start(command, attempt, news)
    except OSError as error:
        return _refuse(attempt, command, f"{command[0]} cannot be started: {error.strerror}")
    signals.forward_to(script)
    attempt.record("start", **_start_facts(attempt, command, job, job_id), pid=script.process.pid, started=started)
    gpus = GpuUsage()
    end = _watch(script, signals, parent, attempt, job)
    script.kill()  # what the script left running
    gpus.stop()
    facts = _end_facts(script, gpus, time.monotonic() - begun) | _used_by_ranks(_usage_folder(attempt))
    if facts["exit"]:
        at_end = _ask_why(job_id, job) if end.signal == signal.SIGTERM else None
        facts |= {"reason": _reason(attempt, end, facts, at_end or job), "last_lines": last_lines(attempt.log)}
    attempt.record("end", **facts)
    if facts["exit"]:
        _tell(attempt, facts["reason"])
        if at_end is not None and at_end.is_being_preempted and requeue_job(job_id or ""):
            # ending now would count as a failure of the job, and the workflow would send it again beside Slurm
            _wait_to_be_killed(parent)
    return int(facts["exit"])


class End(NamedTuple):
    """How a script ended: by which signal from outside, and whether the supervisor's parent was gone."""

    signal: int | None
    orphaned: bool


def _watch(script: Script, signals: Signals, parent: int, attempt: Attempt, job: SlurmJob | None) -> End:
    """Wait for the end of the script; end it where it does not heed a signal or nobody waits for it any more."""
    deadline, orphaned = float("inf"), False
    while not script.has_ended:
        with contextlib.suppress(queue.Empty):
            script.news.get(timeout=POLL_S)
        if signals.received is not None and deadline == float("inf"):
            deadline = time.monotonic() + GRACE_S
            # a job whose time is up may be killed before its script has ended, and leave no other word than this
            name = signal.Signals(signals.received).name
            attempt.record("signal", at=now(), signal=name, reason=_why_signalled(signals.received, job))
        if not orphaned and os.getppid() != parent:
            orphaned = True
            script.kill()
        if time.monotonic() > deadline:
            script.kill()
    # the scheduler signals every process of a job: the script may have ended of it before this process is told
    if signals.received is None and script.process.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM):
        return End(signal.SIGTERM, orphaned)
    return End(signals.received, orphaned)


def _ask_why(job_id: str | None, job: SlurmJob | None) -> SlurmJob | None:
    """Ask why a job got SIGTERM, unless its time is up: then the scheduler kills it too soon for a question."""
    return None if job is not None and job.is_over_time else describe_job(job_id)


def _wait_to_be_killed(parent: int) -> None:
    deadline = time.monotonic() + REQUEUE_WAIT_S
    while time.monotonic() < deadline and os.getppid() == parent:
        time.sleep(POLL_S)


def _refuse(attempt: Attempt, command: Sequence[str], reason: str | None = None) -> int:
    """Record an attempt that runs nothing: its job was stopped for good, or there is no such program."""
    member = attempt.job.removeprefix("train_member/")
    reason = reason or (
        f"{attempt.job} was stopped by `coread campaign stop`; `coread campaign allow {member}` lets it run again"
    )
    attempt.log.write_text(f"error: {reason}\n", encoding="utf-8")
    job_id = os.environ.get("SLURM_JOB_ID")
    facts = _start_facts(attempt, command, describe_job(job_id), job_id)
    attempt.record("start", **facts, pid=None, started=now())
    used = dict.fromkeys(("peak_memory_mb", "cpu_s"), 0.0) | dict.fromkeys(("gpu_peak_memory_mb", "gpu_utilization"))
    lines = last_lines(attempt.log)
    attempt.record("end", ended=now(), seconds=0.0, exit=1, signal=None, reason=reason, **used, last_lines=lines)
    _tell(attempt, reason)
    return 1


# -------------------------------------------------------------------------------------------------------------- records


def _start_facts(attempt: Attempt, command: Sequence[str], job: SlurmJob | None, job_id: str | None) -> dict[str, Any]:
    return {
        "job": attempt.job,
        "host": socket.gethostname(),
        "node": os.environ.get("SLURMD_NODENAME"),
        "supervisor_pid": os.getpid(),
        "job_id": job_id,
        "submitted": iso(job and job.submitted),
        "job_started": iso(job and job.started),
        "restarts": job and job.restarts,
        "partition": job and job.partition,
        "requested": {
            "mem_mb": job and job.mem_mb,
            "runtime_min": job and job.runtime_min,
            "gpus": job and job.gpus,
        },
        "log": attempt.log.as_posix(),
        "command": list(command),
    }


def _end_facts(script: Script, gpus: GpuUsage, seconds: float) -> dict[str, Any]:
    code, usage = script.process.returncode, script.usage
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss counts bytes there and kilobytes elsewhere
    return {
        "ended": now(),
        "seconds": round(seconds, 3),
        "exit": _status(code),
        "signal": signal.Signals(-code).name if code < 0 else None,
        "reason": None,
        "peak_memory_mb": round(usage.ru_maxrss / unit, 1),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
        "gpu_peak_memory_mb": gpus.peak_memory_mb,
        "gpu_utilization": gpus.utilization,
        "last_lines": [],
    }


def _usage_folder(attempt: Attempt) -> Path:
    return attempt.log.with_suffix(".usage").absolute()


def _used_by_ranks(folder: Path) -> dict[str, float]:
    """Return what the processes of a distributed training said they used, summed up; nothing without any.

    Slurm starts them, so they are not in what the kernel says of the script.
    """
    used: dict[str, float] = {}
    for path in folder.glob("rank*.json"):
        with contextlib.suppress(OSError, ValueError):
            for name, value in json.loads(path.read_text(encoding="utf-8")).items():
                used[name] = round(used.get(name, 0.0) + value, 3)
    shutil.rmtree(folder, ignore_errors=True)
    return used


def _reason(attempt: Attempt, end: End, facts: dict[str, Any], job: SlurmJob | None) -> str:
    """Return why an attempt failed, in one sentence."""
    if end.orphaned:
        return "killed because its Snakemake was gone"
    if (process := killed_process(attempt.log)) is not None:  # the launcher ended the others, and then itself
        return f"one of its processes was killed by SIGKILL ({process}): out of memory?"
    if end.signal is not None:
        return _why_signalled(end.signal, job)
    if facts["signal"] == "SIGKILL":
        asked = f" of {job.mem_mb:.0f} MB asked" if job is not None and job.mem_mb is not None else ""
        return f"killed by SIGKILL: out of memory? peak {facts['peak_memory_mb']:.0f} MB{asked}"
    if facts["signal"] is not None:
        return f"ended by {facts['signal']}"
    return error_sentence(attempt.log) or f"ended with exit status {facts['exit']}"


def _why_signalled(number: int, job: SlurmJob | None) -> str:
    if number == signal.SIGINT:
        return "ended by SIGINT: interrupted"
    if job is not None and job.is_over_time:
        return f"ended by SIGTERM: time limit of {job.runtime_min:.0f} min"
    if job is not None and job.is_being_preempted:
        return "ended by SIGTERM: pre-empted"
    if job is not None and job.state != "RUNNING":
        return "ended by SIGTERM: scancel or requeue"
    return "ended by SIGTERM: time limit, pre-emption, requeue or scancel"


def _tell(attempt: Attempt, reason: str) -> None:
    """Print what failed on standard error, which lands in the scheduler's log."""
    rule, _, member = attempt.job.partition("/")
    with contextlib.suppress(OSError):  # where the workflow is gone, so may be the reader of this line
        print(f"{rule} {member}, attempt {attempt.number}: {reason} (log: {attempt.log})", file=sys.stderr, flush=True)


def _status(code: int) -> int:
    return 128 - code if code < 0 else code


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command after `--`; exits with its status, or with 2 for wrong usage."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parent = os.getppid()
    if given[:1] == ["--parent"] and len(given) > 1 and given[1].isdigit():
        parent, given = int(given[1]), given[2:]
    if len(given) < 3 or given[1] != "--":
        print(USAGE, file=sys.stderr)
        sys.exit(2)
    try:
        sys.exit(supervise(Path(given[0]), given[2:], parent))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
