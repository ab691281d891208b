from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from coread.insilico.consistency import (
    ConsistencySettings,
    consistency_table,
    intraclass_correlation,
    mark_uncertain,
    member_columns,
    one_way_intraclass_correlation,
    uncertain_neurons,
)
from coread.insilico.experiment import ExperimentResult
from coread.insilico.running import load_experiment
from coread.insilico.seed_consistency import SeedConsistency, member_correlation
from tests.conftest import REPOSITORY
from tests.insilico.subunit_models import SubunitCells, population, softplus

# the ratings of Shrout & Fleiss 1979, table 2: six targets, four judges
RATINGS = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)
SETTINGS = ConsistencySettings(consistent_within=0.5, min_icc=0.5, periods={"*orientation*_deg": 180.0})
FILTERS = 0.2 * np.random.default_rng(0).standard_normal((5, 1, 3, 1, 6, 7))


def result(session: str = "a", keep: bool = True, **members: np.ndarray) -> ExperimentResult:
    n_neurons = len(next(iter(members.values())))
    table = pd.DataFrame({"session": session, "neuron": range(n_neurons)})
    arrays: dict[str, Any] = {}
    for name, values in members.items():
        columns, kept = member_columns(name, values.mean(axis=1), values, SETTINGS.period(name))
        table, arrays = table.assign(**columns), arrays | (kept if keep else {})
    return ExperimentResult(table, arrays)


def settings(**changed: Any) -> dict[str, Any]:
    node = yaml.safe_load((REPOSITORY / "configs/insilico/seed_consistency.yaml").read_text())
    images = node["images"] | {"n_images": 20, "image_s": 0.2, "window_s": [0.0, 0.2]}
    return node | {"noise_s": 4.0, "images": images} | changed


def test_published_example_of_the_intraclass_correlations() -> None:
    assert intraclass_correlation(RATINGS) == pytest.approx(0.29, abs=0.005)
    spread = RATINGS.std(axis=1, ddof=1)
    assert one_way_intraclass_correlation(RATINGS.mean(axis=1), spread, 4) == pytest.approx(0.17, abs=0.005)


def test_agreement_and_chance_also_on_the_circle() -> None:
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, 180, 400)
    near = (angles[:, None] + 5 * rng.standard_normal((400, 3))) % 180
    assert intraclass_correlation(near, 180.0) > 0.95
    assert intraclass_correlation(near) < 0.95, "as plain numbers, those at the seam disagree"
    assert abs(intraclass_correlation(rng.uniform(0, 180, (400, 3)), 180.0)) < 0.1
    columns, _ = member_columns("x", near.mean(axis=1), near, 180.0)
    one_way = one_way_intraclass_correlation(angles, columns["x_sd_members"], 3, 180.0)
    assert one_way == pytest.approx(intraclass_correlation(near, 180.0), abs=0.02)
    assert np.median(columns["x_sd_members"]) == pytest.approx(4.0, abs=1.0)
    assert np.isnan(intraclass_correlation(np.ones((5, 3))))
    assert np.isnan(intraclass_correlation(RATINGS[:, :1]))
    with_gap = np.concatenate([RATINGS, [[np.nan, 1, 2, 3]]])
    assert intraclass_correlation(with_gap) == intraclass_correlation(RATINGS)


def test_a_neuron_whose_members_disagree_is_marked() -> None:
    members = np.arange(6.0)[:, None] + np.array([-0.1, 0.0, 0.1])
    members[2] += [-3, 0, 3]
    found = mark_uncertain({"a": result(value=members[:4]), "b": result("b", value=members[4:])}, SETTINGS)
    assert found["a"].table["value_uncertain"].tolist() == [False, False, True, False]
    assert found["b"].table["value_uncertain"].tolist() == [False, False]
    single = result(value=members[:, :1])
    assert not uncertain_neurons(single.table, "value", SETTINGS).any(), "of one member nothing is known"


