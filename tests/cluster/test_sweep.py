"""A sweep over seeds and folds is said on the command line, and what is trained already is not trained again."""

from collections.abc import Callable

import pytest

from tests.cluster.slurm_campaign import SlurmCampaign

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]


def test_a_sweep_needs_no_edited_file_and_an_added_seed_trains_only_that_seed(
    new_campaign: Callable[[], SlurmCampaign],
) -> None:
    campaign = new_campaign().prepare()
    files = {path: path.read_bytes() for path in (campaign.root / "configs").rglob("*.yaml")}
    campaign.finish("scores", "--config", "experiments=[tiny]", "seeds=[0,1]", "folds=[0,1]")
    trained = {job for job in campaign.all_attempts() if job.startswith("train_member/")}
    assert trained == {f"train_member/tiny/fold{fold}/seed{seed}" for fold in (0, 1) for seed in (0, 1)}
    before = campaign.submissions()

    campaign.finish("scores", "--config", "experiments=[tiny]", "seeds=[0,1,4]", "folds=[0,1]")
    attempts = campaign.all_attempts()
    added = {job for job in attempts if job.startswith("train_member/")} - trained
    assert added == {f"train_member/tiny/fold{fold}/seed4" for fold in (0, 1)}
    assert all(len(attempts[job]) == 1 for job in trained | added)
    # the two members, one submission of their predictions, the scores
    assert len(campaign.submissions()) - len(before) == 2 + 1 + 1
    assert len(attempts["score_experiment/tiny"]) == 2
    assert {path: path.read_bytes() for path in files} == files


def test_a_sweep_over_paired_members_is_refused_before_anything_is_submitted(
    new_campaign: Callable[[], SlurmCampaign],
) -> None:
    campaign = new_campaign().prepare()
    head = campaign.launch("scores", "--config", "experiments=[tiny_pairs]", "seeds=[0,1]")
    assert head.wait(60) != 0
    assert "tiny_pairs" in head.text()
    assert "paired" in head.text()
    assert "Traceback" not in head.text()
    assert campaign.submissions() == {}
