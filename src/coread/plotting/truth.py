"""The figure of what analyses find in simulated cells against what is true of them."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from coread.plotting.style import COLORS, FULL_WIDTH_IN, GREY, LIGHT_GREY, Drawing, paper_style

ROW_IN, HEADER_IN, LARGEST = 0.23, 0.75, 3.0  # height of a quantity; errors beyond so many tolerances are drawn there


def draw_truth_comparison(table: pd.DataFrame) -> Drawing:
    """Draw every cell's error in units of the tolerance, a row per quantity; misses are open and named.

    Raises ValueError for a table without rows.
    """
    if table.empty:
        raise ValueError("there is nothing to draw: no quantity was compared with a truth")
    quantities = list(dict.fromkeys(table["quantity"]))
    types = sorted(set(table["cell_type"].astype(str)))
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH_IN, HEADER_IN + ROW_IN * len(quantities)), layout="constrained")
        axes: Axes = figure.subplots()
        axes.axvspan(0, 1, color=LIGHT_GREY, alpha=0.35, linewidth=0)
        axes.axvline(1, color=GREY, linewidth=0.6)
        for row, quantity in enumerate(quantities):
            _draw_row(axes, len(quantities) - 1 - row, table[table["quantity"] == quantity], types)
        axes.set_yticks(range(len(quantities)), [_label(table, name) for name in reversed(quantities)])
        axes.set(xlim=(-0.05, LARGEST + 0.15), ylim=(-0.6, len(quantities) - 0.4), xlabel="error / tolerance")
        axes.set_xticks([0, 1, 2, LARGEST], ["0", "1", "2", f"{LARGEST:g} or more"])
        for index, name in enumerate(types):
            color = COLORS[index % len(COLORS)]
            axes.scatter([], [], s=9, color=color, label=name.replace("_", " "), marker=_marker(index))
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=5)
    missed = table[~table["passed"].astype(bool)]
    n_cells = len(table[["session", "neuron"]].drop_duplicates())
    caption = (
        f"What the analyses find in {n_cells} simulated cells against the truth of their filters: "
        f"{len(table) - len(missed)} of {len(table)} comparisons are within their tolerance (grey area). One symbol "
        "per cell, open with the cell's name where the error is larger or nothing was found."
    )
    return Drawing(figure, caption)


def _draw_row(axes: Axes, height: int, rows: pd.DataFrame, types: list[str]) -> None:
    tolerance = rows["tolerance"].to_numpy(float)
    error = rows["error"].to_numpy(float)
    relative = np.divide(error, tolerance, out=np.where(error > 0, np.inf, error), where=tolerance > 0)
    shown = np.clip(np.nan_to_num(relative, nan=np.inf), 0, LARGEST)
    passed = rows["passed"].to_numpy(bool)
    offset = 0.5 * ((np.arange(len(rows)) * 0.6180339887) % 1 - 0.5)
    kind = rows["cell_type"].astype(str).to_numpy()
    for index, name in enumerate(types):
        color = COLORS[index % len(COLORS)]
        for filled in (True, False):
            chosen = (kind == name) & (passed == filled)
            axes.scatter(
                shown[chosen],
                height + offset[chosen],
                s=9,
                marker=_marker(index),
                facecolors=color if filled else "none",
                edgecolors=color,
                linewidths=0.6,
                zorder=3,
            )
    names = rows["unit_id"].astype(str).to_numpy()[~passed]
    if len(names):
        text = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        right = axes.get_yaxis_transform()
        axes.text(1.01, height, text.replace("_", " "), fontsize=5.5, ha="left", va="center", transform=right)


def _label(table: pd.DataFrame, quantity: str) -> str:
    first = table[table["quantity"] == quantity].iloc[0]
    unit = f" {first['unit']}" if first["unit"] else ""
    return f"{quantity} (± {first['tolerance']:g}{unit})"


def _marker(index: int) -> str:
    return "osD^v"[index // len(COLORS) % 5]
