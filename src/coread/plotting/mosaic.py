"""Mosaics of receptive fields in visual space."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from coread.insilico.experiment import ExperimentResult
from coread.insilico.mosaic import cell_types
from coread.plotting.scale_bar import draw_scale_bar
from coread.plotting.style import COLORS, FULL_WIDTH_IN, GREY, Drawing, paper_style

N_COLUMNS, MAX_MOSAICS = 4, 24
TITLE_IN, BOTTOM_IN = 0.34, 0.3
UNIT_NAMES = {"um": "µm", "deg": "deg", "px": "px"}
UNCERTAIN_R2 = 0.5  # of the fitted Gaussian, below which a receptive field is drawn with a dashed line


def draw_mosaics(results: Mapping[str, ExperimentResult]) -> Drawing:
    """Draw the outlines of receptive fields, a panel per session and cell type, at most MAX_MOSAICS of the largest."""
    panels = [
        (session, name, int((cell_types(result.table) == name).sum()))
        for session, result in results.items()
        for name in sorted(set(cell_types(result.table)))
    ]
    shown = sorted(panels, key=lambda panel: -panel[2])[:MAX_MOSAICS]
    shown = [panel for panel in panels if panel in shown]
    first = next(iter(results.values()))
    unit = first.arrays["frame"].unit
    height, width = first.arrays["frame"].data
    n_rows = -(-len(shown) // N_COLUMNS)
    panel_in = (FULL_WIDTH_IN / N_COLUMNS - 0.12) * height / width
    size = (FULL_WIDTH_IN, n_rows * (panel_in + TITLE_IN) + BOTTOM_IN)
    with paper_style():
        figure = Figure(figsize=size)
        for index, (session, name, n_cells) in enumerate(shown):
            row, column = divmod(index, N_COLUMNS)
            left = (column + 0.03) / N_COLUMNS
            bottom = 1 - ((row + 1) * (panel_in + TITLE_IN)) / size[1]
            axes = figure.add_axes((left, bottom, 0.94 / N_COLUMNS, panel_in / size[1]))
            _draw_panel(axes, results[session], name, COLORS[sorted({p[1] for p in panels}).index(name) % len(COLORS)])
            title = name.replace("_", " ") if len(results) == 1 else f"{name.replace('_', ' ')}, {session}"
            axes.set_title(f"{title} (n = {n_cells})\n{_statistics(results[session], name)}", fontsize=5.8, pad=2)
            if index == N_COLUMNS * (n_rows - 1):
                draw_scale_bar(axes, (float(height), float(width)), 1.0, UNIT_NAMES[unit], upwards=True)
    n_neurons = sum(len(result.table) for result in results.values())
    selection = f"the {len(shown)} largest of {len(panels)}" if len(shown) < len(panels) else f"all {len(panels)}"
    caption = (
        f"Mosaics of receptive fields in visual space: {selection} cell types of {n_neurons} model neurons. "
        "Outlines are the contours of Gaussians fitted to the root mean squared gradient of the responses to white "
        f"noise (dashed where they explain less than {UNCERTAIN_R2:g} of it). RI: regularity index, mean distance to "
        "the nearest neighbour over its standard deviation (Wässle & Riemann 1978), with the share of random mosaics "
        "that are as regular; CF: coverage factor, density times area."
    )
    return Drawing(figure, caption)


def _draw_panel(axes: Axes, result: ExperimentResult, name: str, color: str) -> None:
    unit = result.arrays["frame"].unit
    height, width = result.arrays["frame"].data
    rows = result.table[(cell_types(result.table) == name) & result.table["place_converged"].astype(bool)]
    columns = [f"{column}_{unit}" for column in ("x", "y", "sigma_major", "sigma_minor")]
    for x, y, major, minor, angle, r2 in rows[[*columns, "angle_deg", "place_r2"]].to_numpy(float):
        outline = Ellipse((x, y), 2 * major, 2 * minor, angle=angle)
        outline.set(fill=False, edgecolor=color, linewidth=0.8, linestyle="-" if r2 >= UNCERTAIN_R2 else "--")
        axes.add_patch(outline)
    axes.scatter(rows[f"x_{unit}"], rows[f"y_{unit}"], s=2, color=color)
    axes.set(xlim=(-width / 2, width / 2), ylim=(-height / 2, height / 2), aspect="equal", xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=True, color=GREY, linewidth=0.4)


def _statistics(result: ExperimentResult, name: str) -> str:
    table = result.table
    if "mosaic_regularity_index" not in table:
        return ""
    first = table[cell_types(table) == name].iloc[0]
    index, p, coverage = (
        float(first[f"mosaic_{column}"]) for column in ("regularity_index", "regularity_p", "coverage_factor")
    )
    if not np.isfinite(index):
        return "too few cells"
    return f"RI {index:.1f} (p = {p:.2g}), CF {coverage:.1f}"
