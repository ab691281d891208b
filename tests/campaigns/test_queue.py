"""What a campaign knows about its jobs in the queue; SLURM is a few shell scripts here."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from coread import campaign, orphans
from coread.campaign import CampaignError, ListedJob
from coread.slurm_queue import QueueError, cancel_jobs, queued_jobs, submissions_in_flight, target_jobs
from tests.campaigns.jobs import MEMBER, head_of, member_job, record_attempt
from tests.fake_slurm import FakeSlurm


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
