"""A queue in a file, and the commands of SLURM that read it as small scripts at the front of PATH."""

import os
from pathlib import Path

import pytest

SCANCEL = """
echo "$*" >> {folder}/cancelled
for id in "$@"; do
  awk -F'\\t' -v OFS='\\t' -v id="$id" '$1 != id {{print}} $1 == id && $2 == "RUNNING" {{$2 = "COMPLETING"; print}}' \\
    {folder}/queue > {folder}/rest
  mv {folder}/rest {folder}/queue
done
"""


class FakeSlurm:
    """What `squeue`, `scancel` and `scontrol write batch_script` answer."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.queue = folder / "queue"
        (folder / "bin").mkdir(parents=True)
        self.queue.touch()
        self.write("squeue", f"cat {self.queue}")
        self.write("scancel", SCANCEL.format(folder=folder))
        self.write("scontrol", f'cat {folder}/script-"$3"')
        monkeypatch.setenv("PATH", f"{folder}/bin{os.pathsep}{os.environ['PATH']}")

    def write(self, name: str, body: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def fail(self, name: str, sentence: str) -> None:
        """Make a command fail with a sentence on standard error."""
        self.write(name, f"echo '{sentence}' >&2; exit 1")

    def enqueue(
        self,
        job_id: str,
        folder: Path,
        *,
        state: str = "PENDING",
        run_id: str = "coread_old",
        node: str = "",
        comment: str = "rule_train_member_wildcards_tiny_0_0",
    ) -> None:
        """Add a job to the queue."""
        with self.queue.open("a") as file:
            file.write("\t".join((job_id, state, run_id, node, "0:10", "None", str(folder), comment)) + "\n")

    def dequeue(self, job_id: str) -> None:
        """Take a job from the queue."""
        lines = self.queue.read_text().splitlines(keepends=True)
        self.queue.write_text("".join(line for line in lines if line.split("\t")[0] != job_id))

    def script(self, job_id: str, text: str) -> None:
        """Set the batch script of a job."""
        (self.folder / f"script-{job_id}").write_text(text)

    def cancelled(self) -> list[str]:
        """What `scancel` was called with."""
        path = self.folder / "cancelled"
        return path.read_text().splitlines() if path.exists() else []
