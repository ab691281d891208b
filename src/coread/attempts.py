"""What the jobs of a campaign really used: the records of all attempts as a table, and a summary of it.

Where the records lie and who writes them: `coread.attempt_log`.
"""

import socket
from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

from coread.attempt_log import last_lines, read_records

WITHOUT_A_WORD = "killed without a word: the node or the whole job was, or the job ran out of memory"
TIMES = ("submitted", "job_started", "started", "ended")
NUMBERS = (
    "wait_s",
    "seconds",
    "exit",
    "mem_mb",
    "runtime_min",
    "gpus",
    "peak_memory_mb",
    "cpu_s",
    "gpu_peak_memory_mb",
    "gpu_utilization",
)
TEXTS = ("signal", "reason", "host", "node", "job_id", "partition", "log")
COLUMNS = ["rule", "member", "job", "attempt", "state", "is_retry", *TIMES, *NUMBERS, *TEXTS, "last_lines"]


def read_attempts(logs: Path, queued: Collection[str] | None = None) -> pd.DataFrame:
    """Return one row per attempt of every job whose records lie below a folder, in the order in which they began.

    `state` is done, failed, running, or lost: the record of its end is missing, no signal was recorded either, and it
    runs no more. Whether an attempt
    on another machine still runs is told by `queued`, the ids of the scheduler's jobs; without it, such an attempt
    counts as running until the job's next one begins. `is_retry` says that the job's attempt before failed or was lost.
    Times are UTC, durations in seconds; what is unknown is missing. Raises ValueError that names a file of broken
    records.
    """
    rows = []
    for path in sorted(logs.rglob("*.attempts.jsonl")):
        try:
            rows += _attempts_of_job(read_records(path), logs, queued)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path}: a record of an attempt lacks or spoils {error}") from None
    frame = pd.DataFrame(rows, columns=COLUMNS)
    for name in TIMES:
        frame[name] = pd.to_datetime(frame[name], utc=True)
    frame[list(NUMBERS)] = frame[list(NUMBERS)].astype(float)
    return frame.sort_values("started", kind="stable", ignore_index=True)


def summarize_attempts(attempts: pd.DataFrame) -> pd.DataFrame:
    """Return one row per rule, in the order in which the rules began.

    `wait_*_s` is the scheduler's queue; `run_median_s` and `run_max_s` are of attempts that were done, `run_total_s` of
    all that ended. `peak_memory_mb` is the highest of any attempt, `mem_mb` what that attempt had asked for.
    `retries` are attempts after one that failed or was lost; `lost` ones ended without a record.
    """
    rows = [_summarize_rule(str(rule), group) for rule, group in attempts.groupby("rule", sort=False)]
    return pd.DataFrame(rows, columns=SUMMARY)


SUMMARY = [
    "rule",
    "jobs",
    "attempts",
    "running",
    "retries",
    "failed",
    "lost",
    "wait_median_s",
    "wait_max_s",
    "run_median_s",
    "run_max_s",
    "run_total_s",
    "peak_memory_mb",
    "mem_mb",
    "gpu_peak_memory_mb",
    "gpu_utilization",
]


def _summarize_rule(rule: str, attempts: pd.DataFrame) -> dict[str, Any]:
    states = attempts["state"].value_counts()
    done = attempts.loc[attempts["state"] == "done", "seconds"]
    peak = attempts["peak_memory_mb"]
    return {
        "rule": rule,
        "jobs": attempts["job"].nunique(),
        "attempts": len(attempts),
        "running": states.get("running", 0),
        "retries": int(attempts["is_retry"].sum()),
        "failed": states.get("failed", 0),
        "lost": states.get("lost", 0),
        "wait_median_s": attempts["wait_s"].median(),
        "wait_max_s": attempts["wait_s"].max(),
        "run_median_s": done.median(),
        "run_max_s": done.max(),
        "run_total_s": attempts["seconds"].sum(),
        "peak_memory_mb": peak.max(),
        "mem_mb": attempts["mem_mb"].iloc[int(peak.argmax())] if peak.notna().any() else np.nan,
        "gpu_peak_memory_mb": attempts["gpu_peak_memory_mb"].max(),
        "gpu_utilization": attempts["gpu_utilization"].mean(),
    }


def _attempts_of_job(records: list[dict[str, Any]], logs: Path, queued: Collection[str] | None) -> list[dict[str, Any]]:
    starts = {int(record["attempt"]): record for record in records if record["event"] == "start"}
    ends = {int(record["attempt"]): record for record in records if record["event"] == "end"}
    signals = {int(record["attempt"]): record for record in records if record["event"] == "signal"}
    rows: list[dict[str, Any]] = []
    for number, start in sorted(starts.items()):
        row = _row(number, start, ends.get(number))
        row["is_retry"] = bool(rows) and rows[-1]["state"] in ("failed", "lost")
        if row["state"] == "running" and (number < max(starts) or not _still_runs(start, queued)):
            row |= _cut_off(start, signals.get(number)) | {"last_lines": _kept_lines(start["log"], logs)}
            if start["job_id"] is not None and starts.get(number + 1, {}).get("job_id") == start["job_id"]:
                row["reason"] += "; Slurm started the job again"
        rows.append(row)
    return rows


def _row(number: int, start: dict[str, Any], end: dict[str, Any] | None) -> dict[str, Any]:
    rule, _, member = start["job"].partition("/")
    known = {"state": "running", "last_lines": []} if end is None else dict(end)
    if end is not None:
        known["state"] = "failed" if end["exit"] else "done"
    row = start | start["requested"] | known | {"rule": rule, "member": member, "attempt": number}
    return {name: row.get(name) for name in COLUMNS} | {"wait_s": _seconds(row["submitted"], row.get("job_started"))}


def _cut_off(start: dict[str, Any], told: dict[str, Any] | None) -> dict[str, Any]:
    """Return what is known of an attempt that was killed before it could record its end: perhaps a signal before."""
    if told is None:
        return {"state": "lost", "reason": WITHOUT_A_WORD}
    known = {"ended": told["at"], "seconds": _seconds(start["started"], told["at"])}
    return {"state": "failed", "signal": told["signal"], "reason": told["reason"], **known}


def _seconds(begin: str | None, end: str | None) -> float | None:
    if begin is None or end is None:
        return None
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()


def _still_runs(start: dict[str, Any], queued: Collection[str] | None) -> bool:
    if start["host"] == socket.gethostname():
        try:
            process = psutil.Process(start["supervisor_pid"])
            # the number of a process that ended may have been given to another one
            return process.create_time() <= datetime.fromisoformat(start["started"]).timestamp() + 1
        except psutil.NoSuchProcess:
            return False
    return queued is None or start["job_id"] is None or start["job_id"] in queued


def _kept_lines(log: str, logs: Path) -> list[str]:
    path = logs.parent / log
    return last_lines(path) if path.exists() else []
