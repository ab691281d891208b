"""What the documented pairs `load_all_stimuli` and `load_all_responses` of the datasets share.

They are the readers that the workflow uses, with their shipped configs; recordings become the documented containers.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from coread.config import config_directory
from coread.data_io.base import MoviesTrainTestSplit, ResponsesTrainTestSplit, normalize_train_test_movies
from coread.data_io.conversion import containers_from_recordings, normalisation
from coread.data_io.download.local_path import get_local_file_path
from coread.data_io.sources import build_recording, build_stimuli, list_sessions

Containers = tuple[ResponsesTrainTestSplit, MoviesTrainTestSplit]


def load_movies(
    dataset: str,
    base_data_path: str | os.PathLike[str],
    stim_type: str | None,
    normalize_stimuli: bool,
    changes: Mapping[str, Any],
) -> dict[str, MoviesTrainTestSplit]:
    """Return the movies of every session of a dataset that lies at a path or an address.

    With `normalize_stimuli` they are z-scores of each session's training movie, otherwise in physical units. `changes`
    are keys of configs/data_io/<dataset>.yaml with other values. Raises the errors of the dataset's reader.
    """
    sessions = _containers(dataset, base_data_path, changes)
    return {name: _movies(movies, stim_type, normalize_stimuli) for name, (_, movies) in sessions}


def load_responses(
    dataset: str, base_data_path: str | os.PathLike[str], stim_type: str | None, changes: Mapping[str, Any]
) -> dict[str, ResponsesTrainTestSplit]:
    """Return the responses of every session of a dataset, as `load_movies` does the movies."""
    sessions = _containers(dataset, base_data_path, changes)
    return {name: _responses(responses, stim_type) for name, (responses, _) in sessions}


def of_species(dataset: str, specie: str, known: tuple[str, str]) -> str:
    """Return the name of a dataset's config for a species; raises ValueError for another."""
    if specie not in known:
        raise ValueError(f"specie is one of {list(known)}, found {specie!r}")
    return f"{dataset}_{specie}"


def check_stimulus(stim_type: str, known: str) -> None:
    """Raise ValueError unless the stimulus is the only one that the files hold."""
    if stim_type != known:
        raise ValueError(f"stim_type is {known!r}, found {stim_type!r}")


def _containers(
    dataset: str, base_data_path: str | os.PathLike[str], changes: Mapping[str, Any]
) -> Iterator[tuple[str, Containers]]:
    shipped = yaml.safe_load((config_directory() / "data_io" / f"{dataset}.yaml").read_text(encoding="utf-8"))
    config = shipped | {"sessions": None} | changes  # whatever sessions are there
    folder = get_local_file_path(os.fspath(base_data_path))
    stimuli = build_stimuli(config, folder)
    for session in list_sessions(config, folder):
        responses, movies = containers_from_recordings([build_recording(config, session, folder, stimuli)])
        yield session, (responses[session], movies[session])


def _movies(movies: MoviesTrainTestSplit, stim_type: str | None, normalize: bool) -> MoviesTrainTestSplit:
    offset, scale = normalisation(movies)
    if normalize:
        # z-scores do not depend on the unit, so that stored grey levels need no copy in physical units
        train, test, found = normalize_train_test_movies(movies.train, movies.test_movie)
        mean, std = found["norm_mean"] * scale + offset, found["norm_std"] * scale
        return MoviesTrainTestSplit(train=train, test=test, stim_id=stim_type, norm_mean=mean, norm_std=std)
    train, test = movies.train, movies.test_movie
    if (offset, scale) != (0.0, 1.0):
        train, test = (values * scale + offset for values in (train, test))
    return MoviesTrainTestSplit(train=train, test=test, stim_id=stim_type)


def _responses(responses: ResponsesTrainTestSplit, stim_type: str | None) -> ResponsesTrainTestSplit:
    (repeats,) = responses.test_by_trial_dict.values()
    return ResponsesTrainTestSplit(
        train=responses.train,
        test=responses.test_response,
        test_by_trial=repeats if len(repeats) > 1 else None,
        stim_id=stim_type,
        session_kwargs=responses.session_kwargs,
    )
