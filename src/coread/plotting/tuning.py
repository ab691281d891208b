"""Galleries of tuning: polar plots, curves with fits, responses over time; uncertain neurons are open and grey."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from coread.insilico.experiment import ExperimentResult
from coread.plotting.style import COLORS, FULL_WIDTH_IN, GREY, LIGHT_GREY, Drawing, paper_style

N_COLUMNS, MAX_NEURONS = 6, 24
N_TRACE_COLUMNS, MAX_TRACES = 2, 16
TITLE_PT = TICK_PT = 5.5
TITLE_LETTERS = 20
LONG_TRACE = 300  # bins: more are drawn with a thinner line
SHORTEST_ARROW = 0.05  # of a vector sum: a shorter one has no direction to speak of
UNCERTAIN = "Grey with open markers: uncertain, because members of the ensemble disagree."


class Chosen(NamedTuple):
    """A neuron that is drawn: its session, and its row in the session's result."""

    session: str
    row: int


def choose_neurons(results: Mapping[str, ExperimentResult], most: int) -> list[Chosen]:
    """Choose responding neurons evenly along (session, cell type, neuron); of none that responds, any."""
    tables = [
        result.table.assign(session=session, row=np.arange(len(result.table))) for session, result in results.items()
    ]
    table = pd.concat(tables, ignore_index=True)
    if "responds" in table and table["responds"].any():
        table = table[table["responds"].astype(bool)]
    order = [column for column in ("session", "cell_type", "neuron") if column in table]
    table = table.sort_values(order, kind="stable")
    rows = np.unique(np.linspace(0, len(table) - 1, min(most, len(table))).round().astype(int))
    picked = table.iloc[rows]
    return [Chosen(str(s), int(r)) for s, r in zip(picked["session"], picked["row"], strict=True)]


def draw_polar_gallery(results: Mapping[str, ExperimentResult], name: str, axis: str, index: str) -> Drawing:
    """Draw responses against direction (degrees), with the fitted curve and the vector sum of at most 24 neurons.

    `name` is an array (neuron, `axis`), beside which `<name>_fit` and `<name>_members` are drawn where there are such;
    `index` is the column of the table that gives the length of the vector. Directions within 180 degrees are drawn on
    both sides.
    """
    chosen = choose_neurons(results, MAX_NEURONS)
    with paper_style():
        figure, panels = _panels(len(chosen), N_COLUMNS, 1.3, polar=True)
        for axes, one in zip(panels, chosen, strict=True):
            _draw_polar(axes, results[one.session], one.row, name, axis, index)
    unit = next(iter(results.values())).arrays[name].unit
    caption = (
        f"Responses ({unit}; each neuron scaled to its largest) to directions of motion, counter-clockwise from "
        f"rightwards, of {_selection(results, chosen)}. Dots: shown directions, line: fitted double von Mises curve, "
        f"thin lines: members, arrow: vector sum (its length, the index, is above each plot; none below "
        f"{SHORTEST_ARROW:g}). {UNCERTAIN}"
    )
    return Drawing(figure, caption)


def _draw_polar(axes: Axes, result: ExperimentResult, row: int, name: str, axis: str, index: str) -> None:
    angles, values = np.deg2rad(result.axes[axis].data), np.nan_to_num(result.arrays[name].data[row])
    peak = float(values.max()) or 1.0
    half = float(np.ptp(angles)) < np.pi
    color, face = _look(result, row)
    if f"{name}_members" in result.arrays:
        for member in np.maximum(result.arrays[f"{name}_members"].data[row], 0):
            axes.plot(*_round(angles, member / peak, half), color=LIGHT_GREY, linewidth=0.5, zorder=1)
    if f"{name}_fit" in result.arrays:
        fine = np.deg2rad(result.axes[f"{axis}_fine"].data)
        axes.plot(*_round(fine, np.maximum(result.arrays[f"{name}_fit"].data[row], 0) / peak, half), color=color)
    around, length = _round(angles, np.maximum(values, 0) / peak, half)
    axes.plot(around, length, "o", color=color, markerfacecolor=face, markersize=2.4, markeredgewidth=0.6)
    value = float(result.table[index].iloc[row]) if index in result.table else np.nan
    if value >= SHORTEST_ARROW:
        total = np.sum(np.maximum(values, 0) * np.exp(1j * angles))
        look = {"arrowstyle": "->", "color": COLORS[1], "linewidth": 1.0, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (float(np.angle(total)), value), (0, 0), arrowprops=look)
    axes.set_title(_title(result, row, index), fontsize=TITLE_PT, pad=2, loc="center")
    axes.set_ylim(0, 1.15)
    axes.set_yticks([])
    axes.set_xticks(np.deg2rad([0, 90, 180, 270]), ["0°", "90", "180", "270"], fontsize=TICK_PT)
    axes.tick_params(axis="x", pad=-3)
    axes.grid(linewidth=0.3, color=LIGHT_GREY)
    axes.spines["polar"].set_linewidth(0.4)


