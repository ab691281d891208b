"""Gallery of spike-triggered averages and covariances of model neurons."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from coread.insilico.experiment import ExperimentResult
from coread.plotting.style import COLORS, FULL_WIDTH_IN, GREY, Drawing, paper_style

MAX_NEURONS, N_GROUPS = 24, 2  # neurons shown, side by side in so many columns
PANEL_IN, GAP_IN, TITLE_IN, LEFT_IN = 0.46, 0.05, 0.22, 0.5
ELLIPSE_SIGMA = 1.0


def draw_spike_triggered(results: Mapping[str, ExperimentResult]) -> Drawing:
    """Draw sensitivity, spike-triggered average, main axes and eigenvalues of at most MAX_NEURONS neurons."""
    everything = pd.concat([result.table for result in results.values()], ignore_index=True)
    place = np.concatenate([np.arange(len(result.table)) for result in results.values()])
    order = [name for name in ("session", "cell_type", "neuron") if name in everything]
    rows = everything.assign(place=place).sort_values(order, kind="stable")
    chosen = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, min(MAX_NEURONS, len(rows))).round().astype(int))]
    n_axes = next(iter(results.values())).arrays["stc_axes"].data.shape[1]
    n_shown = min(2, n_axes)
    n_rows = -(-len(chosen) // N_GROUPS)
    size = (FULL_WIDTH_IN, n_rows * (PANEL_IN + GAP_IN) + TITLE_IN + 0.25)
    titles = ["sensitivity", "STA", *[f"axis {axis + 1}" for axis in range(n_shown)], "eigenvalues"]
    with paper_style():
        figure = Figure(figsize=size)
        for index, (_, neuron) in enumerate(chosen.iterrows()):
            group, row = divmod(index, n_rows)
            left = LEFT_IN + group * FULL_WIDTH_IN / N_GROUPS
            bottom = size[1] - TITLE_IN - (row + 1) * (PANEL_IN + GAP_IN)
            panels = [
                _panel(figure, size, (left + column * (PANEL_IN + GAP_IN), bottom), first=row == 0, title=title)
                for column, title in enumerate(titles)
            ]
            _draw_neuron(panels, results[str(neuron["session"])], int(neuron["place"]), n_shown)
            name = str(neuron.get("unit_id", neuron["neuron"])).replace("_", " ")
            figure.text(
                (left - 0.05) / size[0], (bottom + PANEL_IN / 2) / size[1], name, fontsize=5.5, ha="right", va="center",
                wrap=True,
            )  # fmt: skip
    selection = "all" if len(chosen) == len(rows) else f"{len(chosen)} evenly chosen of"
    significant = everything["n_dimensions"].to_numpy(float)
    caption = (
        f"Spike-triggered analysis of {selection} {len(rows)} model neurons. Sensitivity: root mean squared gradient "
        f"of the response to white noise, with the fitted Gaussian at {ELLIPSE_SIGMA:g} standard deviation. STA and "
        "axes of the spike-triggered covariance: the frame with most energy, in the channel with most (red: positive, "
        "scaled to the peak; pale: not significant). Eigenvalues: change in variance along each axis on fresh noise, 1 "
        "is a doubling (filled: significant). "
        f"Median number of significant dimensions {np.nanmedian(significant):g}."
    )
    return Drawing(figure, caption)


def _panel(figure: Figure, size: tuple[float, float], corner: tuple[float, float], *, first: bool, title: str) -> Axes:
    axes = figure.add_axes((corner[0] / size[0], corner[1] / size[1], PANEL_IN / size[0], PANEL_IN / size[1]))
    axes.set(xticks=[], yticks=[])
    if first:
        axes.set_title(title, fontsize=5.5, pad=2)
    return axes


def _draw_neuron(panels: list[Axes], result: ExperimentResult, place: int, n_shown: int) -> None:
    arrays = {name: quantity.data[place] for name, quantity in result.arrays.items()}
    row = result.table.iloc[place]
    panels[0].imshow(arrays["sensitivity"], cmap="Greys", interpolation="nearest")
    center = (row["center_x_px"], row["center_y_px"])
    widths = 2 * ELLIPSE_SIGMA * row[["sigma_major_px", "sigma_minor_px"]].to_numpy(float)
    angle = float(np.rad2deg(row["angle_rad"]))
    panels[0].add_patch(Ellipse(center, *widths, angle=angle, fill=False, edgecolor=COLORS[1], linewidth=0.8))
    _draw_frame(panels[1], arrays["sta"], bool(arrays["sta_significant"]))
    for axis in range(n_shown):
        _draw_frame(panels[2 + axis], arrays["stc_axes"][axis], bool(arrays["stc_significant"][axis]))
    _draw_eigenvalues(panels[-1], arrays["stc_eigenvalue"], arrays["stc_significant"].astype(bool))


def _draw_frame(axes: Axes, filters: Float[np.ndarray, "lag_bin channel y x"], significant: bool) -> None:
    lag, channel = np.unravel_index(np.square(filters).sum(axis=(2, 3)).argmax(), filters.shape[:2])
    image = filters[lag, channel]
    limit = float(np.abs(image).max()) or 1.0
    axes.imshow(
        image, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest", alpha=1.0 if significant else 0.35
    )


def _draw_eigenvalues(axes: Axes, values: Float[np.ndarray, "axis"], significant: np.ndarray) -> None:
    axes.axhline(0, color=GREY, linewidth=0.4)
    number = np.arange(1, len(values) + 1)
    axes.scatter(number[significant], values[significant], s=6, color=COLORS[0])
    axes.scatter(number[~significant], values[~significant], s=6, facecolors="none", edgecolors=GREY, linewidths=0.6)
    limit = max(0.1, 1.2 * float(np.abs(values).max()))
    axes.set(xlim=(0.3, len(values) + 0.7), ylim=(-limit, limit))
    axes.yaxis.tick_right()
    axes.set_yticks([0.0, round(limit / 1.2, 1)])
    axes.tick_params(labelsize=5.5, length=1.5, pad=1)
