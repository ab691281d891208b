"""The process that drives a campaign is killed, interrupted, ended; each on a real cluster with the executor plugin."""

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.slurm_campaign import Head, SlurmCampaign, seconds_of
from tests.cluster.slurm_cluster import SlurmCluster

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]

# four GPUs: of six long trainings two wait; the linear-nonlinear member trains 2 epochs and is done early
LONG = 150
SIX = ("--config", "experiments=[tiny]", "folds=[0]", "seeds=[0, 1, 2, 3, 4, 5]")
SHORT_FIRST = ("--config", "experiments=[tiny, tiny_ln]", "folds=[0]", "seeds=[0, 1, 2, 3, 4]")


class Driven(SlurmCampaign):
    """A campaign of which the tests look at every submission and attempt."""

    def coread(self, *arguments: str, seconds: float = 900) -> "subprocess.CompletedProcess[str]":
        """Run `coread campaign ...` in the campaign's folder."""
        return subprocess.run(
            [str(Path(sys.executable).with_name("coread")), "campaign", *arguments],
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
        )

    def resume(self, choice: str) -> str:
        """Go on as a user does after the head was killed; it must end well."""
        done = self.coread("resume", choice, "--poll", "1")
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        return done.stdout + done.stderr

    def queue(self) -> dict[str, str]:
        """Jobs of this campaign that wait or run: id -> state."""
        lines = self.cluster.run("squeue", "-h", "-o", "%i %T %Z").splitlines()
        return {job: state for job, state, folder in map(str.split, lines) if folder == str(self.root)}

    def wait_until(self, what: str, condition: Callable[[], Any], seconds: float = 400) -> Any:
        """Return the first true value of `condition`, whether a head lives or not."""
        return self.cluster.wait_for(what, condition, seconds=seconds)

    def wait_for_some_running_some_waiting(self) -> None:
        """Four members train, and others wait for their GPUs."""
        for seed in range(4):
            self.wait_until(f"{seed + 1} trainings", lambda seed=seed: self._trained_epochs() > seed)
        assert "PENDING" in self.queue().values()

    def _trained_epochs(self) -> int:
        return len(self._past_epoch_2())

    def in_training(self) -> str:
        """A member that has trained two epochs and goes on, "" if there is none."""
        return next((member for member in self._past_epoch_2() if self.trainers(member)), "")

    def _past_epoch_2(self) -> list[str]:
        folder = self.root / "logs" / "train_member"
        logs = [log for log in folder.glob("tiny/**/*.attempt-*.log") if "\nepoch 2/" in log.read_text()]
        return [log.relative_to(folder).as_posix().partition(".attempt-")[0] for log in sorted(logs)]

    def members(self) -> dict[str, list[dict[str, Any]]]:
        """Attempts of every member that was trained."""
        return {job: found for job, found in self.all_attempts().items() if job.startswith("train_member/")}

    def finished(self) -> set[str]:
        """Members of which an attempt ended well."""
        return {job for job, found in self.members().items() if any(attempt.get("exit") == 0 for attempt in found)}

    def assert_never_twice(self) -> None:
        """No two attempts of a job overlap, and none follows one that ended well."""
        ends = {job: fields["EndTime"] for job, fields in self.cluster.jobs().items()}
        for job, attempts in self.all_attempts().items():
            for earlier, later in itertools.pairwise(attempts):
                assert earlier.get("exit") != 0, f"{job} was finished by attempt {earlier['attempt']} and began again"
                # what was killed with its whole job leaves no record of its end: SLURM knows it
                ended = earlier.get("ended") or _utc(ends[earlier["job_id"]])
                assert seconds_of(ended) <= seconds_of(later["started"]), (earlier, later)


def _utc(local: str) -> str:
    return datetime.fromisoformat(local).astimezone(UTC).isoformat()


def kill_head(head: Head) -> None:
    """`kill -9` of the main process alone."""
    os.kill(head.process.pid, signal.SIGKILL)
    head.process.wait()


