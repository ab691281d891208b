"""Quality filters in the workflow: the published layout in a local folder becomes the table of what they removed."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.campaign import EXPERIMENT, MODEL, WORKFLOW, Campaign
from tests.published_data.hoefling_2024 import Field, make_movies, write_fields, write_movies

DATA = """\
defaults: [hoefling_2024_low_res, _self_]
dataset: tiny_fields
clip_length: 20
clip_duration_s: 0.6333333
train_blocks: [4, 3]
"""
TABLE = "results/data/tiny_fields/quality.csv"


def field(d_qi: list[float]) -> Field:
    rng = np.random.default_rng(len(d_qi))
    answers = rng.gamma(2.0, 1.0, (13 * 20, len(d_qi)))
    return Field(answers, clip_length=20, d_qi=np.array(d_qi), chirp_qi=np.zeros(len(d_qi)))


@pytest.mark.slow
def test_the_table_of_removed_cells_is_part_of_the_data_and_of_the_report(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_movies(raw, make_movies(np.random.default_rng(0), (2, 8, 9), 7, 2, 20, 2))
    write_fields(raw, {"a": field([0.9, 0.1, 0.7]), "b": field([0.9, 0.9]), "none_passes": field([0.1])})
    catalogue = {"fields": {"members": {"cross": {"folds": [0], "seeds": [0]}}}, **WORKFLOW["catalogue"]}
    campaign = Campaign(tmp_path / "campaign").prepare(
        WORKFLOW | {"experiments": ["fields", "tiny"], "catalogue": catalogue, "data_dirs": {"tiny_fields": str(raw)}}
    )
    experiment = EXPERIMENT.replace("data_io: tiny", "data_io: tiny_fields").replace(
        "exp_name: tiny", "exp_name: fields"
    )
    campaign.write("configs/data_io/tiny_fields.yaml", DATA)
    campaign.write("configs/fields.yaml", experiment + MODEL)
    planned = campaign.planned()
    assert planned["tabulate_quality"] == 1  # none for the dataset without filters
    assert planned["build_recording"] == 3
    campaign.snakemake(TABLE)
    table = pd.read_csv(campaign.root / TABLE)
    total = table[table["session"] == "all sessions"].set_index("step")
    assert total.loc["response_quality"].to_dict() == {
        "session": "all sessions", "n_before": 5, "n_removed": 1, "n_kept": 4
    }  # fmt: skip
    assert sorted(set(table["session"])) == ["a", "all sessions", "b"]
    # a changed threshold makes the recordings and the table again
    filters = yaml.safe_dump({"quality_filters": [{"step": "strict", "at_least": {"d_qi": 0.8}}]})
    campaign.write("configs/data_io/tiny_fields.yaml", DATA + filters)
    assert campaign.planned(target=TABLE)["tabulate_quality"] == 1
