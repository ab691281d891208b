import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from coread.eval.scores import COLUMNS, write_scores
from coread.eval.tables import paired_differences, paper_table, summarize, write_tables

CONFIG = {"explainable_variance_threshold": 0.15, "bootstrap": {"n": 500, "level": 0.95, "seed": 0}}
N_NEURONS = 40


def make_scores(experiment: str, shift: float, dataset: str = "toy") -> pd.DataFrame:
    """Scores of 40 neurons of two types; the last four are excluded, the first has no FEVE."""
    rng = np.random.default_rng(0)
    base = rng.uniform(0.3, 0.6, N_NEURONS)
    neuron = np.arange(N_NEURONS)
    common = {
        "experiment": experiment,
        "dataset": dataset,
        "session": "a",
        "neuron": neuron,
        "unit_id": [f"u_{i}" for i in neuron],
        "cell_type": np.where(neuron % 2 == 0, "on", "off"),
        "stimulus": "probe_1",
        "tier": "test",
        "n_bins": 100,
        "bins_crc32": "0000000a",
        "n_repeats": 10,
        "n_members": 1.0,
        "included": neuron < N_NEURONS - 4,
        "ci_low": np.nan,
        "ci_high": np.nan,
    }
    tables = []
    for metric in ("single_trial_correlation", "correlation_to_average", "fraction_of_ceiling", "feve"):
        for predictor, better in (("fold0_seed0", 0.0), ("fold0_seed1", 0.02), ("ensemble", 0.05)):
            value = base + better + shift * (1 + (neuron % 2 == 0))
            value = np.where((metric == "feve") & (neuron == 0), np.nan, value)
            tables.append(pd.DataFrame(common | {"predictor": predictor, "metric": metric, "value": value}))
    for metric in ("noise_ceiling", "explainable_variance"):
        tables.append(pd.DataFrame(common | {"predictor": "data", "metric": metric, "value": 0.8}))
    return pd.concat(tables, ignore_index=True)[COLUMNS]


def row_of(table: pd.DataFrame, **wanted: str) -> pd.Series:
    for column, value in wanted.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_summary_counts_what_it_leaves_out() -> None:
    scores = make_scores("model", 0.1)
    summary = summarize(scores, CONFIG)
    ensemble = scores[(scores["predictor"] == "ensemble") & (scores["metric"] == "feve") & scores["included"]]
    row = row_of(summary, predictor="ensemble", metric="feve")
    assert row["mean"] == pytest.approx(ensemble["value"].mean())
    assert row["median"] == pytest.approx(ensemble["value"].median())
    assert (row["n"], row["n_excluded"], row["n_undefined"]) == (35, 4, 1)
    spread = ensemble["value"].std() / np.sqrt(35)
    assert row["ci_high"] - row["ci_low"] == pytest.approx(2 * 1.96 * spread, rel=0.2)
    assert row["ci_low"] < row["mean"] < row["ci_high"]


def test_the_member_mean_averages_each_neurons_members() -> None:
    summary = summarize(make_scores("model", 0.1), CONFIG)
    place = {"metric": "correlation_to_average"}
    member, ensemble = (row_of(summary, **place, predictor=name) for name in ("member mean", "ensemble"))
    assert ensemble["mean"] - member["mean"] == pytest.approx(0.04)
    assert member["n"] == 36
    assert set(summary["predictor"]) == {"data", "ensemble", "member mean"}


def test_differences_are_paired_per_neuron_and_cell_type() -> None:
    scores = pd.concat([make_scores("model", 0.1), make_scores("baseline", 0.05), make_scores("other", 0.0, "else")])
    differences = paired_differences(scores, CONFIG)
    assert set(differences["experiment"]) == {"model"}, "the experiment named first; other datasets share no neuron"
    assert set(differences["baseline"]) == {"baseline"}
    place = {"metric": "correlation_to_average"}
    means = {name: row_of(differences, **place, cell_type=name)["mean_difference"] for name in ("all", "on", "off")}
    assert means == pytest.approx({"all": 0.075, "on": 0.1, "off": 0.05})
    everyone = row_of(differences, **place, cell_type="all")
    assert everyone["n"] == 36
    assert everyone["share_better"] == 1.0
    # every neuron differs by one of two values: the interval is far narrower than that of either experiment
    assert everyone["ci_high"] - everyone["ci_low"] < 0.02
    assert row_of(differences, metric="feve", cell_type="all")["n"] == 35


