import json
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from coread.attempts import WITHOUT_A_WORD, read_attempts, summarize_attempts

MEMBER = "train_member/toy/fold0/seed0"
BOOT = "2001-01-01T00:00:00+00:00"
ELSEWHERE = {"host": "another machine", "node": "g1", "job_id": "7"}


def start(job: str, number: int, **facts: Any) -> dict[str, Any]:
    asked = {"mem_mb": facts.pop("mem_mb", None), "runtime_min": None, "gpus": None}
    known = {"event": "start", "attempt": number, "job": job, "host": socket.gethostname(), "node": None}
    process = {"pid": None, "supervisor_pid": os.getpid(), "job_id": None, "submitted": None, "job_started": None}
    began = {"started": f"2026-01-02T03:{number:02d}:00+00:00", "log": f"logs/{job}.attempt-{number}.log"}
    return known | process | began | {"requested": asked, "command": ["true"]} | facts


def end(number: int, seconds: float = 1.0, **facts: Any) -> dict[str, Any]:
    known = {"event": "end", "attempt": number, "ended": f"2026-01-02T03:{number:02d}:30+00:00", "seconds": seconds}
    used = {"peak_memory_mb": 100.0, "cpu_s": 1.0, "gpu_peak_memory_mb": None, "gpu_utilization": None}
    return known | used | {"exit": 0, "signal": None, "reason": None, "last_lines": []} | facts


def write(folder: Path, job: str, *records: dict[str, Any]) -> Path:
    logs = folder / "logs"
    path = logs / f"{job}.attempts.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return logs


def test_every_attempt_is_a_row(tmp_path: Path) -> None:
    queue = {"submitted": "2026-01-02T03:00:00+00:00", "job_started": "2026-01-02T03:01:30+00:00", "mem_mb": 500.0}
    failure = end(1, exit=137, signal="SIGKILL", reason="out of memory?", last_lines=["epoch 3"])
    write(tmp_path, MEMBER, start(MEMBER, 1, **ELSEWHERE, **queue), failure, start(MEMBER, 2), end(2, 7.5))
    logs = write(tmp_path, "write_tables", start("write_tables", 3), end(3))
    attempts = read_attempts(logs)
    assert attempts["job"].tolist() == [MEMBER, MEMBER, "write_tables"], "as they began"
    assert attempts["rule"].tolist() == ["train_member", "train_member", "write_tables"]
    assert attempts["member"].tolist() == ["toy/fold0/seed0", "toy/fold0/seed0", ""]
    assert attempts["state"].tolist() == ["failed", "done", "done"]
    assert attempts["is_retry"].tolist() == [False, True, False]
    first = attempts.iloc[0]
    assert (first["wait_s"], first["mem_mb"], first["exit"], first["node"], first["job_id"]) == (
        90,
        500,
        137,
        "g1",
        "7",
    )
    assert (first["signal"], first["reason"], first["last_lines"]) == ("SIGKILL", "out of memory?", ["epoch 3"])
    assert first["started"] == pd.Timestamp("2026-01-02T03:01:00Z")
    assert np.isnan(attempts["wait_s"].iloc[1])
    assert attempts["seconds"].iloc[1] == 7.5


def test_no_records_are_an_empty_table(tmp_path: Path) -> None:
    attempts = read_attempts(tmp_path / "logs")
    assert attempts.empty
    assert summarize_attempts(attempts).empty


def test_an_attempt_whose_process_is_alive_is_running(tmp_path: Path) -> None:
    now = pd.Timestamp.now("UTC").isoformat(timespec="seconds")
    logs = write(tmp_path, MEMBER, start(MEMBER, 1, started=now))
    assert read_attempts(logs)["state"].tolist() == ["running"]


def test_an_attempt_whose_process_is_gone_was_killed_without_a_word(tmp_path: Path) -> None:
    logs = write(tmp_path, MEMBER, start(MEMBER, 1, supervisor_pid=2**22 + 1))
    (logs / f"{MEMBER}.attempt-1.log").write_text("epoch 1\nepoch 2\n")
    row = read_attempts(logs).iloc[0]
    assert (row["state"], row["reason"]) == ("lost", WITHOUT_A_WORD)
    assert row["last_lines"] == ["epoch 1", "epoch 2"]
    assert np.isnan(row["seconds"])


