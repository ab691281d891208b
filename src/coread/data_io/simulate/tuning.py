"""A recording of cells of known tuning that watch white noise, drifting gratings and photographs in two channels."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Int32, UInt8
from skimage import io

from coread.data_io.readers.parameters import parse_parameters, reader_parameters
from coread.data_io.simulate.known_cells import KnownCellParameters, KnownCells
from coread.data_io.simulate.movies import (
    GREY,
    EyeMovements,
    fixational_movie,
    photograph_files,
    quantise,
    scaled_photograph,
    white_noise,
)
from coread.data_io.simulate.presentations import Presentation, lay_out
from coread.data_io.simulate.tuning_truth import filter_subspaces, linear_filters, truth_table
from coread.recording import Recording, Stimulus

N_CHANNELS = 2
STIMULUS_STREAM, SPIKE_STREAM = range(2)  # independent random streams of one simulation seed
KINDS = ("noise", "gratings", "movie")


@dataclass(frozen=True)
class Noise:
    """Binary white noise, independent in the channels."""

    check_px: int
    contrast: float


@dataclass(frozen=True)
class RandomGratings:
    """Drifting gratings, each for `change_s` with parameters drawn at random."""

    change_s: float
    spatial_frequency_cyc_px: Sequence[float]
    temporal_frequency_hz: Sequence[float]
    contrast: float

    def frames(
        self, n_frames: int, rate_hz: float, frame_shape: tuple[int, int], rng: np.random.Generator
    ) -> UInt8[np.ndarray, "frame channel height width"]:
        """Return gratings one after the other."""
        n_each = max(1, round(self.change_s * rate_hz))
        count = -(-n_frames // n_each)
        direction, phase = rng.uniform(0, 2 * np.pi, (2, count))
        (low_cycles, high_cycles), (low_hz, high_hz) = (
            np.log(limits) for limits in (self.spatial_frequency_cyc_px, self.temporal_frequency_hz)
        )
        cycles = np.exp(rng.uniform(low_cycles, high_cycles, count))
        hz = np.exp(rng.uniform(low_hz, high_hz, count))
        contrast = rng.uniform(-self.contrast, self.contrast, (count, N_CHANNELS))
        y, x = np.meshgrid(*(np.arange(size) for size in frame_shape), indexing="ij")
        along = np.cos(direction)[:, None, None] * x - np.sin(direction)[:, None, None] * y  # rows count downwards
        turns = hz[:, None] * np.arange(n_each) / rate_hz
        image = np.cos(
            2 * np.pi * (cycles[:, None, None] * along)[:, None]
            - 2 * np.pi * turns[:, :, None, None]
            + phase[:, None, None, None]
        )
        shown = image[:, :, None] * contrast[:, None, :, None, None]
        return quantise(shown.reshape(-1, N_CHANNELS, *frame_shape)[:n_frames])


@dataclass(frozen=True)
class Movie:
    """Photographs, gaze and RMS contrast; training and test movies share no photograph."""

    train_photographs: Sequence[str]
    test_photographs: Sequence[str]
    photograph_px: int  # shorter side of a photograph after it is made smaller
    contrast: float
    eye: EyeMovements

    def __post_init__(self) -> None:
        object.__setattr__(self, "eye", parse_parameters(EyeMovements, self.eye, "data_io.movie.eye"))  # type: ignore[arg-type]
        if shared := set(self.train_photographs) & set(self.test_photographs):
            raise ValueError(f"data_io.movie: photographs {sorted(shared)} are in both training and test movie")


@dataclass(frozen=True)
class Presentations:
    """How many trials of which length show each stimulus; a repeat of a test stimulus is one trial."""

    trial_s: float
    noise_trials: int
    grating_trials: int
    movie_trials: int
    test_noise_s: float
    test_gratings_s: float
    test_movie_s: float
    repeats: int


@dataclass(frozen=True)
class TuningParameters:
    """Everything that defines the simulation; the configuration file explains each key."""

    seed: int
    frame_rate_hz: float
    height: int
    width: int
    pixel_deg: float
    noise: Noise
    gratings: RandomGratings
    movie: Movie
    presentations: Presentations
    cells: KnownCellParameters

    def __post_init__(self) -> None:
        nested: dict[str, type] = {
            "noise": Noise,
            "gratings": RandomGratings,
            "movie": Movie,
            "presentations": Presentations,
            "cells": KnownCellParameters,
        }
        for name, kind in nested.items():
            value = getattr(self, name)
            if not isinstance(value, Mapping):
                raise ValueError(f"data_io.{name}: expected a mapping of keys, found {value!r}")
            object.__setattr__(self, name, parse_parameters(kind, value, f"data_io.{name}"))

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Height and width of a frame in pixels."""
        return self.height, self.width

    def layout(self) -> list[Presentation]:
        """Return the stimuli and how they are shown."""
        show, rate = self.presentations, self.frame_rate_hz
        trials = {"noise": show.noise_trials, "gratings": show.grating_trials, "movie": show.movie_trials}
        test_s = {"noise": show.test_noise_s, "gratings": show.test_gratings_s, "movie": show.test_movie_s}
        shown = [Presentation(kind, "train", trials[kind], round(show.trial_s * rate), repeats=1) for kind in KINDS]
        shown += [
            Presentation(f"test_{kind}", "test", 1, round(test_s[kind] * rate), repeats=show.repeats) for kind in KINDS
        ]
        return [each for each in shown if each.n_frames]


def list_sessions(config: Mapping[str, Any], data_dir: Path | None) -> list[str]:
    """Return the configured session names; nothing is read."""
    sessions = [str(name) for name in config.get("sessions") or []]
    if not sessions:
        raise ValueError("data_io.sessions: a simulation needs the names of its sessions, for example [tuning_0]")
    return sessions


