"""Histograms of what tuning analyses measure, with numbers of neurons, and images of receptive fields from noise."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from coread.insilico.experiment import ExperimentResult
from coread.plotting.style import COLORS, FULL_WIDTH_IN, GREY, Drawing, paper_style
from coread.plotting.tuning import TITLE_PT, choose_neurons

N_COLUMNS, N_BINS = 3, 20
MAX_IMAGES, N_IMAGE_COLUMNS = 24, 6


class Measure(NamedTuple):
    """A column of the table, what it is called in a figure, and the limits of its axis (None: those of the data).

    An angle, which comes back to where it began, has no median.
    """

    column: str
    label: str
    limits: tuple[float, float] | None
    is_angle: bool = False


def draw_histograms(results: Mapping[str, ExperimentResult], measures: Sequence[Measure], what: str) -> Drawing:
    """Draw one histogram per measure, of reliable neurons (filled) and of uncertain ones on top (open)."""
    table = pd.concat([result.table for result in results.values()], ignore_index=True)
    shown = [measure for measure in measures if measure.column in table]
    n_rows = -(-len(shown) // N_COLUMNS)
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH_IN, 1.65 * n_rows + 0.1), layout="constrained")
        grid = figure.subplots(n_rows, min(N_COLUMNS, len(shown)), squeeze=False).ravel()
        for axes, measure in zip(grid, shown, strict=False):
            _draw_histogram(axes, table, measure)
        for axes in grid[len(shown) :]:
            axes.axis("off")
    medians = ", ".join(
        f"{measure.label}: {np.nanmedian(_finite(table, measure.column)):.3g}"
        for measure in shown
        if len(_finite(table, measure.column)) and not measure.is_angle
    )
    caption = (
        f"{what}: {len(table)} model neurons of {len(results)} session{'' if len(results) == 1 else 's'}, "
        f"{int(table['responds'].sum())} of them responding. Filled: reliable neurons, open: uncertain ones, of which "
        f"members of the ensemble disagree; n: neurons with a value; dashed: median. Medians: {medians or 'none'}."
    )
    return Drawing(figure, caption)


def _draw_histogram(axes: Axes, table: pd.DataFrame, measure: Measure) -> None:
    values = table[measure.column].to_numpy(float)
    limits = measure.limits
    if limits is not None:
        values = np.where(np.isnan(values), np.nan, np.clip(values, *limits))
    known = np.isfinite(values)
    reliable = table["reliable"].to_numpy(bool) & known
    edges = np.histogram_bin_edges(values[known] if known.any() else [0.0, 1.0], N_BINS, limits)
    parts = [values[reliable], values[known & ~reliable]]
    axes.hist(parts, bins=list(edges), stacked=True, color=[COLORS[0], "white"], edgecolor=COLORS[0], linewidth=0.5)
    if known.any() and not measure.is_angle:
        axes.axvline(float(np.median(values[known])), color="black", linewidth=0.8, linestyle="--")
    axes.set(xlabel=measure.label, ylabel="neurons")
    axes.set_title(f"n = {int(known.sum())}", fontsize=6.5)


def _finite(table: pd.DataFrame, column: str) -> np.ndarray:
    values = table[column].to_numpy(float)
    return values[np.isfinite(values)]


def draw_image_gallery(
    results: Mapping[str, ExperimentResult],
    name: str,
    what: str,
    *,
    extent: tuple[float, float, float, float] | None = None,
    labels: tuple[str, str] | None = None,
) -> Drawing:
    """Draw signed images of at most 24 neurons, each scaled to its largest value; red is positive.

    The array is (neuron, row, column), rows from the top of the image. With an `extent` (left, right, bottom, top) the
    first row is at the bottom, and `labels` name the horizontal and the vertical axis.
    """
    chosen = choose_neurons(results, MAX_IMAGES)
    n_rows = max(1, -(-len(chosen) // N_IMAGE_COLUMNS))
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH_IN, 0.3 + 1.15 * n_rows), layout="constrained")
        grid = figure.subplots(n_rows, N_IMAGE_COLUMNS, squeeze=False).ravel()
        image = None
        for axes, one in zip(grid, chosen, strict=False):
            result = results[one.session]
            values = result.arrays[name].data[one.row]
            limit = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 0.0
            image = axes.imshow(
                values / (limit or 1.0),
                cmap="RdBu_r",
                vmin=-1,
                vmax=1,
                interpolation="nearest",
                origin="upper" if extent is None else "lower",
                extent=extent,
            )
            neuron = result.table.iloc[one.row]
            color = "black" if bool(neuron.get("reliable", True)) else GREY
            axes.set_title(f"{neuron.get('unit_id', neuron['neuron'])}", fontsize=TITLE_PT, pad=2, color=color)
            _set_ticks(axes, extent)
        for axes in grid[len(chosen) :]:
            axes.axis("off")
        if image is not None:
            bar = figure.colorbar(image, ax=list(grid), shrink=0.6, aspect=25, pad=0.01)
            bar.set_label("share of the largest value", fontsize=6.5)
            bar.ax.tick_params(labelsize=TITLE_PT)
        if labels is not None:
            figure.supxlabel(labels[0], fontsize=7)
            figure.supylabel(labels[1], fontsize=7)
    n_neurons = sum(len(result.table) for result in results.values())
    caption = (
        f"{what}, of {len(chosen)} evenly chosen of {n_neurons} model neurons; red: positive, blue: negative. Grey "
        "names: uncertain neurons, of which members of the ensemble disagree."
    )
    return Drawing(figure, caption)


def _set_ticks(axes: Axes, extent: tuple[float, float, float, float] | None) -> None:
    if extent is None:
        axes.set_xticks([])
        axes.set_yticks([])
    else:
        axes.set_xticks([extent[0], 0, extent[1]])
        axes.set_yticks([extent[2], 0, extent[3]])
        axes.tick_params(labelsize=TITLE_PT, pad=1.5)
