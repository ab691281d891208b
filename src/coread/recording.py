"""The recording format: one dataclass, one writer, one reader.

A recording is a table of bins. A bin is the shortest stretch of time with one response vector; it belongs to a trial
(an uninterrupted presentation) and shows one frame of that trial's stimulus. Nothing fitted lives in a recording.
"""

import functools
import os
import resource
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Int32

from coread import __version__
from coread.content_hash import ContentHash
from coread.provenance import write_text
from coread.recording_checks import BLANK, MIRRORS, TIERS, RecordingError, validate
from coread.stored_dtype import smallest_exact

__all__ = [
    "BLANK",
    "MIRRORS",
    "TIERS",
    "Recording",
    "RecordingError",
    "Stimulus",
    "content_digest",
    "digest_path",
    "read_recording",
    "read_recordings",
    "read_stimuli",
    "recordings_bytes",
    "smallest_exact",
    "validate",
    "write_recording",
    "write_stimuli",
]

FORMAT_VERSION = 1
CHUNK_BYTES = 2**19  # compressed chunks of about half a megabyte: one read per clip without reading much beside it
OPEN_FILES = 2**16  # that lazily read recordings may keep open, if the machine allows as many
CHUNK_CACHE_BYTES = 2**20  # per open file and dataset; the default of 8 MiB adds up over streamed sessions
COMPRESSION: Mapping[str, Any] = {"compression": "gzip", "compression_opts": 4, "shuffle": True}


@dataclass(frozen=True)
class Stimulus:
    """One presented movie or image set, stored once in its own order.

    `frames (frame, channel, height, width)` keep the smallest dtype; a physical value is `frames * scale + offset`.
    `blank_value` is the physical value on screen in bins whose frame is -1.
    """

    frames: np.ndarray | h5py.Dataset
    frame_rate_hz: float
    scale: float = 1.0
    offset: float = 0.0
    blank_value: float = 0.0
    pixel_um: float | None = None
    pixel_deg: float | None = None
    # what the file says; not an argument, so that a copy with other frames (dataclasses.replace) does not inherit it
    sha256: str = field(default="", init=False, compare=False)

    def digest(self) -> str:
        """Return the sha256 of the content: values, dtype, shape and attributes."""
        if self.sha256:
            return self.sha256
        digest = ContentHash()
        digest.add_attributes(_stimulus_attributes(self))
        digest.add_array("frames", self.frames)
        return digest.hexdigest()


@dataclass(frozen=True)
class Recording:
    """Responses of one session with the stimuli that drove them; shapes by name as in the module's description."""

    dataset: str
    session: str
    stimuli: dict[str, Stimulus]
    trials: pd.DataFrame
    trial: Int32[np.ndarray, "bin"]
    frame: Int32[np.ndarray, "bin"]
    responses: Float32[np.ndarray, "bin neuron"]
    valid: Bool[np.ndarray, "bin"]
    rate_hz: float
    unit: str
    neurons: pd.DataFrame
    behaviour: Float32[np.ndarray, "bin variable"] | None = None
    pupil_center: Float32[np.ndarray, "bin 2"] | None = None
    session_info: dict[str, np.ndarray] = field(default_factory=dict)
    species: str = ""
    area: str = ""
    mirror: str = "none"
    source: dict[str, str] = field(default_factory=dict)

    @property
    def n_bins(self) -> int:
        """Number of bins."""
        return len(self.trial)

    @property
    def n_neurons(self) -> int:
        """Number of neurons."""
        return int(self.responses.shape[1])

    def trial_bounds(self) -> tuple[Int32[np.ndarray, "trial"], Int32[np.ndarray, "trial"]]:
        """Return first bin and one past the last bin of every trial; equal for a trial without bins."""
        rows = np.arange(len(self.trials))
        return (
            np.searchsorted(self.trial, rows, side="left").astype(np.int32),
            np.searchsorted(self.trial, rows, side="right").astype(np.int32),
        )

    def bin_column(self, column: str) -> np.ndarray:
        """Return a column of `trials` for every bin."""
        return self.trials[column].to_numpy()[self.trial]

    def bin_in_trial(self) -> Int32[np.ndarray, "bin"]:
        """Return how many bins of its own trial come before each bin."""
        first, _ = self.trial_bounds()
        return (np.arange(self.n_bins) - first[self.trial]).astype(np.int32)


