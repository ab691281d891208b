"""Figures of centre-surround interaction maps."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from coread.insilico.experiment import ExperimentResult
from coread.plotting.groups import evenly_chosen, group_names, joined_table
from coread.plotting.style import COLORS, FULL_WIDTH_IN, GREY, Drawing, paper_style, strip

N_COLUMNS = 6
MARKERS = "os^D"  # of cell types whose colours repeat
PANEL_IN = FULL_WIDTH_IN / N_COLUMNS


def draw_interaction_maps(results: Mapping[str, ExperimentResult], n_drawn: int) -> Drawing:
    """Draw the maps of neurons evenly chosen along session and cell type."""
    table = joined_table(results)
    rows = evenly_chosen(table, n_drawn)
    n_columns = min(N_COLUMNS, len(rows))
    n_rows = -(-len(rows) // n_columns)
    with paper_style():
        figure = Figure(figsize=(n_columns * PANEL_IN, n_rows * (PANEL_IN + 0.1) + 0.3), layout="constrained")
        panels = figure.subplots(n_rows, n_columns, squeeze=False)
        for axes in panels.ravel()[len(rows) :]:
            axes.axis("off")
        for number, (axes, row) in enumerate(zip(panels.ravel(), rows, strict=False)):
            _draw_map(axes, results[table["session"][row]], table.loc[row])
            corner = number == n_columns * (n_rows - 1)
            axes.set(xlabel="surround" if corner else "", ylabel="centre" if corner else "")
            if not corner:
                axes.tick_params(labelleft=False, labelbottom=False)
    first = next(iter(results.values()))
    caption = (
        f"Responses ({first.arrays['map'].unit}) of {len(rows)} evenly chosen of {len(table)} model neurons to a spot "
        "and an annulus at their receptive fields, by the contrast of the spot (up: bright) and of the annulus (right: "
        "bright); yellow high, each neuron's own range; white lines join equal responses, straight and parallel where "
        "contrasts add up before the output nonlinearity. i: share of variance that is interaction, after and before "
        "the output nonlinearity. A question mark: the map differs between members."
    )
    return Drawing(figure, caption)


def _draw_map(axes: Axes, result: ExperimentResult, row: pd.Series) -> None:
    index = int(np.flatnonzero(result.table["neuron"] == row["neuron"])[0])
    shown = result.arrays["map"].data[index]
    center, surround = (result.axes[f"{name}_contrast"].data for name in ("center", "surround"))
    axes.pcolormesh(surround, center, shown, cmap="viridis", shading="nearest", rasterized=True)
    if np.ptp(shown) > 1e-6 * np.abs(shown).max():
        axes.contour(surround, center, shown, levels=5, colors="white", linewidths=0.5)
    ends = [float(center[0]), 0.0, float(center[-1])]
    labels = [f"{end:g}" for end in ends]
    axes.set(aspect="equal", xticks=ends, yticks=ends, xticklabels=labels, yticklabels=labels)
    axes.tick_params(labelsize=5.5)
    mark = "  ?" if bool(row["interaction_uncertain"]) else ""
    shares = f"i {row['interaction_index']:.2f}, {row['interaction_before_output']:.2f}"
    axes.set_title(f"{row.get('unit_id', row['neuron'])}{mark}\n{shares}".replace("_", " "), fontsize=5.5, pad=2)


def draw_interaction_indices(results: Mapping[str, ExperimentResult]) -> Drawing:
    """Draw interaction after and before the output nonlinearity, and the effect of the surround by cell type."""
    table = joined_table(results)
    names, kind = group_names(table)
    certain = ~table["interaction_uncertain"].to_numpy(bool)
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH_IN, 2.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for position, name in enumerate(names):
            own, color = kind == name, COLORS[position % len(COLORS)]
            for chosen, face in ((own & certain, color), (own & ~certain, "none")):
                of_chosen = table[chosen]
                left.scatter(
                    of_chosen["interaction_index"],
                    of_chosen["interaction_before_output"],
                    s=9,
                    marker=MARKERS[position // len(COLORS) % len(MARKERS)],
                    facecolors=face,
                    edgecolors=color,
                    linewidths=0.6,
                )
            strip(right, position, table["surround_effect"].to_numpy(float)[own], color, certain[own])
        left.axline((0, 0), slope=1, color=GREY, linewidth=0.4, zorder=0)
        left.set(xlabel="interaction in responses", ylabel="interaction before output", xlim=(-0.01, None))
        left.set_ylim(-0.01, None)
        right.axhline(0, color=GREY, linewidth=0.4, zorder=0)
        right.set_xticks(range(len(names)), [name.replace("_", " ") for name in names], rotation=30, ha="right")
        right.set(ylabel="effect of the surround")
    caption = (
        f"Interaction of centre and surround in {len(table)} model neurons. Left: share of the variance of responses "
        "to pairs of contrasts that no sum explains, of responses or before one rising output nonlinearity (0 for a "
        "linear-nonlinear neuron); colours: cell types as on the right, squares from the eighth on. Right: relative "
        "change of the response to the best contrast of the centre when the surround shows the same (-1: silenced); "
        f"one dot per neuron, lines: median and quartiles. {(~certain).sum()} open dots: maps that differ between "
        "members."
    )
    return Drawing(figure, caption)
