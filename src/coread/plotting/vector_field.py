"""Figures of vector fields: LSTAs along their principal components, and gradients over two contrasts."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.interpolate import griddata
from scipy.spatial import QhullError

from coread.insilico.experiment import ExperimentResult
from coread.plotting.groups import evenly_chosen, group_names, joined_table
from coread.plotting.style import COLORS, FULL_WIDTH_IN, GREY, Drawing, paper_style, strip

PANEL_IN = 2.3
N_COLUMNS = 3
INSET = 0.24  # side of a component's image, in sides of the panel
FIELD = 0.72  # side of the vector field, which leaves room for the components right of it and above
RESPONSE_PIXELS = 100  # along each axis of the drawn responses
ARROW_WIDTH = 0.006  # in widths of the panel


# --------------------------------------------------------------------------------------------- one field of LSTAs


def draw_vectors(points: Float[np.ndarray, "image 2"], arrows: Float[np.ndarray, "image 2"]) -> Figure:
    """Draw an arrow per image, the longest a tenth of the plane; return the figure."""
    with paper_style():
        figure, axes = _square_figure()
        _quiver(axes, points, arrows, _largest(points))
    return figure


def draw_binned_vectors(
    coordinates: Float[np.ndarray, "image 2"],
    tails: Float[np.ndarray, "image 2"],
    arrows: Float[np.ndarray, "image 2"],
    n_bins: tuple[int, int],
    responses: Float[np.ndarray, "image"] | None = None,
) -> Figure:
    """Draw the mean arrow of every occupied bin of the coordinates, over the mean responses; return the figure."""
    with paper_style():
        figure, axes = _square_figure()
        mesh = _draw_binned(axes, coordinates, tails, arrows, n_bins, responses)
        if mesh is not None:
            figure.colorbar(mesh, ax=axes, label="response", shrink=0.5)
    return figure


def _square_figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(FULL_WIDTH_IN / 1.5, FULL_WIDTH_IN / 1.5))
    return figure, figure.add_axes((0.02, 0.02, 0.96, 0.96))


def _draw_binned(
    axes: Axes,
    coordinates: Float[np.ndarray, "image 2"],
    tails: Float[np.ndarray, "image 2"],
    arrows: Float[np.ndarray, "image 2"],
    n_bins: tuple[int, int],
    responses: Float[np.ndarray, "image"] | None,
) -> Any:
    columns = [tails, arrows] if responses is None else [tails, arrows, responses[:, None]]
    mean = bin_means(coordinates, np.concatenate(columns, axis=1), n_bins)
    limit = max(_largest(mean[:, :2]), _largest(coordinates))
    mesh = None if responses is None else _draw_responses(axes, mean[:, :2], mean[:, 4], limit)
    _quiver(axes, mean[:, :2], mean[:, 2:4], limit)
    return mesh


def bin_means(
    coordinates: Float[np.ndarray, "sample 2"], values: Float[np.ndarray, "sample column"], n_bins: tuple[int, int]
) -> Float[np.ndarray, "bin column"]:
    """Return the mean values in every occupied bin of the range of the coordinates, its upper edges included."""
    low, span = coordinates.min(axis=0), np.ptp(coordinates, axis=0)
    relative = (coordinates - low) / np.where(span > 0, span, 1.0)
    index = np.minimum((relative * n_bins).astype(int), np.array(n_bins) - 1)
    _, place, count = np.unique(index[:, 0] * n_bins[1] + index[:, 1], return_inverse=True, return_counts=True)
    total = np.zeros((len(count), values.shape[1]))
    np.add.at(total, place, values)
    return total / count[:, None]


def _draw_responses(
    axes: Axes, points: Float[np.ndarray, "bin 2"], responses: Float[np.ndarray, "bin"], limit: float
) -> Any:
    along = np.linspace(-limit, limit, RESPONSE_PIXELS)
    try:
        surface = griddata(points, responses, tuple(np.meshgrid(along, along)), method="linear")
    except QhullError:  # fewer than three bins, or all on a line
        return None
    return axes.pcolormesh(along, along, surface, cmap="viridis", alpha=0.45, shading="nearest", rasterized=True)


def _quiver(
    axes: Axes, points: Float[np.ndarray, "arrow 2"], arrows: Float[np.ndarray, "arrow 2"], limit: float
) -> None:
    longest = float(np.linalg.norm(arrows, axis=1).max(initial=0.0)) or 1.0
    scale = longest / (0.2 * limit)  # the longest is a tenth of the plane
    for ends in (([-limit, limit], [0, 0]), ([0, 0], [-limit, limit])):
        axes.plot(*ends, color=GREY, linewidth=0.4, zorder=1)
    axes.text(-limit, -0.03 * limit, f"{-limit:.2g}", fontsize=5.5, color=GREY, ha="left", va="top")
    # one scale of both axes, so that arrows keep their directions
    axes.quiver(*points.T, *arrows.T, angles="xy", scale_units="xy", scale=scale, width=ARROW_WIDTH, zorder=2)
    low, high = -1.25 * limit, -1.25 * limit + 2.5 * limit / FIELD
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.axis("off")


def _largest(points: Float[np.ndarray, "point 2"]) -> float:
    return float(np.abs(points).max(initial=0.0)) or 1.0


def draw_insets(
    figure: Figure, components: Float[np.ndarray, "2 height width"], shares: Float[np.ndarray, "2"] | None
) -> None:
    """Draw two components at the ends of the axes of a figure's vector field."""
    _draw_insets(figure.axes[0], components, shares)


