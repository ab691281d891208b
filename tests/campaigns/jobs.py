"""Heads, jobs and attempts of a campaign that never ran."""

import json
import socket
from pathlib import Path

from coread.attempt_log import now
from coread.campaign import Head, ListedJob

MEMBER = "train_member/tiny/fold0/seed0"


def head_of(folder: Path, run_id: str = "coread_old", **values: object) -> Head:
    facts = {"pid": 2**22 + 1, "host": socket.gethostname(), "started": now(), "command": ["all"], "executor": "slurm"}
    return Head(**{**facts, "run_id": run_id, "folder": str(folder), **values})


def member_job(seed: int, *, attempts: int = 0, outputs: tuple[str, ...] = (), needed: bool = True) -> ListedJob:
    wildcards = {"experiment": "tiny", "fold": "0", "seed": str(seed)}
    record = {"rule": "train_member"} if needed else None
    return ListedJob(f"train_member/tiny/fold0/seed{seed}", "train_member", wildcards, [*outputs], attempts, record)


def record_attempt(job: str, number: int, exit_status: int | None, **start: object) -> None:
    path = Path("logs", f"{job}.attempts.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    events = [{"event": "start", "attempt": number, "job": job, "started": now(), **start}]
    if exit_status is not None:
        reason = None if exit_status == 0 else f"reason {number}"
        events.append(
            {"event": "end", "attempt": number, "exit": exit_status, "reason": reason, "last_lines": ["last"]}
        )
    with path.open("a") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)
