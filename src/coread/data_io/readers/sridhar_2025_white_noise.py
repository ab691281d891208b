"""Marmoset ganglion cells under binary white noise (Sridhar et al. 2025), as published.

    <folder>/<non_repeating>/trial_XXX/all_images.npy   (height, width, frame): the frames of training trial XXX
    <folder>/<repeating>/all_images.npy                 (height, width, frame): the test frames
    <folder>/responses/cell_responses_<session>_wn.pkl  see `sridhar_2025`

Which folders a session saw stands in the configuration. Frames stay in their files until they are needed; a
stimulus is stored with one byte per pixel whatever the files hold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from coread.data_io.lazy_frames import LazyFrames
from coread.data_io.readers.parameters import reader_parameters
from coread.data_io.readers.sridhar_2025 import (
    Responses,
    dataset_folder,
    exclusion_steps,
    load_responses,
    neuron_table,
    response_file,
    response_table,
    session_value,
    trial_rows,
)
from coread.provenance import file_sha256
from coread.recording import Recording, RecordingError, Stimulus

TRIAL_PATTERN = "trial_*/all_images.npy"


@dataclass(frozen=True)
class NoiseParameters:
    """What the files do not say; the configuration file explains each key."""

    rate_hz: float
    non_repeating: Mapping[str, str]
    repeating: Mapping[str, str]
    folder: str = ""
    responses: str | Mapping[str, str] = "responses/cell_responses_{session}_wn.pkl"
    crop_px: Sequence[int] = (35, 35, 55, 55)
    excluded_cells: Mapping[str, Sequence[int]] = field(default_factory=dict)
    unit: str = "spike count"
    pixel_um: float | None = None
    species: str = ""
    area: str = ""


@dataclass(frozen=True)
class NoiseFiles:
    """Files of frames, one after the other: `start` is the first row of each, `levels` what 0 and 1 stand for.

    `levels` is None where the files hold one-byte numbers, which are kept as they are.
    """

    paths: Sequence[Path]
    start: Int[np.ndarray, "file"]
    n_frames: int
    shape: tuple[int, int]
    dtype: np.dtype
    levels: tuple[float, float] | None


def list_sessions(config: Mapping[str, Any], data_dir: Path | None) -> list[str]:
    """Return the configured sessions, else all with white-noise folders."""
    return [str(name) for name in config.get("sessions") or sorted(config["non_repeating"])]


def build_stimuli(config: Mapping[str, Any], data_dir: Path | None) -> dict[str, Stimulus]:
    """Return the sequences that the sessions saw, read from their files when they are asked for.

    Raises RecordingError that names the file, what was expected and what was found.
    """
    parameters = reader_parameters(NoiseParameters, config)
    folder = dataset_folder(config, data_dir, parameters.folder)
    stimuli = {}
    for name, paths in _sequences(config, parameters, folder).items():
        files = _noise_files(paths, parameters)
        low, high = (0.0, 1.0) if files.levels is None else files.levels
        stimuli[name] = Stimulus(
            LazyFrames((files.n_frames, 1, *files.shape), files.dtype, partial(_read, files, parameters)),
            frame_rate_hz=parameters.rate_hz,
            scale=high - low,
            offset=low,
            pixel_um=parameters.pixel_um,
        )
    return stimuli


def build_recording(
    config: Mapping[str, Any], session: str, data_dir: Path | None, stimuli: Mapping[str, Stimulus]
) -> Recording:
    """Return one session; raises RecordingError that names the file, what was expected and what was found."""
    parameters = reader_parameters(NoiseParameters, config)
    folder = dataset_folder(config, data_dir, parameters.folder)
    path = response_file(folder, parameters.responses, session)
    responses = load_responses(path, parameters.excluded_cells.get(session, ()))
    train_name = session_value(parameters.non_repeating, session, "non_repeating")
    test_name = session_value(parameters.repeating, session, "repeating")
    start = _train_starts(_trial_files(folder / train_name), responses, path)
    _check_length(folder / test_name / "all_images.npy", responses.test.shape[1], path)
    trials, trial = trial_rows(responses, train_name, test_name)
    frame = [(start[:, None] + np.arange(responses.train.shape[1])).reshape(-1)]
    frame.append(np.tile(np.arange(responses.test.shape[1]), len(responses.test)))
    return Recording(
        dataset=str(config["dataset"]),
        session=session,
        stimuli={name: stimuli[name] for name in (train_name, test_name)},
        trials=trials,
        trial=trial,
        frame=np.concatenate(frame).astype(np.int32),
        responses=response_table(responses),
        valid=np.ones(len(trial), bool),
        rate_hz=parameters.rate_hz,
        unit=parameters.unit,
        neurons=neuron_table(session, responses),
        session_info=exclusion_steps(responses),
        species=parameters.species,
        area=parameters.area,
        source={str(path.relative_to(folder)): file_sha256(path)},
    )


def source_files(config: Mapping[str, Any], session: str | None, data_dir: Path | None) -> list[Path]:
    """Return the responses of a session, or the files of frames for None."""
    parameters = reader_parameters(NoiseParameters, config)
    folder = dataset_folder(config, data_dir, parameters.folder)
    if session is not None:
        return [response_file(folder, parameters.responses, session)]
    return sorted(path for paths in _sequences(config, parameters, folder).values() for path in paths)


def _sequences(config: Mapping[str, Any], parameters: NoiseParameters, folder: Path) -> dict[str, list[Path]]:
    sessions = list_sessions(config, None)
    train = sorted({session_value(parameters.non_repeating, session, "non_repeating") for session in sessions})
    test = sorted({session_value(parameters.repeating, session, "repeating") for session in sessions})
    files = {name: _trial_files(folder / name) for name in train}
    return files | {name: [folder / name / "all_images.npy"] for name in test}


def _trial_files(folder: Path) -> list[Path]:
    """Return the files of the trials in order; raises RecordingError if one is missing."""
    paths = sorted(folder.glob(TRIAL_PATTERN))
    if not paths:
        raise FileNotFoundError(f"{folder}: no {TRIAL_PATTERN} there (data_io.non_repeating)")
    for index, path in enumerate(paths):
        if path.parent.name != f"trial_{index:03d}":
            raise RecordingError(f"{folder.name}: trial_{index:03d} is missing, found {path.parent.name} in its place")
    return paths


def _train_starts(paths: Sequence[Path], responses: Responses, response_path: Path) -> Int[np.ndarray, "trial"]:
    """Return the first frame of every training trial in the sequence of all files."""
    n_trials = int(responses.train_trial.max(initial=-1)) + 1
    if n_trials > len(paths):
        raise RecordingError(
            f"{response_path.name}: train_responses has {n_trials} trials, {paths[0].parents[1].name} only {len(paths)}"
        )
    for path in paths[:n_trials]:
        _check_length(path, responses.train.shape[1], response_path)
    lengths = [_open(path).shape[2] for path in paths]
    return (np.cumsum(lengths) - lengths)[responses.train_trial]


def _check_length(path: Path, n_bins: int, response_path: Path) -> None:
    if (found := _open(path).shape[2]) < n_bins:
        raise RecordingError(
            f"{_where(path)}: has {found} frames, {response_path.name} has responses to {n_bins} of a trial"
        )


# -------------------------------------------------------------------------------------------------------------- frames


def _where(path: Path) -> str:
    return str(path.relative_to(path.parents[2] if path.parent.name.startswith("trial_") else path.parents[1]))


def _open(path: Path) -> np.ndarray:
    """Return a file's frames (height, width, frame) without reading them."""
    try:
        movie = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such file") from None
    except (OSError, ValueError, EOFError) as error:
        raise RecordingError(f"{_where(path)}: not a readable .npy array, truncated or damaged ({error})") from error
    if movie.ndim != 3 or movie.dtype.kind not in "buif":
        raise RecordingError(
            f"{_where(path)}: must be numbers (height, width, frame), found {movie.dtype} of shape {movie.shape}"
        )
    return movie


