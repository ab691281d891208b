"""Figures of the agreement between the members of an ensemble."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from coread.insilico.experiment import ExperimentResult
from coread.plotting.groups import joined_table
from coread.plotting.style import COLORS, FULL_WIDTH_IN, GREY, Drawing, paper_style, strip

ROW_IN = 0.15
MAX_ROWS = 60


def draw_consistency(table: pd.DataFrame, min_icc: float, consistent_within: float) -> Drawing:
    """Draw the intraclass correlation of every quantity of every experiment, and the share of consistent neurons."""
    known = table[np.isfinite(table["icc"].to_numpy(float))].sort_values(["experiment", "icc"], kind="stable")
    if known.empty:
        return _nothing_to_compare(len(table))
    shown = known.tail(MAX_ROWS) if len(known) > MAX_ROWS else known
    place = np.arange(len(shown))
    experiments = list(dict.fromkeys(shown["experiment"]))
    color = np.array([COLORS[experiments.index(name) % len(COLORS)] for name in shown["experiment"]])
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH_IN, 0.7 + ROW_IN * len(shown)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, column in ((left, "icc"), (right, "consistent_share")):
            values = shown[column].to_numpy(float)
            face = np.where(shown["uncertain"].to_numpy(bool), "none", color)
            axes.hlines(place, 0, values, color=color, linewidth=0.5)
            axes.scatter(values, place, s=12, facecolors=face, edgecolors=color, linewidths=0.8, zorder=2)
            axes.axvline(0, color=GREY, linewidth=0.4)
        left.axvline(min_icc, color=GREY, linewidth=0.6, linestyle="--")
        left.set_yticks(place, [_label(row) for row in shown.itertuples()], fontsize=5.5)
        left.set(xlabel="intraclass correlation of members", ylim=(-0.7, len(shown) - 0.3))
        left.set_xlim(min(0.0, float(shown["icc"].min())) - 0.03, 1.03)
        right.set(xlabel="share of consistent neurons", xlim=(-0.03, 1.03))
        right.tick_params(labelleft=False)
    n_members = int(shown["n_members"].max())
    one_way = (shown["icc_form"] == "ICC(1,1)").any()
    caption = (
        f"Agreement of {n_members} members of an ensemble (seeds, folds) about {len(shown)} quantities of model neurons"
        + (f" (of {len(known)}; those with the lowest agreement left out)" if len(shown) < len(known) else "")
        + f". Left: intraclass correlation ICC(2,1){' or, marked *, ICC(1,1)' if one_way else ''} over neurons: 1 if "
        f"all members find the same differences between neurons, 0 if none. Open: uncertain, below {min_icc:g} "
        f"(dashed). Right: share of neurons whose standard deviation over members is at most {consistent_within:g} of "
        "that over neurons. Colours: experiments."
    )
    return Drawing(figure, caption)


def _nothing_to_compare(n_quantities: int) -> Drawing:
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH_IN / 2, 0.6))
        figure.text(0.5, 0.5, "no intraclass correlation is known", ha="center", va="center")
    return Drawing(figure, f"None of {n_quantities} quantities varies over neurons and has a spread over members.")


def _label(row: Any) -> str:
    mark = " *" if row.icc_form == "ICC(1,1)" else ""
    return f"{row.experiment}: {row.quantity} (n = {row.n_neurons}){mark}".replace("_", " ")


def draw_member_correlations(results: Mapping[str, ExperimentResult], stimuli: Sequence[str]) -> Drawing:
    """Draw the correlation between two members' responses of every neuron, by stimulus; open where it is low."""
    table = joined_table(results)
    certain = ~table["responses_uncertain"].to_numpy(bool)
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH_IN / 2, 2.2), layout="constrained")
        axes = figure.subplots()
        for position, name in enumerate(stimuli):
            values = table[f"{name}_correlation_members"].to_numpy(float)
            strip(axes, position, values, COLORS[position % len(COLORS)], certain)
        axes.set_xticks(range(len(stimuli)), [name.replace("_", " ") for name in stimuli])
        axes.set(ylabel="correlation between members", xlim=(-0.6, len(stimuli) - 0.4))
    medians = ", ".join(f"{name} {table[f'{name}_correlation_members'].median():.2f}" for name in stimuli)
    caption = (
        f"Mean correlation between two members' responses of {len(table)} model neurons to the same stimuli (medians: "
        f"{medians}); one dot per neuron, lines: median and quartiles of certain ones; {(~certain).sum()} open dots: "
        "neurons whose responses differ between members."
    )
    return Drawing(figure, caption)
