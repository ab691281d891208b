from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from coread.eval.comparison import (
    Comparison,
    ComparisonError,
    compare,
    pooled_table,
    printed_tables,
    read_comparison,
    sessions_table,
    write_comparison,
)
from coread.eval.intervals import bootstrap_ratio_ci
from coread.eval.scores import COLUMNS, write_scores
from coread.eval.settings import EvaluationSettings

EVALUATION = {"explainable_variance_threshold": 0.15, "bootstrap": {"n": 300, "level": 0.95, "seed": 0}}
SETTINGS = EvaluationSettings.from_config(EVALUATION)
SIZES = {"a": 30, "b": 90}
CONFIG = {
    "title": "Walkthrough",
    "baseline": "base",
    "published_source": "mean over 39,255 neurons.",
    "rows": [
        {"experiment": "gain", "label": "+ gain", "predictor": "member_mean", "published": 0.39674},
        {"experiment": "base", "label": "baseline", "predictor": "member_mean", "published": 0.38308},
        {"experiment": "absent", "published": 0.36724},
        {"experiment": "all", "label": "all, ensemble"},
    ],
}
COMPARISON = Comparison.from_config("walkthrough", CONFIG)
# score of a neuron in the baseline times these: session a and session b gain differently
FACTORS = {"base": (1.0, 1.0), "gain": (1.1, 1.3), "all": (1.5, 1.5)}


def base_scores() -> np.ndarray:
    return np.random.default_rng(0).uniform(0.2, 0.6, sum(SIZES.values()))


def make_scores(experiment: str, dataset: str = "toy") -> pd.DataFrame:
    """Two members around a neuron's score, an ensemble above it; validation scores are twice as high."""
    neuron = np.concatenate([np.arange(size) for size in SIZES.values()])
    session = np.repeat(list(SIZES), list(SIZES.values()))
    value = base_scores() * np.array(FACTORS[experiment])[(session == "b").astype(int)]
    common = {
        "experiment": experiment,
        "dataset": dataset,
        "session": session,
        "neuron": neuron,
        "unit_id": neuron.astype(str),
        "cell_type": "",
        "n_bins": 100,
        "bins_crc32": "0000000a",
        "n_repeats": 10,
        "n_members": 1.0,
        "included": True,
        "ci_low": np.nan,
        "ci_high": np.nan,
        "metric": "single_trial_correlation",
    }
    tables = []
    for stimulus, tier, factor in (("images", "test", 1.0), ("validation", "validation", 2.0)):
        for predictor, better in (("fold0_seed0", -0.02), ("fold0_seed1", 0.02), ("ensemble", 0.05)):
            scores = factor * value + better
            tables.append(
                pd.DataFrame(common | {"stimulus": stimulus, "tier": tier, "predictor": predictor, "value": scores})
            )
    tables.append(
        pd.DataFrame(
            common
            | {"stimulus": "images", "tier": "test", "predictor": "data", "metric": "jackknife_oracle", "value": 0.5}
        )
    )
    return pd.concat(tables, ignore_index=True)[COLUMNS]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return compare(COMPARISON, {name: make_scores(name) for name in FACTORS}, SETTINGS)


def row_of(table: pd.DataFrame, experiment: str, session: str = "all", tier: str = "test") -> pd.Series:
    chosen = table[(table["experiment"] == experiment) & (table["session"] == session) & (table["tier"] == tier)]
    assert len(chosen) == 1
    return chosen.iloc[0]


def test_changes_are_of_means_over_the_same_neurons_pooled_and_by_session(table: pd.DataFrame) -> None:
    base = base_scores()
    in_b = np.repeat([False, True], list(SIZES.values()))
    value = base * np.where(in_b, 1.3, 1.1)
    pooled = row_of(table, "gain")
    assert pooled["mean"] == pytest.approx(value.mean())
    assert pooled["baseline_mean"] == pytest.approx(base.mean())
    assert pooled["difference"] == pytest.approx((value - base).mean())
    assert pooled["relative_change"] == pytest.approx(value.mean() / base.mean() - 1)
    assert pooled["n"] == 120
    for session, factor in (("a", 1.1), ("b", 1.3)):
        own = row_of(table, "gain", session)
        assert own["n"] == SIZES[session]
        assert own["relative_change"] == pytest.approx(factor - 1)
        # every neuron changes by the same factor: paired, the change has no spread
        assert own["relative_ci_high"] - own["relative_ci_low"] < 1e-9
        assert own["ci_high"] - own["ci_low"] > 0.01
    assert pooled["relative_ci_low"] < pooled["relative_change"] < pooled["relative_ci_high"]


