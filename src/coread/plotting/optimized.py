"""Figures of optimal stimuli."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from coread.insilico.experiment import ExperimentResult, Quantity
from coread.plotting.style import COLORS, FULL_WIDTH_IN, GREY, Drawing, paper_style, score_range, strip

N_COLUMNS, MAX_PANELS = 6, 48
AGREEING = 0.8  # mean cosine between starts from which on a cluster's stimulus is drawn as certain
PANEL_IN, TITLE_IN, BOTTOM_IN, COURSE_IN = 0.62, 0.2, 0.28, 0.42  # image, room above and below it, time course
UNITS = {"um": "µm", "deg": "deg", "px": "px"}


class _Panel(NamedTuple):
    """One stimulus: spatial part of its strongest channel, time course of every channel, title."""

    image: Float[np.ndarray, "height width"]
    course: Float[np.ndarray, "channel time"]
    time: Quantity
    pixel: Quantity
    title: str
    is_certain: bool


def draw_optima(results: Mapping[str, ExperimentResult], kind: str) -> Drawing:
    """Draw at most MAX_PANELS stimuli, evenly chosen: spatial part and time course; `kind` is for the caption."""
    chosen = _choose(results)
    figure = _gallery([_panel(results[session], row) for session, row in chosen])
    tables = pd.concat([result.table for result in results.values()], ignore_index=True)
    selection = "all" if len(chosen) == len(tables) else f"{len(chosen)} evenly chosen of"
    sessions = "one session" if len(results) == 1 else f"{len(results)} sessions"
    caption = (
        f"Most {kind} stimuli of {selection} {len(tables)} model neurons of {sessions}: best separable approximation "
        "of the stimulus, spatial part of its strongest channel (red: same sign as the centre; scaled to its peak) and "
        "time course of the contrast (one line per channel, scaled to the largest; the last frame right). Dots: filled "
        f"where the stimulus is certain, open where members or starts disagree ({int(tables['is_certain'].sum())} of "
        f"{len(tables)} are certain). Median share of a stimulus that the approximation keeps: "
        f"{tables['separable_share'].median():.2f}.{_of_scales(results, chosen)}"
    )
    return Drawing(figure, caption)


def draw_responses(results: Mapping[str, ExperimentResult], kind: str, certain_cosine: float) -> Drawing:
    """Draw the response to the stimulus against that to grey, and how much starts and members agree."""
    table = pd.concat([result.table for result in results.values()], ignore_index=True)
    unit = next(iter(results.values())).arrays["member_response"].unit
    certain = table["is_certain"].to_numpy(bool)
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH_IN, 2.4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[1.2, 1])
        _scatter_responses(left, table, certain)
        left.set(xlabel=f"response to grey ({unit})", ylabel=f"response to the stimulus ({unit})")
        names = {"start_cosine": "starts", "member_cosine": "members"}
        for position, name in enumerate(names):
            strip(right, position, table[name].to_numpy(float), COLORS[position], certain)
        right.axhline(certain_cosine, color=GREY, linewidth=0.6, linestyle=":")
        right.set_xticks(range(len(names)), list(names.values()))
        right.set_xlim(-0.6, len(names) - 0.4)
        right.set(ylabel="cosine between optima")
        right.set_ylim(score_range(table[list(names)].to_numpy(float)))
    ratio = table["response_ratio"].replace([np.inf, -np.inf], np.nan)
    caption = (
        f"Responses of {len(table)} model neurons to their most {kind} stimulus against their response to grey, "
        f"averaged over members (line: equal; bars: standard deviation over members; median ratio "
        f"{ratio.median():.3g}). Right: mean cosine between the optima from different starts, and between the optima "
        f"of different members; lines: median and quartiles. Open dots: not certain, below {certain_cosine:g} (dotted)."
    )
    return Drawing(figure, caption)


def draw_cluster_stimuli(results: Mapping[str, ExperimentResult], kind: str, meaning: str) -> Drawing:
    """Draw the stimulus of every cluster of every session, at most MAX_PANELS; the words are for the caption."""
    figure, counted = _gallery_along(results, "cluster")
    return Drawing(figure, f"{kind} of {counted} clusters: {meaning}. {HOW_TO_READ}")


def draw_unit_stimuli(results: Mapping[str, ExperimentResult], layer: str) -> Drawing:
    """Draw the stimulus of every inner unit of every session, at most MAX_PANELS."""
    figure, counted = _gallery_along(results, "inner_unit")
    caption = (
        f"Stimuli that raise the output of a channel of {layer!r} at the central pixel most, {counted} channels "
        f"(member:channel; channels of different members are unrelated). {HOW_TO_READ}"
    )
    return Drawing(figure, caption)


HOW_TO_READ = (
    "Spatial part of the strongest channel (red: same sign as the centre; scaled to its peak) and time course of the "
    "contrast (one line per channel, scaled to the largest; the last frame right). Dots: filled where the starts agree "
    f"(mean cosine of at least {AGREEING:g}), open elsewhere."
)


def _gallery_along(results: Mapping[str, ExperimentResult], axis: str) -> tuple[Figure, str]:
    """Return the stimuli along an axis of every session, and how many of how many are drawn."""
    panels = []
    for session, result in results.items():
        for row, name in enumerate(result.axes[axis].data):
            title = str(name) if len(results) == 1 else f"{session}: {name}"
            agreement = result.arrays["start_cosine"].data[row]
            panels.append(_row_panel(result, row, title, bool(agreement >= AGREEING)))
    shown = panels[:MAX_PANELS]
    counted = f"all {len(panels)}" if len(shown) == len(panels) else f"the first {len(shown)} of {len(panels)}"
    return _gallery(shown), counted


def draw_unit_responses(results: Mapping[str, ExperimentResult], layer: str) -> Drawing:
    """Draw the response of every neuron to the stimulus of every inner unit, at most three sessions."""
    shown = dict(list(results.items())[:3])
    n_neurons = sum(len(result.table) for result in shown.values())
    more = "" if len(shown) == len(results) else f" ({len(shown)} of {len(results)} sessions)"
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH_IN, 2.4), layout="constrained")
        for axes, (session, result) in zip(
            figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True
        ):
            response = result.arrays["response"]
            largest = np.abs(response.data).max(axis=1, keepdims=True)
            relative = np.divide(response.data, largest, out=np.zeros_like(response.data), where=largest > 0)
            image = axes.imshow(relative, cmap="viridis", interpolation="nearest", aspect="auto")
            axes.set(xlabel="stimulus of inner unit", ylabel="neuron", title=session)
            figure.colorbar(image, ax=axes, shrink=0.8).set_label("response (largest: 1)")
    caption = (
        f"Responses of {n_neurons} model neurons{more}, averaged over members, to the stimuli of the channels of "
        f"{layer!r}, in units of each neuron's largest."
    )
    return Drawing(figure, caption)


def draw_discrimination(results: Mapping[str, ExperimentResult], kind: str) -> Drawing:
    """Draw the clusters' responses to each other's stimuli in every session, and the selectivity of the neurons."""
    shown = dict(list(results.items())[:3])
    table = pd.concat([result.table for result in results.values()], ignore_index=True)
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH_IN, 2.6), layout="constrained")
        *matrices, strips = figure.subplots(1, len(shown) + 1, width_ratios=[*[1.0] * len(shown), 1.2])
        for axes, (session, result) in zip(matrices, shown.items(), strict=True):
            _draw_matrix(figure, axes, result, session)
        names = sorted(set(table["cluster"]) - {""})
        for position, name in enumerate(names):
            values = table.loc[table["cluster"] == name, "selectivity"].to_numpy(float)
            strip(strips, position, values, COLORS[position % len(COLORS)])
        strips.axhline(0, color=GREY, linewidth=0.6)
        strips.set_xticks(range(len(names)), names, rotation=45, ha="right")
        strips.set(ylabel="(own - other) / (own + other)", ylim=(-1.05, 1.05))
    selectivity = table["selectivity"].dropna()
    more = "" if len(shown) == len(results) else f" ({len(shown)} of {len(results)} sessions)"
    caption = (
        f"Mean response of every cluster (columns) to the {kind} stimulus of every cluster (rows){more}, "
        "in units of the scale of responses in training. Right: response of each neuron to its own cluster's stimulus "
        f"against the largest to another cluster's, {len(selectivity)} neurons; lines: median and quartiles; median "
        f"{selectivity.median():.2f}."
    )
    return Drawing(figure, caption)


# -------------------------------------------------------------------------------------------------------------- parts


def _of_scales(results: Mapping[str, ExperimentResult], chosen: Sequence[tuple[str, int]]) -> str:
    """Return whose scale bar is drawn, where the sessions' pixels differ."""
    pixels = {
        (float(result.arrays["pixel_size"].data), result.arrays["pixel_size"].unit) for result in results.values()
    }
    session = chosen[(len(chosen) - 1) // N_COLUMNS * N_COLUMNS][0]
    return "" if len(pixels) == 1 else f" Sessions differ in the size of a pixel: scale bar of {session}."


def _choose(results: Mapping[str, ExperimentResult]) -> Sequence[tuple[str, int]]:
    """Choose (session, row) evenly along session, cell type and polarity."""
    parts = [result.table.assign(session=session, row=range(len(result.table))) for session, result in results.items()]
    everything = pd.concat(parts)
    order = [column for column in ("session", "cell_type", "polarity", "neuron") if column in everything]
    everything = everything.sort_values(order, kind="stable")
    rows = np.unique(np.linspace(0, len(everything) - 1, min(MAX_PANELS, len(everything))).round().astype(int))
    chosen = everything.iloc[rows]
    return [(str(session), int(row)) for session, row in zip(chosen["session"], chosen["row"], strict=True)]


def _panel(result: ExperimentResult, row: int) -> _Panel:
    neuron = result.table.iloc[row]
    name = neuron.get("unit_id", neuron["neuron"])
    ratio = float(neuron["response_ratio"])
    title = f"{name}  {ratio:.3g}x" if np.isfinite(ratio) else f"{name}"
    return _Panel(
        result.arrays["spatial"].data[row, int(neuron["channel"])],
        result.arrays["temporal"].data[row],
        result.axes["time"],
        result.arrays["pixel_size"],
        title,
        bool(neuron["is_certain"]),
    )


def _row_panel(result: ExperimentResult, row: int, title: str, is_certain: bool) -> _Panel:
    course = result.arrays["temporal"].data[row]
    channel = int(np.square(course).sum(axis=1).argmax())
    image = result.arrays["spatial"].data[row, channel]
    return _Panel(image, course, result.axes["time"], result.arrays["pixel_size"], title, is_certain)


def _gallery(panels: Sequence[_Panel]) -> Figure:
    """Draw images with their time courses beside them, N_COLUMNS in a row."""
    tallest = max((panel.image.shape[0] / panel.image.shape[1] for panel in panels), default=1.0)
    height = PANEL_IN * min(1.0, tallest)
    n_rows = max(1, -(-len(panels) // N_COLUMNS))
    size = (FULL_WIDTH_IN, n_rows * (height + TITLE_IN) + BOTTOM_IN)
    with paper_style():
        figure = Figure(figsize=size)
        for index, panel in enumerate(panels):
            row, column = divmod(index, N_COLUMNS)
            left = column * FULL_WIDTH_IN / N_COLUMNS + 0.04
            bottom = size[1] - (row + 1) * (height + TITLE_IN)
            labelled = index == N_COLUMNS * (n_rows - 1)  # the first of the last row
            _draw_image(_add_axes(figure, size, (left, bottom, PANEL_IN, height)), panel, scale_bar=labelled)
            if panel.course.shape[1] > 1:
                box = (left + PANEL_IN + 0.05, bottom, COURSE_IN, height)
                _draw_course(_add_axes(figure, size, box), panel, labelled=labelled)
    return figure


def _add_axes(figure: Figure, size: tuple[float, float], box_in: tuple[float, float, float, float]) -> Axes:
    """Add axes without frame at (left, bottom, width, height) in inches."""
    left, bottom, width, height = box_in
    axes = figure.add_axes((left / size[0], bottom / size[1], width / size[0], height / size[1]))
    axes.axis("off")
    return axes


def _draw_image(axes: Axes, panel: _Panel, *, scale_bar: bool) -> None:
    limit = float(np.abs(panel.image).max()) or 1.0
    axes.imshow(panel.image, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    axes.set_title(f"   {panel.title}", fontsize=5.5, pad=1.5)
    face = "black" if panel.is_certain else "none"
    axes.plot(
        0.03, 1.1, "o", transform=axes.transAxes, markersize=2.4, markerfacecolor=face, markeredgecolor="black",
        markeredgewidth=0.5, clip_on=False,
    )  # fmt: skip
    if scale_bar:
        _draw_scale_bar(axes, panel.image.shape, panel.pixel)


def _draw_scale_bar(axes: Axes, shape: tuple[int, ...], pixel: Quantity) -> None:
    """Draw a bar of a round length of about a third of the image below it."""
    size = float(pixel.data)
    target = shape[1] / 3 * size
    round_lengths = np.array([m * 10.0**e for e in range(-2, 5) for m in (1, 2, 5)])
    length = round_lengths[np.abs(np.log(round_lengths / target)).argmin()]
    y = shape[0] - 0.5 + 0.07 * shape[0]
    axes.plot([-0.5, -0.5 + length / size], [y, y], color="black", linewidth=1.5, clip_on=False, solid_capstyle="butt")
    text = f"{length:g} {UNITS[pixel.unit]}"
    axes.text(-0.5, y + 0.05 * shape[0], text, ha="left", va="top", fontsize=5.5)
    axes.set_xlim(-0.5, shape[1] - 0.5)
    axes.set_ylim(shape[0] - 0.5, -0.5)


def _draw_course(axes: Axes, panel: _Panel, *, labelled: bool) -> None:
    course = panel.course / (np.abs(panel.course).max() or 1.0)
    in_seconds = panel.time.unit == "s"
    time = panel.time.data * (1000 if in_seconds else 1)
    axes.axhline(0, color=GREY, linewidth=0.4)
    for channel, values in enumerate(course):
        axes.plot(time, values, color=COLORS[channel % len(COLORS)], linewidth=0.8)
    axes.set_ylim(-1.15, 1.15)
    if labelled:
        axes.axis("on")
        axes.spines["left"].set_visible(False)
        axes.patch.set_visible(False)
        axes.set_yticks([])
        axes.set_xticks([time[0], 0], [f"{time[0]:.0f}", "0 ms" if in_seconds else "0 bins"], fontsize=5.5)


def _scatter_responses(axes: Axes, table: pd.DataFrame, certain: np.ndarray) -> None:
    x, y = table["baseline"].to_numpy(float), table["response"].to_numpy(float)
    spread = np.nan_to_num(table["response_sd_members"].to_numpy(float))
    axes.errorbar(x, y, yerr=spread, fmt="none", ecolor=GREY, elinewidth=0.4, zorder=1)
    axes.scatter(x[certain], y[certain], s=8, color=COLORS[0], linewidths=0, zorder=3)
    axes.scatter(x[~certain], y[~certain], s=8, facecolors="white", edgecolors=COLORS[0], linewidths=0.6, zorder=2)
    if len(x) and min(x.min(), y.min()) > 0:
        axes.set(xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
    ends = [np.nanmin([x.min(), y.min()]), np.nanmax([x.max(), y.max()])] if len(x) else [0.0, 1.0]
    axes.plot(ends, ends, color=GREY, linewidth=0.6, zorder=0)


def _draw_matrix(figure: Figure, axes: Axes, result: ExperimentResult, session: str) -> None:
    values, names = result.arrays["cluster_response"].data, [str(name) for name in result.axes["cluster"].data]
    image = axes.imshow(values, cmap="viridis", interpolation="nearest")
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="responding cluster", ylabel="stimulus of cluster", title=session)
    axes.spines[["top", "right"]].set_visible(True)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("response (scale in training)")
