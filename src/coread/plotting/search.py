"""Figures of a hyper-parameter search."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from coread.plotting.style import COLORS, FULL_WIDTH_IN, GREY, HALF_WIDTH_IN, Drawing, paper_style


def draw_history(trials: pd.DataFrame) -> Drawing:
    """Draw the value of every trial and the best one so far; `trials` is that of `coread.search.study.trials_table`."""
    complete = trials[(trials["state"] == "complete") & trials["value"].notna()].sort_values("number")
    pruned = trials[(trials["state"] == "pruned") & trials["value"].notna()]
    failed = trials[trials["state"] == "fail"]
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH_IN, 2.4), layout="constrained")
        axes = figure.subplots()
        axes.scatter(pruned["number"], pruned["value"], s=16, marker="x", color=GREY, linewidths=0.8, label="pruned")
        axes.scatter(complete["number"], complete["value"], s=14, color=COLORS[0], linewidths=0, label="complete")
        if len(complete):
            best = np.maximum.accumulate(complete["value"].to_numpy(float))
            axes.step(
                complete["number"], best, where="post", color=COLORS[1], linewidth=1.0, label="best so far", zorder=0
            )
        for number in failed["number"]:
            axes.annotate(
                "failed",
                (number, 0),
                xycoords=("data", "axes fraction"),
                rotation=90,
                ha="center",
                va="bottom",
                fontsize=6.5,
                color=GREY,
            )
        axes.set(xlabel="trial", ylabel="validation correlation")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="lower right")
    counts = f"{len(complete)} complete, {len(pruned)} pruned, {len(failed)} failed"
    caption = (
        f"Trials of the search in the order they were drawn ({counts}). Dots: best validation correlation of complete "
        "trials, mean over folds; crosses: last epoch of trials that were ended early; line: best complete one so far. "
        "The validation bins choose the best trial, so its value is optimistic."
    )
    return Drawing(figure, caption)


def draw_importance(importances: Mapping[str, float]) -> Drawing:
    """Draw how much each varied setting matters (shares that sum to 1); says so if too few trials have ended."""
    ordered = sorted(importances.items(), key=lambda entry: entry[1])
    with paper_style():
        figure = Figure(figsize=(HALF_WIDTH_IN + 1.0, 0.7 + 0.26 * max(3, len(ordered))), layout="constrained")
        axes = figure.subplots()
        if ordered:
            names, shares = [name for name, _ in ordered], [share for _, share in ordered]
            bars = axes.barh(names, shares, color=COLORS[0], height=0.6)
            axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=6.5)
            axes.set(xlabel="importance (share)", xlim=(0, 1.08))
        else:
            axes.text(0.5, 0.5, "too few complete trials", ha="center", va="center", transform=axes.transAxes)
            axes.set_axis_off()
    caption = (
        "Importance of the varied settings: how much each decides whether a complete trial is among the better ones "
        "(PED-ANOVA, Watanabe et al. 2023, arXiv:2304.10255), as shares that sum to 1. "
        "Few trials make it unreliable; settings that the sampler hardly varied count little."
    )
    return Drawing(figure, caption)
