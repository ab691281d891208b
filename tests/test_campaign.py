"""What a campaign knows about its head, its jobs in the queue and their attempts; SLURM is a few shell scripts here."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from coread import campaign, orphans
from coread.attempt_log import now
from coread.campaign import CampaignError, Head, ListedJob
from coread.failed_jobs import describe_failures, describe_submission
from coread.slurm_queue import QueueError, cancel_jobs, queued_jobs, submissions_in_flight, target_jobs
from tests.campaign import Campaign
from tests.fake_slurm import FakeSlurm

MEMBER = "train_member/tiny/fold0/seed0"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty campaign's folder, in which the test runs."""
    folder = tmp_path / "campaign"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return FakeSlurm(tmp_path / "slurm", monkeypatch)


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


# --------------------------------------------------------------------------------------------------------------- queue


def test_the_queue_is_read_with_whatever_comments_hold(slurm: FakeSlurm, folder: Path) -> None:
    slurm.enqueue("7", folder, comment="rule_x_wildcards_a|b c", state="RUNNING", node="c1")
    slurm.enqueue("8", folder, comment="")
    first, second = queued_jobs()
    assert (first.job_id, first.state, first.node, first.comment) == ("7", "RUNNING", "c1", "rule_x_wildcards_a|b c")
    assert (second.state, second.comment, second.folder) == ("PENDING", "", str(folder))


def test_a_queue_that_does_not_answer_is_never_empty(slurm: FakeSlurm, folder: Path) -> None:
    slurm.fail("squeue", "slurm_load_jobs error: Unable to contact slurm controller")
    orphans.refuse_orphans(folder, "local")  # nothing of this campaign was ever submitted
    with pytest.raises(QueueError, match="squeue exited with 1: slurm_load_jobs error: Unable to contact"):
        orphans.refuse_orphans(folder, "slurm")
    campaign.begin(head_of(folder), [])
    with pytest.raises(QueueError, match="squeue exited with 1: slurm_load_jobs error: Unable to contact"):
        orphans.refuse_orphans(folder, "local")