def test_one_row_per_quantity_of_every_experiment() -> None:
    rng = np.random.default_rng(1)
    good = rng.standard_normal(40)[:, None] + 0.1 * rng.standard_normal((40, 3))
    noise = rng.standard_normal((40, 3))
    angle = (rng.uniform(0, 180, 40)[:, None] + 3 * rng.standard_normal((40, 3))) % 180
    tuning = {
        session: result(session, good=good[own], orientation_deg=angle[own])
        for session, own in (("a", slice(25)), ("b", slice(25, None)))
    }
    experiments = {"tuning": tuning, "other": {"a": result(keep=False, noise=noise)}}
    table = consistency_table(experiments, 3, SETTINGS)
    assert table[["experiment", "quantity"]].to_numpy().tolist() == [
        ["tuning", "good"],
        ["tuning", "orientation_deg"],
        ["other", "noise"],
    ]
    assert table["icc_form"].tolist() == ["ICC(2,1)", "ICC(2,1)", "ICC(1,1)"]
    assert table["icc"][0] == pytest.approx(intraclass_correlation(good))
    assert table["icc"][1] > 0.95
    assert table["uncertain"].tolist() == [False, False, True]
    assert table["n_neurons"].tolist() == [40, 40, 40]
    assert table["consistent_share"][0] == 1
    assert table["consistent_share"][2] < 0.3
    assert consistency_table({}, 3, SETTINGS).empty


def test_a_shifted_member_is_disagreement() -> None:
    values = np.arange(20.0)[:, None] + np.array([0.0, 0.0, 30.0])
    assert intraclass_correlation(values) < 0.2


def test_experiment_on_members_that_agree_and_others(tmp_path: Path) -> None:
    experiment = load_experiment(settings())
    assert isinstance(experiment, SeedConsistency)
    models = SubunitCells(FILTERS, softplus), SubunitCells(FILTERS * 1.02, softplus)
    same = experiment.run(population(*models), np.arange(5))
    assert (same.table["noise_correlation_members"] > 0.99).all()
    assert not same.table["responses_uncertain"].any()
    marked = experiment.summarise({"a": same})["a"].table
    assert "noise_modulation_uncertain" in marked
    models = models[0], SubunitCells(FILTERS[::-1].copy(), softplus)
    different = experiment.run(population(*models), np.arange(5))
    middle = different.table.pop("noise_correlation_members").to_numpy()
    assert middle[2] == pytest.approx(1)
    assert (np.abs(middle[[0, 1, 3, 4]]) < 0.5).all()
    assert different.table["responses_uncertain"].tolist() == [True, True, False, True, True]
    alone = experiment.run(population(*models), np.array([3])).table
    np.testing.assert_allclose(alone["images_mean"][0], different.table["images_mean"][3], rtol=1e-5)
    drawing = experiment.draw({"a": same})["member_correlation"]
    drawing.figure.savefig(tmp_path / "figure.png")
    assert "5 model neurons" in drawing.caption
    table, comparison = experiment.compare({"seed_consistency": {"a": same}}, 2)
    assert len(table) == 4
    comparison.figure.savefig(tmp_path / "comparison.png")
    assert "4 quantities" in comparison.caption


def test_one_member_says_nothing_about_consistency(tmp_path: Path) -> None:
    experiment = load_experiment(settings())
    assert isinstance(experiment, SeedConsistency)
    single = experiment.run(population(SubunitCells(FILTERS, softplus)), np.arange(5))
    assert single.table["noise_mean_sd_members"].isna().all()
    assert single.table["noise_correlation_members"].isna().all()
    assert not single.table["responses_uncertain"].any()
    experiment.draw({"a": single})["member_correlation"].figure.savefig(tmp_path / "figure.png")
    _, comparison = experiment.compare({"seed_consistency": {"a": single}}, 1)
    comparison.figure.savefig(tmp_path / "comparison.png")
    assert "None of 4 quantities" in comparison.caption


def test_correlations_between_members() -> None:
    rng = np.random.default_rng(0)
    traces = rng.standard_normal((3, 50, 2))
    expected = [
        np.mean([np.corrcoef(traces[i, :, n], traces[j, :, n])[0, 1] for i, j in ((0, 1), (0, 2), (1, 2))])
        for n in (0, 1)
    ]
    np.testing.assert_allclose(member_correlation(traces), expected)
    traces[1, :, 0] = 3.0
    assert np.isnan(member_correlation(traces)[0])