# ------------------------------------------------------------------------------------------------------------- writing


def write_recording(recording: Recording, path: Path, shared_stimuli: Path | None = None) -> None:
    """Validate and write a recording atomically, with the sha256 of its content beside it as `<name>.sha256`.

    Stimuli that exist in `shared_stimuli` become relative links to it. A kill in between leaves a recording without a
    digest, never under that of another one. Raises RecordingError.
    """
    validate(recording)
    path.parent.mkdir(parents=True, exist_ok=True)
    shared = _shared_digests(shared_stimuli)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(temporary, "w") as file:
            _write_root(file, recording)
            stimuli = file.create_group("stimuli")
            for name, stimulus in recording.stimuli.items():
                if shared_stimuli is not None and shared.get(name) == stimulus.digest():
                    relative = os.path.relpath(shared_stimuli, path.parent)
                    stimuli[name] = h5py.ExternalLink(relative, f"/stimuli/{name}")
                else:
                    _write_stimulus(stimuli, name, stimulus)
            _write_table(file, "trials", recording.trials)
            _write_bins(file, recording)
            _write_table(file, "neurons", recording.neurons)
            for key, value in recording.session_info.items():
                _write_array(file, f"session/{key}", np.asarray(value))
        digest = content_digest(recording)
        # before the data change: members are trained again by the digest alone
        digest_path(path).unlink(missing_ok=True)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    write_text(digest_path(path), digest + "\n")


def write_stimuli(stimuli: Mapping[str, Stimulus], path: Path) -> None:
    """Write stimuli that several sessions share into one file, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(temporary, "w") as file:
            file.attrs["format_version"] = FORMAT_VERSION
            group = file.create_group("stimuli")
            for name, stimulus in stimuli.items():
                _write_stimulus(group, name, stimulus)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def digest_path(path: Path) -> Path:
    """Return where the content's sha256 of a recording lies."""
    return path.with_suffix(".sha256")


def content_digest(recording: Recording) -> str:
    """Return the sha256 of everything a recording says, independent of how HDF5 packs it."""
    digest = ContentHash()
    digest.add_attributes(_root_attributes(recording))
    for name in sorted(recording.stimuli):
        digest.add_text(f"stimuli/{name}", recording.stimuli[name].digest())
    for label, table in (("trials", recording.trials), ("neurons", recording.neurons)):
        for column in sorted(table.columns):
            digest.add_array(f"{label}/{column}", _storable(table[column].to_numpy()))
    for name, values in _bin_arrays(recording).items():
        digest.add_array(f"bins/{name}", values)
    for key in sorted(recording.session_info):
        digest.add_array(f"session/{key}", _storable(np.asarray(recording.session_info[key])))
    return digest.hexdigest()


def _stimulus_attributes(stimulus: Stimulus) -> dict[str, float]:
    names = ("frame_rate_hz", "scale", "offset", "blank_value", "pixel_um", "pixel_deg")
    return {name: float(value) for name in names if (value := getattr(stimulus, name)) is not None}


def _root_attributes(recording: Recording) -> dict[str, Any]:
    names = ("dataset", "session", "species", "area", "mirror", "unit")
    attributes: dict[str, Any] = {name: str(getattr(recording, name)) for name in names}
    return attributes | {"format_version": FORMAT_VERSION, "rate_hz": float(recording.rate_hz)}


def _write_root(file: h5py.File, recording: Recording) -> None:
    file.attrs.update(_root_attributes(recording))
    file.attrs["coread_version"] = __version__
    source = file.create_group("source")
    for name, sha256 in recording.source.items():
        source.attrs[name] = sha256


def _write_stimulus(group: h5py.Group, name: str, stimulus: Stimulus) -> None:
    target = group.create_group(name)
    _write_array(target, "frames", stimulus.frames)
    target.attrs.update(_stimulus_attributes(stimulus))
    target.attrs["sha256"] = stimulus.digest()


