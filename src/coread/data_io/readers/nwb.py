"""Neurodata Without Borders: one session per file, stimulus and responses found where NWB keeps them.

    stimulus/presentation/<name>     ImageSeries, OpticalSeries or TimeSeries (time), (time, height, width) or
                                     (time, height, width, channel); IndexSeries into a movie or a set of images
    units                            spike times, counted in the bin of every frame; or
    processing/.../<RoiResponseSeries>   traces, interpolated linearly to the middle of every bin
    intervals/<table>                optional: trials, with columns that say what is a test and which repeat it is

A bin is the time for which one frame was on the screen: frames may come at uneven times. Where none follows within
`max_frame_gap` typical intervals, or the stimulus or the trial changes, a presentation ends, and its last frame counts
as lasting a typical interval. Files that coread wrote are read back as they were; then the settings do not matter.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Int

from coread.data_io.nwb import import_pynwb, is_coread_file, recording_of
from coread.data_io.readers.nwb_responses import NwbResponses, load_responses
from coread.data_io.readers.nwb_stimuli import PresentedFrames, load_presentations
from coread.data_io.readers.parameters import reader_parameters
from coread.data_io.readers.session_files import data_folder, named_file
from coread.provenance import file_sha256
from coread.recording import BLANK, TIERS, Recording, RecordingError, Stimulus

PATTERN = "*.nwb"
NAN_POLICIES = ("error", "mask")


@dataclass(frozen=True)
class NwbParameters:
    """What to take from the files; the configuration file explains each key."""

    stimuli: Sequence[str] | None = None
    responses: str | None = None
    keep_units: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    trials: str | None = None
    tier_column: str | None = None
    tiers: Mapping[str, str] = field(default_factory=dict)
    repeat_column: str | None = None
    test_stimuli: Sequence[str] = ()
    rate_hz: float | None = None
    max_frame_gap: float = 1.5
    transpose_frames: bool = False
    blank_value: float | None = None
    nan_responses: str = "error"
    unit: str | None = None
    pixel_um: float | None = None
    species: str | None = None
    area: str = ""

    def __post_init__(self) -> None:
        if self.nan_responses not in NAN_POLICIES:
            raise ValueError(f"data_io.nan_responses is one of {list(NAN_POLICIES)}, found {self.nan_responses!r}")
        if wrong := sorted(set(self.tiers.values()) - set(TIERS)):
            raise ValueError(f"data_io.tiers gives the unknown tiers {wrong}, expected {list(TIERS)}")
        if self.max_frame_gap <= 1:
            raise ValueError(f"data_io.max_frame_gap must exceed 1 frame interval, found {self.max_frame_gap}")


def list_sessions(config: Mapping[str, Any], data_dir: Path | None) -> list[str]:
    """Return the configured sessions, else the files of the directory; raises FileNotFoundError if there are none."""
    if config.get("sessions"):
        return [str(name) for name in config["sessions"]]
    names = sorted(path.stem for path in data_folder(config, data_dir).glob(PATTERN))
    if not names:
        raise FileNotFoundError(f"no sessions in {data_dir}: no file there matches {PATTERN}")
    return names


def build_stimuli(config: Mapping[str, Any], data_dir: Path | None) -> dict[str, Stimulus]:
    """Return nothing: every NWB file holds its own stimuli."""
    return {}


def build_recording(
    config: Mapping[str, Any], session: str, data_dir: Path | None, stimuli: Mapping[str, Stimulus]
) -> Recording:
    """Return one session; its frames stay in the file until they are needed.

    Raises RecordingError that names the file, the setting, and what the file offers instead.
    """
    parameters = reader_parameters(NwbParameters, config)
    path = named_file(data_folder(config, data_dir), session, ".nwb")
    with _opened(path) as nwbfile:
        try:
            if is_coread_file(nwbfile):
                kept = recording_of(nwbfile)
                source = kept.source | {path.name: file_sha256(path)}
                return replace(kept, dataset=str(config["dataset"]), session=session, source=source)
            return _recording(nwbfile, config, session, parameters, path)
        except RecordingError as error:
            raise RecordingError(f"{path.name}: {error}") from error
        except (OSError, KeyError, RuntimeError) as error:
            raise RecordingError(f"{path.name}: truncated or damaged ({error})") from error


def source_files(config: Mapping[str, Any], session: str | None, data_dir: Path | None) -> list[Path]:
    """Return the file of a session; sessions share no stimuli."""
    return [] if session is None else [named_file(data_folder(config, data_dir), session, ".nwb")]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Give the content of a file, which stays open for its lazy frames, but not after an error."""
    pynwb, io = import_pynwb(), None
    try:
        try:
            io = pynwb.NWBHDF5IO(str(path), "r")
            nwbfile = io.read()
        except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise RecordingError(f"{path.name}: not a readable NWB file, truncated or damaged ({error})") from error
        yield nwbfile
    except BaseException:
        if io is not None:
            io.close()
        raise


