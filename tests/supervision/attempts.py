"""A folder in which attempts of one job run."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coread.attempt_log import read_records

DECLARED = "logs/train_member/tiny/fold0/seed1.log"
PATIENCE_S = 60.0
SLEEP = "import time; print('ready', flush=True); time.sleep(300)"
SCONTROL = """\
#!/bin/sh
echo "$@" >> "{calls}"
case "$1" in
  show) cat "{answer}" ;;
  requeue) exit {requeue} ;;
esac
"""
RUNNING = (
    "JobId=7 JobName=x JobState=RUNNING Reason=None Restarts=1 TimeLimit=1-02:03:00 SubmitTime=2096-01-02T03:04:05 "
    "StartTime=2096-01-02T03:05:05 PreemptTime={preempt} Partition=gpu TRES=cpu=1,mem=500M,node=1,billing=1 "
    "TresPerJob=gres:gpu:a100:2\n"
)


class Workplace:
    """A folder in which attempts of one job run, with programs of its own on the path."""

    def __init__(self, root: Path) -> None:
        self.root, self.started = root, list[subprocess.Popen[str]]()
        self.interval_s, self.grace_s = 5.0, 20.0
        (root / "bin").mkdir()
        # no scheduler and no GPU of the machine that runs the tests
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "CUDA_VISIBLE"))
        } | {"PATH": f"{root / 'bin'}:{os.environ['PATH']}", "TZ": "UTC"}

    def program(self, name: str, text: str) -> None:
        path = self.root / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def slurm(self, answer: str, *, requeue: int = 0) -> Path:
        """Put a scheduler on the path that knows one job; returns the file that lists what it was asked."""
        calls, told = self.root / "calls", self.root / "answer"
        told.write_text(answer)
        calls.touch()
        self.program("scontrol", SCONTROL.format(calls=calls, answer=told, requeue=requeue))
        self.environment |= {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "g1"}
        return calls

    def command(self, *command: str) -> list[str]:
        """Return what a rule runs, with the clocks of this class."""
        clocks = f"gpu_usage.INTERVAL_S, supervisor.GRACE_S = {self.interval_s}, {self.grace_s}"
        code = f"from coread import gpu_usage, supervisor; {clocks}; supervisor.main()"
        return [sys.executable, "-c", code, DECLARED, "--", *command]

    def start(self, command: list[str]) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def python(self, code: str, *arguments: str) -> "subprocess.Popen[str]":
        return self.start(self.command(sys.executable, "-c", code, *arguments))

    def run(self, code: str) -> tuple[int, str]:
        process = self.python(code)
        output, _ = process.communicate(timeout=PATIENCE_S)
        return process.returncode, output

    def log(self, number: int) -> Path:
        return self.root / DECLARED.replace(".log", f".attempt-{number}.log")

    @property
    def records(self) -> list[dict[str, Any]]:
        return read_records(self.root / DECLARED.replace(".log", ".attempts.jsonl"))

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain for {what}"
            time.sleep(0.05)

    def wait_until_ready(self, number: int = 1) -> int:
        """Wait until the script of an attempt runs, and return its pid."""
        self.wait_for(lambda: self.log(number).exists() and "ready" in self.log(number).read_text(), "the script")
        self.wait_for(lambda: any(r["attempt"] == number for r in self.records), "the record of the start")
        return int(next(r["pid"] for r in self.records if r["attempt"] == number))


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"
