"""Documented containers as recordings and back, without copies of the movies.

A container's movie (channel, time, height, width) and a recording's frames (frame, channel, height, width) are views of
the same memory, wherever a session saw a movie once and in its own order.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Int32, Shaped

from coread.data_io.base import (
    ContainerError,
    MoviesTrainTestSplit,
    ResponsesTrainTestSplit,
    movies_of,
)
from coread.data_io.readers.trials import TrialCutting, trial_table
from coread.recording import BLANK, Recording, Stimulus, validate

CHUNK_FRAMES = 1024  # put into physical units at a time
TRAIN_MOVIE = "train"  # the name of a container's training movie among a recording's stimuli


# ------------------------------------------------------------------------------------------- containers to recordings


def recordings_from_containers(
    neuron_data_dictionary: Mapping[str, ResponsesTrainTestSplit],
    movies_dictionary: Mapping[str, MoviesTrainTestSplit] | MoviesTrainTestSplit,
    *,
    rate_hz: float,
    unit: str = "a.u.",
    dataset: str = "containers",
    trial_offsets: Mapping[str, Any] | None = None,
    pixel_um: float | None = None,
    species: str = "",
    area: str = "",
) -> list[Recording]:
    """Return one recording per session, ready for `train()`; sessions with the same movie share one view of it.

    `rate_hz` is bins (and frames) per second. `trial_offsets` names the first frame of every uninterrupted presentation
    (`{"train": [0, 150, ...]}`); a movie without them is one. Repeats become rows of the trials; a bin in which a
    repeat has no neuron's value (NaN padding) is masked. Raises ContainerError that names the session.
    """
    shared: dict[tuple[int, float, float], Stimulus] = {}
    recordings = []
    for session, responses in neuron_data_dictionary.items():
        movies = movies_of(session, movies_dictionary)
        try:
            responses.check_matching_stimulus(movies)
            layout = _layout(responses)
            cutting = TrialCutting(None, trial_offsets or {}, frozenset(responses.test_dict))
            trials, trial, frame = trial_table({name: values.shape[::2] for name, values in layout.items()}, cutting)
            table, valid = _table(layout)
            recording = Recording(
                dataset=dataset,
                session=session,
                stimuli=_stimuli(movies, rate_hz, pixel_um, shared),
                trials=trials,
                trial=trial,
                frame=frame,
                responses=table,
                valid=valid,
                rate_hz=rate_hz,
                unit=unit,
                neurons=_neurons(session, responses),
                session_info=_session_info(responses.session_kwargs),
                species=species,
                area=area,
            )
            validate(recording)
        except ValueError as error:
            raise ContainerError(f"session {session!r}: {error}") from error
        recordings.append(recording)
    return recordings


def _layout(responses: ResponsesTrainTestSplit) -> dict[str, Shaped[np.ndarray, "repeat neuron time"]]:
    """Return the responses of every stimulus, the mean over repeats only where there are no repeats."""
    if TRAIN_MOVIE in responses.test_dict:
        raise ContainerError(f"a test stimulus cannot be named {TRAIN_MOVIE!r}")
    tests = {
        name: responses.test_by_trial_dict.get(name, mean[None]) for name, mean in sorted(responses.test_dict.items())
    }
    return {TRAIN_MOVIE: responses.train[None], **tests}


def _table(
    layout: Mapping[str, Shaped[np.ndarray, "repeat neuron time"]],
) -> tuple[Float32[np.ndarray, "bin neuron"], Bool[np.ndarray, "bin"]]:
    """Return responses by bin and which bins count; raises ContainerError where single values are missing."""
    rows, counted = [], []
    for name, values in layout.items():
        by_bin = values.transpose(0, 2, 1).reshape(-1, values.shape[1]).astype(np.float32)
        missing: np.ndarray = np.logical_not(np.isfinite(by_bin))
        padded: np.ndarray = np.logical_and(missing.all(axis=1), values.shape[0] > 1)
        if n_missing := int(np.count_nonzero(missing[~padded])):
            raise ContainerError(
                f"{n_missing} {name} responses are not finite; only bins that a repeat lacks altogether may be NaN"
            )
        rows.append(np.where(padded[:, None], np.float32(0), by_bin))
        counted.append(~padded)
    return np.concatenate(rows), np.concatenate(counted)


def _stimuli(
    movies: MoviesTrainTestSplit,
    rate_hz: float,
    pixel_um: float | None,
    shared: dict[tuple[int, float, float], Stimulus],
) -> dict[str, Stimulus]:
    """Return a view of every movie; the same array in the same units gives the same stimulus, held once by a device."""
    mean, std = normalisation(movies)
    found = {}
    for name, movie in {TRAIN_MOVIE: movies.train, **movies.test_dict}.items():
        key = (id(movie), mean, std)
        if key not in shared:
            frames = movie.transpose(1, 0, 2, 3)
            shared[key] = Stimulus(frames, rate_hz, scale=std, offset=mean, blank_value=mean, pixel_um=pixel_um)
        found[name] = shared[key]
    return found


def normalisation(movies: MoviesTrainTestSplit) -> tuple[float, float]:
    """Return (mean, std) with which a movie's values become physical ones: value * std + mean."""
    mean = 0.0 if movies.norm_mean is None else float(movies.norm_mean)
    std = 1.0 if movies.norm_std is None else float(movies.norm_std)
    if not (np.isfinite(mean) and np.isfinite(std) and std > 0):
        raise ContainerError(f"norm_mean {mean} and norm_std {std} must be finite, and norm_std positive")
    return mean, std


