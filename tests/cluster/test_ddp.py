"""Members that several processes train together, as tasks of one job."""

import csv
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from tests.cluster.slurm_campaign import SlurmCampaign, assert_one_after_another

SESSIONS = ("tiny_0", "tiny_1", "tiny_2")  # an odd number: two processes are left with an incomplete step
MEMBER = "tiny/fold0/seed0"
ALONE = {"cross": {"folds": [0], "seeds": [0]}}
WORKFLOW = {
    "experiments": ["tiny", "tiny_one"],
    "catalogue": {"tiny": {"members": ALONE}, "tiny_one": {"members": ALONE}},
    "data_dirs": {},
}


# one GPU for every task, whatever their number; or a site that says by hand what the shared members get
ONE_GPU_PER_TASK = {"gpu": 0, "slurm_extra": "'--gpus-per-task=1'"}
TWO_NODES = dict.fromkeys(("gpu", "nodes"), "2 if wildcards.experiment == 'tiny' else 1")


def prepare(campaign: SlurmCampaign, **site: object) -> SlurmCampaign:
    """Two processes train `tiny`; one process that accumulates two batches trains `tiny_one`."""
    campaign.prepare(WORKFLOW, epochs=3)
    campaign.replace("configs/data_io/tiny.yaml", "sessions: [tiny_0]", f"sessions: [{', '.join(SESSIONS)}]")
    campaign.replace("configs/tiny.yaml", "{max_epochs: 3}", "{max_epochs: 3, num_processes: 2}")
    one = "trainer: {num_processes: 1, accumulate_grad_batches: 2}"
    campaign.write("configs/tiny_one.yaml", f"defaults: [tiny, _self_]\nexp_name: tiny_one\n{one}\n")
    campaign.enter_site({"train_member": {"runtime": 10, "mem_mb": 2000, **site}})
    return campaign


def weights(model: Path) -> dict[str, torch.Tensor]:
    return torch.load(model, weights_only=True)["state_dict"]


def history(model: Path) -> list[dict[str, str]]:
    with model.with_name("history.csv").open() as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.acceptance
@pytest.mark.timeout(900)
@pytest.mark.parametrize("site", [ONE_GPU_PER_TASK, TWO_NODES], ids=["one node", "two nodes"])
def test_two_tasks_train_what_one_process_trains(
    new_campaign: Callable[[], SlurmCampaign], site: dict[str, object]
) -> None:
    campaign = prepare(new_campaign(), **site)
    campaign.finish("models")
    together, alone = (campaign.root / "results" / name / "fold0/seed0/model.ckpt" for name in ("tiny", "tiny_one"))
    assert weights(together).keys() == weights(alone).keys()
    for name, values in weights(alone).items():
        torch.testing.assert_close(weights(together)[name], values, rtol=1e-5, atol=1e-8)
    for row, expected in zip(history(together), history(alone), strict=True):
        for name, value in expected.items():
            assert float(row[name]) == pytest.approx(float(value), rel=1e-5, abs=1e-6), name

    jobs = campaign.submissions()
    granted, used = {}, {}
    for name in ("tiny", "tiny_one"):
        (attempt,) = campaign.attempts(f"train_member/{name}/fold0/seed0")
        fields = jobs[attempt["job_id"]]
        granted[name] = (fields["NumTasks"], fields["NumNodes"], fields["Partition"])
        used[name] = attempt["peak_memory_mb"]
    n_nodes = "2" if site is TWO_NODES else "1"
    assert granted == {"tiny": ("2", n_nodes, "gpu"), "tiny_one": ("1", "1", "gpu")}
    assert used["tiny"] > 1.5 * used["tiny_one"] > 100, "the ranks are not in the record"
    log = campaign.log(f"train_member/{MEMBER}", 1)
    assert "MEMBER: 2/2" in log
    assert log.count("\nepoch 3/3 ") == 1, "one rank speaks for all"


@pytest.mark.acceptance
@pytest.mark.timeout(900)
def test_ranks_end_together_and_the_next_attempt_resumes(new_campaign: Callable[[], SlurmCampaign]) -> None:
    campaign = prepare(new_campaign(), **ONE_GPU_PER_TASK)
    campaign.replace("configs/tiny.yaml", "{max_epochs: 3, num", "{max_epochs: 120, num")
    head = campaign.launch(f"results/{MEMBER}/model.ckpt")

    # a rank dies: the other one does not wait for it
    campaign.wait_for_epoch(MEMBER, 1)
    ranks = [process for process in campaign.trainers(MEMBER) if "SLURM_PROCID" in environment(process)]
    tasks = [rank for rank in ranks if environment(rank).get("SLURM_STEP_NUM_TASKS") == "2" and rank.name() != "srun"]
    assert sorted(environment(task)["SLURM_PROCID"] for task in tasks) == ["0", "1"]
    assert {environment(task)["CUDA_VISIBLE_DEVICES"] for task in tasks} == {"0,1"}
    next(task for task in tasks if environment(task)["SLURM_PROCID"] == "1").kill()
    first = campaign.wait_for_end(f"train_member/{MEMBER}", 1)
    expected = f"one of its processes was killed by SIGKILL ({first['node']}: task 1): out of memory?"
    assert first["reason"] == expected
    gone(tasks)

    # the supervisor is told to end: all ranks end
    second = campaign.wait_for_epoch(MEMBER, 2, epoch=2)
    tasks = campaign.trainers(MEMBER)
    os.kill(second["supervisor_pid"], signal.SIGTERM)
    assert "SIGTERM" in campaign.wait_for_end(f"train_member/{MEMBER}", 2)["reason"]
    gone(tasks)

    assert head.wait(480) == 0, head.text()[-4000:]
    attempts = campaign.attempts(f"train_member/{MEMBER}")
    assert len(attempts) == 3
    assert_one_after_another(attempts)
    assert all("resuming" in campaign.log(f"train_member/{MEMBER}", number) for number in (2, 3))
    assert not campaign.trainers(MEMBER)

    model, reference = campaign.root / f"results/{MEMBER}/model.ckpt", campaign.root / "uninterrupted/model.ckpt"
    train_here(campaign, reference)
    for name, values in weights(reference).items():
        assert torch.equal(weights(model)[name], values), name
    assert history(model) == history(reference)


def environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def gone(processes: list[psutil.Process]) -> None:
    """Wait until the processes have ended; a process that the test cannot wait for leaves no zombie of its own."""
    end = time.monotonic() + 60
    while left := [process for process in processes if process.is_running() and process.status() != "zombie"]:
        assert time.monotonic() < end, left
        time.sleep(0.2)


def train_here(campaign: SlurmCampaign, model: Path) -> None:
    """Train the member once more, in one go and outside of Slurm, where torch starts the ranks."""
    recordings = [f"results/data/tiny/{session}" for session in SESSIONS]
    command = [sys.executable, "workflow_scripts/train.py", "--config", "results/tiny/config/train.yaml"]
    command += ["--recordings", *(f"{path}.h5" for path in recordings), "--memory-mb", "4000"]
    command += ["--fold", "0", "--seed", "0", "--log-dir", str(model.parent / "log"), "--output", str(model)]
    with campaign.start(command) as process:
        output, _ = process.communicate()
    assert process.returncode == 0, output[-4000:]
    assert "MEMBER: 2/2" in output
