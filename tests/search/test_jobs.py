"""Jobs of a search: what is asked of SLURM, what was submitted, and that silence is no empty queue."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from coread.config import ConfigError, compose
from coread.search.jobs import (
    Ledger,
    RunTrial,
    SearchError,
    Submission,
    TrialTask,
    end_local,
    live_jobs,
    queued,
    submit,
)

SQUEUE = """\
#!{python}
import sys
assert "--array" in sys.argv and "--name=mine" in sys.argv, sys.argv
print({text!r})
sys.exit({status})
"""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder in front of the PATH for stand-ins of SLURM's commands."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def stand_in(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def test_the_queue_is_asked_for_single_array_tasks(commands: Path) -> None:
    stand_in(commands / "squeue", SQUEUE.format(python=sys.executable, text="7_0 None\n7_1 Priority\n9 None", status=0))
    assert queued("mine") == {"7_0": "None", "7_1": "Priority", "9": "None"}
    records = [{"slot": 0, "executor": "slurm", "job_id": "7_1"}, {"slot": 1, "executor": "slurm", "job_id": "7_2"}]
    assert live_jobs(records, "mine") == {"7_1": "Priority"}


def test_no_answer_is_no_empty_queue(commands: Path) -> None:
    stand_in(commands / "squeue", SQUEUE.format(python=sys.executable, text="", status=1))
    with pytest.raises(SearchError, match="the queue cannot be asked"):
        live_jobs([{"slot": 0, "executor": "slurm", "job_id": "7"}], "mine")


def test_a_local_job_is_alive_as_long_as_its_own_process_is() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    created = psutil.Process(process.pid).create_time()
    record = {"slot": 0, "executor": "local", "job_id": str(process.pid), "host": socket.gethostname()}
    assert live_jobs([record | {"created": created}], "mine") == {str(process.pid): "None"}
    assert live_jobs([record | {"created": created - 5}], "mine") == {}  # another process got the number
    with pytest.raises(SearchError, match="was started on elsewhere"):
        live_jobs([record | {"created": created, "host": "elsewhere"}], "mine")
    end_local(record | {"created": created})
    assert process.poll() is not None or psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE
    process.wait()
    assert live_jobs([record | {"created": created}], "mine") == {}


def test_the_ledger_survives_a_line_that_a_crash_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    Ledger(path).add([{"slot": 0, "job_id": "1"}])
    path.write_text(path.read_text() + '{"slot": 1, "jo')
    ledger = Ledger(path)
    assert ledger.records == [{"slot": 0, "job_id": "1"}]
    ledger.add([{"slot": 1, "job_id": "2"}, {"slot": 0, "job_id": "3"}])
    assert Ledger(path).of_slot(0) == [{"slot": 0, "job_id": "1"}, {"slot": 0, "job_id": "3"}]
    assert Ledger(path).of_slot(1) == [{"slot": 1, "job_id": "2"}]


def test_what_sbatch_is_asked_for(commands: Path, tmp_path: Path) -> None:
    seen = tmp_path / "seen.sh"
    stand_in(commands / "srun", "#!/bin/sh\n")
    stand_in(commands / "sbatch", f'#!/bin/sh\ncp "$1" {seen}\necho Submitted batch job 41\n')
    asked = {"executor": "slurm", "partition": "gpu", "account": "lab", "gpus": "a100:1", "cpus": 3, "mem_mb": 5000}
    asked |= {"timeout_min": 30, "signal_delay_s": 45, "extra": {"exclude": "n7"}}
    task = [TrialTask(tmp_path, slot, (), 1.0, 1, None) for slot in (4, 5, 6)]
    records = submit(Submission.from_config(asked), tmp_path, "mine", task, parallel=2)
    assert [(record["slot"], record["job_id"]) for record in records] == [(4, "41_0"), (5, "41_1"), (6, "41_2")]
    lines = set(seen.read_text().splitlines())
    assert lines >= {
        "#SBATCH --array=0-2%2",
        "#SBATCH --partition=gpu",
        "#SBATCH --account=lab",
        "#SBATCH --gpus=a100:1",
        "#SBATCH --cpus-per-task=3",
        "#SBATCH --mem=5000M",
        "#SBATCH --time=30",
        "#SBATCH --signal=USR2@45",
        "#SBATCH --exclude=n7",
        "#SBATCH --requeue",
        "#SBATCH --job-name=mine",
    }


def test_what_sbatch_says_is_passed_on(commands: Path, tmp_path: Path) -> None:
    stand_in(commands / "srun", "#!/bin/sh\n")
    stand_in(commands / "sbatch", "#!/bin/sh\necho 'sbatch: error: Invalid account' >&2\nexit 1\n")
    with pytest.raises(SearchError, match=r"sbatch refused the trials: .*Invalid account"):
        submit(
            Submission.from_config({"executor": "slurm", "timeout_min": 5}),
            tmp_path,
            "mine",
            [TrialTask(tmp_path, 0, (), 1.0, 1, None)],
            parallel=1,
        )


@pytest.mark.parametrize("name", ["local", "debug", "slurm"])
def test_the_shipped_clusters_can_be_read(name: str) -> None:
    config = json.loads(json.dumps(dict(compose("simulated_retina", [f"cluster={name}"]).cluster), default=dict))
    assert Submission.from_config(config).executor == name


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"executor": "slrum"}, "cluster.executor: unknown 'slrum' .did you mean 'slurm'"),
        ({"partiton": "gpu"}, "unknown key 'cluster.partiton' .did you mean 'partition'"),
        ({"mem_mb": 0.5}, "cluster.mem_mb: expected a whole number, found 0.5"),
        ({"executor": "slurm"}, "cluster.timeout_min: a job of a cluster needs a time limit"),
    ],
)
def test_a_wrong_cluster_is_refused(config: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Submission.from_config(config)


@pytest.mark.parametrize("preempted", [True, False])
def test_training_that_ended_by_sigterm_is_queued_again_only_if_slurm_wants_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preempted: bool
) -> None:
    """Without SLURM's warning signal a pre-emption begins with SIGTERM, as a cancellation does."""

    def ended(*_: object, **__: object) -> None:
        raise SystemExit(143)

    described = SimpleNamespace(is_being_preempted=preempted)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr("coread.search.jobs._own_job_id", lambda: "7")
    monkeypatch.setattr("coread.search.trial.run_trial", ended)
    monkeypatch.setattr("coread.slurm_job.describe_job", lambda job_id: described if job_id == "7" else None)
    caught: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: caught.append(number))
    try:
        with pytest.raises(SystemExit):
            RunTrial()(TrialTask(tmp_path, 0, (), 1.0, None, None))
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert caught == ([signal.SIGUSR2] if preempted else [])


def test_what_is_queued_again_is_the_same_slot(tmp_path: Path) -> None:
    task = TrialTask(tmp_path, 3, (), 1.0, None, None)
    submission = RunTrial().checkpoint(task)
    assert isinstance(submission.function, RunTrial)
    assert submission.args == (task,)