def _neurons(session: str, responses: ResponsesTrainTestSplit) -> pd.DataFrame:
    table = pd.DataFrame({"unit_id": [f"{session}_{neuron:03d}" for neuron in range(responses.n_neurons)]})
    for column, keys in {"unit_id": ("unit_id", "roi_ids"), "cell_type": ("cell_type", "celltypes")}.items():
        for key in keys:
            values = np.asarray(responses.session_kwargs.get(key))
            if values.shape == (responses.n_neurons,):
                table[column] = [str(value) for value in values]
    return table


def _session_info(session_kwargs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    info = {key: np.asarray(value) for key, value in session_kwargs.items()}
    for key, values in info.items():
        texts = values.dtype.kind != "O" or all(isinstance(value, str) for value in values.reshape(-1))
        if values.dtype.kind not in "buifcUTO" or not texts:
            raise ContainerError(f"session_kwargs[{key!r}] must be numbers or texts, found {type(session_kwargs[key])}")
    return info


# ------------------------------------------------------------------------------------------- recordings to containers


@dataclass
class _Views:
    """Movies that were made for earlier sessions, by what was shown; kept so that sessions share them."""

    movies: dict[tuple[Any, ...], np.ndarray] = field(default_factory=dict)
    containers: dict[tuple[Any, ...], MoviesTrainTestSplit] = field(default_factory=dict)


def containers_from_recordings(
    recordings: list[Recording],
) -> tuple[dict[str, ResponsesTrainTestSplit], dict[str, MoviesTrainTestSplit]]:
    """Return (responses_dictionary, movies_dictionary) of sessions: the dictionaries of the documents.

    `train` joins the trials of the tiers train and validation in order of time. A movie stays a view of the recording's
    frames, in their stored type, with `norm_mean` and `norm_std` as their offset and scale; only presentations in
    another order, of several movies or with blanks, and z-scores that are stored as whole numbers, are written out,
    once for all sessions that saw the same.
    Containers know neither masks nor trial borders: masked training bins raise ContainerError, masked test bins become
    NaN in the repeats and leave the mean. Withheld trials are left out.
    """
    views = _Views()
    responses, movies = {}, {}
    for recording in recordings:
        try:
            responses[recording.session], movies[recording.session] = _containers(recording, views)
        except ContainerError as error:
            raise ContainerError(f"session {recording.session!r}: {error}") from error
    return responses, movies


def _containers(recording: Recording, views: _Views) -> tuple[ResponsesTrainTestSplit, MoviesTrainTestSplit]:
    kept = ~recording.trials["withheld"].to_numpy(bool)
    tiers = recording.trials["tier"].to_numpy()
    train_rows = np.flatnonzero(kept & np.isin(tiers, ("train", "validation")))
    train_rows = train_rows[np.argsort(recording.trials["time_order"].to_numpy()[train_rows], kind="stable")]
    test_rows = np.flatnonzero(kept & np.isin(tiers, ("test", "final_test")))
    if not len(train_rows) or not len(test_rows):
        raise ContainerError(f"containers need training and test trials, the tiers are {sorted(set(tiers))}")
    train_bins = _bins(recording, train_rows)
    if n_masked := int((~recording.valid[train_bins]).sum()):
        raise ContainerError(f"{n_masked} training bins are masked, which containers cannot express")
    by_trial, shown = {}, {TRAIN_MOVIE: train_bins}
    names = recording.trials["stimulus"].to_numpy()
    for name in dict.fromkeys(names[test_rows]):
        repeats = _repeat_bins(recording, test_rows[names[test_rows] == name], name)
        shown[name] = repeats[0]
        values = np.where(recording.valid[repeats][..., None], recording.responses[:][repeats], np.nan)
        by_trial[name] = values.transpose(0, 2, 1).astype(np.float32)
    return ResponsesTrainTestSplit(
        train=recording.responses[:][train_bins].T,
        test_dict={name: _mean(name, values) for name, values in by_trial.items()},
        test_by_trial_dict=by_trial,
        session_kwargs=dict(recording.session_info),
    ), _movies(recording, shown, views)


def _bins(recording: Recording, rows: np.ndarray) -> Int32[np.ndarray, "bin"]:
    first, stop = recording.trial_bounds()
    return np.concatenate([np.arange(first[row], stop[row]) for row in rows])


def _repeat_bins(recording: Recording, rows: np.ndarray, name: str) -> Int32[np.ndarray, "repeat bin"]:
    """Return the bins of every repeat; raises ContainerError unless all repeats show the same frames."""
    numbers = recording.trials["repeat"].to_numpy()[rows]
    repeats = [_bins(recording, rows[numbers == number]) for number in np.unique(numbers)]
    for bins in repeats:
        if not np.array_equal(recording.frame[bins], recording.frame[repeats[0]]):
            raise ContainerError(f"the repeats of test stimulus {name!r} do not all show the same frames")
    return np.stack(repeats)


def _mean(name: str, by_trial: np.ndarray) -> Float32[np.ndarray, "neuron time"]:
    present = np.isfinite(by_trial).sum(axis=0)
    if not present.all():
        raise ContainerError(f"test stimulus {name!r} has bins that no repeat has a value for")
    return (np.nansum(by_trial, axis=0, dtype=np.float64) / present).astype(np.float32)


def _movies(recording: Recording, shown: Mapping[str, np.ndarray], views: _Views) -> MoviesTrainTestSplit:
    used = sorted({*recording.bin_column("stimulus")[np.concatenate(list(shown.values()))]})
    scales = {(recording.stimuli[name].scale, recording.stimuli[name].offset) for name in used}
    blanks = any((recording.frame[bins] == BLANK).any() for bins in shown.values())
    physical = blanks or len(scales) > 1  # then there is no common stored unit
    physical |= any(_holds_levels(recording.stimuli[name]) for name in used)
    std, mean = (1.0, 0.0) if physical else scales.pop()
    movies = {name: _movie(recording, bins, physical, views) for name, bins in shown.items()}
    key = (*((name, id(movie)) for name, movie in movies.items()), mean, std)
    if key not in views.containers:
        train = movies.pop(TRAIN_MOVIE)
        views.containers[key] = MoviesTrainTestSplit(train=train, test_dict=movies, norm_mean=mean, norm_std=std)
    return views.containers[key]


def _holds_levels(stimulus: Stimulus) -> bool:
    """Return whether frames are numbers of levels, a way to store published z-scores, and no unit to compute with.

    Their 0 is not the blank screen, which it is in a container's normalised units.
    """
    return stimulus.frames.dtype.kind in "iu" and stimulus.offset not in (0.0, stimulus.blank_value)


def _movie(
    recording: Recording, bins: Int32[np.ndarray, "bin"], physical: bool, views: _Views
) -> Shaped[np.ndarray, "channel time height width"]:
    names, frame = recording.bin_column("stimulus")[bins], recording.frame[bins]
    borders = np.flatnonzero(names[1:] != names[:-1]) + 1
    pieces = [
        (str(part[0]), index) for part, index in zip(np.split(names, borders), np.split(frame, borders), strict=True)
    ]
    key = (
        *((id(recording.stimuli[name].frames), index.tobytes()) for name, index in pieces),
        recording.mirror,
        physical,
    )
    if key not in views.movies:
        parts = [_frames(recording.stimuli[name], index, physical) for name, index in pieces]
        frames = parts[0] if len(parts) == 1 else np.concatenate(parts)
        axes: dict[str, tuple[int, ...]] = {"none": (), "height": (2,), "width": (3,)}
        views.movies[key] = np.flip(frames, axes[recording.mirror]).transpose(1, 0, 2, 3)
    return views.movies[key]


def _frames(stimulus: Stimulus, index: Int32[np.ndarray, "bin"], physical: bool) -> np.ndarray:
    """Return frames as they were shown: a view if they follow each other, in physical float32 values if asked for."""
    if (np.diff(index) == 1).all() and index[0] != BLANK:
        frames = stimulus.frames[index[0] : index[-1] + 1]
    else:
        frames = stimulus.frames[:][np.maximum(index, 0)]
    if not physical:
        return frames
    values = np.empty(frames.shape, np.float32)
    for start in range(0, len(frames), CHUNK_FRAMES):
        rows = slice(start, start + CHUNK_FRAMES)
        # in float64, from which published values come back to the bit
        values[rows] = frames[rows].astype(np.float64) * stimulus.scale + stimulus.offset
    values[index == BLANK] = stimulus.blank_value
    return values