def _bin_arrays(recording: Recording) -> dict[str, np.ndarray | h5py.Dataset]:
    arrays: dict[str, Any] = {
        "trial": recording.trial.astype(np.int32),
        "frame": recording.frame.astype(np.int32),
        "responses": recording.responses,
        "valid": recording.valid.astype(bool),
    }
    if isinstance(recording.responses, np.ndarray):
        arrays["responses"] = recording.responses.astype(np.float32, copy=False)
    optional = {"behaviour": recording.behaviour, "pupil_center": recording.pupil_center}
    return arrays | {name: values for name, values in optional.items() if values is not None}


def _write_bins(file: h5py.File, recording: Recording) -> None:
    for name, values in _bin_arrays(recording).items():
        _write_array(file, f"bins/{name}", values)
    file["bins/responses"].attrs.update({"unit": recording.unit, "rate_hz": float(recording.rate_hz)})


def _write_table(file: h5py.File, name: str, table: pd.DataFrame) -> None:
    group = file.create_group(name)
    group.attrs["columns"] = list(table.columns)
    for column in table.columns:
        _write_array(group, column, table[column].to_numpy())


def _storable(values: np.ndarray) -> np.ndarray:
    return values.astype(object) if values.dtype.kind in "UTO" else values


def _write_array(group: h5py.Group, name: str, values: np.ndarray | h5py.Dataset) -> None:
    if values.dtype.kind in "UTO" and not isinstance(values, h5py.Dataset):
        texts = [str(value) for value in values.reshape(-1)]
        group.create_dataset(name, data=np.array(texts, dtype=object).reshape(values.shape), dtype=h5py.string_dtype())
    elif values.ndim == 0 or values.size == 0:
        group.create_dataset(name, data=np.asarray(values))
    else:
        row_bytes = max(1, int(np.prod(values.shape[1:])) * values.dtype.itemsize)
        rows = min(values.shape[0], max(1, CHUNK_BYTES // row_bytes))
        shape = tuple(values.shape)
        target = group.create_dataset(name, shape, values.dtype, chunks=(rows, *shape[1:]), **COMPRESSION)
        for start in range(0, shape[0], 64 * rows):
            target[start : start + 64 * rows] = values[start : start + 64 * rows]


def _shared_digests(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    with h5py.File(path, "r") as file:
        return {name: str(group.attrs["sha256"]) for name, group in file["stimuli"].items()}


# ------------------------------------------------------------------------------------------------------------- reading


def read_recording(
    path: Path,
    *,
    load_frames: bool = True,
    load_responses: bool = True,
    loaded_frames: dict[str, np.ndarray] | None = None,
    check: bool = True,
) -> Recording:
    """Read and validate a recording; what is not loaded stays a lazy h5py dataset.

    `loaded_frames` (content sha256 -> frames) lets sessions share one copy of a movie; `check=False` leaves out the
    validation, which reads all responses. Raises RecordingError that names the file, also for truncated or foreign
    files.
    """
    try:
        file = h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE_BYTES)
    except FileNotFoundError:
        raise RecordingError(f"{path}: there is no such recording") from None
    except OSError as error:
        raise RecordingError(f"{path}: not a readable HDF5 file, truncated or damaged ({error})") from error
    try:
        recording = _read_open(file, load_frames, load_responses, {} if loaded_frames is None else loaded_frames)
        if check:
            validate(recording)
    except RecordingError as error:
        raise RecordingError(f"{path}: {error}") from error
    except (OSError, KeyError, RuntimeError) as error:
        raise RecordingError(f"{path}: damaged or not a coread recording ({error})") from error
    if load_frames and load_responses:
        file.close()
    else:
        _allow_open_files()
    return recording


@functools.cache
def _allow_open_files() -> None:
    """Raise this process's own limit of open files, often 1024, to what the machine allows."""
    own, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if allowed == resource.RLIM_INFINITY else min(OPEN_FILES, allowed)
    if own != resource.RLIM_INFINITY and own < wanted:
        with suppress(ValueError, OSError):  # where the system says less than it allows, the limit stays
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, allowed))