@pytest.fixture(autouse=True)
def _hearing() -> Iterator[None]:
    """Heads hear Ctrl-C even where the tests were started in the background, whose processes ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def prepared(started_cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> SlurmCampaign:
    campaign = SlurmCampaign(tmp_path_factory.mktemp("prepared") / "campaign", started_cluster)
    return campaign.prepare_members(epochs=LONG)


@pytest.fixture
def campaign(prepared: SlurmCampaign, cluster: SlurmCluster, tmp_path: Path) -> Iterator[Driven]:
    copied = prepared.copy(tmp_path / "campaign")
    driven = Driven(copied.root, cluster)
    yield driven
    driven.close()


def test_orphans_of_a_killed_head_are_waited_for(campaign: Driven) -> None:
    kill_head_of(campaign)
    orphans = [process for seed in range(6) for process in campaign.trainers(f"tiny/fold0/seed{seed}")]
    for process in orphans:
        process.suspend()  # however fast this machine trains, they are still there when the next head starts
    before = set(campaign.submissions())
    assert len(before) == 6

    # whoever only unlocks and starts again is refused before a single submission
    snakemake = [sys.executable, "-m", "snakemake", "--cores", "1", "models", *SIX]
    subprocess.run([*snakemake, "--unlock"], cwd=campaign.root, env=campaign.environment, check=True)
    again = campaign.launch("models", *SIX)
    assert again.wait(120) == 1
    assert re.search(r"6 jobs of an earlier run are still in the queue \(4 RUNNING, 2 PENDING; ids", again.text())
    assert "coread campaign resume" in again.text()
    assert set(campaign.submissions()) == before

    shown = campaign.coread("status").stdout
    assert "head      killed" in shown
    assert "4 RUNNING, 2 PENDING; 6 of them left by an earlier run" in shown
    assert shown.count("train_member/tiny/fold0/seed") == 6
    refused = campaign.coread("resume")
    assert refused.returncode == 1
    assert "--wait" in refused.stderr

    for process in orphans:
        process.resume()
    campaign.resume("--wait")
    assert set(campaign.submissions()) == before, "members were submitted again beside their orphans"
    assert [len(attempts) for attempts in campaign.members().values()] == [1] * 6
    campaign.assert_never_twice()

    # what ended after the death of the head is known as well as the rest: touching runs nothing, edits run everything
    assert campaign.planned(*SIX, target="models") == {}
    for path in ("workflow_scripts/train.py", "results/tiny/config/train.yaml", "results/data/tiny/tiny_0.sha256"):
        (campaign.root / path).touch()
    assert campaign.planned(*SIX, target="models") == {}
    campaign.replace("src/coread/training.py", '"""', '"""Edited. ')
    assert campaign.planned(*SIX, target="models")["train_member"] == 6


def kill_head_of(campaign: Driven) -> None:
    head = campaign.launch("models", *SIX)
    campaign.wait_for_some_running_some_waiting()
    kill_head(head)


def test_orphans_of_a_killed_head_are_cancelled(campaign: Driven) -> None:
    head = campaign.launch("models", *SHORT_FIRST)
    cut_off = campaign.wait_until("a training", campaign.in_training)
    for process in campaign.trainers(cut_off):
        process.suspend()  # however fast this machine trains, it has not ended when it is cancelled
    campaign.wait_until("finished members", lambda: len(campaign.finished()) >= 2)
    kill_head(head)
    campaign.wait_until("a member finished without a head", lambda: len(campaign.finished()) >= 4)
    finished = campaign.finished()

    said = campaign.resume("--cancel")
    assert "cancelling them" in said
    for job in finished:
        assert len(campaign.attempts(job)) == 1, f"{job} was finished and ran again"
    campaign.assert_never_twice()
    assert len(campaign.finished()) == 10
    assert "resuming" in campaign.log(f"train_member/{cut_off}", len(campaign.attempts(f"train_member/{cut_off}")))


def test_ctrl_c_cancels_the_jobs_and_needs_no_unlocking(campaign: Driven) -> None:
    head = campaign.launch("models", *SIX)
    campaign.wait_for_some_running_some_waiting()
    os.kill(head.process.pid, signal.SIGINT)
    assert head.wait(120) == 1
    campaign.wait_until("an empty queue", lambda: not campaign.queue(), seconds=60)
    assert "head      ended (interrupted)" in campaign.coread("status").stdout
    campaign.finish("models", *SIX)
    campaign.assert_never_twice()
    assert len(campaign.finished()) == 6


def test_sigterm_submits_no_more_waits_and_needs_no_unlocking(campaign: Driven) -> None:
    head = campaign.launch("models", *SIX, "--jobs", "2")
    campaign.wait_until("trainings", lambda: campaign._trained_epochs() >= 2)
    submitted = set(campaign.submissions())
    assert len(submitted) == 2
    os.kill(head.process.pid, signal.SIGTERM)
    assert head.wait(600) == 1
    assert set(campaign.submissions()) == submitted
    assert campaign.queue() == {}
    assert len(campaign.finished()) == 2
    campaign.finish("models", *SIX)
    assert [len(attempts) for attempts in campaign.members().values()] == [1] * 6


def test_a_stopped_member_ends_for_good_and_the_others_go_on(campaign: Driven) -> None:
    campaign.replace("configs/tiny.yaml", f"max_epochs: {LONG}", "max_epochs: 40")
    head = campaign.launch("models", *SIX)
    stopped = "train_member/tiny/fold0/seed5"
    campaign.wait_until("seed 5 in training", lambda: campaign.attempts(stopped))
    done = campaign.coread("stop", "tiny/fold0/seed5")
    assert done.returncode == 0, done.stderr
    assert "cancelled" in done.stdout
    assert head.wait(900) == 1
    assert campaign.finished() == {f"train_member/tiny/fold0/seed{seed}" for seed in range(5)}
    refused = campaign.attempts(stopped)[1:]
    assert refused, "the retries were expected to meet the marker"
    assert all(attempt["exit"] == 1 and attempt["pid"] is None for attempt in refused)

    # the end of the output says what failed, in two lines and not in a page
    summary = head.text().partition("1 job failed:")[2]
    assert re.search(r"train_member tiny/fold0/seed5, attempt \d: .*stopped by `coread campaign stop`", summary)
    assert "log: logs/train_member/tiny/fold0/seed5.attempt-" in summary
    assert summary.count("\n") < 15

    assert campaign.coread("allow", "tiny/fold0/seed5").returncode == 0
    campaign.finish("models", *SIX)
    campaign.assert_never_twice()
    assert len(campaign.finished()) == 6


def test_stopping_the_campaign_leaves_nothing_behind_and_it_can_go_on(campaign: Driven) -> None:
    head = campaign.launch("models", *SIX)
    campaign.wait_for_some_running_some_waiting()
    done = campaign.coread("stop")
    assert done.returncode == 0, done.stderr
    assert head.process.poll() is not None or head.wait(10) == 1
    assert campaign.queue() == {}
    assert [member for seed in range(6) for member in campaign.trainers(f"tiny/fold0/seed{seed}")] == []
    campaign.resume("--wait")
    campaign.assert_never_twice()
    assert len(campaign.finished()) == 6


def test_a_submission_that_slurm_refuses_is_told_in_its_words(campaign: Driven) -> None:
    campaign.enter_site({"predict_member": {"slurm_partition": "nowhere"}})
    head = campaign.launch("scores", "--config", "experiments=[tiny_ln]", "folds=[0]", "seeds=[0, 1]")
    assert head.wait(600) == 1
    summary = head.text().partition("jobs failed:")[2]
    assert summary.count("predict_member tiny_ln/fold0/seed") == 2
    assert "invalid partition specified: nowhere" in summary


def test_orphans_are_found_from_the_moment_they_are_submitted(campaign: Driven) -> None:
    """A head that is killed at a random moment of its submissions leaves none that the next start overlooks."""
    head = campaign.launch("models", *SIX)
    campaign.wait_until("the first submission", campaign.queue)
    kill_head(head)
    time.sleep(1)
    campaign.resume("--cancel")
    campaign.assert_never_twice()
    assert len(campaign.finished()) == 6
