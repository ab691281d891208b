"""Recordings as Neurodata Without Borders (NWB) files, and back without loss.

    stimulus/templates/<name>        ImageSeries: every stimulus once, (frame, height, width) or, with several channels,
                                     (frame, height, width, channel); conversion and offset give physical values
    stimulus/presentation/<name>     IndexSeries: which of its frames was on the screen when; blank bins are left out
    intervals/trials                 one row per presentation in time order, with the columns of the recording's trials
    units                            the neurons, where the responses are spikes; else processing/coread/neurons
    processing/coread/responses      TimeSeries (bin, neuron); beside it valid, behaviour, pupil_center where there are
                                     any, and the tables recording, stimuli, source with everything NWB has no place for
    scratch/<key>                    what else the session carries

A recording knows the order of its trials and the length of a bin, not the time of day: times here are nominal, trials
follow each other without a pause in the order of `time_order`.
"""

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from jaxtyping import Int

from coread.extras import import_extra
from coread.recording import (
    BLANK,
    CHUNK_BYTES,
    COMPRESSION,
    Recording,
    RecordingError,
    Stimulus,
    content_digest,
    validate,
)

MODULE = "coread"
UNKNOWN_START = datetime(1970, 1, 1, tzinfo=UTC)  # NWB wants a time; this one says that nobody knows it
ATTRIBUTES = ("dataset", "session", "species", "area", "mirror", "unit")
STIMULUS_NUMBERS = ("frame_rate_hz", "scale", "offset", "blank_value", "pixel_um", "pixel_deg")
BIN_SERIES = {  # of processing/coread: unit and description
    "responses": ("", "response (bin, neuron)"),
    "valid": ("n.a.", "1 where the bin counts"),
    "behaviour": ("n.a.", "behaviour (bin, variable)"),
    "pupil_center": ("n.a.", "pupil centre (bin, 2)"),
}
CHUNKS_PER_READ = 64


def import_pynwb() -> Any:
    """Return the package pynwb; raises MissingExtraError."""
    return import_extra("pynwb", "nwb", "reading and writing NWB files")


# ------------------------------------------------------------------------------------------------------------- writing


def write_nwb(recording: Recording, path: Path, session_start_time: datetime | None = None) -> None:
    """Validate and write a recording as NWB file, atomically; frames and responses may be lazy datasets.

    `session_start_time` needs a time zone; unknown, it is 1970-01-01. Raises RecordingError.
    """
    pynwb = import_pynwb()
    validate(recording)
    if session_start_time is not None and session_start_time.tzinfo is None:
        raise ValueError(f"session_start_time needs a time zone, found {session_start_time.isoformat()}")
    nwbfile = _nwbfile(pynwb, recording, session_start_time or UNKNOWN_START)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.nwb")
    try:
        with pynwb.NWBHDF5IO(str(temporary), "w") as io:
            io.write(nwbfile)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _nwbfile(pynwb: Any, recording: Recording, start: datetime) -> Any:
    nwbfile = pynwb.NWBFile(
        session_description=f"session {recording.session} of {recording.dataset}, written by coread",
        identifier=content_digest(recording),
        session_start_time=start,
        session_id=recording.session,
    )
    if recording.species:
        nwbfile.subject = pynwb.file.Subject(subject_id=recording.session, species=recording.species)
    module = nwbfile.create_processing_module(MODULE, "a coread recording: responses in bins, and tables about them")
    order = _bins_in_time(recording)
    _add_stimuli(pynwb, nwbfile, recording, order)
    nwbfile.trials = _trials_table(pynwb, recording)
    _add_neurons(pynwb, nwbfile, module, recording)
    _add_series(pynwb, module, recording, order)
    for table in _tables(recording):
        if len(table[1]):
            module.add(_dynamic_table(*table))
    for key, values in recording.session_info.items():
        array = np.asarray(values)
        data: Any = _storable(array)
        nwbfile.add_scratch(data.item() if array.ndim == 0 else data, name=key, description=f"session/{key} of coread")
    return nwbfile


def _bins_in_time(recording: Recording) -> Int[np.ndarray, "bin"]:
    """Return the bins trial by trial in the order of `time_order`."""
    rank = np.empty(len(recording.trials), int)
    rank[np.argsort(recording.trials["time_order"].to_numpy(), kind="stable")] = np.arange(len(recording.trials))
    return np.argsort(rank[recording.trial], kind="stable")


