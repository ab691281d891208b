"""Start values that come from the training bins: readout positions at the STA peak, filters at the STA."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int8
from scipy.ndimage import gaussian_filter

from coread.data_io.splits import TRAIN, label_bins
from coread.data_io.sta import compute_sta, read_sta
from coread.data_io.statistics import Statistics
from coread.models.core_readout import BaseCoreReadout
from coread.models.member import build_model, session_sizes
from coread.recording import Recording

METHODS = ("sta", "none")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GivenStas:
    """Files of spike-triggered averages by session, computed over the training bins of a fold."""

    files: Mapping[str, Path]
    fold: int


def initialize_readouts(
    model: BaseCoreReadout,
    recordings: Sequence[Recording],
    labels: Mapping[str, Int8[np.ndarray, "bin"]],
    statistics: Statistics,
    settings: Mapping[str, Any],
    given: GivenStas | None = None,
) -> None:
    """Start every readout from the spike-triggered average of the fold's training bins, where it has such a start.

    `settings`: `method` (sta | none), `n_lags` (bins averaged), `smoothing_px` (before the peak is sought), `spread`
    (start width of a mask, in units of half the larger side of the core's output). The averages are read from the
    `given` files, or computed. Neurons without an average where filters start from it are listed in
    `data_info["neurons_without_sta"]`. Raises ValueError for an unknown method, or for none where the readouts have no
    other filters.
    """
    if settings["method"] not in METHODS:
        raise ValueError(f"initialization method {settings['method']!r} is unknown, expected one of {list(METHODS)}")
    if settings["method"] == "none":
        if any(readout.needs_sta for readout in model.readout.values()):
            raise ValueError(
                f"{type(model).__name__} takes its filters from the training bins: set initialization: sta"
            )
        return
    for recording in recordings:
        _initialize_readout(model, recording, labels[recording.session] == TRAIN, statistics, settings, given)


def compute_fold_sta(
    settings: Mapping[str, Any], recording: Recording, fold: int
) -> Float32[np.ndarray, "neuron lag_bin channel height width"]:
    """Return the averages that members of a fold start from, as their training would compute them.

    `settings` is the sta slice, or the train slice that it is part of; the bins are the training bins of the fold, and
    no other response counts.
    """
    untrained = dict.fromkeys(("loss", "optimizer", "lr_scheduler"))
    model = build_model(dict(settings) | untrained, session_sizes([recording]))
    label = label_bins(recording, settings["splits"], fold, model.lag)
    return compute_sta(recording, label == TRAIN, _sta_lag(model, recording.session, settings["initialization"]))


def _takes_filters(readout: Any) -> bool:
    return hasattr(readout, "initialize_filters") and readout.takes_filters


def _takes_positions(readout: Any) -> bool:
    return hasattr(readout, "initialize_positions") and readout.takes_positions


def _sta_lag(model: BaseCoreReadout, session: str, settings: Mapping[str, Any]) -> int:
    """Return the oldest bin of the average: that of the filters, or for positions `n_lags`.

    Never older frames than the model sees: they may belong to a held-out clip.
    """
    readout: Any = model.readout[session]
    return int(readout.lag) if _takes_filters(readout) else min(int(settings["n_lags"]) - 1, model.lag)


def _initialize_readout(
    model: BaseCoreReadout,
    recording: Recording,
    train: Bool[np.ndarray, "bin"],
    statistics: Statistics,
    settings: Mapping[str, Any],
    given: GivenStas | None,
) -> None:
    session = recording.session
    readout: Any = model.readout[session]
    if not (_takes_filters(readout) or _takes_positions(readout)):
        return
    lag = _sta_lag(model, session, settings)
    if given is None:
        sta = compute_sta(recording, train, lag)
    else:
        shape = (recording.n_neurons, lag + 1, *next(iter(recording.stimuli.values())).frames.shape[1:])
        sta = read_sta(given.files[session], session=session, fold=given.fold, shape=shape)
    sta = sta / np.float32(statistics.stim_std)
    if _takes_positions(readout):
        positions = output_positions(peak_positions(np.nan_to_num(sta), float(settings["smoothing_px"])), model)
        readout.initialize_positions(torch.as_tensor(positions, dtype=torch.float32), sigma=settings["spread"])
    if _takes_filters(readout):
        readout.initialize_filters(torch.as_tensor(sta))
        _flag_missing(model, session, sta)


def _flag_missing(
    model: BaseCoreReadout, session: str, sta: Float32[np.ndarray, "neuron lag_bin channel height width"]
) -> None:
    flat = sta.reshape(len(sta), -1)
    missing = np.flatnonzero(~(np.isfinite(flat).all(axis=1) & (flat != 0).any(axis=1))).tolist()
    model.data_info.setdefault("neurons_without_sta", {})[session] = missing
    if missing:
        log.warning("session %s: neuron rows %s have no spike-triggered average to start from", session, missing)


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
