"""The experiment of docs/insilico.md, added to a copy of the project: shared out, joined, drawn, in the report."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from coread.insilico.experiment import read_provenance, read_results
from coread.provenance import file_sha256
from tests.campaign import WORKFLOW, Campaign
from tests.conftest import REPOSITORY
from tests.listings import listings

N_SHARDS = 3
SETTINGS = "insilico_settings: {contrast_steps: {step_s: 0.2}}\n"


def documented_files() -> dict[str, str]:
    """Return the two files of the document by the paths that their first lines name."""
    named = {
        found[1]: listing.text
        for listing in listings(REPOSITORY / "docs" / "insilico.md")
        if (found := re.match(r"# ((?:src|configs)/\S+)\n", listing.text))
    }
    return {path: text for path, text in named.items() if "contrast_steps" in path}


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    tiny = {"members": {"cross": {"folds": [0], "seeds": [0, 1]}}, "insilico": ["contrast_steps"]}
    workflow = WORKFLOW | {"experiments": ["tiny"], "catalogue": {"tiny": tiny}, "insilico_shards": N_SHARDS}
    campaign = Campaign(tmp_path_factory.mktemp("own") / "campaign").prepare(workflow)
    files = documented_files()
    assert set(files) == {"src/coread/insilico/contrast_steps.py", "configs/insilico/contrast_steps.yaml"}
    for name, text in files.items():
        assert not (campaign.root / name).exists()
        campaign.write(name, text)
    campaign.write("configs/tiny.yaml", (campaign.root / "configs/tiny.yaml").read_text() + SETTINGS)
    return campaign


@pytest.mark.slow
def test_it_is_planned_run_in_shares_joined_drawn_and_reported(campaign: Campaign) -> None:
    planned = campaign.planned()
    jobs = {"write_analysis_config": 2, "run_analysis": N_SHARDS, "join_analysis": 1, "draw_analysis": 1}
    assert planned.items() >= {**jobs, "compare_members": 1, "write_report": 1}.items()
    campaign.snakemake("all")

    folder = campaign.root / "results/tiny"
    for shard in range(N_SHARDS):
        of_shard = read_results(folder / f"insilico/contrast_steps/shard{shard}.h5")["tiny_0"]
        assert of_shard.table["neuron"].tolist() == list(range(4))[shard::N_SHARDS]
    table = pd.read_csv(folder / "contrast_steps.csv")
    assert table["neuron"].tolist() == [0, 1, 2, 3]
    assert table["preferred_contrast"].isin([-1, -0.5, -0.25, 0.25, 0.5, 1]).all()
    assert table["preferred_contrast_sd_members"].notna().all()
    peak = read_results(folder / "contrast_steps.h5")["tiny_0"].arrays["peak"]
    assert (peak.data.shape, peak.dims) == ((4, 2, 6), ("neuron", "member", "contrast"))
    assert np.isfinite(peak.data).all()

    origin = read_provenance(folder / "contrast_steps.h5")
    assert origin["settings"]["step_s"] == 0.2
    assert origin["members"] == {
        f"fold0_seed{seed}": file_sha256(folder / f"fold0/seed{seed}/model.ckpt") for seed in (0, 1)
    }
    figures = {path.name for path in (folder / "insilico/contrast_steps/figures").glob("contrast_response.*")}
    assert figures == {f"contrast_response.{suffix}" for suffix in ("png", "pdf", "txt")}

    report = (campaign.root / "results/report.html").read_text()
    assert "Peak response to full-field steps of 4 neurons." in report
    assert 'id="tiny-insilico-contrast_steps"' in report
    assert 'id="tiny-insilico-consistency"' in report
    assert "step_s: 0.2" in report


@pytest.mark.slow
def test_another_number_of_jobs_gives_the_same_result(campaign: Campaign) -> None:
    target, files = "results/tiny/contrast_steps.h5", [f"results/tiny/contrast_steps.{end}" for end in ("h5", "csv")]
    campaign.snakemake(target)
    before = [file_sha256(campaign.root / name) for name in files]
    again = campaign.snakemake(target, "--config", "insilico_shards={contrast_steps: 1}")
    assert "run_analysis" in again
    assert [file_sha256(campaign.root / name) for name in files] == before


@pytest.mark.slow
def test_what_is_wrong_is_said_before_the_first_job(campaign: Campaign, tmp_path: Path) -> None:
    for name, old, new, message in (
        ("configs/workflow.yaml", "- contrast_steps", "- contrast_step", "did you mean 'contrast_steps'?"),
        (
            "configs/insilico/contrast_steps.yaml",
            "contrasts:",
            "contrastz:",
            "unknown key 'contrastz' (did you mean 'contrasts'?)",
        ),
        ("configs/insilico/contrast_steps.yaml", "_target_:", "target:", "names no class: add `_target_:"),
    ):
        wrong = campaign.copy(tmp_path / new.strip("-_: ").replace(" ", ""))
        wrong.replace(name, old, new)
        with pytest.raises(AssertionError) as refused:
            wrong.snakemake("all", "-n")
        assert message in str(refused.value)
