"""A search on a real cluster: job arrays, a pre-emption, a time limit, and a search that is killed; nothing is lost."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import torch
import yaml

from coread.recording import read_recordings
from coread.search.jobs import Ledger
from coread.search.space import trial_settings
from coread.search.study import JOURNAL, LIVES, open_study, trial_values
from coread.training import train
from tests.cluster.slurm_campaign import WORKFLOW, SlurmCampaign
from tests.cluster.slurm_cluster import SlurmCluster

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(3600)]

TRIALS = {"n_trials": 6, "pruner": {"method": "none"}, "space": {"model": {"hidden_channels": {"choices": [[2], [3]]}}}}


class Search:
    """`coread search` in a campaign's folder."""

    def __init__(self, campaign: SlurmCampaign) -> None:
        self.campaign, self.cluster = campaign, campaign.cluster
        self.heads: list[subprocess.Popen[bytes]] = []

    def start(self, *overrides: str) -> "subprocess.Popen[bytes]":
        program = "import sys; from coread.cli.main import main; main(sys.argv[1:])"
        command = [sys.executable, "-c", program, "search", "--config-path", "configs", "--config-name", "tiny"]
        command += ["cluster=slurm", "cluster.mem_mb=1000", "cluster.poll_s=1", *overrides]
        with self.log.open("ab") as log:
            head = subprocess.Popen(
                command, cwd=self.campaign.root, env=self.campaign.environment, stdout=log, stderr=log
            )
        self.heads.append(head)
        return head

    def finish(self, *overrides: str) -> pd.DataFrame:
        assert self.start(*overrides).wait(1500) == 0, self.log.read_text()[-3000:]
        return pd.read_csv(self.campaign.root / "results" / "tiny" / "search" / "trials.csv")

    @property
    def log(self) -> Path:
        return self.campaign.root / "search.log"

    @property
    def folder(self) -> Path:
        (journal,) = self.campaign.root.glob(f"results/tiny/search/.study/*/{JOURNAL}")
        return journal.parent

    @property
    def settings(self) -> dict[str, Any]:
        return yaml.safe_load((self.folder / "settings.yaml").read_text())

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        return open_study(self.folder, self.settings["search"]).trials

    def jobs(self) -> list[str]:
        return [record["job_id"] for record in Ledger(self.folder / "jobs.jsonl").records]

    def states(self) -> dict[str, str]:
        """State of every array task that is in the queue."""
        return dict(line.split() for line in self.cluster.run("squeue", "-h", "-r", "-o", "%i %T").splitlines())

    def wait_for_checkpoints(self, *numbers: int) -> None:
        pattern = "results/tiny/search/.study/*/trials/{}/fold0/last.ckpt"
        there = lambda: all(list(self.campaign.root.glob(pattern.format(number))) for number in numbers)  # noqa: E731
        self.cluster.wait_for("a checkpoint of every running trial", there, seconds=300)

    def assert_value_is_that_of_an_uninterrupted_training(self, number: int, work: Path) -> None:
        trial = self.trials()[number]
        values = trial_values(self.settings["search"], trial.params)
        recordings = read_recordings(sorted(self.campaign.root.glob("results/tiny/search/.study/data-*/tiny_*.h5")))
        torch.set_num_threads(1)
        member = train(trial_settings(self.settings, values), recordings, 0, 0, work_dir=work)
        curve = list(member.history["val_correlation"])
        assert trial.value == max(curve)
        assert [trial.intermediate_values[epoch] for epoch in range(len(curve))] == curve


@pytest.fixture
def search(cluster: SlurmCluster, tmp_path: Path) -> Iterator[Callable[[int], Search]]:
    """Factory of searches whose trials train for a number of epochs, none of them pruned."""
    made: list[Search] = []

    def make(epochs: int) -> Search:
        campaign = SlurmCampaign(tmp_path / "campaign", cluster)
        workflow = json.loads(json.dumps(WORKFLOW))
        workflow["catalogue"]["tiny"]["search"] = True
        campaign.prepare(workflow, epochs=epochs)
        experiment = (campaign.root / "configs" / "tiny.yaml").read_text()
        campaign.write("configs/tiny.yaml", experiment + yaml.safe_dump({"search": TRIALS}))
        made.append(Search(campaign))
        return made[-1]

    yield make
    for one in made:
        for head in one.heads:
            if head.poll() is None:
                head.kill()
                head.wait()