def read_recordings(
    paths: Sequence[Path], *, load_frames: bool = True, memory_budget_bytes: float = float("inf")
) -> list[Recording]:
    """Read several sessions, keeping one copy of every distinct stimulus.

    If they would take more memory than the budget, frames and responses stay on disk as lazy datasets.
    """
    fits = recordings_bytes(paths, frames=load_frames) <= memory_budget_bytes
    frames: dict[str, np.ndarray] = {}
    return [
        read_recording(path, load_frames=load_frames and fits, load_responses=fits, loaded_frames=frames)
        for path in paths
    ]


def read_stimuli(path: Path) -> dict[str, Stimulus]:
    """Read the stimuli that sessions share, lazily; raises RecordingError that names the file."""
    try:
        file = h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE_BYTES)
        return {name: _read_stimulus(file, name, False, {}) for name in file["stimuli"]}
    except (OSError, KeyError) as error:
        raise RecordingError(f"{path}: not readable as shared stimuli, missing or damaged ({error})") from error


def recordings_bytes(paths: Sequence[Path], *, frames: bool = True) -> int:
    """Return the memory that sessions take when loaded: every distinct stimulus once if `frames`, their responses."""
    distinct: dict[str, int] = {}
    responses = 0
    for path in paths:
        recording = read_recording(path, load_frames=False, load_responses=False, check=False)
        distinct |= {stimulus.sha256: stimulus.frames.nbytes for stimulus in recording.stimuli.values()}
        responses += recording.responses.nbytes
    return responses + (sum(distinct.values()) if frames else 0)


def _read_open(
    file: h5py.File, load_frames: bool, load_responses: bool, loaded_frames: dict[str, np.ndarray]
) -> Recording:
    version = file.attrs.get("format_version")
    if version != FORMAT_VERSION:
        raise RecordingError(f"format_version is {version}, this coread reads {FORMAT_VERSION}")
    bins = file["bins"]
    responses = bins["responses"]
    optional = {name: bins[name][:] for name in ("behaviour", "pupil_center") if name in bins}
    session_info = {key: _read_array(values) for key, values in file.get("session", {}).items()}
    texts: Any = {name: str(file.attrs[name]) for name in ("dataset", "session", "species", "area", "mirror", "unit")}
    return Recording(
        **texts,
        rate_hz=float(file.attrs["rate_hz"]),
        stimuli={name: _read_stimulus(file, name, load_frames, loaded_frames) for name in file["stimuli"]},
        trials=_read_table(file["trials"]),
        trial=bins["trial"][:],
        frame=bins["frame"][:],
        responses=responses[:] if load_responses else responses,
        valid=bins["valid"][:],
        neurons=_read_table(file["neurons"]),
        session_info=session_info,
        source={name: str(sha256) for name, sha256 in file["source"].attrs.items()},
        **optional,
    )


def _read_stimulus(file: h5py.File, name: str, load_frames: bool, loaded: dict[str, np.ndarray]) -> Stimulus:
    link = file["stimuli"].get(name, getlink=True)
    try:
        group = file["stimuli"][name]
    except (KeyError, OSError) as error:
        target = getattr(link, "filename", file.filename)
        message = f"stimulus {name!r} links to {target}, which is missing or damaged ({error})"
        raise RecordingError(message) from None
    attributes = {key: value.item() if hasattr(value, "item") else value for key, value in group.attrs.items()}
    sha256 = str(attributes.pop("sha256"))
    frames = group["frames"]
    if load_frames:
        frames = loaded[sha256] if sha256 in loaded else loaded.setdefault(sha256, frames[:])
    stimulus = Stimulus(frames=frames, **attributes)
    object.__setattr__(stimulus, "sha256", sha256)
    return stimulus


def _read_array(dataset: h5py.Dataset) -> np.ndarray:
    if h5py.check_string_dtype(dataset.dtype) is not None:
        return np.array(dataset.asstr()[()], dtype=object)
    return np.asarray(dataset[()])


def _read_table(group: h5py.Group) -> pd.DataFrame:
    return pd.DataFrame({column: _read_array(group[column]) for column in group.attrs["columns"]})
