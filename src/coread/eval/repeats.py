"""Responses to repeats of a stimulus side by side."""

import h5py
import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

from coread.data_io.dataloader import read_rows
from coread.recording import Recording

ABSENT = -1


def align_repeats(recording: Recording, bins: Bool[np.ndarray, "bin"]) -> dict[str, Int[np.ndarray, "row repeat"]]:
    """Return for each stimulus the bins that show the same moment of it, one row per moment and one column per repeat.

    Two bins show the same moment if their trials showed the same frames of the same stimulus up to and including them;
    trials that were cut short, permuted or interleaved with others need no special case. Rows are in the order in
    which moments were first shown. Entries without a selected bin (masked, absent) are ABSENT. Only trials of the tiers
    of the selected bins count as repeats.
    """
    selected = np.flatnonzero(bins)
    stimulus = recording.bin_column("stimulus").astype(str)
    tier = recording.bin_column("tier").astype(str)
    of_tiers = np.isin(tier, np.unique(tier[selected]))
    history = _history_hash(recording)
    tables = {}
    for name in sorted(set(stimulus[selected])):
        shown = np.flatnonzero((stimulus == name) & of_tiers)
        shown = shown[np.isin(history[shown], history[selected])]
        _, first, row = np.unique(history[shown], return_index=True, return_inverse=True)
        row = np.argsort(np.argsort(first))[row]
        column = _repeat_column(recording, shown, row)
        table = np.full((row.max() + 1, column.max() + 1), ABSENT, np.int64)
        kept = bins[shown]
        table[row[kept], column[kept]] = shown[kept]
        tables[name] = table[:, (table != ABSENT).any(axis=0)]
    return tables


def _history_hash(recording: Recording) -> UInt64[np.ndarray, "bin"]:
    """Return one number per bin that says which frames its trial showed until then.

    A sum modulo 2^64 of (frame + 2) times a random odd factor per position: equal histories have equal sums, different
    ones differ but for a chance of about 2^-60. Sums over all bins minus the sum before the trial need no loop.
    """
    position = recording.bin_in_trial()
    rng = np.random.default_rng(20240229)
    factors = rng.integers(0, 2**63, int(position.max()) + 1, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    running = np.cumsum((recording.frame + 2).astype(np.uint64) * factors[position], dtype=np.uint64)
    first, _ = recording.trial_bounds()
    before = np.concatenate([np.zeros(1, np.uint64), running])[first[recording.trial]]
    length = rng.integers(0, 2**63, len(factors), dtype=np.uint64)
    return running - before + length[position]


def _repeat_column(
    recording: Recording, shown: Int[np.ndarray, "shown"], row: Int[np.ndarray, "shown"]
) -> Int[np.ndarray, "shown"]:
    """Return each bin's repeat number, or its rank among the bins of its row where numbers occur twice."""
    _, column = np.unique(recording.bin_column("repeat")[shown], return_inverse=True)
    if len(np.unique(row * (column.max() + 1) + column)) == len(row):
        return column
    order = np.argsort(row, kind="stable")
    starts = np.flatnonzero(np.diff(row[order], prepend=-1))
    rank = np.empty(len(row), np.int64)
    rank[order] = np.arange(len(row)) - np.repeat(starts, np.diff(np.append(starts, len(row))))
    return rank


def gather_repeats(
    values: Float[np.ndarray, "bin neuron"] | h5py.Dataset, table: Int[np.ndarray, "row repeat"]
) -> Float[np.ndarray, "row repeat neuron"]:
    """Return values side by side; NaN where a repeat is absent."""
    present = table != ABSENT
    needed, position = np.unique(table[present], return_inverse=True)
    gathered = np.full((*table.shape, values.shape[1]), np.nan, np.float32)
    gathered[present] = read_rows(values, needed)[position]
    return gathered
