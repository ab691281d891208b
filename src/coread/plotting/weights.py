"""Figures of what a model has learned: filters of the core, masks of the readouts, gradient receptive fields."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from coread.insilico.receptive_fields import response_gradient
from coread.insilico.separable import separate
from coread.models.core_readout import BaseCoreReadout
from coread.modules.core.base_core import Core
from coread.modules.readout.multi_readout import MultiReadoutBase
from coread.plotting.single_weights import best_separable
from coread.plotting.style import COLORS, FULL_WIDTH_IN, GREY, Drawing, paper_style, save_drawing

N_COLUMNS, N_ROWS = 8, 8  # panels of a page
GAP = 0.15  # between panels, in panels
MAX_HEIGHT_IN = 9.0
TITLE_IN = 0.15  # above a panel


def write_core_filters(core: Core, folder: Path) -> list[Path]:
    """Draw every filter of every convolution as `core_layer<i>.png` and `.pdf`; return the files."""
    written = []
    for i, conv in enumerate(getattr(core, "convolutions", [])):
        written += save_drawing(draw_filters(_array(conv.filters()), i), folder / f"core_layer{i}")
    return written


def draw_filters(filters: Float[np.ndarray, "out in time height width"], layer: int) -> Drawing:
    """Draw the filters of one layer, a row per output and a column per input channel: space left, time right."""
    n_out, n_in, n_time, height, width = filters.shape
    pairs = filters.reshape(n_out * n_in, n_time, height * width)
    courses, images, share = best_separable(pairs)
    size = (FULL_WIDTH_IN, min(MAX_HEIGHT_IN, max(1.2, 0.5 * FULL_WIDTH_IN * n_out / n_in)))
    with paper_style():
        figure = Figure(figsize=size, layout="constrained")
        space, time = figure.subplots(1, 2)
        _mosaic(space, images.reshape(n_out, n_in, height, width))
        _traces(time, courses.reshape(n_out, n_in, n_time))
    caption = (
        f"Filters of layer {layer} of the core: {n_out} output channels (rows), {n_in} input channels (columns). Left: "
        f"spatial part ({height} x {width} pixels, each scaled to its peak, red: positive). Right: time course "
        f"({n_time} bins, the current one right). They are the best separable filters, with {100 * share:.1f} % of the "
        "filters' power."
    )
    return Drawing(figure, caption)


def write_readout_masks(readout: MultiReadoutBase, folder: Path) -> list[Path]:
    """Draw where every neuron reads, as `readout_<session>_<page>.png` and `.pdf`; return the files.

    Readouts have a mask on the feature maps or a position; those with neither are left out.
    """
    written = []
    for session in readout.readout_keys():
        of_session: Any = readout[session]
        if hasattr(of_session, "masks"):
            masks = np.moveaxis(_array(of_session.masks), -1, 0)
            title = f"Readout masks of session {session} on the core's output, each scaled to its peak"
            written += _write_pages(masks, folder / f"readout_{session}", title)
        elif hasattr(of_session, "mu"):
            drawing = draw_positions(_array(of_session.mu).reshape(-1, 2), session)
            written += save_drawing(drawing, folder / f"readout_{session}")
    return written


def draw_positions(positions: Float[np.ndarray, "neuron 2"], session: str) -> Drawing:
    """Draw the positions (x, y) in [-1, 1] at which the neurons of a session read."""
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH_IN / 2, FULL_WIDTH_IN / 2), layout="constrained")
        axes = figure.subplots()
        axes.scatter(positions[:, 0], positions[:, 1], s=8, color=COLORS[0])
        axes.set(xlim=(-1.05, 1.05), ylim=(1.05, -1.05), xlabel="x", ylabel="y", aspect="equal")
    caption = f"Where the {len(positions)} neurons of session {session} read the core's output, from -1 to 1."
    return Drawing(figure, caption)


def write_gradient_fields(model: BaseCoreReadout, folder: Path) -> list[Path]:
    """Draw the gradient receptive field of every neuron as `receptive_fields_<session>_<page>`; return the files.

    It is the gradient of the response with respect to the stimulus at a grey screen, split into space and time.
    """
    written = []
    device = next(model.parameters()).device
    grey = torch.zeros(model.stimulus_shape(model.lag + 1), device=device)
    for session in model.readout.readout_keys():
        n_neurons = int(model.readout[session].outdims)  # type: ignore[arg-type]
        parts = separate(_array(response_gradient(model, session, grey, n_neurons)), smoothing_px=1.0)
        rows = np.arange(n_neurons)
        spatial, temporal = parts.spatial[rows, parts.channel], parts.temporal[rows, parts.channel]
        title = (
            f"Gradient receptive fields of session {session} at a grey screen, in the strongest stimulus channel, each "
            f"scaled to its peak; below: time course ({temporal.shape[1]} bins, the current one right)"
        )
        written += _write_pages(spatial, folder / f"receptive_fields_{session}", title, temporal[:, ::-1])
    return written


def _write_pages(
    images: Float[np.ndarray, "neuron height width"],
    path: Path,
    title: str,
    courses: Float[np.ndarray, "neuron time"] | None = None,
) -> list[Path]:
    written = []
    for page, rows in enumerate(_pages(len(images))):
        drawing = _draw_page(images[rows], title, rows, None if courses is None else courses[rows])
        written += save_drawing(drawing, path.with_name(f"{path.name}_{page}"))
    return written


def _pages(n: int) -> Iterator[np.ndarray]:
    for start in range(0, n, N_COLUMNS * N_ROWS):
        yield np.arange(start, min(n, start + N_COLUMNS * N_ROWS))


def _draw_page(
    images: Float[np.ndarray, "neuron height width"],
    title: str,
    neurons: Sequence[int] | np.ndarray,
    courses: Float[np.ndarray, "neuron time"] | None,
) -> Drawing:
    n_rows = -(-len(images) // N_COLUMNS)
    width = FULL_WIDTH_IN / N_COLUMNS
    image_height = 0.9 * width * min(1.6, max(0.4, images.shape[1] / images.shape[2]))
    course_height = 0.0 if courses is None else 0.3
    height = TITLE_IN + image_height + course_height
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH_IN, n_rows * height))
        for index, (image, neuron) in enumerate(zip(images, neurons, strict=True)):
            row, column = divmod(index, N_COLUMNS)
            left, top = column * width, (n_rows - row) * height - TITLE_IN
            axes = _add_axes(figure, (left, top - image_height, 0.9 * width, image_height))
            limit = float(np.abs(image).max()) or 1.0
            axes.imshow(image, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
            axes.set_title(f"neuron {neuron}", fontsize=5.5, pad=1.5)
            if courses is not None:
                course = courses[index] / (np.abs(courses[index]).max() or 1.0)
                below = _add_axes(figure, (left, top - image_height - course_height, 0.9 * width, course_height))
                below.axhline(0, color=GREY, linewidth=0.4)
                below.plot(course, color=COLORS[0], linewidth=0.8)
                below.set_ylim(-1.1, 1.1)
    return Drawing(figure, f"{title}. Neurons {neurons[0]} to {neurons[-1]} of the session, counted from 0.")


def _add_axes(figure: Figure, box_in: tuple[float, float, float, float]) -> Axes:
    """Add axes without frame at (left, bottom, width, height) in inches."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((box_in[0] / width, box_in[1] / height, box_in[2] / width, box_in[3] / height))
    axes.axis("off")
    return axes


