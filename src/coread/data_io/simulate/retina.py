"""The simulated retina: model ganglion cells that watch photographs and white noise, with their ground truth."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int32

from coread.data_io.readers.parameters import parse_parameters, reader_parameters
from coread.data_io.simulate.cells import (
    POLARITIES,
    CellType,
    CellVariation,
    Kinetics,
    Population,
    draw_population,
    expected_counts,
)
from coread.data_io.simulate.movies import (
    GREY,
    EyeMovements,
    contrast_of,
    fixational_movie,
    load_photograph,
    photograph_files,
    white_noise,
)
from coread.data_io.simulate.presentations import Presentation, lay_out
from coread.recording import Recording, Stimulus

STIMULUS_STREAM, CELL_STREAM, SPIKE_STREAM = range(3)  # independent random streams of one simulation seed
TRAIN_STIMULI = ("movie", "noise")
TEST_STIMULI = ("test_movie", "test_noise")


@dataclass(frozen=True)
class Movie:
    """Photographs, gaze and RMS contrast; training and test movies share no photograph."""

    train_photographs: Sequence[str]
    test_photographs: Sequence[str]
    photograph_px: int  # shorter side of a photograph after it is made smaller
    contrast: float
    eye: EyeMovements

    def __post_init__(self) -> None:
        object.__setattr__(self, "eye", parse_parameters(EyeMovements, _mapping(self.eye), "data_io.movie.eye"))
        if shared := set(self.train_photographs) & set(self.test_photographs):
            raise ValueError(f"data_io.movie: photographs {sorted(shared)} are in both training and test movie")


@dataclass(frozen=True)
class Noise:
    """White noise: binary or gaussian checks."""

    distribution: str
    check_px: int
    contrast: float


@dataclass(frozen=True)
class Presentations:
    """How many trials of which length show each stimulus; a repeat of a test stimulus is one trial."""

    trial_s: float
    movie_trials: int
    noise_trials: int
    test_movie_s: float
    test_noise_s: float
    repeats: int


@dataclass(frozen=True)
class RetinaParameters:
    """Everything that defines the simulation; the configuration file explains each key."""

    seed: int
    frame_rate_hz: float
    height: int
    width: int
    pixel_um: float
    movie: Movie
    noise: Noise
    presentations: Presentations
    cells: CellVariation
    kinetics: Mapping[str, Kinetics]
    cell_types: Mapping[str, CellType]

    def __post_init__(self) -> None:
        nested = {"movie": Movie, "noise": Noise, "presentations": Presentations, "cells": CellVariation}
        for name, kind in nested.items():
            object.__setattr__(self, name, parse_parameters(kind, _mapping(getattr(self, name)), f"data_io.{name}"))
        for name, kind in {"kinetics": Kinetics, "cell_types": CellType}.items():
            table: dict[str, Any] = {
                key: parse_parameters(kind, value, f"data_io.{name}.{key}")
                for key, value in getattr(self, name).items()
            }
            object.__setattr__(self, name, table)
        if unknown := {kind.kinetics for kind in self.cell_types.values()} - set(self.kinetics):
            raise ValueError(
                f"data_io.cell_types: kinetics {sorted(unknown)} unknown, there are {sorted(self.kinetics)}"
            )

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Height and width of a frame in pixels."""
        return self.height, self.width

    def presentation_bins(self) -> dict[str, tuple[int, int]]:
        """Return stimulus -> (number of distinct presentations, bins in each)."""
        show = self.presentations
        seconds = {
            "movie": (show.movie_trials, show.trial_s),
            "noise": (show.noise_trials, show.trial_s),
            "test_movie": (1, show.test_movie_s),
            "test_noise": (1, show.test_noise_s),
        }
        bins = {name: (count, round(length * self.frame_rate_hz)) for name, (count, length) in seconds.items()}
        return {name: (count, length) for name, (count, length) in bins.items() if count * length > 0}

    def layout(self) -> list[Presentation]:
        """Return how the stimuli are shown; a repeat of a test stimulus is one trial."""
        return [
            Presentation(name, "test", count, length, self.presentations.repeats)
            if name in TEST_STIMULI
            else Presentation(name, "train", count, length, repeats=1)
            for name, (count, length) in self.presentation_bins().items()
        ]


def list_sessions(config: Mapping[str, Any], data_dir: Path | None) -> list[str]:
    """Return the configured session names; nothing is read."""
    sessions = [str(name) for name in config.get("sessions") or []]
    if not sessions:
        raise ValueError("data_io.sessions: a simulation needs the names of its sessions, for example [retina_0]")
    return sessions


def build_stimuli(config: Mapping[str, Any], data_dir: Path | None) -> dict[str, Stimulus]:
    """Return the stimuli, the same in every session: 8-bit grey levels (frame, 1, height, width)."""
    parameters = reader_parameters(RetinaParameters, config)
    return {
        name: Stimulus(
            frames=_frames(parameters, name, count * length),
            frame_rate_hz=parameters.frame_rate_hz,
            blank_value=GREY,
            pixel_um=parameters.pixel_um,
        )
        for name, (count, length) in parameters.presentation_bins().items()
    }


