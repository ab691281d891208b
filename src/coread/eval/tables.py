"""Paper tables: scores of neurons summarised per experiment, and paired differences between experiments."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from coread.eval.ensembles import ENSEMBLE
from coread.eval.intervals import ratio_interval
from coread.eval.layout import MISSING, rows_of, to_latex, to_markdown
from coread.eval.metrics import bootstrap_mean_ci
from coread.eval.oracles import fraction_of_oracle
from coread.eval.scores import DATA, VALIDATION_TIER, read_scores
from coread.eval.settings import CORRELATIONS, EvaluationSettings
from coread.provenance import write_text

MEMBER_MEAN = "member mean"
NEURON = ["dataset", "session", "neuron"]
SUMMARY_KEYS = ["experiment", "dataset", "stimulus", "tier", "predictor", "metric"]
SUMMARY_VALUES = ["mean", "median", "ci_low", "ci_high", "n", "n_excluded", "n_undefined", "n_members"]
DIFFERENCE_KEYS = ["experiment", "baseline", "dataset", "stimulus", "tier", "cell_type", "metric"]
MODEL_METRICS = {
    "single_trial_correlation": "single-trial correlation",
    "correlation_to_average": "correlation to average",
    "fraction_of_ceiling": "fraction of ceiling",
    "feve": "FEVE",
    "fraction_of_oracle": "fraction of oracle",
}
DATA_METRICS = {"noise_ceiling": "noise ceiling", "explainable_variance": "explainable variance"}
SAME_AS_FRACTION_OF_CEILING = "normalized_correlation"  # in the scores under its name in the literature, too
VALIDATION_NOTE = (
    "Validation scores come from the bins that chose the best epoch of each member, so that they are optimistic for "
    "the members and their ensemble; test bins chose nothing, and test scores are not."
)
PAIRED_NOTE = "Validation scores are compared only between experiments that were scored on the same validation bins. "


def summarize(scores: pd.DataFrame, config: Mapping[str, Any], *, by_session: bool = False) -> pd.DataFrame:
    """Return one row per experiment, stimulus, predictor and metric: mean, median and its spread over neurons.

    Predictors are the ensemble, `member mean` (each neuron's mean over members) and `data` (what depends on no model).
    The neurons of all sessions are pooled with equal weight; `by_session` gives a row to each. `ci_low` and `ci_high`
    bound the mean: percentile bootstrap over neurons. `n` neurons are included and have a value; `n_excluded` lie below
    the threshold of explainable variance; `n_undefined` are included but have no value (silent, or no signal).
    `n_members` predicted a bin on average. `fraction_of_oracle` is a slope over the neurons (`fraction_of_oracle`), not
    their mean, and has no median. The scores hold the fraction of the ceiling a second time as
    `normalized_correlation`, which is left out. `config` is the `evaluation` node.
    """
    settings = EvaluationSettings.from_config(config)
    keys = [*SUMMARY_KEYS[:2], "session", *SUMMARY_KEYS[2:]] if by_session else SUMMARY_KEYS
    per_neuron = with_member_mean(defined_scores(_each_number_once(scores), settings))
    rows = []
    for key, group in per_neuron.groupby(keys, sort=False):
        values = group["value"].to_numpy(float)
        included = group["included"].to_numpy(bool)
        rows.append((*key, *_describe(values, included, settings), group["n_members"].mean()))
    summary = pd.DataFrame(rows, columns=[*keys, *SUMMARY_VALUES])
    fractions = pd.DataFrame(_oracle_rows(per_neuron, keys, settings), columns=summary.columns)
    return pd.concat([summary, fractions.astype(summary.dtypes)], ignore_index=True)


def defined_scores(scores: pd.DataFrame, settings: EvaluationSettings) -> pd.DataFrame:
    """Return scores in which a correlation without a value counts as 0, if the settings say so."""
    if settings.undefined == "exclude":
        return scores
    zeroed = scores["metric"].isin(CORRELATIONS) & scores["value"].isna()
    return scores.assign(value=scores["value"].mask(zeroed, 0.0))


def _oracle_rows(
    per_neuron: pd.DataFrame, keys: Sequence[str], settings: EvaluationSettings
) -> Iterator[tuple[Any, ...]]:
    """Return the fraction of oracle of every predictor, as rows of the summary."""
    on = ["experiment", *NEURON, "stimulus", "tier"]
    oracle = per_neuron[per_neuron["metric"] == "jackknife_oracle"].set_index(on)["value"].rename("oracle")
    models = per_neuron[(per_neuron["metric"] == "single_trial_correlation") & (per_neuron["tier"] != "validation")]
    both = models.assign(metric="fraction_of_oracle").join(oracle, on=on)
    for key, group in both.groupby(list(keys), sort=False):
        included = group["included"].to_numpy(bool)
        score, best = group["value"].to_numpy(float), group["oracle"].to_numpy(float)
        used = included & np.isfinite(score) & np.isfinite(best)
        slope = fraction_of_oracle(score[used], best[used])
        interval = ratio_interval((score * best)[used], np.square(best)[used], settings)
        counts = (int(used.sum()), int((~included).sum()), int((included & ~used).sum()))
        yield (*key, slope, float("nan"), *interval, *counts, group["n_members"].mean())


def paired_differences(scores: pd.DataFrame, config: Mapping[str, Any]) -> pd.DataFrame:
    """Return experiment minus baseline on the same neurons for every two experiments that share a dataset.

    The experiment named first is compared with each one named after it, ensemble against ensemble, for all neurons and
    for every cell type. A neuron counts where both values exist and both experiments include it. `share_better` is the
    share of neurons whose score is higher in the experiment. Bootstrap over neurons as in `summarize`. Where the
    validation scores are of different bins, they have no row.
    """
    settings = EvaluationSettings.from_config(config)
    once = defined_scores(_each_number_once(scores), settings)
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
            if tier == VALIDATION_TIER and (group["bins_crc32"] != group["bins_crc32_baseline"]).any():
                continue
            difference = group["difference"].to_numpy(float)
            low, high = mean_interval(difference, settings)
            described = (difference.mean(), np.median(difference), low, high, len(group), (difference > 0).mean())
            rows.append((experiment, baseline, dataset, stimulus, tier, cell_type, metric, *described))
    columns = [*DIFFERENCE_KEYS, "mean_difference", "median_difference", "ci_low", "ci_high", "n", "share_better"]
    return pd.DataFrame(rows, columns=columns)


def _each_number_once(scores: pd.DataFrame) -> pd.DataFrame:
    return scores[scores["metric"] != SAME_AS_FRACTION_OF_CEILING]


def mean_interval(values: Float[np.ndarray, "neuron"], settings: EvaluationSettings) -> tuple[float, float]:
    """Return the interval of a mean over neurons, (NaN, NaN) without resampling."""
    if not settings.n_bootstrap:
        return float("nan"), float("nan")
    return bootstrap_mean_ci(values, settings.n_bootstrap, np.random.default_rng(settings.seed), settings.level)


def with_member_mean(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the scores with, in place of every member's, each neuron's mean over members."""
    kept = scores["predictor"].isin([ENSEMBLE, DATA])
    key = ["experiment", *NEURON, "stimulus", "tier", "metric"]
    members = (
        scores[~kept]
        .groupby(key, sort=False, as_index=False)
        .agg(value=("value", "mean"), included=("included", "first"), n_members=("n_members", "mean"))
    )
    return pd.concat([scores[kept], members.assign(predictor=MEMBER_MEAN)], ignore_index=True)


def _describe(
    values: Float[np.ndarray, "neuron"], included: np.ndarray, settings: EvaluationSettings
) -> tuple[float, float, float, float, int, int, int]:
    defined = values[included & np.isfinite(values)]
    n_excluded, n_undefined = int((~included).sum()), int((included & ~np.isfinite(values)).sum())
    if not len(defined):
        return (float("nan"),) * 4 + (0, n_excluded, n_undefined)
    low, high = mean_interval(defined, settings)
    return (float(defined.mean()), float(np.median(defined)), low, high, len(defined), n_excluded, n_undefined)


# --------------------------------------------------------------------------------------------------------------- layout


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
        rows.append(row | {"members": f"{counts.n_members:.3g}", "n": str(n), "excluded": str(counts.n_excluded)})
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


def table_caption(config: Mapping[str, Any]) -> str:
    """Say what the cells of the paper table are."""
    settings = EvaluationSettings.from_config(config)
    return (
        f"Mean over neurons of all sessions ± half the width of its {100 * settings.level:.0f} % interval "
        f"({settings.n_bootstrap} bootstrap resamples of neurons, which tell nothing of other animals or training "
        f"seeds). {_threshold_caption(settings)} Where a cell names an n of its own, its mean is over fewer neurons, "
        f"because the others have no value (silent, or no signal above the noise); {MISSING}: no neuron has one. "
        f"{_policy_caption(settings)}"
        f"Predictor '{MEMBER_MEAN}' averages the scores of single members, 'ensemble' scores their mean prediction; "
        "members: how many predict a bin (validation: those not trained on it, on average). Fraction of oracle: slope "
        "of single-trial correlations on jackknife oracles over neurons, through the origin. " + VALIDATION_NOTE
    )


def _threshold_caption(settings: EvaluationSettings) -> str:
    """Say which neurons are left out of which means."""
    share = settings.explainable_variance_threshold
    if settings.thresholded is None:
        return (
            f"n neurons have an explainable variance of at least {share} on the test stimulus (for validation: on at "
            "least one); the excluded ones lie below."
        )
    names = [MODEL_METRICS[metric] for metric in MODEL_METRICS if metric in settings.thresholded]
    return (
        f"n neurons in all; {', '.join(names) or 'no metric'} only over those with an explainable variance of at least "
        f"{share} on the test stimulus."
    )


def _policy_caption(settings: EvaluationSettings) -> str:
    """Say how the published ways differ from the usual ones, where they are used."""
    zero = "Correlations without a value count as 0. " if settings.undefined == "zero" else ""
    published = "Formulas of SENSORIUM 2022. " if settings.formulas == "sensorium_2022" else ""
    return zero + published


def difference_caption(config: Mapping[str, Any]) -> str:
    """Say what the cells of the table of differences are."""
    settings = EvaluationSettings.from_config(config)
    return (
        f"Experiment minus baseline on the same neurons, ensemble against ensemble: mean difference with its "
        f"{100 * settings.level:.0f} % interval ({settings.n_bootstrap} bootstrap resamples of "
        "neurons). Share better: neurons that score higher in the experiment; n: neurons with a value in both. "
        + PAIRED_NOTE
        + VALIDATION_NOTE
    )


def session_table(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the summaries by session as people print them; `summary` is `summarize(..., by_session=True)`."""
    parts = [
        paper_table(group)
        .assign(session=session)
        .pipe(lambda table: table[["experiment", "session", *table.columns[1:-1]]])
        for session, group in summary.groupby("session", sort=False)
    ]
    order = {name: rank for rank, name in enumerate(dict.fromkeys(summary["experiment"]))}
    return pd.concat(parts).sort_values("experiment", key=lambda names: names.map(order), kind="stable")


def write_tables(
    scores_paths: Sequence[Path], out_dir: Path, config: Mapping[str, Any] | Sequence[Mapping[str, Any]]
) -> None:
    """Write scores.* (summaries), sessions.* (the same by session) and differences.* (paired) as CSV, MD and TEX.

    Experiments are in the given order; `config` is the `evaluation` node of all of them, or one per experiment. Paired
    are experiments that are evaluated alike. One table of scores is in memory at a time.
    """
    configs = [config] * len(scores_paths) if isinstance(config, Mapping) else list(config)
    alike: dict[EvaluationSettings, Mapping[str, Any]] = {}
    summaries, by_session, names = [], [], []
    compared: dict[EvaluationSettings, list[pd.DataFrame]] = {}
    for path, own in zip(scores_paths, configs, strict=True):
        scores, settings = read_scores(path), EvaluationSettings.from_config(own)
        alike.setdefault(settings, own)
        names.append((settings, str(scores["experiment"].iloc[0])))
        summaries.append(summarize(scores, own))
        by_session.append(summarize(scores, own, by_session=True))
        compared.setdefault(settings, []).append(scores[scores["predictor"] == ENSEMBLE])
    summary, sessions = pd.concat(summaries, ignore_index=True), pd.concat(by_session, ignore_index=True)
    pairs = (paired_differences(pd.concat(group), alike[settings]) for settings, group in compared.items())
    differences = pd.concat(pairs, ignore_index=True)
    caption = _captions(table_caption, alike, names)
    for name, full, printed, text in (
        ("scores", summary, paper_table(summary), caption),
        ("sessions", sessions, session_table(sessions), f"By session. {caption}"),
        ("differences", differences, difference_table(differences), _captions(difference_caption, alike, names)),
    ):
        write_printed(out_dir / name, full, [(printed, text, f"tab:{name}")])


def _captions(
    caption: Callable[[Mapping[str, Any]], str],
    alike: Mapping[EvaluationSettings, Mapping[str, Any]],
    names: Sequence[tuple[EvaluationSettings, str]],
) -> str:
    """Return the caption of each group of experiments that are evaluated alike; with names if there are several."""
    if len(alike) == 1:
        return caption(next(iter(alike.values())))
    return " ".join(
        f"{', '.join(name for own, name in names if own == settings)}: {caption(config)}"
        for settings, config in alike.items()
    )


def write_printed(path: Path, full: pd.DataFrame, printed: Sequence[tuple[pd.DataFrame, str, str]]) -> None:
    """Write `path`.csv, and .md and .tex with one table after the other: (table, caption, LaTeX label)."""
    write_text(path.with_name(f"{path.name}.csv"), full.to_csv(index=False, lineterminator="\n"))
    markdown = "\n".join(to_markdown(table, caption) for table, caption, _ in printed)
    write_text(path.with_name(f"{path.name}.md"), markdown)
    latex = "\n".join(to_latex(table, caption, label) for table, caption, label in printed)
    write_text(path.with_name(f"{path.name}.tex"), latex)