def test_a_signal_before_the_kill_tells_why(tmp_path: Path) -> None:
    told = {"event": "signal", "attempt": 1, "at": "2026-01-02T03:01:40+00:00", "signal": "SIGTERM", "reason": "time"}
    logs = write(tmp_path, MEMBER, start(MEMBER, 1, supervisor_pid=2**22 + 1), told)
    row = read_attempts(logs).iloc[0]
    assert (row["state"], row["reason"], row["signal"], row["seconds"]) == ("failed", "time", "SIGTERM", 40)
    assert np.isnan(row["exit"])


def test_a_process_that_took_the_number_of_a_dead_one_is_not_mistaken_for_it(tmp_path: Path) -> None:
    logs = write(tmp_path, MEMBER, start(MEMBER, 1, started=BOOT))
    assert read_attempts(logs)["state"].tolist() == ["lost"]


@pytest.mark.parametrize(("queued", "state"), [(None, "running"), ({"7"}, "running"), ({"8"}, "lost"), (set(), "lost")])
def test_the_queue_tells_of_attempts_on_other_machines(tmp_path: Path, queued: set[str] | None, state: str) -> None:
    logs = write(tmp_path, MEMBER, start(MEMBER, 1, **ELSEWHERE))
    assert read_attempts(logs, queued)["state"].tolist() == [state]


def test_an_attempt_is_over_once_the_next_one_begins(tmp_path: Path) -> None:
    logs = write(tmp_path, MEMBER, start(MEMBER, 1, **ELSEWHERE), start(MEMBER, 2, **ELSEWHERE))
    attempts = read_attempts(logs, {"7"})
    assert attempts["state"].tolist() == ["lost", "running"]
    assert attempts["is_retry"].tolist() == [False, True]
    assert attempts["reason"].iloc[0] == f"{WITHOUT_A_WORD}; Slurm started the job again"


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    logs = write(tmp_path, MEMBER, {"event": "start", "attempt": 1})
    with pytest.raises(ValueError, match=r"seed0\.attempts\.jsonl: .*'job'"):
        read_attempts(logs)


def test_the_summary_of_a_rule(tmp_path: Path) -> None:
    def queue(seconds: int) -> dict[str, Any]:
        return {"submitted": "2026-01-02T03:00:00+00:00", "job_started": f"2026-01-02T03:00:{seconds:02d}+00:00"}

    other = MEMBER.replace("seed0", "seed1")
    gpu = {"gpu_peak_memory_mb": 3000.0, "gpu_utilization": 0.5}
    write(
        tmp_path,
        MEMBER,
        start(MEMBER, 1, mem_mb=500.0, **queue(10)),
        end(1, 100.0, exit=1, peak_memory_mb=490.0),
        start(MEMBER, 2, mem_mb=1000.0, **queue(30)),
        end(2, 10.0, peak_memory_mb=480.0, **gpu),
    )
    write(tmp_path, other, start(other, 1, **ELSEWHERE), start(other, 2, **queue(20)), end(2, 20.0))
    logs = write(tmp_path, "write_tables", start("write_tables", 5), end(5, 3.0))
    summary = summarize_attempts(read_attempts(logs)).set_index("rule")
    assert summary.index.tolist() == ["train_member", "write_tables"]
    expected = {
        "jobs": 2,
        "attempts": 4,
        "running": 0,
        "retries": 2,
        "failed": 1,
        "lost": 1,
        "wait_median_s": 20,
        "wait_max_s": 30,
        "run_median_s": 15,
        "run_max_s": 20,
        "run_total_s": 130,
        "peak_memory_mb": 490,
        "mem_mb": 500,
        "gpu_peak_memory_mb": 3000,
        "gpu_utilization": 0.5,
    }
    assert summary.loc["train_member"].to_dict() == expected
    assert np.isnan(summary.loc["write_tables", "wait_median_s"])


def test_a_new_run_after_a_success_is_no_retry(tmp_path: Path) -> None:
    logs = write(tmp_path, MEMBER, start(MEMBER, 1), end(1), start(MEMBER, 2), end(2))
    assert summarize_attempts(read_attempts(logs))["retries"].tolist() == [0]
