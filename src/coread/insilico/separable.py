"""Space-time separable parts of receptive fields: spatial image, time course, polarity."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.ndimage import gaussian_filter


class SeparableParts(NamedTuple):
    """Best rank-one approximation per neuron and channel: filter ~ temporal x spatial.

    The spatial part has unit norm and a positive centre, the temporal part carries units and sign. `peak_px (y, x)` is
    the centre's pixel and `channel` the channel with most energy. `explained` is the share of the filter's energy that
    the approximation keeps. `polarity` is the sign of the time course at its largest excursion: +1 (ON) where more
    light raises the response, 0 for an empty filter.
    """

    spatial: Float[np.ndarray, "neuron channel height width"]
    temporal: Float[np.ndarray, "neuron channel lag_bin"]
    explained: Float[np.ndarray, "neuron"]
    polarity: Int[np.ndarray, "neuron"]
    channel: Int[np.ndarray, "neuron"]
    peak_px: Float[np.ndarray, "neuron 2"]


def separate(filters: Float[np.ndarray, "neuron lag_bin channel height width"], smoothing_px: float) -> SeparableParts:
    """Split filters by a singular value decomposition per neuron and channel.

    The centre is the largest absolute value of the spatial part after smoothing with `smoothing_px`.
    """
    n_neurons, n_lags, n_channels, height, width = filters.shape
    matrix = np.moveaxis(filters, 2, 1).reshape(n_neurons, n_channels, n_lags, -1).astype(np.float64)
    # singular vectors over lags from the small Gram matrix: far fewer lags than pixels
    _, vectors = np.linalg.eigh(np.einsum("nclp,nckp->nclk", matrix, matrix))
    time = vectors[..., -1]
    space = np.einsum("ncl,nclp->ncp", time, matrix)
    strength = np.linalg.norm(space, axis=-1)
    spatial = space / np.where(strength > 0, strength, 1.0)[..., None]
    sign, pixel = _centre(spatial.reshape(n_neurons, n_channels, height, width), smoothing_px)
    spatial, temporal = spatial * sign[..., None], time * (strength * sign)[..., None]
    channel = strength.argmax(axis=1)
    rows = np.arange(n_neurons)
    course = temporal[rows, channel]
    energy = np.square(matrix).sum(axis=(1, 2, 3))
    explained = np.divide(np.square(strength).sum(axis=1), energy, out=np.zeros(n_neurons), where=energy > 0)
    return SeparableParts(
        spatial=spatial.reshape(n_neurons, n_channels, height, width).astype(np.float32),
        temporal=temporal.astype(np.float32),
        explained=explained,
        polarity=np.sign(course[rows, np.abs(course).argmax(axis=1)]).astype(np.int64),
        channel=channel,
        peak_px=np.stack(np.unravel_index(pixel[rows, channel], (height, width)), axis=1).astype(np.float64),
    )


def _centre(
    spatial: Float[np.ndarray, "neuron channel height width"], smoothing_px: float
) -> tuple[Float[np.ndarray, "neuron channel"], Int[np.ndarray, "neuron channel"]]:
    """Return sign and flat pixel index of the centre of every spatial part."""
    smooth = gaussian_filter(spatial, sigma=(0, 0, smoothing_px, smoothing_px), mode="constant")
    smooth = smooth.reshape(*spatial.shape[:2], -1)
    pixel = np.abs(smooth).argmax(axis=-1)
    value = np.take_along_axis(smooth, pixel[..., None], axis=-1)[..., 0]
    return np.where(value < 0, -1.0, 1.0), pixel


def latency_s(course: Float[np.ndarray, "neuron lag_bin"], bin_s: float) -> Float[np.ndarray, "neuron"]:
    """Return the time to the largest excursion of each time course, refined by a parabola through three bins."""
    magnitude = np.abs(course)
    peak = magnitude.argmax(axis=1)
    rows = np.arange(len(course))
    before = magnitude[rows, np.maximum(peak - 1, 0)]
    after = magnitude[rows, np.minimum(peak + 1, course.shape[1] - 1)]
    bend = before - 2 * magnitude[rows, peak] + after
    inside = (peak > 0) & (peak < course.shape[1] - 1) & (bend < 0)
    shift = np.divide(0.5 * (before - after), bend, out=np.zeros(len(course)), where=inside)
    return (peak + shift) * bin_s


def biphasic_index(
    course: Float[np.ndarray, "neuron lag_bin"],
) -> Float[np.ndarray, "neuron"]:
    """Return the largest opposite excursion relative to the largest one: 0 monophasic, 1 balanced."""
    rows = np.arange(len(course))
    peak = course[rows, np.abs(course).argmax(axis=1)]
    opposite = np.maximum((-course * np.sign(peak)[:, None]).max(axis=1), 0.0)
    return np.divide(opposite, np.abs(peak), out=np.zeros(len(course)), where=peak != 0)
