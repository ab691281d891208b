"""The rule of a search: what a run leaves, and what re-runs it."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from tests.campaign import WORKFLOW, Campaign

SEARCH = "search: {n_trials: 2, parallel: 2, pruner: {method: none}}\n"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    tiny = WORKFLOW["catalogue"]["tiny"] | {"search": True}
    campaign = Campaign(tmp_path_factory.mktemp("searched") / "campaign")
    campaign.prepare({**WORKFLOW, "catalogue": {**WORKFLOW["catalogue"], "tiny": tiny}})
    path = campaign.root / "configs" / "tiny.yaml"
    campaign.write("configs/tiny.yaml", path.read_text().replace("max_epochs: 2", "max_epochs: 1") + SEARCH)
    campaign.snakemake("search")
    return campaign


@pytest.mark.slow
def test_a_search_is_one_node_of_the_graph_and_no_part_of_all(searched: Campaign) -> None:
    table = pd.read_csv(searched.root / "results/tiny/search/trials.csv")
    assert list(table["state"]) == ["complete", "complete"]
    assert {path.name for path in (searched.root / "results").iterdir()} == {"data", "tiny"}  # tiny_ln lists none
    assert "run_search" not in searched.planned("--forceall", target="all")
    log = (searched.root / "logs/run_search/tiny.log").read_text()
    assert "submitted 2 trials" in log


@pytest.mark.slow
def test_where_trials_run_re_runs_nothing(searched: Campaign) -> None:
    assert searched.planned(target="search") == {}
    moved = ("--set-resources", "run_search:mem_mb=9000", "run_search:slurm_partition=gpu", "run_search:runtime=7")
    assert searched.planned(*moved, target="search") == {}
    assert searched.planned("--profile", "profiles/slurm", target="search") == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new"), [("n_trials: 2", "n_trials: 3"), ("n_folds: 2", "n_folds: 3"), ("max_epochs: 1", "max_epochs: 2")]
)
def test_the_space_and_the_train_settings_re_run_the_search(
    searched: Campaign, tmp_path: Path, old: str, new: str
) -> None:
    edited = Campaign(Path(shutil.copytree(searched.root, tmp_path / "campaign")))
    edited.replace("configs/tiny.yaml", old, new)
    assert edited.planned(target="search") == {"write_search_config": 1, "run_search": 1}


@pytest.mark.slow
def test_a_wrong_space_is_refused_before_the_first_job(searched: Campaign, tmp_path: Path) -> None:
    edited = Campaign(Path(shutil.copytree(searched.root, tmp_path / "campaign")))
    edited.replace("configs/tiny.yaml", "n_trials: 2", "n_trials: 2, space: {model: {learning_rte: {distribution: x}}}")
    with pytest.raises(AssertionError, match=r"unknown distribution 'x'"):
        edited.planned(target="search")
