"""Mouse and marmoset ganglion cells under natural images that follow a gaze (Karamanlis et al. 2024, Nature 637:394).

    .../<session>/*fixationmovie_data.mat    MATLAB v7.3, which is HDF5; axes as h5py sees them, reversed
        runningImages, frozenImages          (image, x, y)
        runningfixations                     (block, frame, 3) columns 1-based image number, x and y of the gaze
        frozenfixations                      (frame, 3)
        runningbin                           (block, bin, neuron) spike counts
        frozenbin                            (trial, bin, neuron) repeats of one sequence
    .../<session>/expdata.mat                optional: projector/pixelsize (m) and projector/refreshrate (Hz) are used

A session is a folder whose name holds the species. MATLAB writes (y, x, image) arrays so that h5py reads (image, x, y):
frames are transposed to (row, column) = (y, x), with the first row on top and x to the right, as the authors' function
`returnFixMovie` draws them; `transpose_images: false` leaves the axes as h5py reads them. To check it, compare
receptive fields with those that `frozencheckerflicker_data.mat` gives for the same cells. Blocks and repeats
alternate on screen: a running block, then the frozen sequence.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from jaxtyping import Float32, Int

from coread.data_io.readers.fixation_movie import FixationMovie, Screen
from coread.data_io.readers.parameters import reader_parameters
from coread.data_io.readers.published_hdf5 import NAN_POLICIES, mask_missing, numbers, opened
from coread.data_io.readers.session_files import data_folder, files_by_session, session_file, session_names
from coread.data_io.readers.trials import TrialCutting, trial_table
from coread.provenance import file_sha256
from coread.recording import Recording, RecordingError, Stimulus

PARTS = ("running", "frozen")
RATE_TOLERANCE = 0.02
NOT_DECODABLE = {
    "frozencheckerflicker": "its files hold spike counts and the seed of a checkerboard (stimPara), but no frames "
    "(the reader gollisch_white_noise makes them anew from a seed)",
    "gratingflicker": "its files hold spike counts and the parameters of gratings, but no frames",
    "imagesequence": "its files do not say in a documented way which image was on screen in which bin",
}


@dataclass(frozen=True)
class Parameters:
    """What the files do not say; the configuration file explains each key."""

    species: str
    rate_hz: float
    stimulus_type: str = "fixationmovie"
    screen_height: int = 600
    screen_width: int = 800
    video_height: int = 60
    video_width: int = 80
    screen_pixel_um: float | None = None
    outside_value: float = 0.0
    transpose_images: bool = True
    round_to_grey_levels: bool = False
    published_behaviour: bool = False
    fr_normalization: float = 1.0
    nan_responses: str = "error"
    unit: str = "spike count"
    area: str = "retina"

    def __post_init__(self) -> None:
        if self.stimulus_type in NOT_DECODABLE:
            raise ValueError(
                f"data_io.stimulus_type {self.stimulus_type!r} cannot be read: {NOT_DECODABLE[self.stimulus_type]}; "
                "fixationmovie can"
            )
        if self.stimulus_type != "fixationmovie":
            raise ValueError(f"data_io.stimulus_type is fixationmovie, found {self.stimulus_type!r}")
        if self.nan_responses not in NAN_POLICIES:
            raise ValueError(f"data_io.nan_responses is one of {list(NAN_POLICIES)}, found {self.nan_responses!r}")

    @property
    def screen(self) -> Screen:
        """How images become frames."""
        return Screen(
            height=self.screen_height,
            width=self.screen_width,
            video_height=self.video_height,
            video_width=self.video_width,
            outside_value=self.outside_value,
            round_to_grey_levels=self.round_to_grey_levels,
            published_behaviour=self.published_behaviour,
        )


@dataclass(frozen=True)
class _Movie:
    """A movie and the name that its content gives it; frame `n` of the presentation is frame `frame[n]` of it."""

    name: str
    frames: FixationMovie
    frame: Int[np.ndarray, "shown"]
    pixel_um: float | None


def list_sessions(config: Mapping[str, Any], data_dir: Path | None) -> list[str]:
    """Return the configured sessions, else the folders of the species with a file of the stimulus."""
    parameters = reader_parameters(Parameters, config)
    return session_names(config, lambda: _files(config, data_dir, parameters), _described(parameters))


def build_stimuli(config: Mapping[str, Any], data_dir: Path | None) -> dict[str, Stimulus]:
    """Return the movies that more than one session was shown; they are rendered while they are written."""
    parameters = reader_parameters(Parameters, config)
    found = _files(config, data_dir, parameters)
    movies: dict[str, _Movie] = {}
    times: Counter[str] = Counter()
    for session in list_sessions(config, data_dir):
        path = session_file(found, session, _described(parameters))
        with opened(path, _where(path)) as file:
            for movie in _movies(file, path, parameters).values():
                times[movie.name] += 1
                movies.setdefault(movie.name, movie)
    shared = {name: movies[name] for name, count in sorted(times.items()) if count > 1}
    return {name: Stimulus(movie.frames, parameters.rate_hz, pixel_um=movie.pixel_um) for name, movie in shared.items()}


def build_recording(
    config: Mapping[str, Any], session: str, data_dir: Path | None, stimuli: Mapping[str, Stimulus]
) -> Recording:
    """Return one session; raises RecordingError naming file and dataset, what was expected and what was found."""
    parameters = reader_parameters(Parameters, config)
    path = session_file(_files(config, data_dir, parameters), session, _described(parameters))
    where = _where(path)
    with opened(path, where) as file:
        movies = _movies(file, path, parameters)
        counts = {part: _counts(file, part, movies[part], where) for part in PARTS}
    if counts["running"].shape[2] != counts["frozen"].shape[2]:
        listed = ", ".join(f"{part}bin {values.shape[2]}" for part, values in counts.items())
        raise RecordingError(f"{where}: the numbers of neurons differ: {listed}")
    trials, trial, frame = _presentations(movies, counts)
    table = np.concatenate([values.reshape(-1, values.shape[2]) for values in counts.values()])
    table, valid = mask_missing(table / np.float32(parameters.fr_normalization), parameters.nan_responses, where)
    return Recording(
        dataset=str(config["dataset"]),
        session=session,
        stimuli={movie.name: _stimulus(movie, stimuli, parameters) for movie in movies.values()},
        trials=trials,
        trial=trial,
        frame=frame,
        responses=table,
        valid=valid,
        rate_hz=parameters.rate_hz,
        unit=parameters.unit,
        neurons=pd.DataFrame({"unit_id": [f"{session}_{neuron:03d}" for neuron in range(table.shape[1])]}),
        species=parameters.species,
        area=parameters.area,
        source={where: file_sha256(path)},
    )


def source_files(config: Mapping[str, Any], session: str | None, data_dir: Path | None) -> list[Path]:
    """Return the files of a session, or the files of all sessions, from which is seen what they share, for None."""
    parameters = reader_parameters(Parameters, config)
    found = _files(config, data_dir, parameters)
    names = list_sessions(config, data_dir) if session is None else [session]
    paths = [session_file(found, name, _described(parameters)) for name in names]
    return [file for path in paths for file in (path, path.parent / "expdata.mat") if file.is_file()]


def _files(config: Mapping[str, Any], data_dir: Path | None, parameters: Parameters) -> dict[str, Path]:
    def session_of(path: Path) -> str | None:
        return path.parent.name if parameters.species in path.parent.name else None

    return files_by_session(data_folder(config, data_dir), f"*{parameters.stimulus_type}_data.mat", session_of)


def _described(parameters: Parameters) -> str:
    return f"<session with {parameters.species} in its name>/*{parameters.stimulus_type}_data.mat"


def _where(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


# -------------------------------------------------------------------------------------------------------------- stimuli


def _movies(file: h5py.File, path: Path, parameters: Parameters) -> dict[str, _Movie]:
    """Return the running and the frozen movie, not rendered; blocks with the same gaze are kept once."""
    where, movies = _where(path), {}
    screen_pixel_um = _screen_pixel_um(path, parameters)
    pixel_um = None if screen_pixel_um is None else screen_pixel_um * parameters.screen_height / parameters.video_height
    for part in PARTS:
        images = numbers(file, f"{part}Images", "(image, x, y)", where)[()]
        images = images.swapaxes(1, 2) if parameters.transpose_images else images
        fixations = _fixations(file, part, len(images), where)
        distinct, block = _distinct(fixations)
        frame = block[:, None] * fixations.shape[1] + np.arange(fixations.shape[1])
        shown = distinct.reshape(-1, 3)
        movie = FixationMovie(images, shown, parameters.screen)
        movies[part] = _Movie(f"{part}_{_content_name(movie, pixel_um)}", movie, frame.reshape(-1), pixel_um)
    return movies


def _fixations(file: h5py.File, part: str, n_images: int, where: str) -> Int[np.ndarray, "block frame 3"]:
    key = f"{part}fixations"
    values = numbers(file, key, "(block, frame, 3)" if part == "running" else "(frame, 3)", where)[()]
    if values.shape[-1] != 3:
        hint = "; its axes look transposed" if values.shape[0] == 3 or values.shape[-2] == 3 else ""
        raise RecordingError(
            f"{where}: {key} must have the 3 columns image, x and y, found shape {tuple(values.shape)}{hint}"
        )
    values = values.reshape(-1, *values.shape[-2:])
    if (values != np.rint(values)).any():
        raise RecordingError(f"{where}: {key} must be whole numbers, found {values[values != np.rint(values)][0]}")
    whole = values.astype(np.int64)
    if whole[..., 0].min() < 1 or whole[..., 0].max() > n_images:
        found = f"{whole[..., 0].min()} to {whole[..., 0].max()}"
        raise RecordingError(f"{where}: {key} names the images {found}, {part}Images holds 1 to {n_images}")
    return whole


def _distinct(
    fixations: Int[np.ndarray, "block frame 3"],
) -> tuple[Int[np.ndarray, "distinct frame 3"], Int[np.ndarray, "block"]]:
    """Return the distinct blocks in the order of their first presentation, and which of them each block is."""
    _, first, of_block = np.unique(fixations, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return fixations[first[order]], np.argsort(order)[of_block.reshape(-1)]


def _content_name(movie: FixationMovie, pixel_um: float | None) -> str:
    """Return a digest of everything a movie is made of."""
    images, fixations = movie.images, movie.fixations
    digest = hashlib.sha256(repr((movie.screen, pixel_um, images.shape, images.dtype.str, fixations.shape)).encode())
    for array in (*images, fixations):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:8]


def _stimulus(movie: _Movie, stimuli: Mapping[str, Stimulus], parameters: Parameters) -> Stimulus:
    """Return the movie that sessions share where it is one of those and rendered, else a rendered one."""
    shared = stimuli.get(movie.name)
    if shared is not None and not isinstance(shared.frames, FixationMovie):
        return shared
    return Stimulus(movie.frames.rendered(), parameters.rate_hz, pixel_um=movie.pixel_um)


def _screen_pixel_um(path: Path, parameters: Parameters) -> float | None:
    """Return the size of a screen pixel on the retina from expdata.mat, else the configured one."""
    described = path.parent / "expdata.mat"
    if not described.is_file():
        return parameters.screen_pixel_um
    with opened(described, _where(described)) as file:
        size, rate = (
            file[key][()].item() if isinstance(file.get(key), h5py.Dataset) and file[key].size == 1 else None
            for key in ("projector/pixelsize", "projector/refreshrate")
        )
    if rate is not None and abs(rate / parameters.rate_hz - 1) > RATE_TOLERANCE:
        raise RecordingError(
            f"{_where(described)}: projector/refreshrate is {rate:g} Hz, data_io.rate_hz is {parameters.rate_hz:g}"
        )
    return parameters.screen_pixel_um if size is None else round(size * 1e6, 6)


# ------------------------------------------------------------------------------------------------------------ responses


def _counts(file: h5py.File, part: str, movie: _Movie, where: str) -> Float32[np.ndarray, "repeat bin neuron"]:
    """Return spike counts of blocks (running) or repeats (frozen)."""
    key = f"{part}bin"
    values = numbers(file, key, "(trial, bin, neuron)", where)
    n_bins = values.shape[0] * values.shape[1] if part == "running" else values.shape[1]
    n_frames = len(movie.frame)
    n_blocks = numbers(file, "runningfixations", "(block, frame, 3)", where).shape[0] if part == "running" else None
    if n_bins != n_frames or n_blocks not in (None, values.shape[0]):
        expected = f"({n_blocks}, {n_frames // n_blocks}, neuron)" if n_blocks else f"(trial, {n_frames}, neuron)"
        raise RecordingError(
            f"{where}: {key} has shape {tuple(values.shape)}, but {part}fixations ask for (trial, bin, neuron) = "
            f"{expected}; if the sizes are right, the axes are in another order"
        )
    return values[()].astype(np.float32)


def _presentations(
    movies: Mapping[str, _Movie], counts: Mapping[str, Float32[np.ndarray, "repeat bin neuron"]]
) -> tuple[pd.DataFrame, Int[np.ndarray, "bin"], Int[np.ndarray, "bin"]]:
    """Return trials, and trial and frame of every bin: all running blocks, then all repeats."""
    running, frozen = movies["running"], movies["frozen"]
    n_blocks, n_frames = counts["running"].shape[:2]
    n_repeats = len(counts["frozen"])
    layout = {running.name: (1, n_blocks * n_frames), frozen.name: (n_repeats, len(frozen.frame))}
    offsets = {running.name: list(range(0, n_blocks * n_frames, n_frames))}
    trials, trial, frame = trial_table(layout, TrialCutting(None, offsets, frozenset({frozen.name})))
    frame[: n_blocks * n_frames] = running.frame
    # running block, frozen sequence, running block, ...: ranks of what was shown when
    turn = np.concatenate([2 * np.arange(n_blocks), 2 * np.arange(n_repeats) + 1])
    trials["time_order"] = np.argsort(np.argsort(turn))
    first_seen = running.frame[::n_frames]
    trials.loc[: n_blocks - 1, "repeat"] = pd.Series(first_seen).groupby(first_seen).cumcount().to_numpy()
    return trials, trial, frame
