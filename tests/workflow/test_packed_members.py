"""Members that train together: one job, the artefacts of single members, and nothing lost."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from coread.models.member import load_member
from tests.campaign import WORKFLOW, Campaign

MEMBERS = {"cross": {"folds": [0, 1], "seeds": [0, 1]}}
CATALOGUE: dict[str, Any] = {"tiny": {"members": MEMBERS, "members_per_job": 3}, "tiny_ln": {"members": MEMBERS}}
PACKED = WORKFLOW | {"experiments": ["tiny"], "catalogue": CATALOGUE}
APART = PACKED | {"catalogue": {"tiny": {"members": MEMBERS}, "tiny_ln": {"members": MEMBERS}}}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    campaign = Campaign(tmp_path_factory.mktemp("packed") / "packed").prepare(PACKED)
    campaign.snakemake("scores")
    return campaign


def workflow_of(campaign: Campaign, **changes: Any) -> None:
    workflow = {**PACKED, "catalogue": {**CATALOGUE, "tiny": {**CATALOGUE["tiny"], **changes}}}
    campaign.write("configs/workflow.yaml", yaml.safe_dump(workflow))


@pytest.mark.slow
def test_members_that_train_together_are_the_members_of_single_jobs(packed: Campaign, tmp_path: Path) -> None:
    apart = Campaign(tmp_path / "apart").prepare(APART)
    apart.snakemake("models")
    for fold in (0, 1):
        for seed in (0, 1):
            name = f"results/tiny/fold{fold}/seed{seed}/model.ckpt"
            one, other = load_member(apart.root / name), load_member(packed.root / name)
            assert (other.fold, other.seed, other.config) == (fold, seed, one.config)
            assert other.recordings == one.recordings
            found = other.model.state_dict()
            for key, value in one.model.state_dict().items():
                assert torch.equal(found[key], value), key
            assert other.history.drop(columns="seconds").equals(one.history.drop(columns="seconds"))


@pytest.mark.slow
def test_one_job_trains_several_and_says_which_line_is_whose(packed: Campaign) -> None:
    facts = json.loads((packed.root / "results/tiny/packs/pack0.json").read_text())["members"]
    assert [*facts] == ["fold0/seed0", "fold0/seed1", "fold1/seed0"]
    log = (packed.root / "logs/train_members/tiny/pack0.log").read_text()
    assert len(re.findall(r"^fold0/seed1  epoch \d/2 ", log, re.MULTILINE)) == 2
    assert packed.planned(target="scores") == {}


@pytest.mark.slow
def test_a_member_more_trains_that_member_alone(packed: Campaign, tmp_path: Path) -> None:
    campaign = packed.copy(tmp_path / "more")
    before = (campaign.root / "results/tiny/fold0/seed1/model.sha256").read_text()
    workflow_of(campaign, members={"paired": [[0, 0], [0, 1], [0, 5], [1, 0], [1, 1]]})
    campaign.snakemake("models")
    log = (campaign.root / "logs/train_members/tiny/pack0.log").read_text()
    assert set(re.findall(r"^(fold\d/seed\d)  epoch", log, re.MULTILINE)) == {"fold0/seed5"}
    assert (campaign.root / "results/tiny/fold0/seed1/model.sha256").read_text() == before
    assert campaign.planned(target="models") == {}


@pytest.mark.slow
def test_what_a_pack_left_and_somebody_removed_is_named(packed: Campaign, tmp_path: Path) -> None:
    campaign = packed.copy(tmp_path / "removed")
    folder = campaign.root / "results/tiny/fold1/seed0"
    shutil.rmtree(folder / ".packed")
    (folder / "model.ckpt").unlink()
    with pytest.raises(AssertionError, match=r"is gone or has changed since .*pack0.json was written: delete"):
        campaign.snakemake("models")


@pytest.mark.slow
def test_members_that_cannot_train_together_are_refused_before_any_job(packed: Campaign, tmp_path: Path) -> None:
    campaign = packed.copy(tmp_path / "refused")
    with pytest.raises(AssertionError, match="lists none of fold 0 and seed 9"):
        campaign.planned(target="results/tiny/fold0/seed9/model.ckpt")
    campaign.replace("configs/tiny.yaml", "{max_epochs: 2}", "{max_epochs: 2, num_processes: 2}")
    with pytest.raises(AssertionError, match=r"tiny: members_per_job .*num_processes is 2"):
        campaign.planned(target="models")