def _round(angles: np.ndarray, values: np.ndarray, half: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return a closed curve, with a half one repeated on the other side."""
    if half:
        angles, values = np.concatenate([angles, angles + np.pi]), np.concatenate([values, values])
    return np.append(angles, angles[0] + 2 * np.pi), np.append(values, values[0])


def draw_curve_gallery(
    results: Mapping[str, ExperimentResult],
    array_and_axis: tuple[str, str],
    labels: tuple[str, str],
    *,
    logarithmic: bool,
) -> Drawing:
    """Draw tuning curves (dots), their fits and those of members, of at most 24 neurons.

    `array_and_axis` names an array (neuron, axis) and its axis, `labels` those of the horizontal and the vertical axis.
    """
    name, axis = array_and_axis
    chosen = choose_neurons(results, MAX_NEURONS)
    with paper_style():
        figure, panels = _panels(len(chosen), N_COLUMNS, 1.0)
        for axes, one in zip(panels, chosen, strict=True):
            _draw_curve(axes, results[one.session], one.row, name, axis, logarithmic=logarithmic)
        figure.supxlabel(labels[0], fontsize=7)
        figure.supylabel(labels[1], fontsize=7)
    caption = (
        f"Tuning of {_selection(results, chosen)}: {labels[1]} against {labels[0]}. Dots: shown stimuli, line: fit, "
        f"thin lines: members. {UNCERTAIN}"
    )
    return Drawing(figure, caption)


def _draw_curve(axes: Axes, result: ExperimentResult, row: int, name: str, axis: str, *, logarithmic: bool) -> None:
    points, values = result.axes[axis].data, result.arrays[name].data[row]
    color, face = _look(result, row)
    if f"{name}_members" in result.arrays:
        axes.plot(points, result.arrays[f"{name}_members"].data[row].T, color=LIGHT_GREY, linewidth=0.5, zorder=1)
    if f"{name}_fit" in result.arrays:
        axes.plot(result.axes[f"{axis}_fine"].data, result.arrays[f"{name}_fit"].data[row], color=color, zorder=2)
    axes.plot(points, values, "o", color=color, markerfacecolor=face, markersize=2.4, markeredgewidth=0.6, zorder=3)
    axes.set_title(_title(result, row), fontsize=TITLE_PT, pad=2)
    if logarithmic:
        axes.set_xscale("log")
        positive = points[points > 0]
        axes.minorticks_off()
        axes.set_xticks([positive.min(), positive.max()], [f"{positive.min():.2g}", f"{positive.max():.2g}"])
    top = float(np.nanmax(values)) if np.isfinite(values).any() else 1.0
    low = min(0.0, float(np.nanmin(values))) if np.isfinite(values).any() else 0.0
    axes.set_ylim(low - 0.05 * (top - low), top + 0.12 * (top - low) or 1.0)
    axes.set_yticks([0, top], ["0", f"{top:.2g}"])
    axes.tick_params(labelsize=TICK_PT, pad=1.5)


def draw_trace_gallery(
    results: Mapping[str, ExperimentResult],
    array_and_axis: tuple[str, str],
    labels: tuple[str, str],
    *,
    names: Sequence[str] = (),
    stimulus: str | None = None,
) -> Drawing:
    """Draw responses over time of at most 16 neurons.

    The array is (neuron, time), or (neuron, condition, time) with the `names` of at most a few conditions. `stimulus`
    is an array (time,) of the contrast shown, drawn in grey above the responses.
    """
    name, axis = array_and_axis
    chosen = choose_neurons(results, MAX_TRACES)
    with paper_style():
        figure, panels = _panels(len(chosen), N_TRACE_COLUMNS, 0.72, sharex=True)
        for axes, one in zip(panels, chosen, strict=True):
            _draw_trace(axes, results[one.session], one.row, name, axis, names, stimulus)
        if names:
            handles = panels[0].get_legend_handles_labels()
            figure.legend(*handles, loc="outside upper right", ncols=len(names), fontsize=TICK_PT, handlelength=1.2)
        figure.supxlabel(labels[0], fontsize=7)
        figure.supylabel(labels[1], fontsize=7)
    shown = " Grey, above: contrast of the screen." if stimulus else ""
    caption = (
        f"Responses of {_selection(results, chosen)}: {labels[1]} against {labels[0]}.{shown} Grey names: uncertain "
        "neurons, of which members of the ensemble disagree."
    )
    return Drawing(figure, caption)


def _draw_trace(
    axes: Axes, result: ExperimentResult, row: int, name: str, axis: str, names: Sequence[str], stimulus: str | None
) -> None:
    time, values = result.axes[axis].data, np.atleast_2d(result.arrays[name].data[row])
    for number, course in enumerate(values):
        thin = 0.6 if len(time) > LONG_TRACE else 1.0
        axes.plot(
            time, course, color=COLORS[number % len(COLORS)], linewidth=thin, label=names[number] if names else None
        )
    top = float(np.nanmax(values)) if np.isfinite(values).any() else 1.0
    low = min(0.0, float(np.nanmin(values))) if np.isfinite(values).any() else 0.0
    reach = (top - low) or 1.0
    if stimulus is not None:
        course = result.arrays[stimulus].data
        axes.plot(time, top + reach * (0.2 + 0.1 * course), color=GREY, linewidth=0.6)
    axes.set_ylim(low - 0.05 * reach, top + (0.4 if stimulus is not None else 0.1) * reach)
    axes.set_yticks([low, top], [f"{low:.2g}", f"{top:.2g}"])
    title = _title(result, row).replace("\n", "  ")
    axes.set_title(title, fontsize=TITLE_PT, pad=2, color=_look(result, row)[0])
    axes.tick_params(labelsize=TICK_PT, pad=1.5)


def _panels(
    n_panels: int, n_columns: int, height_in: float, *, polar: bool = False, sharex: bool = False
) -> tuple[Figure, list[Axes]]:
    """Return a figure with as many axes as there are neurons, in rows."""
    n_rows = max(1, -(-n_panels // n_columns))
    figure = Figure(figsize=(FULL_WIDTH_IN, 0.35 + n_rows * height_in), layout="constrained")
    subplot_kw = {"projection": "polar"} if polar else {}
    grid = figure.subplots(n_rows, n_columns, squeeze=False, subplot_kw=subplot_kw, sharex=sharex)
    panels: list[Axes] = list(grid.ravel())
    for axes in panels[n_panels:]:
        axes.axis("off")
    return figure, panels[:n_panels]


def _look(result: ExperimentResult, row: int) -> tuple[str, str]:
    """Return line colour and colour of dots of a neuron: grey and open where it is uncertain."""
    if "reliable" not in result.table or bool(result.table["reliable"].iloc[row]):
        return COLORS[0], COLORS[0]
    return GREY, "white"


def _title(result: ExperimentResult, row: int, index: str | None = None) -> str:
    """Return a neuron's name, and below it its cell type and the value of a column, short enough for a panel."""
    neuron = result.table.iloc[row]
    kind = str(neuron.get("cell_type", "")).replace("_", " ")
    value = "" if index is None or index not in result.table or np.isnan(neuron[index]) else f"{neuron[index]:.2f}"
    below = "  ".join(part for part in (kind[:TITLE_LETTERS], value) if part)
    return "\n".join(part for part in (str(neuron.get("unit_id", neuron["neuron"]))[:TITLE_LETTERS], below) if part)


def _selection(results: Mapping[str, ExperimentResult], chosen: Sequence[Chosen]) -> str:
    n_neurons = sum(len(result.table) for result in results.values())
    n_responding = sum(
        int(result.table["responds"].sum()) if "responds" in result.table else len(result.table)
        for result in results.values()
    )
    sessions = "one session" if len(results) == 1 else f"{len(results)} sessions"
    return f"{len(chosen)} evenly chosen of the {n_responding} responding among {n_neurons} model neurons of {sessions}"
