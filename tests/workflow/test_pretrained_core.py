"""An experiment that starts from a trained core, in the workflow: which core it is decides, where it lies does not."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from coread.models import load_member
from coread.models.extension import model_digest
from tests.campaign import Campaign

EXPERIMENT = """\
defaults: [tiny, pretrained_core: default, _self_]
exp_name: tiny_more
pretrained_core: {{model: first, sha256: {sha256}}}
"""
MEMBERS = {"members": {"cross": {"folds": [0], "seeds": [0]}}}


def _workflow(experiment: str, **model_files: str) -> str:
    catalogue = {"tiny": MEMBERS, experiment: MEMBERS}
    content = {"experiments": [experiment], "catalogue": catalogue, "data_dirs": {}, "model_files": model_files}
    return yaml.safe_dump(content)


@pytest.mark.slow
def test_another_core_trains_again_and_another_place_does_not(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path / "campaign").prepare()
    campaign.write("configs/workflow.yaml", _workflow("tiny"))
    campaign.snakemake("models")
    first = campaign.root / "results/tiny/fold0/seed0/model.ckpt"
    campaign.write("configs/tiny_more.yaml", EXPERIMENT.format(sha256=model_digest(first)))
    campaign.write("configs/workflow.yaml", _workflow("tiny_more", first=str(first)))
    campaign.snakemake("models")
    more = campaign.root / "results/tiny_more/fold0/seed0/model.ckpt"
    old, new = load_member(first).model, load_member(more).model
    for name, value in old.core.state_dict().items():
        assert torch.equal(new.core.state_dict()[name], value), name
    assert not torch.equal(new.readout["tiny_0"].features, old.readout["tiny_0"].features)

    shutil.copy(first, tmp_path / "moved.ckpt")
    campaign.write("configs/workflow.yaml", _workflow("tiny_more", first=str(tmp_path / "moved.ckpt")))
    assert campaign.planned(target="models") == {}
    campaign.write("configs/tiny_more.yaml", EXPERIMENT.format(sha256="0" * 64))
    assert campaign.planned(target="models")["train_member"] == 1
