"""The simulated visual cortex: single-trial responses to natural images with everything that moves them known.

    response = mean response * noise(scale * rectify(images + state + history))
    scale    = exp(coupling * behaviour) * gain ** coupling

where `images` is what simple and complex cells at their retinotopic places see through a moving eye. All of it is kept
as truth: `coread.data_io.simulate.cortex_truth` predicts from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int, Shaped, UInt8

from coread.data_io.readers.parameters import parse_parameters
from coread.data_io.simulate.cortex_cells import Cells, Population, Retinotopy, draw_population, image_drive
from coread.data_io.simulate.cortex_dynamics import (
    Behaviour,
    Couplings,
    Eye,
    Gain,
    History,
    Noise,
    State,
    TimeCourses,
    Units,
    draw_couplings,
    draw_time_courses,
    respond,
)
from coread.data_io.simulate.cortex_images import Photographs, natural_images

START = np.datetime64("2022-01-01T09:00:00", "ms")
# independent random streams of one simulation seed; new ones go to the end
STREAMS = (
    "test_images",
    "images",
    "population",
    "trials",
    "eye",
    "behaviour",
    "state",
    "gain",
    "behaviour_coupling",
    "state_coupling",
    "history_coupling",
    "gain_coupling",
    "camera",
    "noise",
)


@dataclass(frozen=True)
class Presentations:
    """How many images are shown once or repeatedly, and how fast trials follow each other."""

    train: int  # images of the training tier, each shown once
    validation: int  # of the validation tier, each shown once
    test: int  # test images, the same in all sessions
    final_test: int  # images of the final test, the same in all competition sessions
    repeats: int  # of every test image
    spacing_s: tuple[float, float]  # shortest and longest time between the onsets of two trials

    def __post_init__(self) -> None:
        if self.train < 2 or min(self.validation, self.test, self.final_test) < 0 or self.repeats < 1:
            raise ValueError(
                f"data_io.presentations: expected 2 or more training images and counts of 0 or more, found {self}"
            )


@dataclass(frozen=True)
class CortexParameters:
    """Everything that defines the simulation; the configuration file explains each key."""

    seed: int
    neurons: int
    competition_sessions: tuple[str, ...]  # responses of their test tiers are withheld and their order is hidden
    sessions_without_behaviour: tuple[str, ...]  # recorded behaviour and pupil positions are 0
    presentations: Presentations
    images: Photographs
    cells: Cells
    retinotopy: Retinotopy
    eye: Eye
    behaviour: Behaviour
    state: State
    history: History
    gain: Gain
    noise: Noise

    def __post_init__(self) -> None:
        nested = {
            "presentations": Presentations,
            "images": Photographs,
            "cells": Cells,
            "retinotopy": Retinotopy,
            "eye": Eye,
            "behaviour": Behaviour,
            "state": State,
            "history": History,
            "gain": Gain,
            "noise": Noise,
        }
        for name, kind in nested.items():
            node: Any = getattr(self, name)
            if not isinstance(node, Mapping):
                raise ValueError(f"data_io.{name}: expected a mapping of keys, found {node!r}")
            object.__setattr__(self, name, parse_parameters(kind, node, f"data_io.{name}"))
        self.retinotopy.check_fits(self.images.image_shape)
        if self.neurons < 1:
            raise ValueError(f"data_io.neurons: expected 1 or more, found {self.neurons}")


@dataclass(frozen=True)
class TrialTable:
    """The trials of one session in the order of its files, which says nothing about time."""

    image: Int[np.ndarray, "trial"]  # row of the session's images
    image_id: Int[np.ndarray, "trial"]  # the same number in all sessions for the same image
    tier: Shaped[np.ndarray, "trial"]
    rank: Int[np.ndarray, "trial"]  # place in time
    onset: Shaped[np.ndarray, "trial"]  # datetime64[ms]

    @cached_property
    def order(self) -> Int[np.ndarray, "trial"]:
        """Trials in time order."""
        return np.argsort(self.rank)


@dataclass(frozen=True)
class CortexSession:
    """One simulated session: what is recorded, and the truth behind it; trials are in the order of files."""

    images: UInt8[np.ndarray, "image screen_y screen_x"]
    trials: TrialTable
    responses: Float32[np.ndarray, "trial neuron"]
    behaviour: Float[np.ndarray, "trial 3"]
    pupil_center: Float[np.ndarray, "trial 2"]
    unit_ids: Int[np.ndarray, "neuron"]
    population: Population
    truth: dict[str, np.ndarray]


def simulate_session(parameters: CortexParameters, name: str, number: int) -> CortexSession:
    """Return session `number` of the simulation, drawn from (seed, number); `name` decides only what is recorded.

    Test images are drawn from the seed alone and are the same in all sessions.
    """
    rngs = {
        stream: np.random.default_rng(
            [parameters.seed, STREAMS.index(stream), 0 if stream == "test_images" else number]
        )
        for stream in STREAMS
    }
    competes = name in parameters.competition_sessions
    trials = _draw_trials(parameters.presentations, competes, number, rngs["trials"])
    images = _draw_images(parameters, competes, rngs)
    population = draw_population(parameters.neurons, parameters.cells, parameters.retinotopy, rngs["population"])
    effects = (parameters.behaviour, parameters.state)
    courses = draw_time_courses(
        len(trials.rank), parameters.eye, *effects, parameters.gain, [rngs[stream] for stream in STREAMS[4:8]]
    ).taken(trials.rank)
    couplings = draw_couplings(
        parameters.neurons, *effects, parameters.history, parameters.gain, [rngs[stream] for stream in STREAMS[8:12]]
    )
    shift = courses.eye_px if parameters.eye.enabled else np.zeros_like(courses.eye_px)
    drive, scaling = image_drive(population, images, trials.image, shift, trials.tier == "train")
    history = parameters.history
    responses, means, usual = respond(
        drive, trials.order, courses, couplings, history.lags, parameters.noise, rngs["noise"]
    )
    size = population.mean_response.astype(np.float32)
    responses *= size
    means *= size
    truth = _truth(population, courses, couplings, shift, history) | {
        "truth_rate": means,
        "truth_image_drive": drive,
        "truth_drive_scaling": scaling,
        "truth_time_order": trials.rank,
        "truth_usual_response": usual.astype(np.float32),
    }
    return CortexSession(
        images=images,
        trials=trials,
        responses=responses,
        behaviour=_recorded(courses.behaviour, parameters.behaviour.units.get(name, Units())),
        pupil_center=_camera(courses.eye_px, parameters.eye, rngs["camera"]),
        unit_ids=_unit_ids(parameters.neurons, rngs["population"]),
        population=population,
        truth=truth,
    )


def _draw_trials(show: Presentations, competes: bool, number: int, rng: np.random.Generator) -> TrialTable:
    """Return trials whose tiers are mixed in time; in the files, repeats of an image follow each other."""
    counts = {"train": show.train, "validation": show.validation, "test": show.test}
    counts |= {"final_test": show.final_test if competes else 0}
    tier = np.repeat(list(counts), list(counts.values()))
    repeated = np.isin(tier, ("test", "final_test"))
    shared = np.cumsum(repeated)  # 1, 2, ...: the same in every session
    image_id = np.where(repeated, shared, (number + 1) * 1_000_000 + np.cumsum(~repeated))
    image = np.repeat(np.arange(len(tier)), np.where(repeated, show.repeats, 1))
    n_trials = len(image)
    file_order = np.lexsort((rng.random(n_trials), rng.random(len(tier))[image]))
    spacing = (1000 * rng.uniform(*show.spacing_s, n_trials)).astype("timedelta64[ms]")
    rank = rng.permutation(n_trials)
    image = image[file_order]
    return TrialTable(image, image_id[image], tier[image], rank, (START + np.cumsum(spacing))[rank])


def _draw_images(
    parameters: CortexParameters, competes: bool, rngs: Mapping[str, np.random.Generator]
) -> UInt8[np.ndarray, "image screen_y screen_x"]:
    """Return the images of a session: those shown once, then those of the test, then those of the final test."""
    show, photographs = parameters.presentations, parameters.images
    own = natural_images(photographs.train_photographs, show.train + show.validation, photographs, rngs["images"])
    shared = natural_images(photographs.test_photographs, show.test + show.final_test, photographs, rngs["test_images"])
    return np.concatenate([own, shared if competes else shared[: show.test]])


def _recorded(behaviour: Float[np.ndarray, "trial 3"], units: Units) -> Float[np.ndarray, "trial 3"]:
    return behaviour * units.factor + units.offset


def _camera(eye_px: Float[np.ndarray, "trial 2"], eye: Eye, rng: np.random.Generator) -> Float[np.ndarray, "trial 2"]:
    """Return the pupil's centre in camera units, horizontal first."""
    return rng.uniform(*eye.camera_offset, 2) + rng.uniform(*eye.camera_gain, 2) * eye_px[:, ::-1]


