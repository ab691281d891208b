"""A hundred short jobs are a handful of submissions, and each asks for no more than one of its jobs needs."""

import shutil
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import yaml

from coread.provenance import write_digest
from tests.campaign import BASELINE
from tests.cluster.slurm_campaign import SlurmCampaign, seconds_of

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(3600)]

EXPERIMENTS = ("a", "b", "c", "d")
SEEDS = range(25)


@pytest.fixture
def trained(new_campaign: Callable[[], SlurmCampaign]) -> SlurmCampaign:
    """A campaign of four experiments with 25 members each: one of them trained, the others with its weights."""
    campaign = new_campaign()
    members = {"members": {"cross": {"folds": [0], "seeds": list(SEEDS)}}}
    catalogue = dict.fromkeys(EXPERIMENTS, members)
    campaign.prepare({"experiments": list(EXPERIMENTS), "catalogue": catalogue, "data_dirs": {}})
    for name in EXPERIMENTS:
        campaign.write(f"configs/{name}.yaml", BASELINE.replace("exp_name: tiny_ln", f"exp_name: {name}"))
    configs = [f"results/{name}/config/{stage}.yaml" for name in EXPERIMENTS for stage in ("train", "evaluate")]
    campaign.snakemake("results/a/fold0/seed0/model.ckpt", *configs)
    model = campaign.root / "results/a/fold0/seed0/model.ckpt"
    for name in EXPERIMENTS:
        for seed in SEEDS:
            folder = campaign.root / f"results/{name}/fold0/seed{seed}"
            if folder != model.parent:
                folder.mkdir(parents=True)
                torch.save(torch.load(model, weights_only=True) | {"seed": seed}, folder / "model.ckpt")
                shutil.copy(model.with_name("history.csv"), folder)
                write_digest(folder / "model.ckpt")
    return campaign


def test_a_hundred_predictions_are_four_submissions(trained: SlurmCampaign) -> None:
    trained.finish("scores", "--config", f"experiments=[{','.join(EXPERIMENTS)}]", seconds=3000)
    attempts = trained.all_attempts()
    predictions = {job: made[0] for job, made in attempts.items() if job.startswith("predict_member/")}
    assert len(predictions) == 100
    assert all(len(made) == 1 for made in attempts.values())
    groups: dict[str, list[str]] = {}
    for job, attempt in predictions.items():
        groups.setdefault(attempt["job_id"], []).append(job)
    submissions = trained.submissions()
    assert len(submissions) == 4 + 4
    assert set(groups) < set(submissions)

    # one experiment's members, who take turns on the memory and the GPU of one and the time of all
    profile = yaml.safe_load((trained.root / "profiles/slurm/config.v9+.yaml").read_text())
    assert profile["group-components"]["predict_member_{experiment}"] == 25
    for job_id, jobs in groups.items():
        assert len(jobs) == 25
        assert len({job.split("/")[1] for job in jobs}) == 1
        asked = {(predictions[job]["requested"]["mem_mb"], predictions[job]["requested"]["gpus"]) for job in jobs}
        assert asked == {(4000, 1)}
        assert submissions[job_id]["TimeLimit"] == "04:10:00"
        assert submissions[job_id]["NumCPUs"] == "1"
        turns = sorted((seconds_of(predictions[job]["started"]), seconds_of(predictions[job]["ended"])) for job in jobs)
        assert all(earlier[1] <= later[0] for earlier, later in pairwise(turns))
