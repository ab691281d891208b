"""One look for all figures: sizes of a printed page, colours that colour-blind readers can tell apart."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from coread.provenance import write_text

# Okabe & Ito 2008 without yellow, which is too light for dots and thin lines on white paper
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY, LIGHT_GREY = "#6E6E6E", "#C8C8C8"
ENSEMBLE_COLOR, CEILING_COLOR = COLORS[0], COLORS[1]
FULL_WIDTH_IN, HALF_WIDTH_IN = 7.2, 3.5  # 183 and 89 mm: two columns and one column of a journal page
DPI = 200
MAX_VECTOR_DOTS = 2000  # of a cloud: more make a PDF that no viewer scrolls through, and are drawn as an image

RC: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 7.0,
    "axes.labelsize": 7.0,
    "axes.titlesize": 7.5,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "lines.linewidth": 1.0,
    "figure.constrained_layout.w_pad": 0.08,
    "pdf.fonttype": 42,
    "savefig.dpi": DPI,
}


logging.getLogger("fontTools").setLevel(logging.WARNING)  # subsetting fonts for PDF logs every glyph


class Drawing(NamedTuple):
    """A figure and the caption that says what is shown, of how many neurons and in which units."""

    figure: Figure
    caption: str


@contextmanager
def paper_style() -> Iterator[None]:
    """Draw and save in the house style and leave the caller's settings alone."""
    with mpl.rc_context(RC):
        yield


def save_drawing(drawing: Drawing, path: Path) -> list[Path]:
    """Write `<path>.png`, `<path>.pdf` and the caption `<path>.txt`, atomically and without dates."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix, metadata in ((".png", {"Software": None}), (".pdf", {"CreationDate": None, "Producer": None})):
        target = path.with_name(path.name + suffix)
        temporary = path.with_name(f".{path.name}.tmp{suffix}")
        try:
            with paper_style():
                drawing.figure.savefig(temporary, metadata=metadata)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        written.append(target)
    write_text(path.with_name(path.name + ".txt"), drawing.caption + "\n")
    return written


def score_range(values: Float[np.ndarray, "..."]) -> tuple[float, float]:
    """Return limits of an axis of scores: from the tenth below the lowest value to a little above 1 or the highest."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    return float(np.floor(10 * (low - 0.01)) / 10), max(1.015, high + 0.015)


def strip(
    axes: Axes, position: float, values: Float[np.ndarray, "neuron"], color: str, included: np.ndarray | None = None
) -> None:
    """Draw one dot per neuron, spread evenly by rank within its surroundings, with the median and quartiles.

    Dots of neurons that are not included are open and count for neither median nor quartiles.
    """
    shown = np.isfinite(values)
    included = np.ones(len(values), bool) if included is None else included
    offset = np.zeros(len(values))
    # multiples of the golden ratio keep neighbours in rank apart and need no random numbers
    offset[np.argsort(values, kind="stable")] = 0.56 * ((np.arange(len(values)) * 0.6180339887) % 1 - 0.5)
    full, hollow = shown & included, shown & ~included
    size = 7.0 if len(values) <= 150 else 2.5 if len(values) <= MAX_VECTOR_DOTS else 0.6
    look: Any = {"s": size, "zorder": 2, "rasterized": len(values) > MAX_VECTOR_DOTS}
    axes.scatter(position + offset[full], values[full], color=color, alpha=0.55, linewidths=0, **look)
    axes.scatter(position + offset[hollow], values[hollow], facecolors="none", edgecolors=GREY, linewidths=0.5, **look)
    if full.any():
        low, median, high = np.percentile(values[full], [25, 50, 75])
        axes.plot([position, position], [low, high], color="black", linewidth=1.0, zorder=3, solid_capstyle="butt")
        axes.plot([position - 0.32, position + 0.32], [median, median], color="black", linewidth=1.4, zorder=3)
