"""Trials as processes of this machine: a signal queues one again, a killed search finds the running ones again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import yaml

from coread.search.jobs import live_jobs
from coread.search.study import JOURNAL, LIVES, open_study
from tests.conftest import REPOSITORY
from tests.search.conftest import drawn, make_settings, run_here

EPOCHS = 60

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def wait_for(what: str, condition: Callable[[], Any], seconds: float = 400) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.05)
    return found


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """Return a copy of the package, which nobody edits while the test runs: edited code would begin another study."""
    source, target = REPOSITORY / "src", tmp_path / "src"
    return Path(shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__")))


def start(folder: Path, code: Path, recordings: list[Path], settings: dict[str, Any]) -> "subprocess.Popen[bytes]":
    """Start a search as the workflow does."""
    (folder / "search.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, str(REPOSITORY / "workflow_scripts" / "search.py"), "--experiment", "toy"]
    command += ["--config", str(folder / "search.yaml"), "--recordings", *map(str, recordings)]
    command += ["--jobs", json.dumps({"executor": "local", "cpus": 1, "poll_s": 0.2})]
    command += ["--output", str(folder / "search" / "trials.csv")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(code)}
    with (folder / "head.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def trial_process(job_id: str) -> psutil.Process | None:
    """Return the process that trains below submitit's controller, once it listens to signals."""
    children = psutil.Process(int(job_id)).children() if psutil.pid_exists(int(job_id)) else []
    return children[0] if children else None


def test_a_signalled_trial_and_a_killed_search_lose_nothing(tmp_path: Path, code: Path, recordings: list[Path]) -> None:
    settings = make_settings(n_trials=2, train={"trainer": {"max_epochs": EPOCHS}})
    head = start(tmp_path, code, recordings, settings)
    (folder,) = wait_for("a study", lambda: [p.parent for p in tmp_path.glob(f"search/.study/*/{JOURNAL}")])
    wait_for("a checkpoint", lambda: list(folder.glob("trials/0/fold0/last.ckpt")))
    head.kill()
    head.wait()
    (record,) = [json.loads(line) for line in (folder / "jobs.jsonl").read_text().splitlines()]

    process = trial_process(record["job_id"])
    assert process is not None
    process.send_signal(signal.SIGUSR2)  # what SLURM sends before a time limit or a pre-emption
    again = start(tmp_path, code, recordings, settings)
    assert again.wait(900) == 0, (tmp_path / "head.log").read_text()

    # the first search's trial was found, not submitted again; the second slot has the only other job
    jobs = [json.loads(line) for line in (folder / "jobs.jsonl").read_text().splitlines()]
    assert [job["slot"] for job in jobs] == [0, 1]
    assert jobs[0] == record
    trials = open_study(folder, settings["search"]).trials
    assert [len(trial.user_attrs[LIVES]) for trial in trials] == [2, 1]
    assert {life["job_id"] for life in trials[0].user_attrs[LIVES]} == {record["job_id"]}
    assert "resuming from" in (folder / "jobs" / f"{record['job_id']}_0_log.err").read_text()
    table = pd.read_csv(tmp_path / "search" / "trials.csv")
    pd.testing.assert_frame_equal(drawn(table), drawn(run_here(settings, recordings, tmp_path / "undisturbed")))


def test_a_search_with_other_settings_ends_the_trials_of_the_one_before(
    tmp_path: Path, code: Path, recordings: list[Path]
) -> None:
    head = start(tmp_path, code, recordings, make_settings(n_trials=1, train={"trainer": {"max_epochs": 100_000}}))
    wait_for("a checkpoint", lambda: list(tmp_path.glob("search/.study/*/trials/0/fold0/last.ckpt")))
    head.kill()
    head.wait()
    (path,) = tmp_path.glob("search/.study/*/jobs.jsonl")
    (record,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert live_jobs([record], "")
    again = start(tmp_path, code, recordings, make_settings(n_trials=1))
    assert again.wait(900) == 0, (tmp_path / "head.log").read_text()
    assert not live_jobs([record], "")
    assert "have changed since the search in" in (tmp_path / "head.log").read_text()
