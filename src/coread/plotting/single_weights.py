"""Figures of one filter or one neuron each, with which cores, convolutions and readouts draw themselves."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from coread.plotting.style import COLORS, FULL_WIDTH_IN, GREY, paper_style

DPI = 150


def best_separable(
    filters: Float[np.ndarray, "filter time pixel"],
) -> tuple[Float[np.ndarray, "filter time"], Float[np.ndarray, "filter pixel"], float]:
    """Return time courses and images of the best separable filters, and their share of the filters' power.

    A time course has norm 1 and peaks upwards; its image has the norm of the filter.
    """
    left, strength, right = np.linalg.svd(filters, full_matrices=False)
    courses = left[:, :, 0]
    sign = np.sign(courses[np.arange(len(filters)), np.abs(courses).argmax(axis=1)])[:, None]
    share = float((strength[:, 0] ** 2).sum() / max((strength**2).sum(), 1e-30))
    return courses * sign, right[:, 0] * (sign * strength[:, :1]), share


def draw_filter(
    filter_: Float[np.ndarray, "time height width"], title: str = "", *, ticks: bool = True, spatial_peak: bool = False
) -> Figure:
    """Draw the spatial part of a filter (left) and its time course, the current bin right.

    The time course peaks upwards or, with `spatial_peak`, the image does.
    """
    (course,), (image,), _ = best_separable(filter_.reshape(1, len(filter_), -1))
    flip = spatial_peak and image[np.abs(image).argmax()] < 0
    course, image = (-course, -image) if flip else (course, image)
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH_IN / 2, FULL_WIDTH_IN / 4), layout="constrained")
        space, time = figure.subplots(1, 2)
        _show(space, image.reshape(filter_.shape[1:]))
        _trace(time, course)
        if title:
            figure.suptitle(title, fontsize=7)
        for axes in (space, time):
            _finish(axes, ticks)
    return figure


def draw_neuron(
    readout: Any, neuron: int, axes: tuple[Axes, Axes] | None = None, *, titles: bool = True, ticks: bool = True
) -> Figure:
    """Draw where a neuron of a readout reads (left) and the weights of the features, or its time course (right).

    Raises IndexError for a neuron that the readout does not have.
    """
    if not 0 <= neuron < readout.number_of_neurons():
        raise IndexError(f"neuron {neuron} is none of the {readout.number_of_neurons()} neurons of the readout")
    with paper_style():
        if axes is None:
            figure = Figure(figsize=(FULL_WIDTH_IN / 2, FULL_WIDTH_IN / 4), layout="constrained")
            place, weights = figure.subplots(1, 2)
        else:
            place, weights = axes
        _draw_place(place, readout, neuron)
        _draw_weights(weights, readout, neuron)
        if titles:
            place.set_title(f"where neuron {neuron} reads", fontsize=7)
            has_course = _features(readout) is None and hasattr(readout, "filters")
            weights.set_title("time course" if has_course else "feature weights", fontsize=7)
        _finish(weights, ticks)
        return place.get_figure(root=True)


def save_figure(figure: Figure, folder: str | Path, name: str, file_format: str, state_suffix: str) -> Path:
    """Write a figure as `<folder>/<name>[_<state_suffix>].<file_format>`; return the file."""
    path = Path(folder) / f"{name}{f'_{state_suffix}' if state_suffix else ''}.{file_format}"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, facecolor="white")
    return path


def _draw_place(axes: Axes, readout: Any, neuron: int) -> None:
    if hasattr(readout, "masks"):
        _show(axes, _array(readout.masks)[..., neuron])
    elif hasattr(readout, "mu"):
        x, y = _array(readout.mu).reshape(-1, 2)[neuron]
        axes.scatter([x], [y], s=12, color=COLORS[0])
        axes.set(xlim=(-1.05, 1.05), ylim=(1.05, -1.05), xlabel="x", ylabel="y", aspect="equal")
    else:
        _, image = _strongest_channel(readout, neuron)
        _show(axes, image)


def _draw_weights(axes: Axes, readout: Any, neuron: int) -> None:
    features = _features(readout)
    if features is None and hasattr(readout, "filters"):
        _trace(axes, _strongest_channel(readout, neuron)[0])
    elif features is not None:
        axes.bar(np.arange(len(features)), features[:, neuron], color=COLORS[0])
        axes.axhline(0, color=GREY, linewidth=0.4)
        axes.set(xlabel="feature", ylabel="weight")


def _features(readout: Any) -> Float[np.ndarray, "feature neuron"] | None:
    for name in ("features", "feature_weights"):
        if hasattr(readout, name):
            return _array(getattr(readout, name)).reshape(-1, readout.number_of_neurons())
    return None


def _strongest_channel(
    readout: Any, neuron: int
) -> tuple[Float[np.ndarray, " time"], Float[np.ndarray, "height width"]]:
    """Return time course and image of a filter (lag, channel, height, width) in the channel with most of its power."""
    filter_ = _array(readout.filters[neuron])[::-1]
    channel = (filter_**2).sum(axis=(0, 2, 3)).argmax()
    (course,), (image,), _ = best_separable(filter_[None, :, channel].reshape(1, len(filter_), -1))
    return course, image.reshape(filter_.shape[2:])


def _show(axes: Axes, image: Float[np.ndarray, "height width"]) -> None:
    limit = float(np.abs(image).max()) or 1.0
    axes.imshow(image, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")


def _trace(axes: Axes, course: Float[np.ndarray, " time"]) -> None:
    axes.axhline(0, color=GREY, linewidth=0.4)
    axes.plot(np.arange(1 - len(course), 1), course, color=COLORS[0])
    axes.set(xlabel="bins")


def _finish(axes: Axes, ticks: bool) -> None:
    if not ticks:
        axes.set(xticks=[], yticks=[])


def _array(values: torch.Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()