def test_validation_scores_of_different_bins_are_not_compared(tmp_path: Path) -> None:
    test = {name: make_scores(name, shift) for name, shift in (("model", 0.1), ("same", 0.05), ("other", 0.0))}
    validation = {name: table.assign(stimulus="validation", tier="validation") for name, table in test.items()}
    for tables in (test, validation):
        tables["other"]["bins_crc32"] = "0000000b"
    scores = {name: pd.concat([test[name], validation[name]]) for name in test}
    differences = paired_differences(pd.concat(scores.values()), CONFIG)
    compared = differences.groupby("tier", sort=False)[["experiment", "baseline"]].agg(
        lambda names: " ".join(dict.fromkeys(names))
    )
    # of test bins only the first ones of a trial may differ, with the lag of the models
    assert compared.loc["test"].tolist() == ["model same", "same other"]
    assert compared.loc["validation"].tolist() == ["model", "same"]
    paths = [tmp_path / f"{name}.csv" for name in scores]
    for path in paths:
        write_scores(scores[path.stem], path)
    write_tables(paths, tmp_path / "tables", CONFIG)
    assert "only between experiments that were scored on the same" in (tmp_path / "tables/differences.md").read_text()


def test_neurons_that_one_experiment_excludes_are_not_compared() -> None:
    baseline = make_scores("baseline", 0.0)
    baseline.loc[baseline["neuron"] < 10, "included"] = False
    differences = paired_differences(pd.concat([make_scores("model", 0.1), baseline]), CONFIG)
    assert row_of(differences, metric="correlation_to_average", cell_type="all")["n"] == 26


def test_tables_are_written_for_people_papers_and_programs(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.csv" for name in ("my_model", "baseline")]
    for path, shift in zip(paths, (0.1, 0.05), strict=True):
        write_scores(make_scores(path.stem, shift), path)
    write_tables(paths, tmp_path / "tables", CONFIG)
    names = [f"{name}.{suffix}" for name in ("differences", "scores", "sessions") for suffix in ("csv", "md", "tex")]
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == names
    latex = (tmp_path / "tables" / "scores.tex").read_text()
    assert r"my\_model & probe\_1 & ensemble" in latex
    assert "\\toprule" in latex
    assert not re.search(r"(?<!\\)[_%]", latex), "everything special is escaped"
    body = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert len({line.count("&") for line in body}) == 1
    markdown = (tmp_path / "tables" / "scores.md").read_text()
    printed = paper_table(summarize(pd.concat([make_scores("my_model", 0.1), make_scores("baseline", 0.05)]), CONFIG))
    assert re.fullmatch(r"0\.\d{3} ± 0\.\d{3}", printed["correlation to average"].iloc[0])
    assert all(f"| {cell} |" in markdown for cell in printed["correlation to average"])
    assert printed["n"].tolist() == ["36"] * 4
    again = tmp_path / "again"
    write_tables(paths, again, CONFIG)
    assert all((again / name).read_bytes() == (tmp_path / "tables" / name).read_bytes() for name in names)


def test_a_mean_over_fewer_neurons_than_its_line_names_their_number(tmp_path: Path) -> None:
    scores = make_scores("model", 0.1)
    scores.loc[(scores["metric"] == "noise_ceiling") & scores["neuron"].isin([1, 2, 39]), "value"] = np.nan
    scores.loc[(scores["metric"] == "single_trial_correlation") & (scores["neuron"] < 4), "value"] = np.nan
    scores.loc[scores["metric"] == "explainable_variance", "value"] = np.nan
    write_scores(scores, tmp_path / "model.csv")
    write_tables([tmp_path / "model.csv"], tmp_path, CONFIG)
    printed = paper_table(summarize(scores, CONFIG)).set_index("predictor").loc["ensemble"]
    own = {name: re.findall(r"\(n = (\d+)\)", cell) for name, cell in printed.items()}
    assert own["FEVE"] == ["35"]
    assert own["noise ceiling"] == ["34"], "neuron 39 is excluded and counts nowhere"
    assert own["single-trial correlation"] == ["32"]
    assert own["correlation to average"] == []
    assert (printed["n"], printed["explainable variance"]) == ("36", "n/a")
    for name in ("scores.md", "scores.tex"):
        text = (tmp_path / name).read_text()
        # FEVE and single-trial correlation of the ensemble and of the member mean, and their ceiling
        assert sorted(re.findall(r"\(n = (\d+)\) (?:&|\|)", text)) == ["32"] * 2 + ["34"] * 2 + ["35"] * 2
        assert "names an n of its own" in text


def test_means_of_sessions_and_the_fraction_of_oracle_stand_beside_those_of_all_neurons(tmp_path: Path) -> None:
    first, second = make_scores("model", 0.1), make_scores("model", 0.2).assign(session="b")
    second = second[(second["neuron"] < 10)]
    oracle = [
        table[(table["metric"] == "noise_ceiling")].assign(metric="jackknife_oracle", value=0.5)
        for table in (first, second)
    ]
    scores = pd.concat([first, second, *oracle], ignore_index=True)
    by_session = summarize(scores, CONFIG, by_session=True)
    pooled = summarize(scores, CONFIG)
    place = {"predictor": "ensemble", "metric": "single_trial_correlation"}
    n = [row_of(by_session, **place, session=name)["n"] for name in "ab"]
    means = [row_of(by_session, **place, session=name)["mean"] for name in "ab"]
    assert n == [36, 10]
    assert row_of(pooled, **place)["n"] == 46
    assert row_of(pooled, **place)["mean"] == pytest.approx(np.average(means, weights=n)), "neurons weigh the same"
    fraction = row_of(pooled, predictor="ensemble", metric="fraction_of_oracle")
    assert fraction["mean"] == pytest.approx(row_of(pooled, **place)["mean"] / 0.5), "the oracle is the same for all"
    assert fraction["ci_low"] < fraction["mean"] < fraction["ci_high"]
    assert (fraction["n"], fraction["n_excluded"]) == (46, 4)
    write_scores(scores, tmp_path / "model.csv")
    write_tables([tmp_path / "model.csv"], tmp_path, CONFIG)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "sessions.csv"), by_session, check_dtype=False)
    assert f"| model | b | probe_1 | ensemble | {means[1]:.3f} ± " in (tmp_path / "sessions.md").read_text()


