"""Figure of how far around images gradients predict responses."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from coread.insilico.experiment import ExperimentResult
from coread.plotting.groups import group_names, joined_table
from coread.plotting.style import COLORS, FULL_WIDTH_IN, GREY, LIGHT_GREY, Drawing, paper_style, strip


def draw_local_linearity(results: Mapping[str, ExperimentResult], sufficient_r2: float) -> Drawing:
    """Draw the share of response changes that gradients predict against the size of the change of the image."""
    table = joined_table(results)
    names, kind = group_names(table)
    contrast = next(iter(results.values())).axes["perturbation_contrast"].data
    share = np.concatenate([result.arrays["linear_r2"].data for result in results.values()])
    shown = np.maximum(share, -0.5)  # a prediction that is worse than none can be arbitrarily bad
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH_IN, 2.4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[1, 1.3])
        left.plot(contrast, shown.T, color=LIGHT_GREY, linewidth=0.3, rasterized=len(shown) > 500)
        for position, name in enumerate(names):
            own, color = kind == name, COLORS[position % len(COLORS)]
            left.plot(contrast, np.nanmedian(shown[own], axis=0), color=color, marker="o", markersize=2.5)
            certain = ~(table["linear_range_contrast_sd_members"].to_numpy(float)[own] > contrast[-1] / 4)
            strip(right, position, table["linear_range_contrast"].to_numpy(float)[own], color, certain)
        left.axhline(sufficient_r2, color=GREY, linewidth=0.6, linestyle="--")
        left.set(xscale="log", xlabel="RMS contrast of the change", ylabel="predicted share of response changes")
        left.set_ylim(min(0.0, float(np.nanmin(shown, initial=0.0))) - 0.05, 1.05)
        left.set_xticks(contrast, [f"{value:g}" for value in contrast], minor=False)
        left.set_xticks([], minor=True)
        right.set_xticks(range(len(names)), [name.replace("_", " ") for name in names], rotation=30, ha="right")
        right.set_yscale("symlog", linthresh=float(contrast[0]))  # 0: nowhere
        right.set(ylabel="linear up to an RMS contrast of", ylim=(-0.3 * contrast[0], 1.5 * contrast[-1]))
        right.set_yticks([0.0, *contrast], [f"{value:g}" for value in (0.0, *contrast)])
        right.set_yticks([], minor=True)
    caption = (
        f"How far around natural images the gradient predicts the responses of {len(table)} model neurons. Left: share "
        "of the power of actual changes that the gradient predicts (1: a linear neuron; shown down to -0.5), against "
        "the contrast of the change of the image; grey: neurons, colours: medians of the cell types on the right. "
        f"Right: largest contrast up to which the share is at least {sufficient_r2:g} (dashed); open dots: it differs "
        "between members by more than a quarter of the largest contrast."
    )
    return Drawing(figure, caption)
