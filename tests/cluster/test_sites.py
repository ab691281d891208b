"""What single clusters want: the workflow itself in a job, and GPUs by --gres."""

from collections.abc import Callable

import pytest

from tests.cluster.slurm_campaign import SlurmCampaign

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]


def test_the_workflow_runs_in_a_job_where_login_nodes_forbid_long_processes(
    new_campaign: Callable[[], SlurmCampaign],
) -> None:
    campaign = new_campaign().prepare()
    gres = {"gpu": None, "gres": "gpu:a100:1"}
    campaign.enter_site(dict.fromkeys(("train_member", "predict_member", "compute_receptive_fields"), gres))
    job_id = campaign.submit_head("all", "--config", "experiments=[tiny]", "folds=[0]", "seeds=[0]")

    def ended() -> bool:
        return campaign.cluster.jobs()[job_id]["JobState"] not in ("PENDING", "RUNNING", "COMPLETING")

    campaign.cluster.wait_for("the end of the workflow's job", ended, seconds=900)
    output = (campaign.root / "head.out").read_text()
    assert campaign.cluster.jobs()[job_id]["JobState"] == "COMPLETED", output[-3000:]
    assert (campaign.root / "results/report.html").exists()
    attempts = {job: made[0] for job, made in campaign.all_attempts().items()}
    # nothing takes the workflow's own allocation for the one of its job
    assert all(attempt["job_id"] != job_id for attempt in attempts.values())
    assert {attempts[job]["job_id"] for job in ("write_report", "write_tables", "draw_figures/tiny")} == {None}
    trained = attempts["train_member/tiny/fold0/seed0"]
    assert (trained["partition"], trained["requested"]["gpus"]) == ("gpu", 1)