def test_an_ensemble_row_is_the_mean_prediction_and_the_others_are_single_members(table: pd.DataFrame) -> None:
    base = base_scores()
    ensemble = row_of(table, "all")
    assert ensemble["predictor"] == "ensemble"
    assert ensemble["mean"] == pytest.approx(1.5 * base.mean() + 0.05)
    assert row_of(table, "base")["mean"] == pytest.approx(base.mean()), "members average out"


def test_published_values_stand_beside_the_pooled_scores_they_belong_to(table: pd.DataFrame) -> None:
    assert row_of(table, "gain")["published"] == 0.39674
    assert row_of(table, "gain")["published_change"] == pytest.approx(0.39674 / 0.38308 - 1)
    assert np.isnan(row_of(table, "gain", "a")["published"])
    assert np.isnan(row_of(table, "gain", tier="validation")["published"])
    assert row_of(table, "gain", tier="validation")["relative_change"] > 0
    assert row_of(table, "absent")["published"] == 0.36724
    assert np.isnan(row_of(table, "absent")["mean"])


def test_rows_are_printed_in_the_order_of_the_configuration(table: pd.DataFrame) -> None:
    printed = pooled_table(COMPARISON, table)
    assert printed["experiment"].tolist() == ["+ gain", "baseline", "absent", "all, ensemble"]
    assert printed["published"].tolist() == ["0.397", "0.383", "0.367", "n/a"]
    assert printed["published change"].tolist() == ["+3.6 %", "baseline", "-4.1 %", "n/a"]
    assert printed["change"].tolist()[1:3] == ["baseline", "n/a"]
    assert printed["change"].iloc[0].startswith("+25.")
    by_session = sessions_table(COMPARISON, table)
    assert by_session is not None
    assert by_session["a"].tolist()[:3] == ["+10.0 % [+10.0, +10.0]", "baseline", "n/a"]
    assert by_session["b"].iloc[0] == "+30.0 % [+30.0, +30.0]"


def test_files_say_the_same_for_people_papers_and_programs(tmp_path: Path, table: pd.DataFrame) -> None:
    paths = [tmp_path / f"{name}.csv" for name in FACTORS]
    for path in paths:
        write_scores(make_scores(path.stem), path)
    write_comparison(COMPARISON, paths, [EVALUATION] * 3, tmp_path)
    read = read_comparison(tmp_path / "comparison_walkthrough.csv")
    pd.testing.assert_frame_equal(read, table, check_dtype=False, rtol=1e-9)
    markdown = (tmp_path / "comparison_walkthrough.md").read_text()
    assert f"| + gain | {row_of(table, 'gain')['mean']:.3f} ± 0.0" in markdown
    assert "mean over 39,255 neurons." in markdown
    assert "Mean score of single members: + gain, baseline" in markdown
    latex = (tmp_path / "comparison_walkthrough.tex").read_text()
    assert latex.count("\\begin{table}") == 2
    assert "tab:walkthrough_sessions" in latex
    assert r"+3.6 \%" in latex
    with pytest.raises(ComparisonError, match="needs one evaluation"):
        write_comparison(COMPARISON, paths, [*[EVALUATION] * 2, EVALUATION | {"undefined": "zero"}], tmp_path)


def test_neurons_that_one_side_lacks_are_not_compared() -> None:
    scores = {name: make_scores(name) for name in ("base", "gain")}
    scores["gain"].loc[(scores["gain"]["session"] == "a") & (scores["gain"]["neuron"] < 10), "value"] = np.nan
    scores["base"].loc[(scores["base"]["session"] == "b") & (scores["base"]["neuron"] < 5), "included"] = False
    found = compare(COMPARISON, scores, SETTINGS)
    assert row_of(found, "gain")["n"] == 105
    assert row_of(found, "gain")["baseline_mean"] == pytest.approx(
        np.delete(base_scores(), [*range(10), *range(30, 35)]).mean()
    )
    zero = EvaluationSettings.from_config(EVALUATION | {"undefined": "zero"})
    assert row_of(compare(COMPARISON, scores, zero), "gain")["n"] == 115, "an undefined correlation counts as 0"


def test_a_baseline_without_a_score_above_zero_has_no_relative_change() -> None:
    scores = {name: make_scores(name) for name in ("base", "gain")}
    scores["base"]["value"] -= 2.0
    found = row_of(compare(COMPARISON, scores, SETTINGS), "gain")
    assert np.isnan(found["relative_change"])
    assert found["difference"] > 1


