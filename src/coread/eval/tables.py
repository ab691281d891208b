"""Paper tables: scores of neurons summarised per experiment, and paired differences between experiments."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from coread.eval.metrics import bootstrap_mean_ci
from coread.eval.scores import DATA, ENSEMBLE, read_scores
from coread.provenance import write_text

MEMBER_MEAN = "member mean"
MISSING = "n/a"
NEURON = ["dataset", "session", "neuron"]
SUMMARY_KEYS = ["experiment", "dataset", "stimulus", "tier", "predictor", "metric"]
DIFFERENCE_KEYS = ["experiment", "baseline", "dataset", "stimulus", "tier", "cell_type", "metric"]
MODEL_METRICS = {
    "single_trial_correlation": "single-trial correlation",
    "correlation_to_average": "correlation to average",
    "fraction_of_ceiling": "fraction of ceiling",
    "feve": "FEVE",
}
DATA_METRICS = {"noise_ceiling": "noise ceiling", "explainable_variance": "explainable variance"}
SAME_AS_FRACTION_OF_CEILING = "normalized_correlation"  # in the scores under its name in the literature, too
VALIDATION_NOTE = (
    "Validation scores come from the bins that chose the best epoch of each member, so that they are optimistic for "
    "the members and their ensemble; test bins chose nothing, and test scores are not."
)
LATEX_SPECIAL = str.maketrans({character: f"\\{character}" for character in "_%&#$"})


def summarize(scores: pd.DataFrame, config: Mapping[str, Any]) -> pd.DataFrame:
    """Return one row per experiment, stimulus, predictor and metric: mean, median and its spread over neurons.

    Predictors are the ensemble, `member mean` (each neuron's mean over members) and `data` (what depends on no model).
    `ci_low` and `ci_high` bound the mean: percentile bootstrap over neurons. `n` neurons are included and have a value;
    `n_excluded` lie below the threshold of explainable variance; `n_undefined` are included but have no value (silent,
    or no signal). The scores hold the fraction of the ceiling a second time as `normalized_correlation`, which is left
    out. `config` is the `evaluation` node.
    """
    per_neuron = _with_member_mean(_each_number_once(scores))
    rows = []
    for key, group in per_neuron.groupby(SUMMARY_KEYS, sort=False):
        values = group["value"].to_numpy(float)
        included = group["included"].to_numpy(bool)
        rows.append((*key, *_describe(values, included, config)))
    columns = [*SUMMARY_KEYS, "mean", "median", "ci_low", "ci_high", "n", "n_excluded", "n_undefined"]
    return pd.DataFrame(rows, columns=columns)


def paired_differences(scores: pd.DataFrame, config: Mapping[str, Any]) -> pd.DataFrame:
    """Return experiment minus baseline on the same neurons for every two experiments that share a dataset.

    The experiment named first is compared with each one named after it, ensemble against ensemble, for all neurons and
    for every cell type. A neuron counts where both values exist and both experiments include it. `share_better` is the
    share of neurons whose score is higher in the experiment. Bootstrap over neurons as in `summarize`.
    """
    once = _each_number_once(scores)
    ensemble = once[(once["predictor"] == ENSEMBLE) & once["included"]].assign(
        cell_type=lambda table: table["cell_type"].fillna("").astype(str)
    )
    key = [*NEURON, "cell_type", "stimulus", "tier", "metric"]
    rows = []
    for experiment, baseline in combinations(dict.fromkeys(ensemble["experiment"]), 2):
        first = ensemble[ensemble["experiment"] == experiment]
        both = first.merge(ensemble[ensemble["experiment"] == baseline], on=key, suffixes=("", "_baseline"))
        both["difference"] = both["value"] - both["value_baseline"]
        groups = pd.concat([both.assign(cell_type="all"), both[both["cell_type"] != ""]])
        grouped = groups.dropna(subset="difference").groupby(
            ["dataset", "stimulus", "tier", "cell_type", "metric"], sort=False
        )
        for (dataset, stimulus, tier, cell_type, metric), group in grouped:
            difference = group["difference"].to_numpy(float)
            low, high = _interval(difference, config)
            described = (difference.mean(), np.median(difference), low, high, len(group), (difference > 0).mean())
            rows.append((experiment, baseline, dataset, stimulus, tier, cell_type, metric, *described))
    columns = [*DIFFERENCE_KEYS, "mean_difference", "median_difference", "ci_low", "ci_high", "n", "share_better"]
    return pd.DataFrame(rows, columns=columns)


def _each_number_once(scores: pd.DataFrame) -> pd.DataFrame:
    return scores[scores["metric"] != SAME_AS_FRACTION_OF_CEILING]


def _interval(values: Float[np.ndarray, "neuron"], config: Mapping[str, Any]) -> tuple[float, float]:
    settings = config["bootstrap"]
    if not settings["n"]:
        return float("nan"), float("nan")
    rng = np.random.default_rng(int(settings["seed"]))
    return bootstrap_mean_ci(values, int(settings["n"]), rng, float(settings["level"]))


def _with_member_mean(scores: pd.DataFrame) -> pd.DataFrame:
    kept = scores["predictor"].isin([ENSEMBLE, DATA])
    key = ["experiment", *NEURON, "stimulus", "tier", "metric"]
    members = (
        scores[~kept]
        .groupby(key, sort=False, as_index=False)
        .agg(value=("value", "mean"), included=("included", "first"))
    )
    return pd.concat([scores[kept], members.assign(predictor=MEMBER_MEAN)], ignore_index=True)


def _describe(
    values: Float[np.ndarray, "neuron"], included: np.ndarray, config: Mapping[str, Any]
) -> tuple[float, float, float, float, int, int, int]:
    defined = values[included & np.isfinite(values)]
    n_excluded, n_undefined = int((~included).sum()), int((included & ~np.isfinite(values)).sum())
    if not len(defined):
        return (float("nan"),) * 4 + (0, n_excluded, n_undefined)
    low, high = _interval(defined, config)
    return (float(defined.mean()), float(np.median(defined)), low, high, len(defined), n_excluded, n_undefined)


# --------------------------------------------------------------------------------------------------------------- layout


def rows_of(frame: pd.DataFrame) -> Iterator[Any]:
    """Return the rows as named tuples, whose fields no type checker knows."""
    return iter(frame.itertuples())


def paper_table(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the summary as people print it: a row per experiment, stimulus and predictor, `mean ± half interval`.

    `n` counts the included neurons; a mean over fewer of them, because the others have no value, says its own n.
    """
    keys = ["experiment", "stimulus", "predictor"]
    found = {(row.experiment, row.stimulus, row.predictor, row.metric): row for row in rows_of(summary)}
    models = summary[(summary["predictor"] != DATA) & (summary["metric"] == "single_trial_correlation")]
    rows = []
    for place in models[keys].itertuples(index=False, name=None):
        counts = found[*place, "single_trial_correlation"]
        n = counts.n + counts.n_undefined
        row = dict(zip(keys, place, strict=True))
        row |= {title: _cell(found.get((*place, metric)), n) for metric, title in MODEL_METRICS.items()}
        row |= {title: _cell(found.get((*place[:2], DATA, metric)), n) for metric, title in DATA_METRICS.items()}
        rows.append(row | {"n": str(n), "excluded": str(counts.n_excluded)})
    return pd.DataFrame(rows)


def difference_table(differences: pd.DataFrame) -> pd.DataFrame:
    """Return the paired differences as people print them."""
    shown = differences[differences["metric"].isin(MODEL_METRICS)]
    return pd.DataFrame(
        {
            "experiment": shown["experiment"],
            "baseline": shown["baseline"],
            "stimulus": shown["stimulus"],
            "cell type": shown["cell_type"],
            "metric": shown["metric"].map(MODEL_METRICS),
            "difference": [_signed(row) for row in shown.itertuples()],
            "share better": [f"{100 * value:.0f} %" for value in shown["share_better"]],
            "n": shown["n"].astype(str),
        }
    )


def _cell(row: Any, n: int) -> str:
    """Print a mean; its own number of neurons where that is not the n of its line."""
    if row is None or not np.isfinite(row.mean):
        return MISSING
    interval = f" ± {(row.ci_high - row.ci_low) / 2:.3f}" if np.isfinite(row.ci_low) else ""
    return f"{row.mean:.3f}{interval}" + (f" (n = {row.n})" if row.n != n else "")


def _signed(row: Any) -> str:
    return f"{row.mean_difference:+.3f} [{row.ci_low:+.3f}, {row.ci_high:+.3f}]"


def to_markdown(table: pd.DataFrame, caption: str) -> str:
    """Return a table in pipe syntax with its caption below."""
    header = "| " + " | ".join(table.columns) + " |"
    rule = "|" + "|".join(" --- " for _ in table.columns) + "|"
    rows = ["| " + " | ".join(str(value).replace("|", "\\|") for value in row) + " |" for row in table.to_numpy()]
    return "\n".join([header, rule, *rows, "", caption, ""])


def to_latex(table: pd.DataFrame, caption: str, label: str) -> str:
    """Return a booktabs table; it needs the package booktabs and nothing else."""
    n_text = sum(not _is_number(table[column]) for column in table.columns)
    columns = "l" * n_text + "r" * (len(table.columns) - n_text)
    lines = [r"\begin{table}", r"\centering", f"\\caption{{{_latex(caption)}}}", f"\\label{{{label}}}"]
    lines += [f"\\begin{{tabular}}{{{columns}}}", r"\toprule"]
    lines += [" & ".join(_latex(column) for column in table.columns) + r" \\", r"\midrule"]
    lines += [" & ".join(_latex(str(value)) for value in row) + r" \\" for row in table.to_numpy()]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _is_number(column: pd.Series) -> bool:
    return bool(column.astype(str).str.match(r"^[+\-]?\d|^n/a$").all()) if len(column) else False


def _latex(text: str) -> str:
    return text.translate(LATEX_SPECIAL).replace("±", r"$\pm$").replace(MISSING, "--")


def table_caption(config: Mapping[str, Any]) -> str:
    """Say what the cells of the paper table are."""
    return (
        f"Mean over neurons ± half the width of its {100 * config['bootstrap']['level']:.0f} % interval "
        f"({config['bootstrap']['n']} bootstrap resamples of neurons). n neurons have an explainable variance of at "
        f"least {config['explainable_variance_threshold']} on the test stimulus (for validation: on at least one); the "
        "excluded ones lie below. Where a cell names an n of its own, its mean is over fewer neurons, because the "
        f"others have no value (silent, or no signal above the noise); {MISSING}: no neuron has one. "
        f"Predictor '{MEMBER_MEAN}' averages the scores of single members, 'ensemble' scores their mean prediction. "
        + VALIDATION_NOTE
    )


def difference_caption(config: Mapping[str, Any]) -> str:
    """Say what the cells of the table of differences are."""
    return (
        f"Experiment minus baseline on the same neurons, ensemble against ensemble: mean difference with its "
        f"{100 * config['bootstrap']['level']:.0f} % interval ({config['bootstrap']['n']} bootstrap resamples of "
        "neurons). Share better: neurons that score higher in the experiment; n: neurons with a value in both. "
        + VALIDATION_NOTE
    )


def write_tables(scores_paths: Sequence[Path], out_dir: Path, config: Mapping[str, Any]) -> None:
    """Write scores.{csv,md,tex} (summaries) and differences.{csv,md,tex} (paired), experiments in the given order."""
    scores = pd.concat([read_scores(path) for path in scores_paths], ignore_index=True)
    summary, differences = summarize(scores, config), paired_differences(scores, config)
    for name, full, printed, caption in (
        ("scores", summary, paper_table(summary), table_caption(config)),
        ("differences", differences, difference_table(differences), difference_caption(config)),
    ):
        write_text(out_dir / f"{name}.csv", full.to_csv(index=False, lineterminator="\n"))
        write_text(out_dir / f"{name}.md", to_markdown(printed, caption))
        write_text(out_dir / f"{name}.tex", to_latex(printed, caption, f"tab:{name}"))
