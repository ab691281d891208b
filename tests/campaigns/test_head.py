"""What a campaign knows about its head, its attempts and its failures."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from coread import campaign, orphans
from coread.campaign import CampaignError, ListedJob
from coread.failed_jobs import describe_failures, describe_submission
from tests.campaigns.jobs import MEMBER, head_of, member_job, record_attempt

# ---------------------------------------------------------------------------------------------------------------- head


HOLDER = """
import sys, time
from coread import campaign, orphans
from tests.campaigns.jobs import head_of
lock = campaign.hold_lock()
campaign.begin(head_of("."), [])
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that is the head of the campaign."""
    repository = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((f"{repository}/src", repository))}
    command = [sys.executable, "-c", HOLDER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_one_head_at_a_time(holder: "subprocess.Popen[str]") -> None:
    assert campaign.head_lives()
    with pytest.raises(CampaignError, match=f"another process drives the campaign in .*on {socket.gethostname()}"):
        campaign.hold_lock()


def test_a_killed_head_lets_go(holder: "subprocess.Popen[str]") -> None:
    holder.kill()
    holder.wait()
    assert not campaign.head_lives()
    lock = campaign.hold_lock()
    assert campaign.head_lives()
    lock.release()
    assert not campaign.head_lives()


def test_no_head_lives_where_none_was_started(folder: Path) -> None:
    assert not campaign.head_lives()
    assert campaign.read_head() is None


def test_runs_before_are_remembered(folder: Path) -> None:
    for run_id in ("a", "b", "c"):
        campaign.begin(head_of(folder, run_id), [member_job(0)])
    head = campaign.read_head()
    assert head is not None
    assert (head.run_id, head.earlier, head.outcome) == ("c", ["a", "b"], None)
    campaign.end("failure")
    assert campaign.read_head().outcome == "failure"
    assert campaign.listed_jobs() == {MEMBER: member_job(0)}


def test_a_spoiled_record_is_named(folder: Path) -> None:
    campaign.FOLDER.mkdir(parents=True)
    campaign.RECORD.write_text('{"pid": ')
    with pytest.raises(CampaignError, match=r"logs/campaign/head.json: expected JSON, found .*move the file away"):
        campaign.read_head()


# ------------------------------------------------------------------------------------------------------------- attempts


@pytest.mark.parametrize(
    ("attempts", "before", "missing", "finished"),
    [
        ([(1, 0)], 0, False, True),
        ([(1, 1), (2, 0)], 0, False, True),
        ([(1, 0)], 1, False, False),  # made before this head started, whose code may be another
        ([(1, 0), (2, None)], 0, False, False),  # runs, or was cut off
        ([(1, 0), (2, 137)], 0, False, False),
        ([(1, 0)], 0, True, False),
        ([], 0, False, False),
    ],
)
def test_only_an_attempt_that_ended_well_finishes_a_job(
    folder: Path, attempts: list[tuple[int, int | None]], before: int, missing: bool, finished: bool
) -> None:
    outputs = ("model.ckpt", "history.csv")
    for name in outputs[: 1 if missing else 2]:
        Path(name).touch()
    for number, exit_status in attempts:
        record_attempt(MEMBER, number, exit_status)
    result = campaign.aftermath([member_job(0, attempts=before, outputs=outputs), member_job(1, needed=False)])
    assert [job.job for job in result.finished] == [MEMBER] * finished
    assert [job.job for job in result.unfinished] == [MEMBER] * (not finished)


def test_running_attempts_are_found_by_their_process(supervised: "subprocess.Popen[bytes]") -> None:
    (running,) = campaign.lingering()
    assert (running.job, running.supervisor.pid) == (MEMBER, supervised.pid)
    with pytest.raises(CampaignError, match=f"just ending on this machine \\({supervised.pid}\\)"):
        orphans.refuse_orphans(".", "local")
    supervised.terminate()
    supervised.wait()
    assert campaign.lingering() == []


@pytest.mark.parametrize(
    "changed",
    [
        {"host": "elsewhere"},
        {"started": "2001-01-01T00:00:00+00:00"},  # the process began after this: its pid was given away again
        {"supervisor_pid": os.getpid()},  # a process, but no supervisor
        {"supervisor_pid": 2**22 + 1},
        {"supervisor_pid": None},
    ],
)
def test_a_pid_is_trusted_only_with_host_time_and_program(
    supervised: "subprocess.Popen[bytes]", changed: dict[str, object]
) -> None:
    start = campaign.last_attempt(MEMBER)[0]
    Path("logs", f"{MEMBER}.attempts.jsonl").write_text(json.dumps({**start, **changed}) + "\n")
    assert campaign.lingering() == []


def test_the_head_is_known_by_more_than_its_pid(folder: Path) -> None:
    own = psutil.Process()
    assert campaign.head_process(head_of(folder, pid=own.pid)) is None  # this is no snakemake
    program = "print(flush=True); input() # snakemake"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # before it runs, its command line can be empty
        began = datetime.fromtimestamp(psutil.Process(process.pid).create_time(), UTC)
        head = head_of(folder, pid=process.pid, started=began.isoformat())
        assert campaign.head_process(head) == psutil.Process(process.pid)
        assert campaign.head_process(head_of(folder, pid=process.pid, started="2001-01-01T00:00:00+00:00")) is None


# ----------------------------------------------------------------------------------------------------------- failures


def test_failures_are_told_in_two_lines_each(folder: Path) -> None:
    record_attempt(MEMBER, 1, 1, log=f"logs/{MEMBER}.attempt-1.log")
    record_attempt(MEMBER, 2, 137, log=f"logs/{MEMBER}.attempt-2.log")
    record_attempt("score_experiment/tiny", 1, None, log="logs/score_experiment/tiny.attempt-1.log")
    record_attempt("predict_member/x", 1, 1)  # made before this head started
    campaign.begin(head_of(folder), [ListedJob("predict_member/x", "predict_member", {}, [], 1)])
    failed = {MEMBER: "SLURM-job '3' failed", "score_experiment/tiny": None, "predict_member/x": "sbatch: error: no"}
    assert list(describe_failures(failed, waiting=1)) == [
        "3 jobs failed:",
        "  predict_member x: sbatch: error: no",
        "    log: none; SLURM's own are in logs/slurm/",
        "  score_experiment tiny, attempt 1: cut off without a word, as by the crash of its node; no more is known",
        "    log: logs/score_experiment/tiny.attempt-1.log",
        "  train_member tiny/fold0/seed0, attempt 2: reason 2",
        "    log: logs/train_member/tiny/fold0/seed0.attempt-2.log",
        "1 job that needs them did not run.",
        "What is finished is kept: the same command goes on from here.",
    ]
    assert list(describe_failures({}, waiting=3)) == []


SAID = "SLURM-job '7' failed, SLURM status is: 'FAILED'. Detailed failure reason unavailable (status ...).\n  more"


def test_a_failed_submission_tells_which_of_its_jobs_failed(folder: Path) -> None:
    jobs = [f"predict_member/tiny/fold0/seed{seed}" for seed in range(3)]
    record_attempt(jobs[0], 1, 0, job_id="7")
    record_attempt(jobs[1], 1, 1, job_id="6")
    record_attempt(jobs[1], 2, 1, job_id="7", log="logs/x.attempt-2.log")
    assert list(describe_submission(jobs, "7", SAID, "logs/slurm/7.log")) == [
        "predict_member tiny/fold0/seed1, attempt 2: reason 2",
        "    log: logs/x.attempt-2.log",
        "    SLURM job 7, log: logs/slurm/7.log",
    ]


def test_a_submission_that_did_not_begin_tells_what_the_executor_says(folder: Path) -> None:
    refused = "SLURM sbatch failed. The error message was 'no such partition'.\n    sbatch call: (a page)"
    assert list(describe_submission(["b/1", "a/2", "c/3"], None, refused, "")) == [
        "a 2 and 2 more that share its submission: SLURM sbatch failed. The error message was 'no such partition'."
    ]
    record_attempt("a/2", 1, 1, job_id="6")  # an earlier submission
    assert next(describe_submission(["a/2"], "7", SAID, "")) == "a 2: SLURM-job '7' failed, SLURM status is: 'FAILED'."


def test_a_job_that_failed_after_its_script_says_so(folder: Path) -> None:
    record_attempt(MEMBER, 1, 0, job_id="7")
    (said, *_) = describe_submission([MEMBER], "7", SAID, "")
    assert said == (
        "train_member tiny/fold0/seed0, attempt 1: its script ended well, and then: "
        "SLURM-job '7' failed, SLURM status is: 'FAILED'."
    )
