"""The documented HDF5 directory: one movie per file in `stimuli/`, one HDF5 file per session.

    <directory>/stimuli/<name>.npy       (channel, time, height, width), float or integer
    <directory>/<session>.h5 or .hdf5
        responses_<name>                 (neuron, time)
        responses_<name>_by_trial        (repeat, neuron, time), optional; then responses_<name>, their mean, is unused
        stimulus_<name>                  (channel, time, height, width), optional; the session's own, wins over stimuli/
        session_info/<key>               optional arrays, kept; unit_id and cell_type (neuron,) label the neurons

Stimuli named in `test_names` are test stimuli, all others training stimuli. Trials follow each other in the order of
names.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32

from coread.data_io.readers.parameters import reader_parameters
from coread.data_io.readers.session_files import data_folder
from coread.data_io.readers.trials import TrialCutting, table_of_bins, trial_table
from coread.provenance import file_sha256
from coread.recording import Recording, RecordingError, Stimulus, smallest_exact

PATTERNS = ("*.h5", "*.hdf5")
BY_TRIAL = "_by_trial"
NAN_POLICIES = ("error", "mask")


@dataclass(frozen=True)
class DirectoryParameters:
    """What the files do not say; the configuration file explains each key."""

    rate_hz: float
    test_names: Sequence[str] = ()
    trial_length: int | Mapping[str, int] | None = None
    trial_offsets: Mapping[str, Sequence[int]] | None = None
    color_channels: int | None = None
    video_height: int | None = None
    video_width: int | None = None
    nan_responses: str = "error"
    unit: str = "spike count"
    pixel_um: float | None = None
    species: str = ""
    area: str = ""

    def __post_init__(self) -> None:
        if self.nan_responses not in NAN_POLICIES:
            raise ValueError(f"data_io.nan_responses is one of {list(NAN_POLICIES)}, found {self.nan_responses!r}")

    @property
    def cutting(self) -> TrialCutting:
        """How movies fall into trials."""
        return TrialCutting(self.trial_length, self.trial_offsets or {}, frozenset(self.test_names))


def list_sessions(config: Mapping[str, Any], data_dir: Path | None) -> list[str]:
    """Return the configured sessions, else those found in the directory, sorted.

    Raises FileNotFoundError if there are none, ValueError if two files are the same session.
    """
    if config.get("sessions"):
        return [str(name) for name in config["sessions"]]
    folder = data_folder(config, data_dir)
    names = sorted(path.stem for pattern in PATTERNS for path in folder.glob(pattern))
    if not names:
        raise FileNotFoundError(f"no sessions in {folder}: no file there matches {' or '.join(PATTERNS)}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{folder}: session {twice[0]!r} exists both as .h5 and as .hdf5")
    return names


def build_stimuli(config: Mapping[str, Any], data_dir: Path | None) -> dict[str, Stimulus]:
    """Return the movies of `stimuli/`, in the smallest dtype that holds them; raises RecordingError naming the file."""
    parameters = reader_parameters(DirectoryParameters, config)
    return {
        path.stem: _stimulus(_load_movie(path), f"stimuli/{path.name}", parameters)
        for path in source_files(config, None, data_dir)
    }


def build_recording(
    config: Mapping[str, Any], session: str, data_dir: Path | None, stimuli: Mapping[str, Stimulus]
) -> Recording:
    """Return one session; raises RecordingError naming file and dataset, what was expected and what was found."""
    parameters = reader_parameters(DirectoryParameters, config)
    path = _session_file(data_folder(config, data_dir), session)
    with _opened(path) as file:
        shown = _shown_stimuli(file, path, stimuli, parameters)
        responses = {name: _responses(file, path, name, shown[name]) for name in shown}
        session_info = _session_info(file)
    _check_neurons(path, responses)
    layout = {name: (values.shape[0], values.shape[2]) for name, values in responses.items()}
    trials, trial, frame = trial_table(layout, parameters.cutting)
    table = table_of_bins(responses.values())
    table, valid = _masked(path, table, parameters)
    return Recording(
        dataset=str(config["dataset"]),
        session=session,
        stimuli=shown,
        trials=trials,
        trial=trial,
        frame=frame,
        responses=table,
        valid=valid,
        rate_hz=parameters.rate_hz,
        unit=parameters.unit,
        neurons=_neuron_table(session, table.shape[1], session_info),
        session_info=session_info,
        species=parameters.species,
        area=parameters.area,
        source=_source(path, shown),
    )


def source_files(config: Mapping[str, Any], session: str | None, data_dir: Path | None) -> list[Path]:
    """Return the file of a session, or the movies of `stimuli/` for None."""
    folder = data_folder(config, data_dir)
    return sorted((folder / "stimuli").glob("*.npy")) if session is None else [_session_file(folder, session)]


def _session_file(folder: Path, session: str) -> Path:
    candidates = [folder / f"{session}{pattern[1:]}" for pattern in PATTERNS]
    for path in candidates:
        if path.is_file():
            return path
    found = sorted(path.name for pattern in PATTERNS for path in folder.glob(pattern))
    raise FileNotFoundError(f"{folder}: session {session!r} needs {candidates[0].name}; found {found}")


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """Open a session file; damage, found now or while reading, becomes a RecordingError that names the file."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except RecordingError:
        raise
    except (OSError, RuntimeError) as error:
        raise RecordingError(f"{path.name}: not a readable HDF5 file, truncated or damaged ({error})") from error


