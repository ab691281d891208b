"""The files that an attempt of a job leaves: its own log and its records, which Snakemake knows nothing of.

    logs/<job>.log              the log that the rule declares: a link to the newest attempt's
    logs/<job>.attempt-<N>.log  what attempt N printed
    logs/<job>.attempts.jsonl   a "start" and an "end" record of every attempt

Imports nothing heavy: it runs beside every job.
"""

import contextlib
import json
import os
import re
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LOGS = Path("logs")
LAST_LINES = 20
MAX_LINE = 500
TAIL_BYTES = 64 * 1024


@dataclass(frozen=True)
class Attempt:
    """One run of a job's command: its number, counted from 1 over all runs of the workflow, and its own log."""

    job: str
    number: int
    log: Path
    records: Path

    @classmethod
    def begin(cls, declared: Path) -> "Attempt":
        """Take the next number, create the attempt's log and link the declared log to it.

        Raises ValueError for a declared log that is not below logs/.
        """
        if declared.suffix != ".log" or declared.parts[:1] != LOGS.parts or ".." in declared.parts:
            raise ValueError(
                f"the log of an attempt is logs/RULE/....log below the working directory, found {declared}"
            )
        stem = declared.with_suffix("")
        records = stem.with_name(f"{stem.name}.attempts.jsonl")
        declared.parent.mkdir(parents=True, exist_ok=True)
        number = 1 + max((int(record["attempt"]) for record in read_records(records)), default=0)
        while True:  # two attempts of one job may begin together only after a mishap, and even then share no log
            log = stem.with_name(f"{stem.name}.attempt-{number}.log")
            try:
                os.close(os.open(log, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
                break
            except FileExistsError:
                number += 1
        link = declared.with_name(f".{declared.name}.{os.getpid()}.link")
        link.unlink(missing_ok=True)
        link.symlink_to(log.name)
        link.replace(declared)
        return cls(stem.relative_to(LOGS).as_posix(), number, log, records)

    def record(self, event: str, **values: Any) -> None:
        """Append one record and force it to the disk, so that a crash of the node cannot take it away."""
        line = json.dumps({"event": event, "attempt": self.number, **values}) + "\n"
        try:
            with self.records.open("ab+") as file:
                size = file.seek(0, os.SEEK_END)
                if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
                    line = "\n" + line  # a crash cut the last record off
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:  # a full disk must not end a training for the sake of its record
            print(f"warning: {self.records} cannot be written: {error.strerror}", file=sys.stderr, flush=True)


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the records of one job in the order in which they were written; a line cut off by a crash is left out."""
    records = []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    for line in text.splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return [record for record in records if isinstance(record, dict) and "attempt" in record]


def error_sentence(log: Path) -> str | None:
    """Return the last `error: ...` sentence of a log, without that word."""
    found = re.findall(r"^error: (.+)$", _tail(log), flags=re.MULTILINE)
    return found[-1].strip() if found else None


def killed_process(log: Path) -> str | None:
    """Return which process of a distributed training was killed before anything told the others to end."""
    found = re.search(
        r"^srun: error: (\S+: tasks? [\d,-]+): (?:Killed|Out Of Memory)"
        r"|failed \(exitcode: -9\) (local_rank: \d+)"
        r"|CANCELLED AT|forcing job termination|Job step aborted",
        _tail(log),
        flags=re.MULTILINE,
    )
    return None if found is None else found[1] or found[2]


def last_lines(log: Path) -> list[str]:
    """Return the last lines that are not empty; of a progress bar only what it showed last."""
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1][:MAX_LINE] for line in _tail(log).split("\n")]
    return [line for line in lines if line.strip()][-LAST_LINES:]


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        return file.read().decode("utf-8", errors="replace")


def now() -> str:
    """Return the time as the records write it: UTC, ISO 8601, seconds."""
    return iso(datetime.now(UTC)) or ""


def iso(time: datetime | None) -> str | None:
    """Return a time as the records write it."""
    return None if time is None else time.astimezone(UTC).isoformat(timespec="seconds")