def test_a_head_in_a_job_is_no_orphan(slurm: FakeSlurm, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm.enqueue("7", folder, run_id="coread_head", comment="")
    with pytest.raises(CampaignError, match="ids 7"):
        orphans.refuse_orphans(folder, "slurm")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    orphans.refuse_orphans(folder, "slurm")


def test_without_slurm_only_a_campaign_on_slurm_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    orphans.refuse_orphans(folder, "local")
    with pytest.raises(QueueError, match="squeue is not on this machine's PATH"):
        orphans.refuse_orphans(folder, "slurm")


def test_an_unreadable_line_is_an_error(slurm: FakeSlurm, folder: Path) -> None:
    slurm.queue.write_text("8\tPENDING\n")
    with pytest.raises(QueueError, match="expected 8 fields"):
        queued_jobs()


def test_a_campaign_has_its_own_jobs_only(slurm: FakeSlurm, folder: Path, tmp_path: Path) -> None:
    campaign.begin(head_of(folder, "renamed_1"), [])
    campaign.begin(head_of(folder, "renamed_2"), [])
    slurm.enqueue("1", folder)
    slurm.enqueue("2", tmp_path)  # another campaign of this user
    slurm.enqueue("3", folder, run_id="search", comment="trial 4")  # a search that runs in the same folder
    slurm.enqueue("4", tmp_path, run_id="renamed_1", comment="")  # known by its run, wherever it was started
    slurm.enqueue("5", folder, run_id="other-uuid")  # known by the plugin's comment
    (tmp_path / "link").symlink_to(folder)
    slurm.enqueue("6", tmp_path / "link")
    assert [job.job_id for job in orphans.campaign_queue(folder)] == ["1", "4", "5", "6"]


def test_orphans_keep_a_new_head_from_starting(slurm: FakeSlurm, folder: Path) -> None:
    orphans.refuse_orphans(folder, "slurm")
    for job_id in range(12):
        slurm.enqueue(str(job_id), folder, state="RUNNING" if job_id < 2 else "PENDING")
    with pytest.raises(CampaignError) as refused:
        orphans.refuse_orphans(folder, "slurm")
    assert "12 jobs of an earlier run are still in the queue (2 RUNNING, 10 PENDING; ids 0, 1, 2," in str(refused.value)
    assert "`coread campaign resume`" in str(refused.value)


def test_a_submission_that_outlives_its_head_counts(slurm: FakeSlurm, folder: Path, tmp_path: Path) -> None:
    slurm.write("sbatch", "sleep 30")
    script = Path(os.environ["PATH"].split(os.pathsep)[0], "sbatch")
    with subprocess.Popen([script, "--parsable", "-D", str(folder)]) as process:
        while process.pid not in submissions_in_flight(folder):
            assert process.poll() is None
            time.sleep(0.01)
        assert submissions_in_flight(tmp_path) == []
        with pytest.raises(CampaignError, match=f"just ending on this machine .*{process.pid}"):
            orphans.refuse_orphans(folder, "slurm")
        process.kill()


def test_jobs_that_share_a_submission_are_read_from_its_script(slurm: FakeSlurm, folder: Path) -> None:
    jobs = {job.job: job for job in (member_job(0), member_job(1), member_job(2))}
    slurm.enqueue("1", folder, comment="rule_train_member_wildcards_tiny_0_2")
    slurm.enqueue("2", folder, comment="rule_several_train_member")
    slurm.script(
        "2",
        "#!/bin/sh\n# it is written by sbatch\npython -m snakemake --target-jobs "
        "'train_member:experiment=tiny,fold=0,seed=0' train_member:experiment=tiny,fold=0,seed=1 "
        "'other:name=\"a,b\"' --allowed-rules train_member --cores 1",
    )
    assert target_jobs("2")[2] == ("other", {"name": "a,b"})
    names = orphans.names_in_queue(orphans.campaign_queue(folder), jobs)
    assert names["1"] == ["train_member/tiny/fold0/seed2"]
    assert names["2"] == ["other name=a,b", "train_member/tiny/fold0/seed0", "train_member/tiny/fold0/seed1"]


def test_a_hidden_script_leaves_the_comment(slurm: FakeSlurm, folder: Path) -> None:
    slurm.enqueue("2", folder, comment="rule_several")
    assert orphans.names_in_queue(orphans.campaign_queue(folder), {}) == {"2": ["rule_several"]}


def test_equal_comments_of_different_jobs_are_told_apart(slurm: FakeSlurm, folder: Path) -> None:
    jobs = [
        ListedJob("score/a_b/c", "score", {"x": "a_b", "y": "c"}, [], 0),
        ListedJob("score/a/b_c", "score", {"x": "a", "y": "b_c"}, [], 0),
    ]
    assert jobs[0].comment == jobs[1].comment == "rule_score_wildcards_a_b_c"
    slurm.enqueue("1", folder, comment=jobs[0].comment)
    slurm.script("1", "snakemake --target-jobs score:x=a,y=b_c --cores 1")
    names = orphans.names_in_queue(orphans.campaign_queue(folder), {job.job: job for job in jobs})
    assert names["1"] == ["score/a/b_c"]


def test_waiting_ends_when_the_queue_is_empty(slurm: FakeSlurm, folder: Path) -> None:
    campaign.begin(head_of(folder), [])
    slurm.enqueue("1", folder, state="RUNNING")
    slurm.enqueue("2", folder)
    told: list[str] = []

    def tell(sentence: str) -> None:
        told.append(sentence)
        slurm.dequeue("1" if len(told) == 1 else "2")

    orphans.wait_until_gone(folder, tell, poll_s=0.01, cancelling=False)
    assert [sentence.partition(": ")[2] for sentence in told] == ["1 RUNNING, 1 PENDING", "1 PENDING"]
    assert slurm.cancelled() == []


def test_cancelled_jobs_are_waited_for_until_they_are_gone(slurm: FakeSlurm, folder: Path) -> None:
    campaign.begin(head_of(folder), [])
    slurm.enqueue("1", folder, state="RUNNING")
    slurm.enqueue("2", folder)
    told: list[str] = []

    def tell(sentence: str) -> None:
        told.append(sentence)
        if "COMPLETING" in sentence:
            slurm.dequeue("1")

    orphans.wait_until_gone(folder, tell, poll_s=0.01, cancelling=True)  # scancel leaves running jobs COMPLETING
    assert slurm.cancelled() == ["1 2"]
    assert told[-1].endswith("1 COMPLETING")


def test_jobs_that_ended_meanwhile_are_no_error_of_cancelling(slurm: FakeSlurm, folder: Path) -> None:
    slurm.fail("scancel", "Kill job error on job id 1: Invalid job id specified")
    cancel_jobs(["1"])
    slurm.enqueue("1", folder)
    with pytest.raises(QueueError, match="Invalid job id"):
        cancel_jobs(["1"])


@pytest.mark.parametrize(("job_id", "exit_status", "cancelled"), [("1", 0, []), ("1", None, ["1"]), ("7", 0, ["1"])])
def test_a_job_whose_work_is_done_is_left_to_end(
    slurm: FakeSlurm, folder: Path, job_id: str, exit_status: int | None, cancelled: list[str]
) -> None:
    """The Snakemake inside it would answer the cancellation by deleting its finished outputs."""
    campaign.begin(head_of(folder), [member_job(0)])
    slurm.enqueue("1", folder, state="RUNNING")
    record_attempt(MEMBER, 1, exit_status, job_id=job_id)
    assert orphans.cancel(queued_jobs()) == cancelled
    assert slurm.cancelled() == cancelled


def test_what_is_left_of_one_run_is_cancelled(slurm: FakeSlurm, folder: Path) -> None:
    slurm.enqueue("1", folder, run_id="coread_a")
    slurm.enqueue("2", folder, run_id="coread_b")
    orphans.cancel_run("coread_a")
    assert slurm.cancelled() == ["1"]


# ---------------------------------------------------------------------------------------------------------------- head


HOLDER = """
import sys, time
from coread import campaign, orphans
from tests.test_campaign import head_of
lock = campaign.hold_lock()
campaign.begin(head_of("."), [])
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that is the head of the campaign."""
    repository = str(Path(__file__).resolve().parent.parent)
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


@pytest.fixture
def supervised(folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A supervisor that runs beside the test."""
    environment = {**os.environ, "PYTHONPATH": str(Path(campaign.__file__).parent.parent)}
    command = [sys.executable, "-m", "coread.supervisor", f"logs/{MEMBER}.log", "--", "sleep", "60"]
    with subprocess.Popen(command, env=environment) as process:
        while campaign.last_attempt(MEMBER) is None:
            assert process.poll() is None
            time.sleep(0.01)
        yield process
        process.terminate()


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


# ------------------------------------------------------------------------------------- the workflow, on this machine


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """A campaign of which one member was trained."""
    made = Campaign(tmp_path_factory.mktemp("trained") / "campaign").prepare()
    made.snakemake("results/tiny/fold0/seed0/model.ckpt")
    return made


@pytest.fixture
def orphaned(trained: Campaign, tmp_path: Path) -> Campaign:
    """The same as the death of its head would have left it: Snakemake recorded nothing about the member's files."""
    copy = trained.copy(tmp_path / "campaign")
    head = copy.root / "logs/campaign/head.json"
    head.write_text(json.dumps({**json.loads(head.read_text()), "outcome": None}))
    records = list((copy.root / ".snakemake/metadata").iterdir())
    forgotten = [path for path in records if "train_member" in json.loads(path.read_text())["log"][0]]
    assert len(forgotten) == 3
    for path in forgotten:
        path.unlink()
    return copy


def trains(made: Campaign) -> bool:
    return "train_member" in made.planned(target="results/tiny/fold0/seed0/model.ckpt")


@pytest.mark.slow
def test_what_ended_after_its_head_is_not_repeated_but_follows_edits(orphaned: Campaign) -> None:
    assert not trains(orphaned)
    for path in ("workflow_scripts/train.py", "results/tiny/config/train.yaml"):
        (orphaned.root / path).touch()
    assert not trains(orphaned)
    orphaned.replace("src/coread/training.py", '"""', '"""Edited. ')
    assert trains(orphaned)


@pytest.mark.slow
def test_code_edited_before_the_next_start_is_noticed_too(orphaned: Campaign) -> None:
    """The record says what the dead head ran, not what the next one would run."""
    orphaned.replace("src/coread/training.py", '"""', '"""Edited. ')
    assert trains(orphaned)


@pytest.mark.slow
@pytest.mark.parametrize("exit_status", [None, 1])
def test_what_did_not_end_well_is_repeated_whatever_files_there_are(
    orphaned: Campaign, exit_status: int | None
) -> None:
    path = orphaned.root / f"logs/{MEMBER}.attempts.jsonl"
    start, end = path.read_text().splitlines()
    changed = [] if exit_status is None else [json.dumps({**json.loads(end), "exit": exit_status})]
    path.write_text("\n".join([start, *changed]) + "\n")
    target = "results/tiny/fold0/seed0/model.ckpt"
    assert "train_member" in orphaned.planned("--rerun-incomplete", target=target)


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
def test_what_ended_while_a_head_was_starting_is_not_repeated(orphaned: Campaign) -> None:
    """The jobs were planned before the member's end was known; the next start knows it."""
    path = orphaned.root / f"logs/{MEMBER}.attempts.jsonl"
    start, end = path.read_text().splitlines()
    path.write_text(f"{start}\n")
    (orphaned.root / "end.jsonl").write_text(f"{end}\n")
    ends = f'with open("logs/{MEMBER}.attempts.jsonl", "a") as file:\n    file.write(open("end.jsonl").read())\n\n\n'
    orphaned.replace("Snakefile", "rule all:", f"{ends}rule all:")
    output = failing(orphaned, "--rerun-incomplete", "results/tiny/fold0/seed0/model.ckpt")
    assert "jobs of an earlier run ended while this one was starting: start it again" in output
    assert path.read_text() == f"{start}\n{end}\n"
    orphaned.replace("Snakefile", ends, "")
    assert not trains(orphaned)


@pytest.mark.slow
def test_a_second_head_is_refused_before_it_starts_a_job(
    trained: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = trained.copy(tmp_path / "campaign")
    monkeypatch.chdir(copy.root)
    lock = campaign.hold_lock()
    output = failing(copy, "results/tiny/fold0/seed1/model.ckpt")
    lock.release()
    assert f"another process drives the campaign in {copy.root}" in output
    assert not (copy.root / "logs/train_member/tiny/fold0/seed1.log").exists()


@pytest.mark.slow
def test_a_head_is_refused_beside_orphans_in_the_queue(trained: Campaign, tmp_path: Path, slurm: FakeSlurm) -> None:
    copy = trained.copy(tmp_path / "campaign")
    head = copy.root / "logs/campaign/head.json"
    head.write_text(json.dumps({**json.loads(head.read_text()), "executor": "slurm"}))
    slurm.enqueue("41", copy.root, state="RUNNING")
    output = failing(copy, "results/tiny/fold0/seed1/model.ckpt")
    assert "1 job of an earlier run is still in the queue (1 RUNNING; ids 41)" in output
    assert not (copy.root / "logs/train_member/tiny/fold0/seed1.log").exists()


def failing(made: Campaign, *arguments: str) -> str:
    """Return what Snakemake says when it fails."""
    with made.start([sys.executable, "-m", "snakemake", "--cores", "1", *arguments]) as process:
        output, _ = process.communicate()
    assert process.returncode == 1, output[-2000:]
    return output
