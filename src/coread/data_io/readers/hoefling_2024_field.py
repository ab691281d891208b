"""One field of Hoefling et al. 2024: the group of its session in the published HDF5 file.

    <session>/                          attributes: eye, scan_sequence_idx, date, ...
        natural_inferred_spikes         (neuron, sample), or natural_spikes; natural_{raw,smoothed,preprocessed}_traces
        natural_trigger_times           (row, trigger) or (trigger,): all rows say the same
        natural_traces_times            (neuron, sample) in seconds, or natural_traces_t0 and _dt (neuron,)
        group_assignment, d_qi, chirp_qi, roi_ids (neuron,); group_confidences (neuron, group); roi_mask (row, column)

and the same with chirp_ and mb_ (moving bar) in place of natural_. Attributes may also be datasets.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from coread.data_io.readers.published_hdf5 import numbers
from coread.recording import RecordingError

# dataset behind a trace type, without its prefix; of several the first that is there
TRACES: Mapping[str, tuple[str, ...]] = {
    "spikes": ("inferred_spikes", "spikes"),
    "raw": ("raw_traces",),
    "smoothed": ("smoothed_traces",),
    "preprocessed": ("preprocessed_traces",),
    "detrended": ("raw_traces",),  # minus smoothed_traces
}
EYES = ("left", "right")
SAME_TRIGGERS_S = 1 / 60  # half a frame


@dataclass(frozen=True)
class Traces:
    """What was recorded of all cells of a field while one kind of stimulus was shown; times in seconds."""

    values: Float[np.ndarray, "neuron sample"]
    times: Float[np.ndarray, "neuron sample"]
    triggers: Float[np.ndarray, "trigger"]


def read_cells(group: h5py.Group, where: str) -> pd.DataFrame:
    """Return one row per cell with what quality filters may ask for; raises RecordingError for odd shapes.

    Columns: roi_id, group_assignment, group_confidence (the largest of the groups'), d_qi, chirp_qi, as far as the
    field has them.
    """
    roi_ids = numbers(group, "roi_ids", "(neuron)", where)[()]
    columns: dict[str, np.ndarray] = {"roi_id": roi_ids.astype(np.int64)}
    for name in ("group_assignment", "d_qi", "chirp_qi"):
        if name in group:
            columns[name] = np.atleast_1d(np.asarray(group[name][()]).squeeze())
    if "group_confidences" in group:
        columns["group_confidence"] = numbers(group, "group_confidences", "(neuron, group)", where)[()].max(axis=1)
    for name, values in columns.items():
        if values.shape != roi_ids.shape:
            raise RecordingError(f"{where}: {name} has shape {values.shape}, but there are {len(roi_ids)} roi_ids")
    return pd.DataFrame(columns)


def read_traces(
    group: h5py.Group, prefix: str, trace_type: str, where: str, cells: Int[np.ndarray, "neuron"]
) -> Traces:
    """Return the traces of these cells, their times and the triggers of one kind of stimulus.

    Raises RecordingError naming the dataset, what was expected and what was found.
    """
    values = _trace(group, prefix, TRACES[trace_type], where)
    if trace_type == "detrended":
        values = values - _trace(group, prefix, TRACES["smoothed"], where)
    if len(values) != len(group["roi_ids"]):
        n_rois = len(group["roi_ids"])
        raise RecordingError(f"{where}: the {prefix} traces are of {len(values)} cells, but there are {n_rois} roi_ids")
    times = _times(group, prefix, values.shape, where)
    return Traces(values[cells], times[cells], read_triggers(group, prefix, where))


def read_triggers(group: h5py.Group, prefix: str, where: str) -> Float[np.ndarray, "trigger"]:
    """Return the triggers of one kind of stimulus; raises RecordingError if the rows of the dataset differ."""
    key = f"{prefix}_trigger_times"
    if key not in group:
        raise RecordingError(f"{where}: no dataset {key}, found {sorted(group)}")
    rows = np.atleast_2d(group[key][()]).astype(np.float64)
    if rows.ndim != 2 or np.nanmax(np.abs(rows - rows[0]), initial=0.0) > SAME_TRIGGERS_S:
        raise RecordingError(f"{where}: {key} must be the same triggers in every row, found shape {rows.shape}")
    return rows[0]


def _trace(group: h5py.Group, prefix: str, names: tuple[str, ...], where: str) -> Float[np.ndarray, "neuron sample"]:
    keys = [f"{prefix}_{name}" for name in names]
    key = next((key for key in keys if key in group), keys[0])
    return numbers(group, key, "(neuron, sample)", where)[()].astype(np.float64)


def _times(group: h5py.Group, prefix: str, shape: tuple[int, ...], where: str) -> Float[np.ndarray, "neuron sample"]:
    key = f"{prefix}_traces_times"
    if key in group:
        times = np.atleast_2d(group[key][()]).astype(np.float64)
    else:
        start, step = (_per_neuron(group, f"{prefix}_traces_{name}", where) for name in ("t0", "dt"))
        times = start[:, None] + step[:, None] * np.arange(shape[1])
    if times.shape not in (shape, (1, shape[1])):
        raise RecordingError(f"{where}: {key} has shape {times.shape}, but the traces have {shape}")
    return np.broadcast_to(times, shape)


def _per_neuron(group: h5py.Group, key: str, where: str) -> Float[np.ndarray, "neuron"]:
    if key not in group:
        raise RecordingError(f"{where}: neither {key} nor traces_times of these traces, found {sorted(group)}")
    return np.atleast_1d(np.asarray(group[key][()], np.float64).squeeze())


# -------------------------------------------------------------------------------------------------------------- labels


def read_eye(group: h5py.Group, correction: str | None, where: str) -> str:
    """Return which eye was recorded, `correction` if there is one; raises RecordingError if it is neither."""
    eye = correction or read_attribute(group, "eye")
    if eye not in EYES:
        raise RecordingError(
            f"{where}: eye is {eye!r}, expected one of {list(EYES)}; say which in data_io.eye_corrections"
        )
    return str(eye)


def read_attribute(group: h5py.Group, name: str) -> Any:
    """Return a number or text that belongs to the field as a whole, as attribute or dataset; None if it has none."""
    if name in group.attrs:
        value = group.attrs[name]
    elif isinstance(group.get(name), h5py.Dataset):
        value = group[name][()]
    else:
        return None
    value = value.reshape(-1)[0] if isinstance(value, np.ndarray) and value.size == 1 else value
    value = value.item() if isinstance(value, np.generic) else value
    return value.decode() if isinstance(value, bytes) else value


def field_labels(group: h5py.Group) -> dict[str, np.ndarray]:
    """Return all numbers and texts that are attributes of the field."""
    found = {name: read_attribute(group, name) for name in group.attrs}
    return {
        name.replace("/", "."): np.array(value, dtype=object if isinstance(value, str) else None)
        for name, value in found.items()
        if isinstance(value, str | int | float)
    }


def cell_arrays(group: h5py.Group, cells: Int[np.ndarray, "neuron"]) -> dict[str, np.ndarray]:
    """Return what is published with these cells, and the mask of all ROIs, under their published names."""
    names = ("roi_ids", "group_assignment", "group_confidences")
    found = {name: np.asarray(group[name][()])[cells] for name in names if name in group}
    return found | ({"roi_mask": np.asarray(group["roi_mask"][()])} if "roi_mask" in group else {})


def roi_centres(
    roi_mask: np.ndarray, roi_ids: np.ndarray
) -> tuple[Float[np.ndarray, "neuron"], Float[np.ndarray, "neuron"]]:
    """Return the mean row and column of every ROI's pixels in the scan, which the mask marks with -roi_id; or NaN."""
    label = np.maximum(-roi_mask.astype(np.int64), 0).reshape(-1)
    row, column = np.indices(roi_mask.shape).reshape(2, -1)
    size = max(int(label.max(initial=0)), int(roi_ids.max(initial=0))) + 1
    count = np.bincount(label, minlength=size)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(label, weights=axis, minlength=size) / count for axis in (row, column)]
    return means[0][roi_ids], means[1][roi_ids]


def readout_coordinates(
    row: Float[np.ndarray, "neuron"], column: Float[np.ndarray, "neuron"]
) -> Float[np.ndarray, "neuron 2"]:
    """Return the published guess of (y, x) of a receptive field in a readout's coordinates, from -1 to 1.

    ROI pixels of 2 um on a grid of 8 x 8 pixels of 50 um, in which the scan begins at 2.75.
    """
    return ((np.stack([row, column], axis=1) * 2 / 50 + 2.75) / 8 - 0.5) * 2
