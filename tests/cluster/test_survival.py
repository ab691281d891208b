"""What ends a training in the middle on a real cluster, and how the member survives it; each on the executor plugin."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.slurm_campaign import SlurmCampaign, assert_one_after_another
from tests.cluster.slurm_cluster import SlurmCluster

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]

MEMBER = "tiny/fold0/seed0"
JOB = f"train_member/{MEMBER}"
ONLY_IT = ("--config", "experiments=[tiny]", "folds=[0]", "seeds=[0]")
LONG = 150  # epochs of some 0.06 s: training goes on while a fault strikes

Record = dict[str, Any]


@pytest.fixture(scope="module")
def prepared(started_cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> SlurmCampaign:
    """A campaign whose recording and averages are built."""
    campaign = SlurmCampaign(tmp_path_factory.mktemp("prepared") / "campaign", started_cluster)
    return campaign.prepare_members(epochs=LONG)


@pytest.fixture
def campaign(prepared: SlurmCampaign, cluster: SlurmCluster, tmp_path: Path) -> Iterator[SlurmCampaign]:
    copied = prepared.copy(tmp_path / "campaign")
    yield copied
    copied.close()


def _kill_trainer(campaign: SlurmCampaign, record: Record) -> None:
    os.kill(record["pid"], signal.SIGKILL)


def _kill_supervisor(campaign: SlurmCampaign, record: Record) -> None:
    os.kill(record["supervisor_pid"], signal.SIGKILL)


def _cancel(campaign: SlurmCampaign, record: Record) -> None:
    campaign.cluster.run("scancel", record["job_id"])


def _requeue(campaign: SlurmCampaign, record: Record) -> None:
    campaign.cluster.run("scontrol", "requeue", record["job_id"])


def _crash_node(campaign: SlurmCampaign, record: Record) -> None:
    campaign.cluster.crash_node(record["node"])
    campaign.wait_for_attempt(JOB, 2)
    campaign.cluster.start_node(record["node"])


def _preempt(campaign: SlurmCampaign, record: Record) -> None:
    """Take the whole node for a job of the partition that goes first."""
    other = ("sbatch", "--parsable", "-p", "gpu", "-N1", "--gpus=2", "-w", record["node"], "-t", "5", "-o", "/dev/null")
    campaign.cluster.run(*other, "--wrap", "sleep 5")


def _hang(campaign: SlurmCampaign, record: Record) -> None:
    """A file system that hangs stops the trainer until the time limit ends the job."""
    os.kill(record["pid"], signal.SIGSTOP)


BY_WORKFLOW = {
    "memory: the kernel kills the trainer": (_kill_trainer, "SIGKILL"),
    "memory: the kernel kills its supervisor": (_kill_supervisor, None),
    "scancel from outside": (_cancel, "ended by SIGTERM"),
    "a file system that hangs": (_hang, "time limit of 1 min"),
}
BY_SLURM = {
    "scontrol requeue": (_requeue, "ended by SIGTERM"),
    "pre-emption": (_preempt, "pre-empted"),
    "crashed node": (_crash_node, None),
}


def _strike(campaign: SlurmCampaign, fault: Callable[[SlurmCampaign, Record], None]) -> tuple[Record, Record]:
    """Let a fault strike the one member in training; return its two attempts after the successful end."""
    head = campaign.launch("models", *ONLY_IT)
    fault(campaign, campaign.wait_for_epoch(MEMBER))
    assert head.wait(900) == 0, head.text()[-4000:]
    first, second = campaign.attempts(JOB)
    if "ended" in first:
        assert_one_after_another([first, second])
    assert not campaign.trainers(MEMBER)
    _assert_goes_on(campaign, 1)
    campaign.assert_equals_uninterrupted(MEMBER)
    return first, second


def _assert_goes_on(campaign: SlurmCampaign, earlier: int) -> None:
    """The next attempt starts with the epoch that the earlier one had reached, and its log is kept."""
    before, after = (
        [int(epoch) for epoch in re.findall(r"^epoch (\d+)/", campaign.log(JOB, number), re.MULTILINE)]
        for number in (earlier, earlier + 1)
    )
    assert before[0] == 1 or earlier > 1
    # an epoch is printed before it is saved: at most the last printed one is trained again
    assert after[0] in (before[-1], before[-1] + 1)


@pytest.mark.parametrize("name", BY_WORKFLOW)
def test_the_workflow_sends_a_failed_job_again_with_more(campaign: SlurmCampaign, name: str) -> None:
    fault, reason = BY_WORKFLOW[name]
    campaign.enter_site({"train_member": {"runtime": f"{1 if fault is _hang else 10} * 2 ** (attempt - 1)"}})
    first, second = _strike(campaign, fault)
    # another job, so SLURM did not requeue the old one beside it
    assert first["job_id"] != second["job_id"]
    assert (first["restarts"], second["restarts"]) == (0, 0)
    assert len(campaign.submissions()) == 2
    assert second["requested"]["mem_mb"] == 2 * first["requested"]["mem_mb"]
    assert second["requested"]["runtime_min"] == 2 * first["requested"]["runtime_min"]
    assert (first.get("reason") is None) == (reason is None)
    if reason is not None:
        assert reason in first["reason"]


@pytest.mark.parametrize("name", BY_SLURM)
def test_slurm_alone_sends_a_requeued_job_again(campaign: SlurmCampaign, name: str) -> None:
    fault, reason = BY_SLURM[name]
    partition = "scavenge" if fault is _preempt else "gpu"
    campaign.enter_site({"train_member": {"runtime": "10 * 2 ** (attempt - 1)", "slurm_partition": partition}})
    first, second = _strike(campaign, fault)
    assert first["job_id"] == second["job_id"]
    assert (first["restarts"], second["restarts"]) == (0, 1)
    assert len(campaign.submissions()) == 1
    assert (first.get("reason") is None) == (reason is None)
    if reason is not None:
        assert reason in first["reason"]


@pytest.mark.timeout(3600)
def test_a_training_longer_than_its_limit_is_finished_by_attempts_with_more_time(campaign: SlurmCampaign) -> None:
    campaign.replace("configs/tiny.yaml", f"max_epochs: {LONG}", "max_epochs: 2500")
    campaign.replace("configs/tiny.yaml", f"patience: {LONG}", "patience: 2500")
    # the memory of a node bounds how often it can be doubled, so a site with short queues says it, too
    campaign.enter_site({"train_member": {"runtime": "1 * 2 ** (attempt - 1)", "mem_mb": 4000}})
    head = campaign.finish("models", *ONLY_IT, "--retries", "5", seconds=2400)
    attempts = campaign.attempts(JOB)
    assert len(attempts) >= 2, "the training was too short for its limit"
    assert_one_after_another(attempts)
    for number, attempt in enumerate(attempts, start=1):
        assert attempt["requested"]["runtime_min"] == 2 ** (number - 1)
    for number, attempt in enumerate(attempts[:-1], start=1):
        # one that ended well just before SLURM called it too long is written again, not trained again
        assert attempt["exit"] == 0 or f"time limit of {2 ** (number - 1)} min" in attempt["reason"], head.text()[
            -2000:
        ]
        _assert_goes_on(campaign, number)
    campaign.assert_equals_uninterrupted(MEMBER)


def test_the_controller_may_be_away_for_a_while(campaign: SlurmCampaign) -> None:
    campaign.enter_site({"train_member": {"runtime": 10}})
    head = campaign.launch("models", *ONLY_IT)
    campaign.wait_for_epoch(MEMBER)
    campaign.cluster.stop_controller()
    campaign.wait_for_end(JOB, 1)
    time.sleep(30)  # polls of the workflow fail meanwhile
    campaign.cluster.start_controller()
    assert head.wait(600) == 0, head.text()[-4000:]
    assert len(campaign.attempts(JOB)) == 1
    assert len(campaign.submissions()) == 1