def _draw_insets(
    axes: Axes, components: Float[np.ndarray, "2 height width"], shares: Float[np.ndarray, "2"] | None
) -> None:
    limit = float(np.abs(components).max()) or 1.0
    middle = FIELD / 2 - INSET / 2
    for number, left, bottom in ((0, FIELD, middle), (1, middle, FIELD)):
        inset = axes.inset_axes((left, bottom, INSET, INSET))
        _draw_component(inset, components[number], limit, _component_name(number, shares))


def _draw_component(axes: Axes, image: Float[np.ndarray, "height width"], limit: float, title: str) -> None:
    axes.imshow(image, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    axes.set_title(title, fontsize=5.5, pad=1.5)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=True, linewidth=0.4)


def _component_name(number: int, shares: Float[np.ndarray, "2"] | None) -> str:
    if shares is None or not np.isfinite(shares[number]):
        return f"PC {number + 1}"
    return f"PC {number + 1} ({100 * shares[number]:.0f} %)"


def draw_component_images(
    figure: Figure, components: Float[np.ndarray, "2 height width"], shares: Float[np.ndarray, "2"]
) -> None:
    """Draw two components side by side into a figure."""
    limit = float(np.abs(components).max()) or 1.0
    for number, axes in enumerate(figure.subplots(1, 2)):
        _draw_component(axes, components[number], limit, _component_name(number, shares))


def draw_points(figure: Figure, coordinates: Float[np.ndarray, "image 2"]) -> None:
    """Draw images as points in the plane of two components into a figure."""
    axes = figure.subplots()
    axes.scatter(coordinates[:, 0], coordinates[:, 1], s=4, color=COLORS[0], linewidths=0)
    axes.set(xlabel="projection on PC 1", ylabel="projection on PC 2", aspect="equal")


# ------------------------------------------------------------------------------------------ figures of an experiment


def draw_vector_fields(results: Mapping[str, ExperimentResult], n_drawn: int, n_bins: int) -> Drawing:
    """Draw the vector fields of neurons evenly chosen along session and cell type, with their two components."""
    table = joined_table(results)
    rows = evenly_chosen(table, n_drawn)
    n_columns = min(N_COLUMNS, len(rows))
    n_rows = -(-len(rows) // n_columns)
    with paper_style():
        figure = Figure(figsize=(n_columns * PANEL_IN, n_rows * (PANEL_IN + 0.15)), layout="constrained")
        panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
        for axes in panels[len(rows) :]:
            axes.axis("off")
        for axes, row in zip(panels, rows, strict=False):
            _draw_neuron(axes, results[table["session"][row]], table.loc[row], n_bins)
    n_images = next(iter(results.values())).arrays["arrow"].data.shape[1]
    unit = next(iter(results.values())).arrays["response"].unit
    height, width = next(iter(results.values())).arrays["component"].data.shape[-2:]
    caption = (
        f"How the locally linear receptive field (LSTA) changes with the image, for {len(rows)} evenly chosen of "
        f"{len(table)} model neurons and {n_images} natural images. Every arrow starts at the mean projection of the "
        "images of a bin onto the first two principal components of the neuron's LSTAs (insets, with their share of "
        "the variance; red positive) and points where the response grows fastest: the LSTA's projection, the "
        f"longest a tenth of the field's width. Colour: response ({unit}), each neuron's own range (dark low, yellow "
        "high). Lines cross where there is no projection; the number is the projection, in contrast, at their end. "
        f"Insets show the whole frame of {height} x {width} pixels. A question mark: the LSTAs differ between "
        "members."
    )
    return Drawing(figure, caption)


def _draw_neuron(axes: Axes, result: ExperimentResult, row: pd.Series, n_bins: int) -> None:
    index = int(np.flatnonzero(result.table["neuron"] == row["neuron"])[0])
    arrays = {name: result.arrays[name].data[index] for name in ("component", "coordinate", "arrow", "response")}
    point = arrays["coordinate"]
    _draw_binned(axes, point, point, arrays["arrow"], (n_bins, n_bins), arrays["response"])
    strongest = np.square(arrays["component"]).sum(axis=(0, 2, 3)).argmax()
    shares = row[["lsta_pc1_share", "lsta_pc2_share"]].to_numpy(float)
    _draw_insets(axes, arrays["component"][:, strongest], shares)
    mark = "  ?" if bool(row["lsta_uncertain"]) else ""
    kind = f"  {row['cell_type']}" if "cell_type" in row else ""
    axes.set_title(f"{row.get('unit_id', row['neuron'])}{kind}{mark}".replace("_", " "), pad=2)


def draw_lsta_variation(results: Mapping[str, ExperimentResult]) -> Drawing:
    """Draw how alike a neuron's LSTAs are for different images, and how often they reverse, by cell type."""
    table = joined_table(results)
    names, kind = group_names(table)
    certain = ~table["lsta_uncertain"].to_numpy(bool)
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH_IN, 2.4), layout="constrained")
        panels: Sequence[Axes] = figure.subplots(1, 2)
        for position, name in enumerate(names):
            color, own = COLORS[position % len(COLORS)], kind == name
            for axes, column in zip(panels, ("lsta_cosine", "lsta_reversed_share"), strict=True):
                strip(axes, position, table[column].to_numpy(float)[own], color, certain[own])
        panels[0].axhline(1, color=GREY, linewidth=0.4, zorder=0)
        panels[0].set(ylabel="cosine between LSTAs of two images", ylim=(None, 1.05))
        panels[1].set(ylabel="share of images with reversed LSTA", ylim=(-0.02, 0.52))
        for axes in panels:
            axes.set_xticks(range(len(names)), [name.replace("_", " ") for name in names], rotation=30, ha="right")
    caption = (
        f"How much the locally linear receptive fields (LSTAs) of {len(table)} model neurons vary over natural images. "
        "Left: mean cosine between the LSTAs of two images; 1 for a neuron with one linear filter before its output "
        "nonlinearity. Right: share of images whose LSTA has the rarer sign along the LSTAs' main axis; 0 for one "
        "filter, 1/2 where both signs are as frequent. One dot per neuron, lines: median and quartiles; "
        f"{(~certain).sum()} open dots: LSTAs that differ between members."
    )
    return Drawing(figure, caption)


