"""One campaign from nothing to the report, struck by a kill, a requeue and a time limit on its way."""

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import psutil
import pytest

from tests.cluster.slurm_campaign import SlurmCampaign, assert_one_after_another

KILLED, REQUEUED, TIMED_OUT = "tiny/fold0/seed0", "tiny/fold0/seed1", "tiny/fold0/seed2"
MEMBERS = [f"{name}/fold{fold}/seed{seed}" for name in ("tiny", "tiny_ln") for fold in (0, 1) for seed in (0, 1, 2)]
# one minute is the shortest limit, and too short for a busy machine to begin an epoch in
MINUTES = "(2 if (wildcards.experiment, wildcards.fold, wildcards.seed) == ('tiny', '0', '2') else 10)"


@pytest.fixture
def struck(new_campaign: Callable[[], SlurmCampaign]) -> SlurmCampaign:
    """A campaign that ran to its end through the three faults."""
    campaign = new_campaign().prepare(epochs=100)
    campaign.enter_site({"train_member": {"runtime": f"{MINUTES} * 20 ** (attempt - 1)"}})
    head = campaign.launch("all")

    def kill() -> str:
        """The kernel ends a process without a word where memory runs out."""
        pid = campaign.wait_for_epoch(KILLED)["pid"]
        device = psutil.Process(pid).environ()["CUDA_VISIBLE_DEVICES"]
        os.kill(pid, signal.SIGKILL)
        return device

    def requeue() -> None:
        campaign.cluster.run("scontrol", "requeue", campaign.wait_for_epoch(REQUEUED)["job_id"])

    def hang() -> None:
        """A file system that hangs stops the trainer until the time limit ends the job."""
        os.kill(campaign.wait_for_epoch(TIMED_OUT)["pid"], signal.SIGSTOP)

    with ThreadPoolExecutor(3) as pool:
        faults = [pool.submit(fault) for fault in (kill, requeue, hang)]
        assert head.wait(1000) == 0, head.text()[-4000:]
        assert faults[0].result() in ("0", "1")
        for fault in faults[1:]:
            fault.result()
    return campaign


@pytest.mark.slow
@pytest.mark.timeout(1300)
def test_a_struck_campaign_ends_with_what_an_unharmed_one_has(struck: SlurmCampaign) -> None:
    assert (struck.root / "results/report.html").exists()
    assert struck.planned() == {}
    attempts = struck.all_attempts()

    # every attempt left a record and a log, none ran beside another, and only the struck members had two
    for job, made in attempts.items():
        assert_one_after_another(made)
        assert [attempt["exit"] for attempt in made][-1] == 0, job
        assert all((struck.root / attempt["log"]).read_text() for attempt in made if "train" in job), job
    trained = {job.removeprefix("train_member/"): made for job, made in attempts.items() if "train_member" in job}
    assert {member: len(made) for member, made in trained.items()} == {
        member: 2 if member in (KILLED, REQUEUED, TIMED_OUT) else 1 for member in MEMBERS
    }
    assert not any(struck.trainers(member) for member in MEMBERS)

    # one party sends a job again: the workflow after a kill or a time limit, with more; SLURM after a requeue
    first, second = trained[KILLED]
    assert first["signal"] == "SIGKILL"
    assert (first["job_id"] != second["job_id"], first["restarts"], second["restarts"]) == (True, 0, 0)
    assert second["requested"]["mem_mb"] == 2 * first["requested"]["mem_mb"]
    first, second = trained[REQUEUED]
    assert (first["job_id"] == second["job_id"], first["restarts"], second["restarts"]) == (True, 0, 1)
    first, second = trained[TIMED_OUT]
    assert "time limit of 2 min" in first["reason"]
    assert (first["job_id"] != second["job_id"], first["restarts"], second["restarts"]) == (True, 0, 0)
    assert (first["requested"]["runtime_min"], second["requested"]["runtime_min"]) == (2, 40)

    # they went on from their last epoch, to the weights of a training that nothing interrupted
    for member in (KILLED, REQUEUED, TIMED_OUT):
        assert "resuming" in struck.log(f"train_member/{member}", 2)
        assert "\nepoch 1/" not in struck.log(f"train_member/{member}", 2)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(struck.assert_equals_uninterrupted, (KILLED, REQUEUED, TIMED_OUT)))

    # where jobs ran
    for job, made in attempts.items():
        rule = job.partition("/")[0]
        for attempt in made:
            if rule in ("train_member", "predict_member", "compute_receptive_fields"):
                assert (attempt["partition"], attempt["requested"]["gpus"]) == ("gpu", 1), job
            elif rule in ("draw_figures", "write_tables", "write_report"):
                assert attempt["job_id"] is None, job
            else:
                assert attempt["partition"] == "cpu", job
    # 12 members and 2 of them again; stimuli, recording; one group of averages, one of predictions and one score for
    # each of two experiments; one analysis
    submissions = struck.submissions()
    assert len(submissions) == len(MEMBERS) + 2 + 1 + 1 + 2 + 2 + 2 + 1

    # the six predictions of an experiment took turns on the memory of one and the time of all
    for name in ("tiny", "tiny_ln"):
        predicted = [made[0] for job, made in attempts.items() if job.startswith(f"predict_member/{name}/")]
        (job_id,) = {attempt["job_id"] for attempt in predicted}
        asked = [submissions[job_id][field] for field in ("NumCPUs", "MinMemoryNode", "TresPerJob", "TimeLimit")]
        assert asked == ["1", "4000M", "gres:gpu:1", "01:00:00"]
        turns = sorted((attempt["started"], attempt["ended"]) for attempt in predicted)
        assert all(earlier[1] <= later[0] for earlier, later in pairwise(turns))
