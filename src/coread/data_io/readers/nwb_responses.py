"""Responses of an NWB file in given bins: spikes of units counted, traces of regions of interest interpolated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Int

from coread.data_io.readers.nwb_stimuli import sample_times
from coread.recording import RecordingError

UNITS = "units"
NOT_LABELS = ("spike_times", "obs_intervals", "electrodes", "waveforms", "waveform_mean", "waveform_sd", "timeseries")


@dataclass(frozen=True)
class NwbResponses:
    """Responses in bins; `recorded` is false where the bin lies outside of the recorded time."""

    values: Float32[np.ndarray, "bin neuron"]
    recorded: Bool[np.ndarray, "bin"]
    neurons: pd.DataFrame
    unit: str
    quality: dict[str, np.ndarray]


def load_responses(
    nwbfile: Any,
    where: str | None,
    keep: Mapping[str, Sequence[Any]],
    start: Float[np.ndarray, "bin"],
    stop: Float[np.ndarray, "bin"],
) -> NwbResponses:
    """Return the responses at `where` (units, or the path of a series; None: the only ones) in bins [start, stop) in s.

    `keep` lists the allowed values of columns of the units or of the table of regions of interest. Raises
    RecordingError that lists what the file has.
    """
    offers = _offers(nwbfile)
    if where is None:
        if len(offers) != 1:
            raise RecordingError(f"data_io.responses must name one of {sorted(offers)}")
        (where,) = offers
    if where not in offers:
        raise RecordingError(f"data_io.responses is {where!r}, the file has {sorted(offers)}")
    source = offers[where]
    table = source if where == UNITS else source.rois.table
    rows = np.arange(len(table)) if where == UNITS else np.asarray(source.rois.data[:]).astype(int)
    labels = _labels(table).iloc[rows].reset_index(drop=True)
    kept, quality = _kept(labels, keep, where)
    if where == UNITS:
        values, recorded = _counts(source, start, stop), np.ones(len(start), bool)
        return NwbResponses(values[:, kept], recorded, labels.iloc[kept].reset_index(drop=True), "spike count", quality)
    values, recorded = _traces(source, (start + stop) / 2, where)
    if values.shape[1] != len(labels):
        raise RecordingError(f"{where} has {values.shape[1]} traces for {len(labels)} regions of interest")
    return NwbResponses(values[:, kept], recorded, labels.iloc[kept].reset_index(drop=True), str(source.unit), quality)


def _offers(nwbfile: Any) -> dict[str, Any]:
    """Return what can serve as responses, by the name that data_io.responses gives it."""
    offers: dict[str, Any] = {}
    if nwbfile.units is not None and "spike_times" in nwbfile.units.colnames:
        offers[UNITS] = nwbfile.units
    for module in nwbfile.processing.values():
        for interface in module.data_interfaces.values():
            nested = getattr(interface, "roi_response_series", None)
            series = {interface.name: interface} if nested is None else dict(nested)
            for name, one in series.items():
                if hasattr(one, "rois"):
                    path = [module.name, *([] if nested is None else [interface.name]), name]
                    offers["/".join(["processing", *path])] = one
    if not offers:
        raise RecordingError("there are no responses: no units with spike_times, no RoiResponseSeries in processing")
    return offers


def _labels(table: Any) -> pd.DataFrame:
    """Return the columns of a table that hold one number or text per row."""
    labels: dict[str, np.ndarray] = {"unit_id": np.asarray(table.id.data[:])}
    for name in table.colnames:
        column = table[name]
        # an index (ragged column) or a region of another table is no label
        if name in NOT_LABELS or hasattr(column, "target") or hasattr(column, "table") or column.data is None:
            continue
        array = np.asarray(column.data[:])
        if array.shape != (len(table),):
            continue
        if array.dtype.kind in "biuf":
            labels[name] = array
        elif array.dtype.kind in "OUS" and all(isinstance(value, str | bytes) for value in array):
            labels[name] = np.array([value.decode() if isinstance(value, bytes) else value for value in array], object)
    return pd.DataFrame(labels)


def _kept(
    labels: pd.DataFrame, keep: Mapping[str, Sequence[Any]], where: str
) -> tuple[Int[np.ndarray, "neuron"], dict[str, np.ndarray]]:
    """Return the neurons whose columns hold allowed values, and how many each column removed."""
    chosen = np.ones(len(labels), bool)
    steps: list[tuple[str, int, int]] = []
    for column, allowed in keep.items():
        if column not in labels:
            raise RecordingError(f"data_io.keep_units names {column!r}, {where} has the columns {list(labels)}")
        passes = chosen & labels[column].isin(list(allowed)).to_numpy()
        steps.append((column, int(chosen.sum()), int(chosen.sum() - passes.sum())))
        chosen = passes
    if not chosen.any():
        raise RecordingError(f"data_io.keep_units leaves none of the {len(labels)} neurons of {where}")
    names, before, removed = zip(*steps, strict=True) if steps else ((), (), ())
    quality = {
        "quality_step": np.array(names, dtype=object),
        "quality_n_before": np.array(before, int),
        "quality_n_removed": np.array(removed, int),
    }
    return np.flatnonzero(chosen), quality if steps else {}


def _counts(
    units: Any, start: Float[np.ndarray, "bin"], stop: Float[np.ndarray, "bin"]
) -> Float32[np.ndarray, "bin neuron"]:
    """Count every unit's spikes in bins that increase and do not overlap."""
    last = np.asarray(units["spike_times"].data[:]).astype(int)  # one past the last spike of every unit
    times = np.asarray(units["spike_times"].target.data[:], float)
    unit = np.repeat(np.arange(len(last)), np.diff(last, prepend=0))
    bin_index = np.searchsorted(start, times, side="right") - 1
    inside = (bin_index >= 0) & (times < stop[np.maximum(bin_index, 0)])
    flat = np.bincount(bin_index[inside] * len(last) + unit[inside], minlength=len(start) * len(last))
    return flat.reshape(len(start), len(last)).astype(np.float32)


def _traces(
    series: Any, times: Float[np.ndarray, "bin"], where: str
) -> tuple[Float32[np.ndarray, "bin neuron"], Bool[np.ndarray, "bin"]]:
    """Interpolate traces linearly at the times; outside of the samples nothing was recorded."""
    samples = sample_times(series, where)
    data = np.asarray(series.data[:], np.float32)
    data = data.reshape(len(data), -1)
    if len(samples) != len(data) or len(samples) < 2 or (np.diff(samples) <= 0).any():
        raise RecordingError(f"{where} has {len(data)} samples at {len(samples)} times, which must increase")
    before = np.clip(np.searchsorted(samples, times, side="right") - 1, 0, len(samples) - 2)
    weight = ((times - samples[before]) / (samples[before + 1] - samples[before])).astype(np.float32)[:, None]
    recorded = (times >= samples[0]) & (times <= samples[-1])
    values = data[before] * (1 - weight) + data[before + 1] * weight
    return np.where(recorded[:, None], values, np.float32(0)), recorded
