"""Comparisons: experiments in a given order against a named baseline, on the same neurons, beside published values."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
from jaxtyping import Float

from coread.eval.ensembles import ENSEMBLE
from coread.eval.intervals import ratio_interval
from coread.eval.layout import MISSING, rows_of
from coread.eval.scores import DATA, VALIDATION_TIER, read_scores
from coread.eval.settings import EvaluationSettings
from coread.eval.tables import (
    MEMBER_MEAN,
    MODEL_METRICS,
    NEURON,
    defined_scores,
    mean_interval,
    with_member_mean,
    write_printed,
)

ALL_SESSIONS = "all"
PREDICTORS = {"ensemble": ENSEMBLE, "member_mean": MEMBER_MEAN}
MAX_SESSIONS = 8  # columns of the printed table by session
PLACE = ["dataset", "session", "stimulus", "tier"]
COLUMNS = [
    "experiment",
    "label",
    "predictor",
    "baseline",
    "dataset",
    "stimulus",
    "tier",
    "session",
    "metric",
    "mean",
    "ci_low",
    "ci_high",
    "baseline_mean",
    "difference",
    "difference_ci_low",
    "difference_ci_high",
    "relative_change",
    "relative_ci_low",
    "relative_ci_high",
    "n",
    "published",
    "published_change",
    "note",
]
OTHER_BINS = "other bins"  # note of a row whose validation scores are of other bins than those of the baseline


class ComparisonError(ValueError):
    """Experiments cannot be compared as configured; the message names them."""


class Row(NamedTuple):
    """One experiment of a comparison: what it is called, how its members are scored, and the published mean score."""

    experiment: str
    label: str
    predictor: str
    published: float | None


@dataclass(frozen=True)
class Comparison:
    """What is compared: rows in the order of the table; `metric` and `tier` are those of the printed table."""

    name: str
    title: str
    baseline: str
    metric: str
    tier: str
    rows: tuple[Row, ...]
    published_source: str

    @classmethod
    def from_config(cls, name: str, config: Mapping[str, Any]) -> Self:
        """Read one entry of `comparisons` in configs/workflow.yaml, whose schema says what it may hold."""
        rows = [
            Row(
                str(row["experiment"]),
                str(row.get("label", row["experiment"])),
                PREDICTORS[row.get("predictor", "ensemble")],
                None if row.get("published") is None else float(row["published"]),
            )
            for row in config["rows"]
        ]
        return cls(
            name=name,
            title=str(config.get("title", name)),
            baseline=str(config["baseline"]),
            metric=str(config.get("metric", "single_trial_correlation")),
            tier=str(config.get("tier", "test")),
            rows=tuple(rows),
            published_source=str(config.get("published_source", "")),
        )

    @property
    def baseline_row(self) -> Row:
        """The row of the baseline; raises ComparisonError if there is none."""
        for row in self.rows:
            if row.experiment == self.baseline:
                return row
        raise ComparisonError(f"comparison {self.name!r}: the baseline {self.baseline!r} is none of its rows")

    def published_change(self, row: Row) -> float:
        """Return the published change against the published baseline as a fraction; NaN without both."""
        base = self.baseline_row.published
        return row.published / base - 1 if row.published is not None and base else float("nan")


def compare(comparison: Comparison, scores: Mapping[str, pd.DataFrame], settings: EvaluationSettings) -> pd.DataFrame:
    """Return one row per experiment, metric, stimulus, tier and session (`all`: neurons of all sessions pooled).

    `scores` holds the table of every experiment that was run; rows without one have no numbers but the published ones.
    An experiment and the baseline are compared on the neurons that have a value in both and are included in both;
    `mean` and `baseline_mean` are over these n neurons. `relative_change` is difference / baseline_mean, a fraction,
    NaN where the baseline is not above 0. Intervals: bootstrap over the same neurons of both. Where both were scored on
    different validation bins (they, or members of theirs, hold out others), there is no difference: `note` says so.
    Raises ComparisonError if the baseline was not run or shares no neuron with an experiment.
    """
    if comparison.baseline not in scores:
        raise ComparisonError(f"comparison {comparison.name!r}: the baseline {comparison.baseline!r} has no scores")
    baseline = _per_neuron(scores[comparison.baseline], comparison.baseline_row, settings)
    tables = [_compare_row(comparison, row, scores, baseline, settings) for row in comparison.rows]
    return pd.concat(tables, ignore_index=True)[COLUMNS]


def _compare_row(
    comparison: Comparison,
    row: Row,
    scores: Mapping[str, pd.DataFrame],
    baseline: pd.DataFrame,
    settings: EvaluationSettings,
) -> pd.DataFrame:
    facts = {
        "experiment": row.experiment,
        "label": row.label,
        "predictor": row.predictor,
        "baseline": comparison.baseline,
    }
    if row.experiment not in scores:
        only = {"tier": comparison.tier, "session": ALL_SESSIONS, "metric": comparison.metric, "n": 0}
        table = pd.DataFrame([facts | only])
    else:
        on = [*NEURON, "stimulus", "tier", "metric"]
        own = _per_neuron(scores[row.experiment], row, settings)
        both = own.merge(baseline, on=on, suffixes=("", "_baseline")).dropna(subset=["value", "value_baseline"])
        if both.empty:
            raise ComparisonError(
                f"comparison {comparison.name!r}: {row.experiment} (dataset {own['dataset'].iloc[0]}) and its baseline "
                f"{comparison.baseline} (dataset {baseline['dataset'].iloc[0]}) share no neuron with a score"
            )
        table = pd.DataFrame([facts | numbers for numbers in _numbers(both, settings)])
    published = (table["metric"] == comparison.metric) & (table["tier"] == comparison.tier)
    published &= table["session"] == ALL_SESSIONS
    value = np.nan if row.published is None else row.published
    return table.assign(
        published=np.where(published, value, np.nan),
        published_change=np.where(published, comparison.published_change(row), np.nan),
    ).reindex(columns=COLUMNS)


def _per_neuron(scores: pd.DataFrame, row: Row, settings: EvaluationSettings) -> pd.DataFrame:
    """Return the scores of one predictor: included neurons, metrics that models are compared by."""
    kept = scores[scores["metric"].isin(MODEL_METRICS) & (scores["predictor"] != DATA) & scores["included"]]
    averaged = with_member_mean(defined_scores(kept, settings))
    chosen = averaged[averaged["predictor"] == row.predictor][[*NEURON, "stimulus", "tier", "metric", "value"]]
    return chosen.merge(_scored_bins(kept, row), on=PLACE, how="left")


def _scored_bins(scores: pd.DataFrame, row: Row) -> pd.DataFrame:
    """Return which bins the scores of a row are of, in every session: the digests of all members that it averages."""
    of_ensemble = scores["predictor"] == ENSEMBLE
    own = scores[of_ensemble if row.predictor == ENSEMBLE else ~of_ensemble]
    digests = own[[*PLACE, "bins_crc32"]].drop_duplicates().sort_values("bins_crc32")
    return digests.groupby(PLACE, as_index=False).agg(bins=("bins_crc32", " ".join))


def _numbers(both: pd.DataFrame, settings: EvaluationSettings) -> Iterator[dict[str, Any]]:
    for keys, group in both.groupby(["dataset", "stimulus", "tier", "metric"], sort=False):
        place = dict(zip(("dataset", "stimulus", "tier", "metric"), keys, strict=True))
        pooled_and_sessions = [(ALL_SESSIONS, group), *group.groupby("session", sort=False)]
        for session, neurons in pooled_and_sessions:
            value, base = neurons["value"].to_numpy(float), neurons["value_baseline"].to_numpy(float)
            if place["tier"] == VALIDATION_TIER and (neurons["bins"] != neurons["bins_baseline"]).any():
                nothing = np.full(len(value), np.nan)
                yield place | {"session": session, "note": OTHER_BINS} | _paired(value, nothing, settings)
            else:
                yield place | {"session": session} | _paired(value, base, settings)


def _paired(
    value: Float[np.ndarray, " neuron"], base: Float[np.ndarray, " neuron"], settings: EvaluationSettings
) -> dict[str, float]:
    difference, comparable = value - base, base.mean() > 0
    low, high = mean_interval(value, settings)
    difference_low, difference_high = mean_interval(difference, settings)
    relative = ratio_interval(difference, base, settings) if comparable else (float("nan"),) * 2
    return {
        "mean": value.mean(),
        "ci_low": low,
        "ci_high": high,
        "baseline_mean": base.mean(),
        "difference": difference.mean(),
        "difference_ci_low": difference_low,
        "difference_ci_high": difference_high,
        "relative_change": difference.mean() / base.mean() if comparable else float("nan"),
        "relative_ci_low": relative[0],
        "relative_ci_high": relative[1],
        "n": len(value),
    }


def write_comparison(
    comparison: Comparison, scores_paths: Sequence[Path], configs: Sequence[Mapping[str, Any]], out_dir: Path
) -> None:
    """Write comparison_<name>.{csv,md,tex} from the scores of the experiments that were run, in any order.

    `configs` are their `evaluation` nodes, which must say the same. Raises ComparisonError.
    """
    alike = {EvaluationSettings.from_config(config) for config in configs}
    if len(alike) != 1:
        raise ComparisonError(
            f"comparison {comparison.name!r} needs one evaluation, but the settings behind "
            f"{', '.join(map(str, scores_paths))} differ"
        )
    (settings,) = alike
    tables = [_comparable(read_scores(path)) for path in scores_paths]
    scores = {str(table["experiment"].iloc[0]): table for table in tables}
    table = compare(comparison, scores, settings)
    write_printed(out_dir / f"comparison_{comparison.name}", table, printed_tables(comparison, table, settings))


def _comparable(scores: pd.DataFrame) -> pd.DataFrame:
    """Leave out what no comparison reads, so that the scores of many experiments fit into memory."""
    wanted = scores["metric"].isin(MODEL_METRICS) & (scores["predictor"] != DATA)
    return scores[wanted].drop(columns=["unit_id", "cell_type", "ci_low", "ci_high"])


# --------------------------------------------------------------------------------------------------------------- layout


def pooled_table(comparison: Comparison, table: pd.DataFrame) -> pd.DataFrame:
    """Return the comparison as people print it: neurons of all sessions pooled, the published values beside."""
    shown = _shown(comparison, table)
    pooled = shown[shown["session"] == ALL_SESSIONS]
    several = len(set(pooled["stimulus"].dropna())) > 1
    rows = []
    for row in rows_of(pooled):
        cells = {"experiment": row.label}
        if several:
            cells["stimulus"] = row.stimulus if isinstance(row.stimulus, str) else MISSING
        cells |= {MODEL_METRICS[comparison.metric]: _mean(row), "change": _change(row)}
        if pooled["published"].notna().any():
            change = "baseline" if row.experiment == row.baseline else _percent(row.published_change)
            cells |= {"published": _number(row.published), "published change": change}
        rows.append(cells | {"n": str(row.n)})
    return pd.DataFrame(rows)


def sessions_table(comparison: Comparison, table: pd.DataFrame) -> pd.DataFrame | None:
    """Return the changes by session as people print them; None for a single session, or for too many to print."""
    shown = _shown(comparison, table)
    sessions = [name for name in dict.fromkeys(shown["session"]) if name != ALL_SESSIONS]
    if not 1 < len(sessions) <= MAX_SESSIONS:
        return None
    several = len(set(shown["stimulus"].dropna())) > 1
    keys = ["label", "stimulus"] if several else ["label"]
    rows = []
    for place, group in shown.groupby(keys, sort=False, dropna=False):
        named = {row.session: row for row in rows_of(group)}
        cells = dict(zip(["experiment", *keys[1:]], place, strict=True))
        cells |= {"stimulus": MISSING} if several and not isinstance(place[-1], str) else {}
        rows.append(cells | {name: _change(named[name]) if name in named else MISSING for name in sessions})
    return pd.DataFrame(rows)


def comparison_caption(comparison: Comparison, settings: EvaluationSettings) -> str:
    """Say what the cells of the printed tables are."""
    base = comparison.baseline_row
    per_member = [row.label for row in comparison.rows if row.predictor == MEMBER_MEAN]
    scored = f" Mean score of single members: {', '.join(per_member)}; of all others their mean prediction is scored."
    source = f" Published: {comparison.published_source}" if comparison.published_source else ""
    other = f" {OTHER_BINS}: scored on other validation bins than the baseline, so no change is given."
    return (
        f"{comparison.title}. Tier {comparison.tier}, {MODEL_METRICS[comparison.metric]}: mean over neurons of all "
        f"sessions ± half the width of its {100 * settings.level:.0f} % interval; change of the mean against "
        f"{base.label} on the same n neurons, with its interval (both: {settings.n_bootstrap} bootstrap resamples of "
        "neurons, for the change the same of both experiments; they tell nothing of other animals or training seeds). "
        f"{MISSING}: not run, or not published.{scored if per_member else ''}"
        f"{other if comparison.tier == VALIDATION_TIER else ''}{source}"
    )


def sessions_caption(comparison: Comparison) -> str:
    """Say what the cells of the printed table by session are."""
    return f"{comparison.title}, by session: change against {comparison.baseline_row.label}, with its interval."


def printed_tables(
    comparison: Comparison, table: pd.DataFrame, settings: EvaluationSettings
) -> list[tuple[pd.DataFrame, str, str]]:
    """Return the printed tables with caption and LaTeX label."""
    label = f"tab:{comparison.name}"
    printed = [(pooled_table(comparison, table), comparison_caption(comparison, settings), label)]
    if (by_session := sessions_table(comparison, table)) is not None:
        printed.append((by_session, sessions_caption(comparison), f"{label}_sessions"))
    return printed


def read_comparison(path: Path) -> pd.DataFrame:
    """Read the CSV of a comparison; identifiers stay text. Raises ComparisonError that names the file."""
    text = ["experiment", "label", "predictor", "baseline", "dataset", "stimulus", "tier", "session", "metric", "note"]
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(text, str))
    except (OSError, ValueError) as error:
        raise ComparisonError(f"{path}: not a readable comparison ({error})") from error
    if list(table.columns) != COLUMNS:
        raise ComparisonError(f"{path}: columns are {list(table.columns)}, expected {COLUMNS}")
    return table


def _shown(comparison: Comparison, table: pd.DataFrame) -> pd.DataFrame:
    return table[(table["metric"] == comparison.metric) & (table["tier"] == comparison.tier)]


def _mean(row: Any) -> str:
    if not np.isfinite(row.mean):
        return MISSING
    return f"{row.mean:.3f}" + (f" ± {(row.ci_high - row.ci_low) / 2:.3f}" if np.isfinite(row.ci_low) else "")


def _change(row: Any) -> str:
    """Print a change in percent with its interval; the baseline has none."""
    if row.experiment == row.baseline:
        return "baseline"
    if row.note == OTHER_BINS:
        return OTHER_BINS
    if not np.isfinite(row.relative_change):
        return MISSING
    interval = [f"{100 * value:+.1f}" for value in (row.relative_ci_low, row.relative_ci_high)]
    return _percent(row.relative_change) + (f" [{', '.join(interval)}]" if np.isfinite(row.relative_ci_low) else "")


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else MISSING


def _percent(fraction: float) -> str:
    return f"{100 * fraction:+.1f} %" if np.isfinite(fraction) else MISSING