def _mosaic(axes: Axes, images: Float[np.ndarray, "row column height width"]) -> None:
    n_rows, n_columns, height, width = images.shape
    peak = np.abs(images).max(axis=(2, 3), keepdims=True)
    scaled = images / np.where(peak == 0, 1, peak)
    padded = np.pad(scaled, ((0, 0), (0, 0), (0, max(1, round(GAP * height))), (0, max(1, round(GAP * width)))))
    sheet = padded.transpose(0, 2, 1, 3).reshape(n_rows * padded.shape[2], n_columns * padded.shape[3])
    axes.imshow(sheet, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest", aspect="auto")
    axes.axis("off")


def _traces(axes: Axes, courses: Float[np.ndarray, "row column time"]) -> None:
    n_rows, n_columns, n_time = courses.shape
    peak = np.abs(courses).max(axis=2, keepdims=True)
    y = np.arange(n_rows)[:, None, None] - 0.42 * courses / np.where(peak == 0, 1, peak)
    x = np.arange(n_columns)[None, :, None] + np.linspace(0, 1 - GAP, n_time)
    points = np.stack([np.broadcast_to(x, y.shape), y], axis=-1).reshape(-1, n_time, 2)
    axes.add_collection(LineCollection(list(points), colors=COLORS[0], linewidths=0.6))
    axes.set(xlim=(-GAP, n_columns), ylim=(n_rows - 0.5, -0.5))
    axes.axis("off")


def _array(values: torch.Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()