def _add_stimuli(pynwb: Any, nwbfile: Any, recording: Recording, order: Int[np.ndarray, "bin"]) -> None:
    shown = recording.bin_column("stimulus").astype(str)[order]
    frame = recording.frame[order]
    for name, stimulus in recording.stimuli.items():
        template = pynwb.image.ImageSeries(
            name=name,
            data=_compressed(_frame_iterator(stimulus.frames)),
            unit="n.a.",
            rate=float(stimulus.frame_rate_hz),
            conversion=float(stimulus.scale),
            offset=float(stimulus.offset),
            description="every frame of the stimulus once, in its own order",
        )
        nwbfile.add_stimulus_template(template)
        bins = np.flatnonzero((shown == name) & (frame != BLANK))
        # The schema lets an IndexSeries point to a movie, pynwb's constructor wants one object per image instead: for a
        # movie of 36,000 frames 36,000 objects. What it refuses to new series it accepts of series that are read.
        series = pynwb.image.IndexSeries.__new__(pynwb.image.IndexSeries, in_construct_mode=True)
        series.__init__(
            name=name,
            data=frame[bins].astype(np.uint32),
            unit="N/A",
            indexed_timeseries=template,
            timestamps=bins / recording.rate_hz,
            description="frame of the template on the screen at each time; nominal times",
        )
        nwbfile.add_stimulus(series)


def _trials_table(pynwb: Any, recording: Recording) -> Any:
    first, stop = recording.trial_bounds()
    rows = np.argsort(recording.trials["time_order"].to_numpy(), kind="stable")
    lengths = (stop - first)[rows]
    ends = np.cumsum(lengths)
    table = recording.trials.iloc[rows].assign(row=rows)
    columns = {"start_time": (ends - lengths) / recording.rate_hz, "stop_time": ends / recording.rate_hz}
    columns |= {name: _storable(table[name].to_numpy()) for name in table.columns}
    return pynwb.epoch.TimeIntervals(
        name="trials",
        description="uninterrupted presentations in time order; row is their place in the recording",
        columns=_columns(columns),
        colnames=list(columns),
    )


def _add_neurons(pynwb: Any, nwbfile: Any, module: Any, recording: Recording) -> None:
    columns = {name: _storable(recording.neurons[name].to_numpy()) for name in recording.neurons.columns}
    if "spike" in recording.unit.lower():
        nwbfile.units = pynwb.misc.Units(
            name="units",
            description="neurons in the order of processing/coread/responses; spikes are counted there, times unknown",
            columns=_columns(columns),
            colnames=list(columns),
        )
    else:
        module.add(_dynamic_table("neurons", columns, "neurons in the order of the responses"))


def _add_series(pynwb: Any, module: Any, recording: Recording, order: Int[np.ndarray, "bin"]) -> None:
    for name, (unit, description) in BIN_SERIES.items():
        values = getattr(recording, name)
        if values is None:
            continue
        if isinstance(values, h5py.Dataset):
            values = values[:]
        values = values.astype(np.uint8) if name == "valid" else values.astype(np.float32, copy=False)
        data = _compressed(values[order])
        unit = unit or recording.unit or "n.a."
        module.add(
            pynwb.TimeSeries(name=name, data=data, unit=unit, rate=float(recording.rate_hz), description=description)
        )


def _tables(recording: Recording) -> list[tuple[str, dict[str, Any], str]]:
    root: dict[str, Any] = {name: np.array([getattr(recording, name)], dtype=object) for name in ATTRIBUTES}
    root["rate_hz"] = np.array([float(recording.rate_hz)])
    stimuli: dict[str, Any] = {"stimulus": np.array(list(recording.stimuli), dtype=object)}
    for key in STIMULUS_NUMBERS:
        numbers = [getattr(stimulus, key) for stimulus in recording.stimuli.values()]
        stimuli[key] = np.array([np.nan if number is None else float(number) for number in numbers])
    stimuli["dtype"] = np.array([stimulus.frames.dtype.str for stimulus in recording.stimuli.values()], dtype=object)
    source = {
        "file": np.array(list(recording.source), dtype=object),
        "sha256": np.array(list(recording.source.values()), dtype=object),
    }
    return [
        ("recording", root, "what the recording says about itself"),
        ("stimuli", stimuli, "numbers of the stimuli; NaN is unknown"),
        ("source", source if recording.source else {}, "raw files behind the recording"),
    ]


def _dynamic_table(name: str, columns: Mapping[str, Any], description: str) -> Any:
    from hdmf.common import DynamicTable

    return DynamicTable(name=name, description=description, columns=_columns(columns), colnames=list(columns))


def _columns(columns: Mapping[str, Any]) -> list[Any]:
    from hdmf.common import VectorData

    return [VectorData(name=name, description=name, data=values) for name, values in columns.items()]


def _storable(values: np.ndarray) -> np.ndarray:
    """Return texts as an array of str, as HDF5 wants them."""
    if values.dtype.kind not in "UTO":
        return values
    return np.array([str(value) for value in values.reshape(-1)], dtype=object).reshape(values.shape)


def _compressed(data: Any) -> Any:
    from hdmf.backends.hdf5.h5_utils import H5DataIO

    return H5DataIO(data=data, link_data=False, **COMPRESSION)