def test_a_killed_search_and_a_preempted_trial_lose_nothing(search: Callable[[int], Search], tmp_path: Path) -> None:
    search = search(400)
    asked = ("search.n_trials=3", "search.parallel=2", "cluster.partition=scavenge", "cluster.timeout_min=30")
    head = search.start(*asked)
    search.wait_for_checkpoints(0, 1)
    jobs = search.jobs()
    assert [job.split("_")[1] for job in jobs] == ["0", "1", "2"]  # one array
    assert [search.states()[job] for job in jobs] == ["RUNNING", "RUNNING", "PENDING"]

    head.send_signal(signal.SIGKILL)
    head.wait()
    node = search.cluster.node_of(jobs[0])
    preempting = ("-p", "gpu", "-w", node, "-c", str(search.cluster.cpus), "-t", "2", "--wrap", "sleep 10")
    search.cluster.run("sbatch", "-o", os.devnull, *preempting)
    log = search.folder / "jobs" / f"{jobs[0]}_0_log.err"
    search.cluster.wait_for("the pre-emption", lambda: "Caught signal SIGUSR2" in log.read_text(), seconds=120)

    table = search.finish(*asked)
    assert search.jobs() == jobs  # nothing was submitted twice
    assert list(table["state"]) == ["complete"] * 3
    trials = search.trials()
    assert len(trials) == 3
    (preempted,) = [trial for trial in trials if trial.user_attrs[LIVES][0]["job_id"] == jobs[0]]
    assert len(preempted.user_attrs[LIVES]) == 2
    assert {life["job_id"] for life in preempted.user_attrs[LIVES]} == {jobs[0]}
    assert "resuming from" in log.read_text()
    search.assert_value_is_that_of_an_uninterrupted_training(preempted.number, tmp_path / "work")


def test_a_trial_that_meets_its_time_limit_goes_on(search: Callable[[int], Search], tmp_path: Path) -> None:
    search = search(2500)  # some 150 s on an idle machine
    limits = ("cluster.timeout_min=2", "cluster.signal_delay_s=20", "cluster.partition=cpu")
    table = search.finish("search.n_trials=1", "search.parallel=1", *limits)
    assert list(table["lives"]) > [1]
    (trial,) = search.trials()
    assert trial.state.name == "COMPLETE"
    assert sorted(trial.intermediate_values) == list(range(2500))
    (job,) = search.jobs()
    assert "timed-out" in (search.folder / "jobs" / f"{job}_0_log.err").read_text()
    search.assert_value_is_that_of_an_uninterrupted_training(0, tmp_path / "work")


def test_a_killed_job_is_submitted_again_and_its_trial_goes_on(search: Callable[[int], Search], tmp_path: Path) -> None:
    search = search(300)
    head = search.start("search.n_trials=1", "search.parallel=1", "cluster.partition=cpu", "cluster.timeout_min=30")
    search.wait_for_checkpoints(0)
    (job,) = search.jobs()
    search.cluster.run("scancel", "--signal=KILL", job)  # what the kernel does to a job without memory
    assert head.wait(900) == 0, search.log.read_text()[-3000:]
    assert len(search.jobs()) == 2
    (trial,) = search.trials()
    assert len(trial.user_attrs[LIVES]) == 2
    search.assert_value_is_that_of_an_uninterrupted_training(0, tmp_path / "work")


def test_the_workflow_searches_through_the_cluster_without_a_job_of_its_own(search: Callable[[int], Search]) -> None:
    search = search(2)
    campaign = search.campaign
    campaign.finish("search", "--set-resources", "run_search:slurm_partition=gpu", "run_search:runtime=10")
    table = pd.read_csv(campaign.root / "results/tiny/search/trials.csv")
    assert len(table) == 6
    assert set(table["state"]) == {"complete"}
    trials = {job for job, fields in campaign.submissions().items() if fields["JobName"].startswith("coread-search")}
    assert {campaign.submissions()[job]["Partition"] for job in trials} == {"gpu"}
    assert len({fields.get("ArrayJobId") for job, fields in campaign.submissions().items() if job in trials}) == 1
    comments = [fields.get("Comment", "") for fields in campaign.submissions().values()]
    assert not [comment for comment in comments if "run_search" in comment]
    assert campaign.planned("--config", "experiments=[tiny]", target="search") == {}