def build_recording(
    config: Mapping[str, Any], session: str, data_dir: Path | None, stimuli: Mapping[str, Stimulus]
) -> Recording:
    """Return one session's spike counts with its ground truth in `session_info`.

    Session i of the list is drawn from (seed, i). Raises ValueError for a session that is not in the list.
    """
    parameters = reader_parameters(RetinaParameters, config)
    sessions = list_sessions(config, data_dir)
    if session not in sessions:
        raise ValueError(f"session {session!r} is not one of the simulated sessions {sessions}")
    number = sessions.index(session)
    population = draw_population(
        parameters.cell_types,
        parameters.kinetics,
        parameters.cells,
        parameters.frame_shape,
        parameters.frame_rate_hz,
        np.random.default_rng([parameters.seed, CELL_STREAM, number]),
    )
    trials, trial, frame = lay_out(parameters.layout())
    rate = _rates(parameters, population, stimuli, trials, trial, frame)
    spikes = np.random.default_rng([parameters.seed, SPIKE_STREAM, number]).poisson(rate)
    return Recording(
        dataset=str(config["dataset"]),
        session=session,
        stimuli=dict(stimuli),
        trials=trials,
        trial=trial,
        frame=frame,
        responses=spikes.astype(np.float32),
        valid=np.ones(len(trial), bool),
        rate_hz=parameters.frame_rate_hz,
        unit="spike count",
        neurons=_neuron_table(population, session),
        session_info=_ground_truth(population, parameters.frame_shape) | {"truth_rate": rate.astype(np.float32)},
        species="simulation",
        area="retina",
        source=_photograph_source(parameters),
    )


def source_files(config: Mapping[str, Any], session: str | None, data_dir: Path | None) -> list[Path]:
    """Return no files: a simulation is made from its configuration."""
    return []


def _frames(parameters: RetinaParameters, name: str, n_frames: int) -> np.ndarray:
    rng = np.random.default_rng([parameters.seed, STIMULUS_STREAM, (*TRAIN_STIMULI, *TEST_STIMULI).index(name)])
    if name.endswith("noise"):
        noise = parameters.noise
        return white_noise(n_frames, parameters.frame_shape, noise.distribution, noise.check_px, noise.contrast, rng)
    movie = parameters.movie
    names = movie.test_photographs if name in TEST_STIMULI else movie.train_photographs
    photographs = [load_photograph(photograph, movie.photograph_px) for photograph in names]
    return fixational_movie(
        photographs, movie.eye, n_frames, parameters.frame_rate_hz, parameters.frame_shape, movie.contrast, rng
    )


def _rates(
    parameters: RetinaParameters,
    population: Population,
    stimuli: Mapping[str, Stimulus],
    trials: pd.DataFrame,
    trial: Int32[np.ndarray, "bin"],
    frame: Int32[np.ndarray, "bin"],
) -> Float[np.ndarray, "bin cell"]:
    """Return the expected counts of every bin, computed once per frame of a stimulus and looked up for repeats."""
    layout = parameters.presentation_bins()
    contrast = np.concatenate([contrast_of(np.asarray(stimuli[name].frames)) for name in layout])
    lead = np.concatenate([np.tile(np.arange(length), count) for count, length in layout.values()])
    sizes = {name: count * length for name, (count, length) in layout.items()}
    training = np.repeat([name in TRAIN_STIMULI for name in sizes], list(sizes.values()))
    counts = expected_counts(
        population, contrast, lead, training, parameters.cells, parameters.frame_shape, parameters.frame_rate_hz
    )
    offset = dict(zip(sizes, np.cumsum([0, *sizes.values()]), strict=False))
    return counts[trials["stimulus"].map(offset).to_numpy()[trial] + frame]


def _neuron_table(population: Population, session: str) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "unit_id": [f"{session}_{cell:03d}" for cell in range(len(population.names))],
            "cell_type": population.names,
            "model": [kind.model for kind in population.types],
        }
    )


def _ground_truth(population: Population, frame_shape: tuple[int, int]) -> dict[str, np.ndarray]:
    filters = population.truth_filter.astype(np.float32)
    return {
        "truth_filter": filters.reshape(*filters.shape[:2], 1, *frame_shape),
        "truth_center_px": population.center_px.astype(np.float32),
        "truth_polarity": np.array([POLARITIES[kind.polarity] for kind in population.types], np.int8),
        "truth_model": np.array([kind.model for kind in population.types], "S"),
        "truth_cell_type": np.array(population.names, "S"),
    }


def _photograph_source(parameters: RetinaParameters) -> dict[str, str]:
    """Return the sha256 of the photographs' files by the release that shipped them."""
    release = metadata.version("scikit-image")
    files = photograph_files()
    names = [*parameters.movie.train_photographs, *parameters.movie.test_photographs]
    return {
        f"scikit-image {release}: {files[name].name}": hashlib.sha256(files[name].read_bytes()).hexdigest()
        for name in names
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"data_io: expected a mapping of keys, found {value!r}")
    return value