def _recording(
    nwbfile: Any, config: Mapping[str, Any], session: str, parameters: NwbParameters, path: Path
) -> Recording:
    shown = {
        name: replace(presented, stimulus=_described(name, presented, parameters))
        for name, presented in load_presentations(nwbfile, parameters.stimuli, parameters.transpose_frames).items()
    }
    if unknown := sorted(set(parameters.test_stimuli) - set(shown)):
        raise RecordingError(f"data_io.test_stimuli names {unknown}, the stimuli are {sorted(shown)}")
    table = _interval_table(nwbfile, parameters)
    bins = _bins(shown, table, parameters.max_frame_gap)
    trials = _trials(bins, list(shown), table, parameters)
    responses = load_responses(nwbfile, parameters.responses, parameters.keep_units, bins.start, bins.stop)
    values, valid = _masked(responses, parameters)
    subject = nwbfile.subject
    return Recording(
        dataset=str(config["dataset"]),
        session=session,
        stimuli={name: presented.stimulus for name, presented in shown.items()},
        trials=trials,
        trial=bins.trial.astype(np.int32),
        frame=bins.frame.astype(np.int32),
        responses=values,
        valid=valid,
        rate_hz=parameters.rate_hz or float(1 / np.median(bins.stop - bins.start)),
        unit=parameters.unit or responses.unit,
        neurons=responses.neurons,
        session_info=responses.quality | {"bin_start_s": bins.start},
        species=parameters.species or getattr(subject, "species", None) or "",
        area=parameters.area,
        source={path.name: file_sha256(path)},
    )


def _described(name: str, presented: PresentedFrames, parameters: NwbParameters) -> Stimulus:
    if (presented.frame == BLANK).any() and parameters.blank_value is None:
        raise RecordingError(
            f"stimulus {name!r} has blanks (frame -1); data_io.blank_value must say what they look like"
        )
    blank_value = 0.0 if parameters.blank_value is None else float(parameters.blank_value)
    return replace(presented.stimulus, blank_value=blank_value, pixel_um=parameters.pixel_um)


# ----------------------------------------------------------------------------------------------------- bins and trials


@dataclass(frozen=True)
class Bins:
    """Frames on the screen in time order: times in s, number of the stimulus, frame, trial, interval (-1: none)."""

    start: Float[np.ndarray, "bin"]
    stop: Float[np.ndarray, "bin"]
    stimulus: Int[np.ndarray, "bin"]
    frame: Int[np.ndarray, "bin"]
    trial: Int[np.ndarray, "bin"]
    interval: Int[np.ndarray, "bin"]


def _bins(shown: Mapping[str, PresentedFrames], table: pd.DataFrame | None, max_gap: float) -> Bins:
    start = np.concatenate([presented.times for presented in shown.values()])
    frame = np.concatenate([presented.frame for presented in shown.values()])
    stimulus = np.repeat(np.arange(len(shown)), [len(presented.times) for presented in shown.values()])
    typical = np.concatenate([np.full(len(one.times), _typical_interval(one)) for one in shown.values()])
    order = np.argsort(start, kind="stable")
    start, frame, stimulus, typical = start[order], frame[order], stimulus[order], typical[order]
    interval = np.full(len(start), -1)
    if table is not None:
        interval = np.searchsorted(table["start_time"], start, side="right") - 1
        inside = (interval >= 0) & (start < table["stop_time"].to_numpy()[np.maximum(interval, 0)])
        start, frame, stimulus, typical = start[inside], frame[inside], stimulus[inside], typical[inside]
        interval = interval[inside]
    if not len(start):
        raise RecordingError("no frame of the stimuli lies inside an interval of data_io.trials")
    gap = np.diff(start)
    ends = (np.diff(stimulus) != 0) | (np.diff(interval) != 0) | (gap > max_gap * typical[:-1])
    if (gap <= 0).any():
        first = int(np.flatnonzero(gap <= 0)[0])
        names = sorted({list(shown)[stimulus[first]], list(shown)[stimulus[first + 1]]})
        raise RecordingError(f"two frames were on the screen at once at {start[first]:g} s ({', '.join(names)})")
    last = np.append(ends, True)
    following = np.append(start[1:], np.inf)
    stop = np.minimum(following, np.where(last, start + typical, following))
    return Bins(start, stop, stimulus, frame, np.concatenate([[0], np.cumsum(ends)]), interval)