def _frame_iterator(frames: Any) -> Any:
    """Return frames (frame, channel, height, width) channel last, read in pieces; one channel has no axis."""
    from hdmf.data_utils import GenericDataChunkIterator

    n_frames, n_channels, height, width = frames.shape
    shape = (n_frames, height, width) if n_channels == 1 else (n_frames, height, width, n_channels)
    frame_bytes = max(1, n_channels * height * width * frames.dtype.itemsize)
    rows = min(n_frames, max(1, CHUNK_BYTES // frame_bytes))

    class Frames(GenericDataChunkIterator):
        def _get_data(self, selection: tuple[slice, ...]) -> np.ndarray:
            read = np.asarray(frames[selection[0]])
            values = read[:, 0] if n_channels == 1 else read.transpose(0, 2, 3, 1)
            # NWB knows no float16; float32 holds its values exactly
            return values.astype(self._get_dtype(), copy=False)[(slice(None), *selection[1:])]

        def _get_maxshape(self) -> tuple[int, ...]:
            return shape

        def _get_dtype(self) -> np.dtype:
            return np.dtype(np.float32) if frames.dtype == np.float16 else frames.dtype

    piece = (min(n_frames, CHUNKS_PER_READ * rows), *shape[1:])
    return Frames(buffer_shape=piece, chunk_shape=(rows, *shape[1:]))


# ------------------------------------------------------------------------------------------------------------- reading


def is_coread_file(nwbfile: Any) -> bool:
    """Return whether an open NWB file was written by `write_nwb`."""
    return MODULE in nwbfile.processing and "recording" in nwbfile.processing[MODULE].data_interfaces


def read_nwb(path: Path) -> Recording:
    """Return the recording in a file that `write_nwb` wrote; raises RecordingError that names the file."""
    pynwb = import_pynwb()
    try:
        with pynwb.NWBHDF5IO(str(path), "r") as io:
            nwbfile = io.read()
            if not is_coread_file(nwbfile):
                raise RecordingError(f"{path.name}: not written by coread; read it with the reader `nwb`")
            recording = recording_of(nwbfile)
            validate(recording)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such file") from None
    except RecordingError:
        raise
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise RecordingError(f"{path.name}: not a readable NWB file, truncated or damaged ({error})") from error
    return recording


def recording_of(nwbfile: Any) -> Recording:
    """Return the recording in an open file of `write_nwb`, all of it in memory."""
    module = nwbfile.processing[MODULE]
    about = _frame(module["recording"]).iloc[0]
    rate_hz = float(about["rate_hz"])
    trials = _frame(nwbfile.trials)
    lengths = np.rint((trials.pop("stop_time") - trials.pop("start_time")) * rate_hz).to_numpy().astype(int)
    rows = trials.pop("row").to_numpy()
    trial = np.repeat(rows, lengths)
    order = np.argsort(trial, kind="stable")  # from the order of time to that of the recording
    series = {name: module[name].data[:][order] for name in BIN_SERIES if name in module.data_interfaces}
    frame = np.full(len(trial), BLANK, np.int32)
    for shown in nwbfile.stimulus.values():
        frame[np.rint(shown.timestamps[:] * rate_hz).astype(int)] = shown.data[:]
    neurons = _frame(nwbfile.units if nwbfile.units is not None else module["neurons"])
    source = module["source"] if "source" in module.data_interfaces else None
    return Recording(
        **{name: str(about[name]) for name in ATTRIBUTES},
        stimuli=_stimuli_of(nwbfile, _frame(module["stimuli"])),
        trials=trials.iloc[np.argsort(rows)].reset_index(drop=True),
        trial=trial[order].astype(np.int32),
        frame=frame[order],
        responses=series["responses"],
        valid=series["valid"].astype(bool),
        rate_hz=rate_hz,
        neurons=neurons,
        behaviour=series.get("behaviour"),
        pupil_center=series.get("pupil_center"),
        session_info={key: _array(item.data) for key, item in (nwbfile.scratch or {}).items()},
        source={} if source is None else dict(_frame(source)[["file", "sha256"]].to_numpy()),
    )


def _stimuli_of(nwbfile: Any, table: pd.DataFrame) -> dict[str, Stimulus]:
    stimuli = {}
    for about in table.to_dict("records"):
        stored = nwbfile.stimulus_template[about["stimulus"]].data[:].astype(about["dtype"])
        frames = stored[:, None] if stored.ndim == 3 else stored.transpose(0, 3, 1, 2)
        numbers: dict[str, Any] = {key: None if np.isnan(about[key]) else about[key] for key in STIMULUS_NUMBERS}
        stimuli[about["stimulus"]] = Stimulus(frames=np.ascontiguousarray(frames), **numbers)
    return stimuli


def _frame(table: Any) -> pd.DataFrame:
    return pd.DataFrame({name: _array(table[name].data) for name in table.colnames})


def _array(data: Any) -> np.ndarray:
    values = np.asarray(data[()] if hasattr(data, "shape") else data)
    if values.dtype.kind not in "OUS":
        return values
    texts = [item.decode() if isinstance(item, bytes) else str(item) for item in values.reshape(-1)]
    return np.array(texts, dtype=object).reshape(values.shape)