def _unit_ids(n_neurons: int, rng: np.random.Generator) -> Int[np.ndarray, "neuron"]:
    """Return rising numbers from 1 with gaps, as sorting leaves them."""
    return np.sort(rng.choice(2 * n_neurons, n_neurons, replace=False)) + 1


def _truth(
    population: Population, courses: TimeCourses, couplings: Couplings, shift: np.ndarray, history: History
) -> dict[str, np.ndarray]:
    arrays = {
        "eye_px": courses.eye_px,
        "eye_shift_px": shift,
        "behaviour": courses.behaviour,
        "behaviour_drive": courses.behaviour_drive,
        "state": courses.state,
        "gain": courses.gain,
        "behaviour_coupling": couplings.behaviour,
        "state_loadings": couplings.state,
        "history_weights": couplings.history,
        "gain_coupling": couplings.gain,
        "center_px": population.center_px,
        "is_simple": population.is_simple,
        "orientation": population.orientation,
        "phase": population.phase,
        "wavelength_px": population.wavelength_px,
        "envelope_px": population.envelope_px,
        "tuning": population.tuning,
        "mean_response": population.mean_response,
    }
    truth = {f"truth_{name}": _stored(values) for name, values in arrays.items()}
    return truth | {"truth_history_lags": np.array(history.lags, np.int32)}


def _stored(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32) if values.dtype.kind == "f" else values