def held_out(scores: pd.DataFrame, **digests: str) -> pd.DataFrame:
    """Return the scores with validation bins of their own for some predictors."""
    own = (scores["tier"] == "validation") & scores["predictor"].isin(list(digests))
    return scores.assign(bins_crc32=scores["bins_crc32"].mask(own, scores["predictor"].map(digests)))


def test_validation_scores_of_other_bins_are_not_compared(tmp_path: Path) -> None:
    scores = {name: make_scores(name) for name in FACTORS}
    # every member holds out other bins, and as many; the ensemble is scored on those of all of them
    scores["gain"] = held_out(scores["gain"], fold0_seed1="0000000b")
    scores["all"] = held_out(scores["all"], ensemble="0000000c")
    found = compare(COMPARISON, scores, SETTINGS)
    for name in ("gain", "all"):
        row = row_of(found, name, tier="validation")
        assert row["note"] == "other bins"
        assert row[[column for column in found if "change" in column or "difference" in column]].isna().all()
        assert np.isnan(row["baseline_mean"])
        assert row["ci_low"] < row["mean"] < row["ci_high"]
        assert row_of(found, name)["difference"] > 0, "test scores are compared"
        assert pd.isna(row_of(found, name)["note"])
    assert pd.isna(row_of(found, "base", tier="validation")["note"])
    assert row_of(found, "base", tier="validation")["difference"] == 0
    shown = Comparison.from_config("walkthrough", CONFIG | {"tier": "validation"})
    for path in (paths := [tmp_path / f"{name}.csv" for name in FACTORS]):
        write_scores(scores[path.stem], path)
    write_comparison(shown, paths, [EVALUATION] * 3, tmp_path)
    read = read_comparison(tmp_path / "comparison_walkthrough.csv")
    assert pooled_table(shown, read)["change"].tolist() == ["other bins", "baseline", "n/a", "other bins"]
    assert "other bins: scored on other validation bins" in (tmp_path / "comparison_walkthrough.md").read_text()


def test_sessions_with_the_same_bins_are_compared_where_others_are_not() -> None:
    scores = {name: make_scores(name) for name in ("base", "gain")}
    in_b = (scores["gain"]["session"] == "b") & (scores["gain"]["tier"] == "validation")
    scores["gain"].loc[in_b, "bins_crc32"] = "0000000b"
    found = compare(COMPARISON, scores, SETTINGS)
    notes = {name: row_of(found, "gain", name, "validation")["note"] for name in ("all", "a", "b")}
    assert (notes["all"], notes["b"]) == ("other bins", "other bins")
    assert pd.isna(notes["a"])
    assert row_of(found, "gain", "a", "validation")["relative_change"] == pytest.approx(0.1)


def test_two_test_stimuli_are_compared_apart() -> None:
    scores = {}
    for name in ("base", "gain"):
        first = make_scores(name)
        scores[name] = pd.concat([first, first[first["tier"] == "test"].assign(stimulus="movie")])
    found = compare(COMPARISON, scores, SETTINGS)
    printed = pooled_table(COMPARISON, found)
    assert printed[printed["experiment"] == "+ gain"]["stimulus"].tolist() == ["images", "movie"]
    labels = [label for *_, label in printed_tables(COMPARISON, found, SETTINGS)]
    assert labels == ["tab:walkthrough", "tab:walkthrough_sessions"]


def test_what_cannot_be_compared_is_named() -> None:
    with pytest.raises(ComparisonError, match="the baseline 'base' has no scores"):
        compare(COMPARISON, {"gain": make_scores("gain")}, SETTINGS)
    other = {"base": make_scores("base"), "gain": make_scores("gain", dataset="other")}
    with pytest.raises(ComparisonError, match=r"gain \(dataset other\) and its baseline base \(dataset toy\) share no"):
        compare(COMPARISON, other, SETTINGS)


def test_the_interval_of_a_ratio_covers_it() -> None:
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(100):
        base = rng.normal(0.4, 0.1, 60)
        value = 1.2 * base + rng.normal(0, 0.05, 60)
        low, high = bootstrap_ratio_ci(value - base, base, 200, rng)
        covered.append(low < 0.2 < high)
    assert np.mean(covered) > 0.88
    assert np.isnan(bootstrap_ratio_ci(base[:1], base[:1], 200, rng)).all()
