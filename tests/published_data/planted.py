"""Planted cells: each copies one pixel of what is on screen, some frames later."""

import numpy as np

from coread.data_io.sta import compute_sta


def copying_cell(shown, pixel, lag):
    """Return what a cell answers to one presentation of frames (frame, height, width); 0 before its first frame."""
    response = np.zeros(len(shown))
    response[lag:] = shown[: len(shown) - lag, *pixel]
    return response


def found_at(recording, tier, n_lags):
    """Return (lag, channel, y, x) where each cell's spike-triggered average over the bins of a tier peaks.

    Averages are covariances; in units of each pixel's standard deviation the copied pixel wins over neighbours that
    are like it but vary more.
    """
    bins = recording.bin_column("tier") == tier
    name = recording.bin_column("stimulus")[bins][0]
    deviation = recording.stimuli[name].frames[recording.frame[bins]].std(axis=0, dtype=np.float64)
    average = np.abs(compute_sta(recording, bins, n_lags)) / np.maximum(deviation, 1e-9)
    return [tuple(int(i) for i in np.unravel_index(cell.argmax(), cell.shape)) for cell in average]