# -------------------------------------------------------------------------------------------------------------- stimuli


def _load_movie(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RecordingError(
            f"stimuli/{path.name}: not a readable .npy array, truncated or damaged ({error})"
        ) from error


def _stimulus(movie: np.ndarray, where: str, parameters: DirectoryParameters) -> Stimulus:
    _check_movie(movie, where, parameters)
    try:
        frames, scale, offset = smallest_exact(movie.transpose(1, 0, 2, 3))
    except RecordingError as error:
        raise RecordingError(f"{where}: {error}") from error
    rate = parameters.rate_hz
    return Stimulus(frames, frame_rate_hz=rate, scale=scale, offset=offset, pixel_um=parameters.pixel_um)


def _check_movie(movie: np.ndarray, where: str, parameters: DirectoryParameters) -> None:
    if movie.ndim != 4 or movie.dtype.kind not in "buif":
        raise RecordingError(
            f"{where} must be numbers (channel, time, height, width), found {movie.dtype} of shape {tuple(movie.shape)}"
        )
    found = (movie.shape[0], *movie.shape[2:])
    wanted = (parameters.color_channels, parameters.video_height, parameters.video_width)
    if all(want in (None, size) for want, size in zip(wanted, found, strict=True)):
        return
    keys = ("color_channels", "video_height", "video_width")
    expected = ", ".join(f"{key}={want}" for key, want in zip(keys, wanted, strict=True) if want is not None)
    swapped = (movie.shape[1], *movie.shape[2:])
    hint = ""
    if all(want in (None, size) for want, size in zip(wanted, swapped, strict=True)):
        hint = "; it looks like (time, channel, height, width)"
    raise RecordingError(
        f"{where} has shape {tuple(movie.shape)} (channel, time, height, width), but data_io says {expected}{hint}"
    )


def _shown_stimuli(
    file: h5py.File, path: Path, shared: Mapping[str, Stimulus], parameters: DirectoryParameters
) -> dict[str, Stimulus]:
    """Return the stimuli that this session has responses to, sorted by name; its own win over the shared ones."""
    keys = [key.removeprefix("responses_") for key in file if key.startswith("responses_")]
    names = sorted({key.removesuffix(BY_TRIAL) for key in keys})
    if not names:
        raise RecordingError(f"{path.name}: no dataset responses_<stimulus>, found {sorted(file)}")
    known = {*names, *shared}
    if unknown := sorted(parameters.cutting.named() - known):
        raise RecordingError(f"{path.name}: data_io names the unknown stimuli {unknown}; there are {sorted(known)}")
    shown = {}
    for name in names:
        if f"stimulus_{name}" in file:
            shown[name] = _stimulus(file[f"stimulus_{name}"][()], f"{path.name}: stimulus_{name}", parameters)
        elif name in shared:
            shown[name] = shared[name]
        else:
            raise RecordingError(
                f"{path.name}: responses_{name} has no stimulus: no stimulus_{name} in the file and no "
                f"stimuli/{name}.npy (found {sorted(shared)})"
            )
    return shown


# ------------------------------------------------------------------------------------------------------------ responses


def _responses(file: h5py.File, path: Path, name: str, stimulus: Stimulus) -> Float32[np.ndarray, "repeat neuron bin"]:
    """Return a stimulus's responses with one repeat where there is only `responses_<name>`."""
    mean_key, repeats_key = f"responses_{name}", f"responses_{name}{BY_TRIAL}"
    for key, axes in ((mean_key, "(neuron, time)"), (repeats_key, "(repeat, neuron, time)")):
        if key in file:
            _check_responses(file[key], f"{path.name}: {key}", axes, name, stimulus)
    if repeats_key not in file:
        return file[mean_key][()].astype(np.float32)[None]
    if mean_key in file and file[mean_key].shape[0] != file[repeats_key].shape[1]:
        sizes = f"{file[mean_key].shape[0]} neurons, {repeats_key} has {file[repeats_key].shape[1]}"
        raise RecordingError(f"{path.name}: {mean_key} has {sizes}")
    return file[repeats_key][()].astype(np.float32)


def _check_responses(dataset: h5py.Dataset, where: str, axes: str, name: str, stimulus: Stimulus) -> None:
    shape = tuple(dataset.shape)
    if len(shape) != axes.count(",") + 1 or dataset.dtype.kind not in "buif":
        raise RecordingError(f"{where} must be numbers {axes}, found {dataset.dtype} of shape {shape}")
    n_frames, n_channels = stimulus.frames.shape[:2]
    if shape[-1] == n_frames:
        return
    hint = ""
    if n_frames in shape[:-1]:
        hint = f"; its axes look transposed, expected {axes}, found shape {shape}"
    elif shape[-1] == n_channels:
        hint = "; the stimulus looks like (time, channel, height, width)"
    raise RecordingError(f"{where} has {shape[-1]} bins, stimulus {name} has {n_frames} frames{hint}")


def _check_neurons(path: Path, responses: Mapping[str, np.ndarray]) -> None:
    counts = {name: values.shape[1] for name, values in responses.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"responses_{name} {count}" for name, count in counts.items())
        raise RecordingError(f"{path.name}: the numbers of neurons differ between stimuli: {listed}")


def _masked(
    path: Path, table: Float32[np.ndarray, "bin neuron"], parameters: DirectoryParameters
) -> tuple[Float32[np.ndarray, "bin neuron"], Bool[np.ndarray, "bin"]]:
    """Return responses and validity; a bin counts only if all neurons have a value in it."""
    finite = np.isfinite(table)
    if finite.all():
        return table, np.ones(len(table), bool)
    if parameters.nan_responses == "error":
        first_bin, first_neuron = np.argwhere(~finite)[0]
        raise RecordingError(
            f"{path.name}: {int((~finite).sum())} response values are not finite, the first at bin {first_bin}, "
            f"neuron {first_neuron}; set data_io.nan_responses to mask to leave such bins out"
        )
    return np.where(finite, table, np.float32(0)), finite.all(axis=1)


# ------------------------------------------------------------------------------------------------------------- labels


def _session_info(file: h5py.File) -> dict[str, np.ndarray]:
    group = file.get("session_info")
    if group is None:
        return {}
    found: dict[str, np.ndarray] = {}

    def keep(key: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            text = h5py.check_string_dtype(item.dtype) is not None
            found[key.replace("/", ".")] = np.asarray(item.asstr()[()] if text else item[()])

    group.visititems(keep)
    return found


def _neuron_table(session: str, n_neurons: int, session_info: Mapping[str, np.ndarray]) -> pd.DataFrame:
    table = pd.DataFrame({"unit_id": [f"{session}_{neuron:03d}" for neuron in range(n_neurons)]})
    for column, keys in {"unit_id": ("unit_id",), "cell_type": ("cell_type", "celltypes")}.items():
        for key in keys:
            if key in session_info and session_info[key].shape == (n_neurons,):
                table[column] = [str(value) for value in session_info[key]]
    return table


def _source(path: Path, shown: Mapping[str, Stimulus]) -> dict[str, str]:
    movies = [path.parent / "stimuli" / f"{name}.npy" for name in shown]
    return {str(file.relative_to(path.parent)): file_sha256(file) for file in (path, *movies) if file.is_file()}
