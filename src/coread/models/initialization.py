"""Start values that come from the training bins: readout positions at the STA peak, filters at the STA."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int8
from scipy.ndimage import gaussian_filter

from coread.data_io.splits import TRAIN
from coread.data_io.sta import compute_sta
from coread.data_io.statistics import Statistics
from coread.models.core_readout import BaseCoreReadout
from coread.recording import Recording

METHODS = ("sta", "none")


def initialize_readouts(
    model: BaseCoreReadout,
    recordings: Sequence[Recording],
    labels: Mapping[str, Int8[np.ndarray, "bin"]],
    statistics: Statistics,
    settings: Mapping[str, Any],
) -> None:
    """Start every readout from the spike-triggered average of the fold's training bins, where it has such a start.

    `settings`: `method` (sta | none), `n_lags` (bins averaged), `smoothing_px` (before the peak is sought), `spread`
    (start width of a mask, in units of half the larger side of the core's output). Raises ValueError for an unknown
    method.
    """
    if settings["method"] not in METHODS:
        raise ValueError(f"initialization method {settings['method']!r} is unknown, expected one of {list(METHODS)}")
    if settings["method"] == "none":
        return
    for recording in recordings:
        _initialize_readout(model, recording, labels[recording.session] == TRAIN, statistics, settings)


def _initialize_readout(
    model: BaseCoreReadout,
    recording: Recording,
    train: Bool[np.ndarray, "bin"],
    statistics: Statistics,
    settings: Mapping[str, Any],
) -> None:
    readout: Any = model.readout[recording.session]
    takes_filters = hasattr(readout, "initialize_filters")
    if not (takes_filters or hasattr(readout, "initialize_positions")):
        return
    # never older frames than the model sees: they may belong to a held-out clip
    lag = model.lag if takes_filters else min(int(settings["n_lags"]) - 1, model.lag)
    sta = compute_sta(recording, train, lag)
    sta /= statistics.stim_std
    if takes_filters:
        readout.initialize_filters(torch.as_tensor(sta))
        return
    peaks = peak_positions(sta, float(settings["smoothing_px"]))
    positions = output_positions(peaks, model)
    readout.initialize_positions(torch.as_tensor(positions, dtype=torch.float32), sigma=settings["spread"])


def peak_positions(
    sta: Float[np.ndarray, "neuron lag_bin channel height width"], smoothing_px: float
) -> Float[np.ndarray, "neuron 2"]:
    """Return the pixel (y, x) where the smoothed STA holds most energy over lags and channels."""
    smooth = gaussian_filter(sta, sigma=(0, 0, 0, smoothing_px, smoothing_px), mode="nearest")
    energy = np.square(smooth).sum(axis=(1, 2))
    flat = energy.reshape(len(energy), -1).argmax(axis=1)
    return np.stack(np.unravel_index(flat, energy.shape[1:]), axis=1).astype(np.float64)


def output_positions(pixels: Float[np.ndarray, "neuron 2"], model: BaseCoreReadout) -> Float[np.ndarray, "neuron 2"]:
    """Return input pixels (y, x) as (x, y) on the core's output grid, -1 and 1 being its outermost pixel centres.

    Cells whose peak lies outside what the core puts out start at its border.
    """
    output_pixels = (pixels - np.asarray(model.core.spatial_offset)) / np.asarray(model.core.spatial_stride)
    half = (np.asarray(_first_readout(model).in_shape[-2:], float) - 1) / 2
    return np.clip((output_pixels - half) / np.maximum(half, 0.5), -1.0, 1.0)[:, ::-1].copy()


def _first_readout(model: BaseCoreReadout) -> Any:
    return next(iter(model.readout.values()))