def _typical_interval(presented: PresentedFrames) -> float:
    if len(presented.times) < 2:
        raise RecordingError("a presentation of one frame has no frame interval; leave it out of data_io.stimuli")
    return float(np.median(np.diff(presented.times)))


def _interval_table(nwbfile: Any, parameters: NwbParameters) -> pd.DataFrame | None:
    """Return the intervals sorted by time with the columns in use; None where data_io.trials is null."""
    columns = [name for name in (parameters.tier_column, parameters.repeat_column) if name is not None]
    if parameters.trials is None:
        if columns:
            raise RecordingError(f"data_io names the columns {columns}, but no table of intervals (data_io.trials)")
        return None
    intervals = dict(nwbfile.intervals or {}) | ({} if nwbfile.trials is None else {"trials": nwbfile.trials})
    if parameters.trials not in intervals:
        raise RecordingError(f"data_io.trials is {parameters.trials!r}, the file has the intervals {sorted(intervals)}")
    table = intervals[parameters.trials]
    if missing := sorted(set(columns) - set(table.colnames)):
        raise RecordingError(f"intervals {parameters.trials!r} lack {missing}, found {sorted(table.colnames)}")
    read = {name: np.asarray(table[name].data[:]) for name in dict.fromkeys(("start_time", "stop_time", *columns))}
    return pd.DataFrame(read).sort_values("start_time", ignore_index=True)


def _trials(bins: Bins, names: Sequence[str], table: pd.DataFrame | None, parameters: NwbParameters) -> pd.DataFrame:
    """Return one row per presentation: tier and repeat from the table, else from the name and from what was shown."""
    first = np.flatnonzero(np.concatenate([[True], np.diff(bins.trial) != 0]))
    stimulus = np.array(names, dtype=object)[bins.stimulus[first]]
    trials = pd.DataFrame({"stimulus": stimulus, "tier": "train", "start_s": bins.start[first]})
    trials["tier"] = np.where(trials["stimulus"].isin(list(parameters.test_stimuli)), "test", "train")
    interval = bins.interval[first]
    if table is not None and parameters.tier_column is not None:
        trials["tier"] = _tiers(table[parameters.tier_column].to_numpy()[interval], parameters)
    if table is not None and parameters.repeat_column is not None:
        trials["repeat"] = table[parameters.repeat_column].to_numpy()[interval].astype(int)
    else:
        shown = [frames.tobytes() for frames in np.split(bins.frame, first[1:])]
        trials["repeat"] = trials.assign(shown=shown).groupby(["stimulus", "shown"]).cumcount()
    return trials.assign(time_order=np.arange(len(trials)), withheld=False)


def _tiers(values: np.ndarray, parameters: NwbParameters) -> list[str]:
    tiers = [str(parameters.tiers.get(str(value), value)) for value in values]
    if unknown := sorted(set(tiers) - set(TIERS)):
        raise RecordingError(
            f"column {parameters.tier_column!r} holds {unknown}: data_io.tiers must say which of {list(TIERS)} they are"
        )
    return tiers


def _masked(
    responses: NwbResponses, parameters: NwbParameters
) -> tuple[Float32[np.ndarray, "bin neuron"], Bool[np.ndarray, "bin"]]:
    """Return responses and validity; a bin counts only if it was recorded and all neurons have a value in it."""
    finite = np.isfinite(responses.values)
    missing = ~finite.all(axis=1) & responses.recorded
    if missing.any() and parameters.nan_responses == "error":
        first_bin, first_neuron = np.argwhere(~finite & responses.recorded[:, None])[0]
        raise RecordingError(
            f"{int((~finite[responses.recorded]).sum())} response values are not finite, the first at bin {first_bin}, "
            f"neuron {first_neuron}; set data_io.nan_responses to mask to leave such bins out"
        )
    return np.where(finite, responses.values, np.float32(0)), responses.recorded & finite.all(axis=1)
