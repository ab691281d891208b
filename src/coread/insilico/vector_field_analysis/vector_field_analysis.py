"""Locally linear receptive fields over images: the gradient of a response in a window with respect to the image.

They are the model's local spike-triggered averages (LSTAs; Goldin et al. 2022, Nature Communications 13:5556). Along
the first two principal components of a neuron's LSTAs, images are points and LSTAs arrows: a vector field.

    movies, n_empty = prepare_movies_dataset(model, "session", image_library=images)
    lstas, responses = compute_lsta_library(model, movies, "session", cell_id=0)
    pc1, pc2, explained = get_pc_from_pca(model, 0, lstas)
    points = get_images_coordinate(images[:, 0], pc1, pc2)
    figure = plot_clean_vectorfield(lstas, 0, pc1, pc2, images[:, 0], points, explained)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from matplotlib.figure import Figure
from skimage import io
from torch import Tensor, nn

from coread.eval.predictions import evaluating
from coread.insilico.local_gradient import window_gradients
from coread.models.typical_context import respond_typically
from coread.plotting.style import FULL_WIDTH_IN
from coread.plotting.vector_field import (
    draw_binned_vectors,
    draw_component_images,
    draw_insets,
    draw_points,
    draw_vectors,
)

if TYPE_CHECKING:
    from coread.models.core_readout import BaseCoreReadout

EXTRA_GREY_FRAMES = 10  # before the images, beyond the lag of the model
AVERAGES = ("window", "all")


def load_and_preprocess_images(
    image_dir: str | Path, target_h: int, target_w: int, n_channels: int
) -> Float32[np.ndarray, "image channel height width"]:
    """Load the PNG files of a folder in the order of their names, thinned out and cut to the middle.

    Every k-th pixel is kept, with the largest k that leaves an image of the wanted size. Colour images become grey; all
    channels are the same. Raises ValueError for a folder without PNG files and for an image that is too small.
    """
    files = sorted(path for path in Path(image_dir).iterdir() if path.suffix.lower() == ".png")
    if not files:
        raise ValueError(f"{image_dir}: no PNG files found")
    images = np.stack([_cut(io.imread(file), file, target_h, target_w) for file in files])
    return np.repeat(images[:, None], n_channels, axis=1)


def _cut(image: np.ndarray, file: Path, height: int, width: int) -> Float32[np.ndarray, "height width"]:
    grey = image[..., :3].mean(axis=-1) if image.ndim == 3 else image
    if grey.shape[0] < height or grey.shape[1] < width:
        raise ValueError(f"{file}: an image of at least {(height, width)} pixels is needed, found {grey.shape}")
    step = min(grey.shape[0] // height, grey.shape[1] // width)
    thinned = grey[::step, ::step]
    top, left = (thinned.shape[0] - height) // 2, (thinned.shape[1] - width) // 2
    return thinned[top : top + height, left : left + width].astype(np.float32)


@torch.no_grad()
def get_model_temporal_padding(
    model: nn.Module, n_channels: int, target_h: int, target_w: int, device: str | torch.device | None = None
) -> int:
    """Return how many frames a response is shorter than its stimulus: the `lag` of the model, else measured."""
    if hasattr(model, "lag"):
        return int(model.lag)  # type: ignore[arg-type]
    n_frames = 100
    with evaluating(model):
        response = model(torch.zeros(1, n_channels, n_frames, target_h, target_w, device=device))
    return n_frames - response.shape[1]


def normalize_movies_array(
    movies: Float[np.ndarray, "image channel time height width"],
    model: "BaseCoreReadout",
    session_id: str,
    n_channels: int,
) -> Float32[np.ndarray, "image channel time height width"]:
    """Return movies in standard deviations of the stimulus that the model was trained with, around its mean.

    One mean and deviation serve all sessions and channels. Raises ValueError if the model does not know them, and for
    another number of channels.
    """
    if movies.shape[1] != n_channels:
        raise ValueError(f"session {session_id!r}: movies of {n_channels} channels expected, found {movies.shape[1]}")
    if missing := [name for name in ("stim_mean", "stim_std") if name not in model.data_info]:
        raise ValueError(f"the model does not know the {missing[0]} of its training stimulus: normalize_movies=False")
    mean, std = float(model.data_info["stim_mean"]), float(model.data_info["stim_std"])
    return ((movies - mean) / std).astype(np.float32)


def prepare_movies_dataset(
    model: "BaseCoreReadout",
    session_id: str,
    n_image_frames: int = 16,
    normalize_movies: bool = True,
    image_library: Float[np.ndarray, "image channel height width"] | None = None,
    image_dir: str | Path | None = None,
    device: str | torch.device | None = None,
) -> tuple[Float32[np.ndarray, "image channel time height width"], int]:
    """Return a movie per image, grey and then the image for `n_image_frames`, and the number of grey frames.

    The grey lasts `lag` + 10 frames and is the mean of all images. Images come from `image_library` or the PNG files of
    `image_dir`. Raises ValueError unless exactly one of them is given, and for images of another size.
    """
    n_channels, height, width = (int(size) for size in model.data_info["input_shape"])
    if (image_library is None) == (image_dir is None):
        raise ValueError("images come from either image_library or image_dir: give one of them")
    if image_dir is not None:
        images = load_and_preprocess_images(image_dir, height, width, n_channels)
    else:
        images = np.asarray(image_library, dtype=np.float32)
    if images.ndim != 4 or images.shape[1:] != (n_channels, height, width):
        raise ValueError(f"images must be (image, {n_channels}, {height}, {width}), got {images.shape}")
    n_grey = get_model_temporal_padding(model, n_channels, height, width, device) + EXTRA_GREY_FRAMES
    movies = np.repeat(images[:, :, None], n_grey + n_image_frames, axis=2)
    if normalize_movies:
        movies = normalize_movies_array(movies, model, session_id, n_channels)
    movies[:, :, :n_grey] = movies.mean()
    return movies, n_grey


def compute_lsta_library(
    model: nn.Module,
    movies: Float[np.ndarray | Tensor, "image channel time height width"],
    session_id: str,
    cell_id: int | Sequence[int] | None,
    batch_size: int = 64,
    integration_window: tuple[int, int] = (5, 15),
    device: str | torch.device | None = None,
    average: str = "window",
) -> tuple[Float32[np.ndarray, "*cell image channel height width"], Float32[np.ndarray, "image time_out neuron"]]:
    """Return the LSTAs of all movies, and all responses: of one cell, of several, or (None) of all in one pass.

    An LSTA is the gradient of the response summed over `integration_window` (start, end; bins of the output) with
    respect to the stimulus, averaged over frames: over those on screen during the window ("window", what the published
    package documents) or over all of the movie ("all", what it computes; a gradient reaches back `lag` frames). One
    `cell_id` gives maps (image, channel, height, width), more give (cell, image, ...). `device` is that of the model.
    Raises IndexError for a cell that there is not, ValueError for an empty window or an unknown average.
    """
    if average not in AVERAGES:
        raise ValueError(f"average {average!r} is unknown, expected one of {list(AVERAGES)}")
    on = next(model.parameters()).device if device is None else torch.device(device)
    shown = torch.as_tensor(movies, dtype=torch.float32)
    with evaluating(model):
        with torch.no_grad():
            n_out, n_cells = respond_typically(model, shown[:1].to(on), session_id).shape[1:]
        cells = _cells(cell_id, n_cells)
        window, frames = _window_and_frames(integration_window, n_out, shown.shape[2], average)
        parts = [
            window_gradients(
                lambda x: respond_typically(model, x, session_id), batch.to(on), cells.to(on), window, frames
            )
            for batch in shown.split(batch_size)
        ]
    n_averaged = frames.stop - frames.start
    lstas = np.concatenate([gradient.cpu().numpy() for gradient, _ in parts], axis=1) / n_averaged
    responses = np.concatenate([response.cpu().numpy() for _, response in parts])
    return lstas[0] if isinstance(cell_id, int | np.integer) else lstas, responses


def _cells(cell_id: int | Sequence[int] | None, n_cells: int) -> Tensor:
    cells = np.arange(n_cells) if cell_id is None else np.atleast_1d(np.asarray(cell_id, dtype=np.int64))
    for cell in cells[(cells < 0) | (cells >= n_cells)]:
        raise IndexError(f"cell_id {cell} is out of bounds, the session has {n_cells} cells")
    return torch.as_tensor(cells)


def _window_and_frames(
    integration_window: tuple[int, int], n_out: int, n_frames: int, average: str
) -> tuple[slice, slice]:
    """Return the bins of the output to sum over and the frames to average over."""
    start, stop = integration_window[0], min(integration_window[1], n_out)
    if not 0 <= start < stop:
        raise ValueError(f"integration_window {integration_window} holds none of the {n_out} bins of the output")
    lag = n_frames - n_out
    return slice(start, stop), slice(start + lag, stop + lag) if average == "window" else slice(0, n_frames)


def principal_components(
    vectors: Float[np.ndarray, "neuron sample feature"], n_components: int = 2
) -> tuple[Float[np.ndarray, "neuron component feature"], Float[np.ndarray, "neuron component"]]:
    """Return principal components around the mean and their shares of the variance, of many neurons at once.

    The largest entry of a component is positive. Shares are NaN where nothing varies beyond rounding: components are
    arbitrary there. Raises ValueError for fewer samples than components.
    """
    if vectors.shape[1] < n_components:
        raise ValueError(f"{n_components} components need as many samples, got {vectors.shape[1]}")
    power = np.square(vectors, dtype=np.float64).sum(axis=(1, 2))
    centred = vectors - vectors.mean(axis=1, keepdims=True, dtype=np.float64)
    _, strength, rows = np.linalg.svd(centred, full_matrices=False)
    components = rows[:, :n_components]
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=2)[..., None], axis=2)
    variance = np.square(strength)
    total = variance.sum(axis=1)
    varies = total > 1e-10 * power  # of float32 gradients
    shares = np.where(varies[:, None], variance[:, :n_components] / np.where(varies, total, 1.0)[:, None], np.nan)
    return components * np.sign(largest), shares


def get_pc_from_pca(
    model: Any, channel: int, lsta_library: Float[np.ndarray, "image channel height width"], plot: bool = False
) -> tuple[np.ndarray, np.ndarray, Float[np.ndarray, "2"]]:
    """Return the first two principal components of one channel's LSTAs, flattened, and their shares of the variance.

    `plot` draws them as images of the height and width of `model.data_info`.
    """
    flat = lsta_library[:, channel].reshape(1, len(lsta_library), -1)
    components, shares = principal_components(flat)
    if plot:
        height, width = (int(size) for size in model.data_info["input_shape"][1:3])
        draw_component_images(_notebook_figure(), components[0].reshape(2, height, width), shares[0])
    return components[0, 0], components[0, 1], shares[0]


def get_images_coordinate(
    images: Float[np.ndarray, "image height width"],
    PC1: Float[np.ndarray, "pixel"],  # noqa: N803
    PC2: Float[np.ndarray, "pixel"],  # noqa: N803
    plot: bool = False,
) -> Float[np.ndarray, "image 2"]:
    """Return the projections of images onto two components; `plot` draws them as points."""
    coordinates = images.reshape(len(images), -1) @ np.stack([PC1, PC2], axis=1)
    if plot:
        draw_points(_notebook_figure(), coordinates)
    return coordinates


def _notebook_figure() -> Figure:
    """Return a figure that a notebook shows by itself."""
    import matplotlib.pyplot as plt  # sets up a screen, which nothing else here needs

    return plt.figure(figsize=(FULL_WIDTH_IN, FULL_WIDTH_IN / 2), layout="constrained")


def plot_pc_insets(
    fig: Figure,
    PC1: Float[np.ndarray, "pixel"],  # noqa: N803
    PC2: Float[np.ndarray, "pixel"],  # noqa: N803
    x_size: int,
    y_size: int,
    explained_variance: Float[np.ndarray, "2"] | None = None,
) -> None:
    """Draw two components of `x_size` rows and `y_size` columns at the ends of the axes of a vector field."""
    draw_insets(fig, np.stack([PC1, PC2]).reshape(2, x_size, y_size), explained_variance)


def plot_untreated_vectorfield(
    lsta_library: Float[np.ndarray, "image channel height width"],
    channel: int,
    PC1: Float[np.ndarray, "pixel"],  # noqa: N803
    PC2: Float[np.ndarray, "pixel"],  # noqa: N803
    images_coordinate: Float[np.ndarray, "image 2"],
) -> Figure:
    """Draw an arrow for every image, from its projection along the projection of its LSTA; return the figure."""
    components = np.stack([PC1, PC2])
    arrows = get_images_coordinate(lsta_library[:, channel], PC1, PC2)
    figure = draw_vectors(images_coordinate[: len(arrows)], arrows)
    draw_insets(figure, components.reshape(2, *lsta_library.shape[-2:]), None)
    return figure


def plot_clean_vectorfield(
    lsta_library: Float[np.ndarray, "image channel height width"],
    channel: int,
    PC1: Float[np.ndarray, "pixel"],  # noqa: N803
    PC2: Float[np.ndarray, "pixel"],  # noqa: N803
    images: Float[np.ndarray, "image height width"],
    images_coordinate: Float[np.ndarray, "image 2"],
    explained_variance: Float[np.ndarray, "2"],
    x_bins: int = 31,
    y_bins: int = 31,
    responses: Float[np.ndarray, "image"] | None = None,
) -> Figure:
    """Draw one arrow per occupied bin of the plane, averaged over its images; return the figure.

    Bins divide the range of `images_coordinate`, the outermost images included; the arrow starts at the mean projection
    of the bin's images. Mean `responses` are drawn below the arrows. Raises ValueError if there are no images.
    """
    if not len(images_coordinate):
        raise ValueError("a vector field needs images, got none")
    tails = get_images_coordinate(images, PC1, PC2)
    arrows = get_images_coordinate(lsta_library[:, channel], PC1, PC2)
    figure = draw_binned_vectors(images_coordinate, tails, arrows, (x_bins, y_bins), responses)
    draw_insets(figure, np.stack([PC1, PC2]).reshape(2, *lsta_library.shape[-2:]), explained_variance)
    return figure