def build_stimuli(config: Mapping[str, Any], data_dir: Path | None) -> dict[str, Stimulus]:
    """Return the stimuli, the same in every session: 8-bit levels (frame, 2, height, width)."""
    parameters = reader_parameters(TuningParameters, config)
    return {
        shown.stimulus: Stimulus(
            frames=_frames(parameters, shown.stimulus, shown.n_frames),
            frame_rate_hz=parameters.frame_rate_hz,
            blank_value=GREY,
            pixel_deg=parameters.pixel_deg,
        )
        for shown in parameters.layout()
    }


def build_recording(
    config: Mapping[str, Any], session: str, data_dir: Path | None, stimuli: Mapping[str, Stimulus]
) -> Recording:
    """Return one session's spike counts with its ground truth in `session_info`.

    Spikes of session i of the list are drawn from (seed, i). Raises ValueError for a session that is not in the list.
    """
    parameters = reader_parameters(TuningParameters, config)
    sessions = list_sessions(config, data_dir)
    if session not in sessions:
        raise ValueError(f"session {session!r} is not one of the simulated sessions {sessions}")
    cells = parameters.cells.make(parameters.frame_shape, parameters.frame_rate_hz)
    layout = parameters.layout()
    trials, trial, frame = lay_out(layout)
    counts = {
        shown.stimulus: cells.expected_counts(
            np.asarray(stimuli[shown.stimulus].frames) / GREY - 1.0,
            np.tile(np.arange(shown.n_bins), shown.n_presentations),
        )
        for shown in layout
    }
    rate = _of_bins(counts, trials, trial, frame)
    spikes = np.random.default_rng([parameters.seed, SPIKE_STREAM, sessions.index(session)]).poisson(rate)
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
        neurons=pd.DataFrame({"unit_id": cells.unit_ids, "cell_type": [cell.cell_type for cell in cells.cells]}),
        session_info=ground_truth(cells) | {"truth_rate": rate.astype(np.float32)},
        species="simulation",
        area="visual system",
        source=_photograph_source(parameters),
    )


def source_files(config: Mapping[str, Any], session: str | None, data_dir: Path | None) -> list[Path]:
    """Return no files: a simulation is made from its configuration."""
    return []


def ground_truth(cells: KnownCells) -> dict[str, np.ndarray]:
    """Return the columns of `truth_table`, the filters and what they span, by names that begin with `truth_`."""
    table = truth_table(cells)
    columns = {str(name): table[name].to_numpy() for name in table if str(name).startswith("truth_")}
    return columns | {
        "truth_filter": linear_filters(cells).astype(np.float32),
        "truth_subspace": filter_subspaces(cells).astype(np.float32),
        "truth_center_px": table[["truth_center_y_px", "truth_center_x_px"]].to_numpy(np.float32),
    }


def _of_bins(
    counts: Mapping[str, Float[np.ndarray, "frame neuron"]],
    trials: pd.DataFrame,
    trial: Int32[np.ndarray, "bin"],
    frame: Int32[np.ndarray, "bin"],
) -> Float[np.ndarray, "bin neuron"]:
    """Return the expected counts of every bin, looked up for repeats.

    They are rounded so that the order in which a linear-algebra library adds cannot change a spike.
    """
    first = dict(zip(counts, np.cumsum([0, *map(len, counts.values())]), strict=False))
    return np.round(np.concatenate(list(counts.values())), 5)[trials["stimulus"].map(first).to_numpy()[trial] + frame]


def _frames(parameters: TuningParameters, name: str, n_frames: int) -> UInt8[np.ndarray, "frame channel height width"]:
    kind = name.removeprefix("test_")
    names = (*KINDS, *(f"test_{each}" for each in KINDS))
    rng = np.random.default_rng([parameters.seed, STIMULUS_STREAM, names.index(name)])
    if kind == "gratings":
        return parameters.gratings.frames(n_frames, parameters.frame_rate_hz, parameters.frame_shape, rng)
    if kind == "noise":
        noise = parameters.noise
        channels = [
            white_noise(n_frames, parameters.frame_shape, "binary", noise.check_px, noise.contrast, rng)
            for _ in range(N_CHANNELS)
        ]
        return np.concatenate(channels, axis=1)
    movie = parameters.movie
    chosen = movie.test_photographs if name.startswith("test_") else movie.train_photographs
    # one gaze in all channels: the same random numbers
    seed = int(rng.integers(2**32))
    channels = [
        fixational_movie(
            [_photograph(photograph, channel, movie.photograph_px) for photograph in chosen],
            movie.eye,
            n_frames,
            parameters.frame_rate_hz,
            parameters.frame_shape,
            movie.contrast,
            np.random.default_rng(seed),
        )
        for channel in range(N_CHANNELS)
    ]
    return np.concatenate(channels, axis=1)


def _photograph(name: str, channel: int, short_side_px: int) -> Float32[np.ndarray, "height width"]:
    files = photograph_files()
    if name not in files:
        raise ValueError(f"photograph {name!r} is not in the installed scikit-image, which has {sorted(files)}")
    image = io.imread(files[name])
    if image.ndim != 3:
        raise ValueError(f"photograph {name!r} has no colours")
    return scaled_photograph(image[..., channel] / 255.0, short_side_px)


def _photograph_source(parameters: TuningParameters) -> dict[str, str]:
    """Return the sha256 of the photographs' files by the release that shipped them."""
    release = metadata.version("scikit-image")
    files = photograph_files()
    names = [*parameters.movie.train_photographs, *parameters.movie.test_photographs]
    return {
        f"scikit-image {release}: {files[name].name}": hashlib.sha256(files[name].read_bytes()).hexdigest()
        for name in names
    }
