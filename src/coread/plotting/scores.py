"""Figures of scores and of training."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from coread.eval.scores import DATA, ENSEMBLE
from coread.plotting.style import (
    CEILING_COLOR,
    COLORS,
    ENSEMBLE_COLOR,
    FULL_WIDTH_IN,
    GREY,
    LIGHT_GREY,
    Drawing,
    paper_style,
    score_range,
    strip,
)

MAX_MEMBERS_SHOWN = 6
MAX_BARS = 500  # neurons; more bars hide each other
MAX_SHARE = 2.0  # of the ceiling, at the end of its axis


def draw_score_distribution(scores: pd.DataFrame) -> Drawing | None:
    """Draw one row per test stimulus: scores of all predictors, score against ceiling, share of the ceiling.

    None if the experiment has no test stimulus.
    """
    tested = scores[scores["tier"] != "validation"]
    stimuli = list(dict.fromkeys(tested["stimulus"]))
    if not stimuli:
        return None
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH_IN, 2.35 * len(stimuli)), layout="constrained")
        grid = figure.subplots(len(stimuli), 3, squeeze=False, width_ratios=[1.2, 1, 1.3])
        counts, beyond = [], 0
        for row, stimulus in zip(grid, stimuli, strict=True):
            wide = _per_neuron(tested[tested["stimulus"] == stimulus])
            included = wide["included"].to_numpy(bool)
            _draw_predictors(row[0], wide, included, stimulus)
            _draw_against_ceiling(row[1], wide, included)
            beyond += _draw_share_of_ceiling(row[2], wide, wide["share_included"].to_numpy(bool))
            if row[0] is not grid[-1, 0]:
                row[2].tick_params(labelbottom=False)
            counts.append(f"{stimulus}: {_counts(wide, included)}")
    members = [name for name in dict.fromkeys(tested["predictor"]) if name not in (ENSEMBLE, DATA)]
    above = f" ({beyond} neurons, whose ceiling is near 0, lie above the axis)" if beyond else ""
    caption = (
        f"Test scores ({'; '.join(counts)}). Left: correlation of the prediction with the average over repeats for "
        f"every member ({len(members)}), the ensemble and the noise ceiling (CCmax, Schoppe et al. 2016); one dot per "
        f"neuron, lines: median and quartiles. Middle: ensemble against each neuron's ceiling{_bars(tested)}. Right: "
        f"share of the ceiling that the ensemble reaches{above}. Open dots: neurons excluded for too little "
        "explainable variance; they count for no median."
    )
    return Drawing(figure, caption)


def _counts(wide: pd.DataFrame, included: np.ndarray) -> str:
    """Say how many neurons are drawn, and for which predictor some of the included ones have no value."""
    shown = wide[included].select_dtypes("number").drop(columns=["ci_low", "ci_high"])
    titles = {"ceiling": "noise ceiling", "share": "fraction of ceiling"}
    undefined = [
        f", {titles.get(str(name), name)} undefined for {n} of the n" for name, n in shown.isna().sum().items() if n
    ]
    return f"n = {included.sum()} neurons, {(~included).sum()} excluded{''.join(undefined)}"


def _per_neuron(scores: pd.DataFrame) -> pd.DataFrame:
    """Return one row per neuron with a column per (metric, predictor) that the figure shows."""
    key = ["session", "neuron"]
    ensemble = scores[(scores["predictor"] == ENSEMBLE) & (scores["metric"] == "correlation_to_average")]
    wide = ensemble.set_index(key)[["cell_type", "included", "value", "ci_low", "ci_high"]]
    wide = wide.rename(columns={"value": ENSEMBLE})
    for predictor in dict.fromkeys(scores["predictor"]):
        if predictor not in (ENSEMBLE, DATA):
            wide[predictor] = _column(scores, predictor, "correlation_to_average")
    wide["ceiling"] = _column(scores, DATA, "noise_ceiling")
    wide["share"] = _column(scores, ENSEMBLE, "fraction_of_ceiling")
    wide["share_included"] = _column(scores, ENSEMBLE, "fraction_of_ceiling", "included")
    return wide


def _column(scores: pd.DataFrame, predictor: str, metric: str, column: str = "value") -> pd.Series:
    chosen = scores[(scores["predictor"] == predictor) & (scores["metric"] == metric)]
    return chosen.set_index(["session", "neuron"])[column]


def _bars(tested: pd.DataFrame) -> str:
    """Say what the bars are, where there are any."""
    n_neurons = len(tested[["session", "neuron"]].drop_duplicates())
    return "" if n_neurons > MAX_BARS else "; bars: 95 % bootstrap interval over repeats"


def _draw_predictors(axes: Axes, wide: pd.DataFrame, included: np.ndarray, stimulus: str) -> None:
    fixed = {ENSEMBLE, "cell_type", "included", "ci_low", "ci_high", "ceiling", "share", "share_included"}
    members = [name for name in wide.columns if name not in fixed]
    names = [*members[:MAX_MEMBERS_SHOWN], ENSEMBLE, "ceiling"]
    colors = [GREY] * (len(names) - 2) + [ENSEMBLE_COLOR, CEILING_COLOR]
    for position, (name, color) in enumerate(zip(names, colors, strict=True)):
        strip(axes, position, wide[name].to_numpy(float), color, included)
    axes.set_xticks(range(len(names)), [name.replace("_", "\n") for name in names])
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylabel("correlation to average")
    axes.set_title(stimulus)
    axes.set_ylim(score_range(wide[names].to_numpy(float)[included]))


def _draw_against_ceiling(axes: Axes, wide: pd.DataFrame, included: np.ndarray) -> None:
    x, y = wide["ceiling"].to_numpy(float), wide[ENSEMBLE].to_numpy(float)
    lengths = np.abs(wide[["ci_low", "ci_high"]].to_numpy(float).T - y)
    shown = included & np.isfinite(lengths).all(axis=0)
    few = len(wide) <= MAX_BARS
    if few:
        bars = lengths[:, shown]
        axes.errorbar(x[shown], y[shown], yerr=bars, fmt="none", ecolor=LIGHT_GREY, elinewidth=0.5, zorder=1)
    look: dict[str, Any] = {"s": 7, "zorder": 2} if few else {"s": 1.5, "zorder": 2, "rasterized": True}
    axes.scatter(x[included], y[included], color=ENSEMBLE_COLOR, alpha=0.7 if few else 0.3, linewidths=0, **look)
    axes.scatter(x[~included], y[~included], facecolors="none", edgecolors=GREY, linewidths=0.5, **look)
    low, high = score_range(np.stack([x, y])[:, included])
    axes.plot([low, high], [low, high], color="black", linewidth=0.6, linestyle=(0, (4, 3)), zorder=0)
    axes.set_xlabel("noise ceiling")
    axes.set_ylabel("ensemble")
    axes.set_aspect("equal", adjustable="box")
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)


def _draw_share_of_ceiling(axes: Axes, wide: pd.DataFrame, included: np.ndarray) -> int:
    """Draw the share of the ceiling; return how many neurons lie above the axis, which ends with the included ones."""
    share = wide["share"].to_numpy(float)
    kind = wide["cell_type"].fillna("").astype(str).to_numpy()
    names = sorted(set(kind)) if (kind != "").any() else [""]
    for position, name in enumerate(names):
        member = kind == name
        strip(axes, position, share[member], COLORS[position % len(COLORS)], included[member])
    axes.axhline(1, color="black", linewidth=0.6, linestyle=(0, (4, 3)), zorder=0)
    labels = [name.replace("_", " ") or "all neurons" for name in names]
    axes.set_xticks(
        range(len(names)), labels, rotation=35 if len(names) > 3 else 0, ha="right" if len(names) > 3 else "center"
    )
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylabel("fraction of ceiling")
    low, high = score_range(share[included])
    axes.set_ylim(low, min(high, MAX_SHARE))
    return int((share > min(high, MAX_SHARE)).sum())


def draw_learning_curves(histories: Mapping[str, pd.DataFrame]) -> Drawing | None:
    """Draw losses, validation correlation and learning rate of every member; None without any history."""
    histories = {name: history for name, history in histories.items() if len(history)}
    if not histories:
        return None
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH_IN, 2.1), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        for index, (name, history) in enumerate(histories.items()):
            color = COLORS[index % len(COLORS)]
            epoch = history["epoch"].to_numpy() + 1  # epochs are counted from 0 in files, from 1 for people
            left.plot(epoch, history["train_loss"], color=color, linewidth=0.8, linestyle=(0, (3, 2)))
            left.plot(epoch, history["val_loss"], color=color, label=name)
            correlation = history["val_correlation"].to_numpy()
            best = int(np.nanargmax(correlation))
            middle.plot(epoch, correlation, color=color)
            middle.plot(epoch[best], correlation[best], "o", color=color, markersize=3)
            right.plot(epoch, history["learning_rate"], color=color)
        left.set(ylabel="loss", title="training (dashed), validation (solid)")
        middle.set(ylabel="validation correlation", title="best epoch marked")
        right.set(ylabel="learning rate")
        right.set_ylim(bottom=0)
        for axes in (left, middle, right):
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(histories) <= 8:
            left.legend()
    best_values = [history["val_correlation"].max() for history in histories.values()]
    caption = (
        f"Learning curves of every member ({len(histories)}; fold and seed). Left: mean loss per bin and neuron on "
        "training (dashed) and validation bins (solid). Middle: mean over neurons of the correlation over all "
        f"validation bins; dots mark the best epochs ({min(best_values):.3f} to {max(best_values):.3f}), whose weights "
        "are kept; these bins chose them, so that the values are optimistic. Right: learning rate at the end of each "
        "epoch."
    )
    return Drawing(figure, caption)
