"""Figures of receptive fields."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from coread.insilico.receptive_fields import ReceptiveFields
from coread.plotting.scale_bar import draw_scale_bar
from coread.plotting.style import COLORS, FULL_WIDTH_IN, GREY, Drawing, paper_style, score_range, strip

N_COLUMNS, MAX_NEURONS = 6, 48
PANEL_IN, TITLE_IN, BOTTOM_IN = 0.62, 0.2, 0.28  # width of an image, room above it, room for scale bar and time axis
ELLIPSE_SIGMA = 1.5


class _Chosen(NamedTuple):
    session: str
    neuron: int


def draw_receptive_fields(fields: Mapping[str, ReceptiveFields]) -> Drawing:
    """Draw a gallery: spatial part, fitted ellipse and time course of at most MAX_NEURONS neurons of all sessions."""
    chosen = _choose(fields)
    height, width = next(iter(fields.values())).spatial.shape[-2:]
    panel = PANEL_IN * min(1.0, height / width)
    n_rows = -(-len(chosen) // N_COLUMNS)
    size = (FULL_WIDTH_IN, n_rows * (panel + TITLE_IN) + BOTTOM_IN)
    with paper_style():
        figure = Figure(figsize=size)
        for index, (session, neuron) in enumerate(chosen):
            row, column = divmod(index, N_COLUMNS)
            left = column * FULL_WIDTH_IN / N_COLUMNS + 0.04
            bottom = size[1] - (row + 1) * (panel + TITLE_IN)
            labelled = index == N_COLUMNS * (n_rows - 1)  # the first of the last row
            image = _add_axes(figure, size, (left, bottom, PANEL_IN, panel))
            _draw_spatial(image, fields[session], neuron, scale_bar=labelled)
            course = _add_axes(figure, size, (left + PANEL_IN + 0.05, bottom, 0.42, panel))
            _draw_temporal(course, fields[session], neuron, labelled=labelled)
    n_neurons = sum(len(field.table) for field in fields.values())
    selection = "all" if len(chosen) == n_neurons else f"{len(chosen)} evenly chosen of"
    first = next(iter(fields.values()))
    unit = "µm" if first.pixel_um is not None else "px"
    diameter = np.concatenate([field.table[f"diameter_{unit.replace('µ', 'u')}"] for field in fields.values()])
    consistency = np.concatenate([field.table["member_consistency"] for field in fields.values()])
    sessions = "one session" if len(fields) == 1 else f"{len(fields)} sessions"
    caption = (
        f"Receptive fields of {selection} {n_neurons} model neurons of {sessions}: gradient of the response "
        "with respect to the stimulus, averaged over members, split into a spatial part (red: same sign as the centre; "
        f"scaled to its peak; ellipse: {ELLIPSE_SIGMA} standard deviations of the fitted Gaussian) and a "
        f"time course (dots: bins, oldest left, the current bin right; up: brighter raises the response). Median "
        f"diameter {np.nanmedian(diameter):.3g} {unit}"
        + (
            f"; median cosine between members {np.nanmedian(consistency):.3f}."
            if np.isfinite(consistency).any()
            else "."
        )
    )
    return Drawing(figure, caption)


def _add_axes(figure: Figure, size: tuple[float, float], box_in: tuple[float, float, float, float]) -> Axes:
    """Add axes without frame at (left, bottom, width, height) in inches."""
    left, bottom, width, height = box_in
    axes = figure.add_axes((left / size[0], bottom / size[1], width / size[0], height / size[1]))
    axes.axis("off")
    return axes


def _choose(fields: Mapping[str, ReceptiveFields]) -> Sequence[_Chosen]:
    """Choose neurons evenly along (session, cell type, polarity)."""
    everything = pd.concat([field.table.assign(session=session) for session, field in fields.items()])
    order = [column for column in ("session", "cell_type", "polarity", "neuron") if column in everything]
    everything = everything.sort_values(order, kind="stable")
    rows = np.unique(np.linspace(0, len(everything) - 1, min(MAX_NEURONS, len(everything))).round().astype(int))
    chosen = everything.iloc[rows]
    return [_Chosen(str(s), int(n)) for s, n in zip(chosen["session"], chosen["neuron"], strict=True)]


def _draw_spatial(axes: Axes, field: ReceptiveFields, neuron: int, *, scale_bar: bool) -> None:
    image = field.spatial[neuron, field.channel[neuron]]
    limit = float(np.abs(image).max()) or 1.0
    axes.imshow(image, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    row = field.table.iloc[neuron]
    size = 2 * ELLIPSE_SIGMA * row[["sigma_major_px", "sigma_minor_px"]].to_numpy(float)
    if row["gaussian_converged"]:
        center = (row["center_x_px"], row["center_y_px"])
        ellipse = Ellipse(center, size[0], size[1], angle=np.rad2deg(row["angle_rad"]))
        ellipse.set(fill=False, edgecolor="black", linewidth=0.7)
        axes.add_patch(ellipse)
    sign = {1: "ON", -1: "OFF"}.get(int(row["polarity"]), "")
    axes.set_title(f"{row.get('unit_id', neuron)}  {sign}", fontsize=5.5, pad=1.5)
    axes.set_xlim(-0.5, image.shape[1] - 0.5)
    axes.set_ylim(image.shape[0] - 0.5, -0.5)
    if scale_bar:
        unit = "px" if field.pixel_um is None else "µm"
        draw_scale_bar(axes, (image.shape[0], image.shape[1]), field.pixel_um or 1.0, unit)


def _draw_temporal(axes: Axes, field: ReceptiveFields, neuron: int, *, labelled: bool) -> None:
    course = field.temporal[neuron, field.channel[neuron]]
    course = course / (np.abs(course).max() or 1.0)
    time_ms = -1000 * field.bin_s * np.arange(len(course))
    axes.axhline(0, color=GREY, linewidth=0.4)
    axes.plot(time_ms, course, color=COLORS[0], marker="o", markersize=1.2, linewidth=0.8)
    axes.set_ylim(-1.15, 1.15)
    if labelled:
        axes.axis("on")
        axes.spines["left"].set_visible(False)
        axes.patch.set_visible(False)
        axes.set_yticks([])
        axes.set_xticks([time_ms[-1], 0], [f"{time_ms[-1]:.0f}", "0 ms"], fontsize=5.5)


def draw_truth_cosine(fields: Mapping[str, ReceptiveFields]) -> Drawing | None:
    """Draw how well the receptive fields match the true ones, per cell type; None if there is no truth."""
    with_truth = [field.table for field in fields.values() if "truth_cosine" in field.table]
    if not with_truth:
        return None
    table = pd.concat(with_truth, ignore_index=True)
    kind = table["cell_type"].to_numpy(str) if "cell_type" in table else np.full(len(table), "all neurons")
    names = sorted(set(kind))
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH_IN, 2.3), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[1.6, 1])
        for position, name in enumerate(names):
            color = COLORS[position % len(COLORS)]
            strip(left, position, table["truth_cosine"].to_numpy(float)[kind == name], color)
            if "truth_distance_px" in table:
                chosen = kind == name
                right.scatter(table["truth_distance_px"][chosen], table["truth_cosine"][chosen], s=7, color=color)
        left.set_xticks(range(len(names)), [name.replace("_", " ") for name in names], rotation=30, ha="right")
        left.set(ylabel="cosine with the true filter")
        right.set(xlabel="distance from the true centre (px)", ylabel="cosine with the true filter")
        for axes in (left, right):
            axes.set_ylim(score_range(table["truth_cosine"].to_numpy(float)))
    cosine = table["truth_cosine"].dropna().to_numpy(float)
    caption = (
        f"Estimated against true receptive fields of {len(cosine)} simulated neurons: cosine over space "
        f"and time between the ensemble's gradient and the true linear filter (mean {cosine.mean():.3f}, "
        f"{100 * (cosine >= 0.8).mean():.0f} % of neurons at least 0.80); one dot per neuron, lines: median and "
        "quartiles. Right: against the distance between fitted and true centre."
    )
    return Drawing(figure, caption)