def test_experiments_that_are_evaluated_differently_share_a_table_but_are_not_paired(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.csv" for name in ("first", "second", "third")]
    for path in paths:
        write_scores(make_scores(path.stem, 0.1), path)
    other = CONFIG | {"thresholded_metrics": ["feve"]}
    write_tables(paths, tmp_path, [CONFIG, other, CONFIG])
    pairs = pd.read_csv(tmp_path / "differences.csv")[["experiment", "baseline"]].drop_duplicates()
    assert pairs.to_numpy().tolist() == [["first", "third"]]
    text = (tmp_path / "scores.md").read_text()
    assert "first, third: Mean over neurons" in text
    assert "second: Mean over neurons" in text
    assert "FEVE only over those with an explainable variance of at least 0.15" in text


def test_captions_say_that_validation_bins_chose_the_best_epoch(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.csv" for name in ("model", "baseline")]
    for path in paths:
        write_scores(make_scores(path.stem, 0.1), path)
    write_tables(paths, tmp_path, CONFIG)
    for name in ("scores.md", "scores.tex", "differences.md", "differences.tex"):
        text = (tmp_path / name).read_text()
        assert "bins that chose the best epoch of each member, so that they are optimistic" in text
        assert "test bins chose nothing" in text


def test_the_same_number_under_two_names_is_summarised_once() -> None:
    scores = make_scores("model", 0.1)
    again = scores[scores["metric"] == "fraction_of_ceiling"].assign(metric="normalized_correlation")
    both = pd.concat([scores, again], ignore_index=True)
    pd.testing.assert_frame_equal(summarize(both, CONFIG), summarize(scores, CONFIG))
    baseline = both.assign(experiment="baseline")
    metrics = paired_differences(pd.concat([both, baseline]), CONFIG)["metric"]
    assert "fraction_of_ceiling" in set(metrics)
    assert "normalized_correlation" not in set(metrics)


def test_one_experiment_has_no_differences_but_still_a_file(tmp_path: Path) -> None:
    write_scores(make_scores("model", 0.1), tmp_path / "model.csv")
    write_tables([tmp_path / "model.csv"], tmp_path, CONFIG)
    assert pd.read_csv(tmp_path / "differences.csv").empty
    assert (tmp_path / "differences.md").read_text().startswith("| experiment | baseline |")