def _cropped(movie: np.ndarray, parameters: NoiseParameters) -> np.ndarray:
    top, bottom, left, right = parameters.crop_px
    return movie[top : movie.shape[0] - bottom, left : movie.shape[1] - right]


def _noise_files(paths: Sequence[Path], parameters: NoiseParameters) -> NoiseFiles:
    movies = [_open(path) for path in paths]
    first = movies[0]
    for path, movie in zip(paths, movies, strict=True):
        if movie.shape[:2] != first.shape[:2] or movie.dtype != first.dtype:
            raise RecordingError(
                f"{_where(path)}: is {movie.dtype} with frames {movie.shape[:2]}, {_where(paths[0])} is {first.dtype} "
                f"with frames {first.shape[:2]}"
            )
    shape = _cropped(first, parameters).shape
    if min(shape) < 1:
        raise RecordingError(
            f"{_where(paths[0])}: data_io.crop_px {list(parameters.crop_px)} (top, bottom, left, right) leaves nothing "
            f"of frames {first.shape[:2]}"
        )
    lengths = np.array([movie.shape[2] for movie in movies])
    one_byte = first.dtype.itemsize == 1
    levels = None if one_byte else _levels(first, paths[0])
    dtype = np.dtype(np.uint8) if first.dtype == bool or not one_byte else first.dtype
    return NoiseFiles(paths, np.cumsum(lengths) - lengths, int(lengths.sum()), shape[:2], dtype, levels)


def _levels(movie: np.ndarray, path: Path) -> tuple[float, float]:
    """Return the two values of a binary movie, from its first frames."""
    values = np.unique(movie[:, :, :8])
    if len(values) != 2:
        raise RecordingError(f"{_where(path)}: binary noise has two values, its first frames have {len(values)}")
    return float(values[0]), float(values[1])


def _read(files: NoiseFiles, parameters: NoiseParameters, rows: Int[np.ndarray, "row"]) -> np.ndarray:
    """Return frames (frame, channel, height, width) by their rows in the sequence of all files."""
    frames = np.empty((len(rows), 1, *files.shape), files.dtype)
    which = np.searchsorted(files.start, rows, side="right") - 1
    for index in np.unique(which):
        here = which == index
        inside = rows[here] - files.start[index]
        path = files.paths[index]
        consecutive = len(inside) == inside[-1] - inside[0] + 1 and (np.diff(inside) == 1).all()
        # the last axis of the file is time: a stretch of frames is one read per pixel, single frames are many
        taken = slice(inside[0], inside[-1] + 1) if consecutive else inside
        values = _cropped(_open(path), parameters)[:, :, taken]
        if files.levels is not None:
            low, high = files.levels
            is_high = values == high
            if not (is_high | (values == low)).all():
                wrong = values[~(is_high | (values == low))][0]
                raise RecordingError(
                    f"{_where(path)}: binary noise of {low:g} and {high:g} was expected, found {wrong:g}"
                )
            values = is_high
        frames[here, 0] = np.moveaxis(values, 2, 0)
    return frames