# -------------------------------------------------------------------------------------------- gradients over contrasts


def plot_vector_field_resp_iso(
    x: Float[np.ndarray, "first"],
    y: Float[np.ndarray, "second"],
    gradient_dict: Float[np.ndarray, "2 first second"],
    resp_dict: Float[np.ndarray, "first second"],
    normalize_response: bool = False,
    rc_dict: Mapping[str, Any] | None = None,
    cmap_lines: str = "hot_r",
    cmap_fill: str = "Greys",
    n_lines: int = 10,
    channel_names: Sequence[str] = ("Green", "UV"),
) -> Figure:
    """Draw responses over the contrasts of two channels as filled contours, and arrows along their gradients.

    `x`, `y`, `gradient_dict` and `resp_dict` are what `get_gradient_grid` returns; `normalize_response` shows responses
    in percent of the largest. All arrows are as long; where the response is flat there is none. Raises ValueError
    for responses and gradients of another shape.
    """
    if resp_dict.shape != (len(x), len(y)) or gradient_dict.shape != (2, len(x), len(y)):
        raise ValueError(
            f"{len(x)} x {len(y)} contrasts need as many responses and two gradients for each, got "
            f"{resp_dict.shape} and {gradient_dict.shape}"
        )
    shown = resp_dict.T * (100 / resp_dict.max() if normalize_response else 1.0)
    levels = np.linspace(shown.min(), max(shown.max(), shown.min() + 1e-9), n_lines)
    settings: Any = dict(rc_dict or {})
    with paper_style(), mpl.rc_context(settings):
        figure = Figure(figsize=(FULL_WIDTH_IN / 2, FULL_WIDTH_IN / 2), layout="constrained")
        axes = figure.subplots()
        axes.contourf(x, y, shown, levels=levels, cmap=cmap_fill)
        lines = axes.contour(x, y, shown, levels=levels, cmap=cmap_lines, linewidths=0.8)
        axes.clabel(lines, inline=True, fmt="%.3g", fontsize=5.5)
        _draw_directions(axes, x, y, gradient_dict)
        axes.set(
            xlabel=f"{channel_names[0]} contrast", ylabel=f"{channel_names[1]} contrast", aspect="equal",
            xticks=[x[0], 0, x[-1]] if x[0] < 0 < x[-1] else [x[0], x[-1]],
            yticks=[y[0], 0, y[-1]] if y[0] < 0 < y[-1] else [y[0], y[-1]],
        )  # fmt: skip
    return figure


def _draw_directions(axes: Axes, x: np.ndarray, y: np.ndarray, gradient: Float[np.ndarray, "2 first second"]) -> None:
    inner = gradient[:, 1:-1, 1:-1]
    norm = np.linalg.norm(inner, axis=0)
    grows = norm > 1e-9 * norm.max(initial=0.0)
    at_x, at_y = np.meshgrid(x[1:-1], y[1:-1], indexing="ij")
    spacing = float(np.abs(np.diff(x)).min())
    unit = inner[:, grows] / norm[grows]
    axes.quiver(
        at_x[grows],
        at_y[grows],
        *unit,
        angles="xy",
        scale_units="xy",
        scale=1.3 / spacing,
        width=0.005,
        color=GREY,
        zorder=3,
    )
