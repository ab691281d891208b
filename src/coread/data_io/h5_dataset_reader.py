"""The documented HDF5 directory as the documented containers; the reader `hdf5_directory` describes the files."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from coread.data_io.base import ContainerError, Movie, MoviesTrainTestSplit, ResponsesTrainTestSplit
from coread.data_io.conversion import containers_from_recordings, normalisation
from coread.data_io.readers.hdf5_directory import build_recording, build_stimuli, list_sessions


def load_stimuli(
    base_data_path: str | os.PathLike[str],
    test_names: Sequence[str],
    stimulus_size: Sequence[int],
    norm_mean: float,
    norm_std: float,
) -> dict[str, MoviesTrainTestSplit]:
    """Return what each session of a directory saw as float32, minus `norm_mean`, over `norm_std`.

    Stimuli in `test_names` are test movies; the others are joined along time in the order of their names. A session's
    own stimulus wins over that of `stimuli/` and needs none there. Sessions that saw the same share one container.
    Raises RecordingError that names file and dataset, also where a movie is not of `stimulus_size` (channel, height,
    width), and ContainerError unless `norm_std` is positive.
    """
    if not norm_std > 0:
        raise ContainerError(f"norm_std must be positive, found {norm_std}")
    channels, height, width = stimulus_size
    size = {"color_channels": channels, "video_height": height, "video_width": width}
    movies = _containers(base_data_path, test_names, size)[1]
    distinct = {id(container): container for container in movies.values()}
    made = {key: _normalised(container, float(norm_mean), float(norm_std)) for key, container in distinct.items()}
    return {session: made[id(container)] for session, container in movies.items()}


def load_responses(
    base_data_path: str | os.PathLike[str], test_names: Sequence[str]
) -> dict[str, ResponsesTrainTestSplit]:
    """Return the responses of each session of a directory, joined like the movies of `load_stimuli`.

    Everything in a session's `session_info` becomes its `session_kwargs`; repeats are kept where there are several.
    Raises RecordingError that names file and dataset.
    """
    return {
        session: ResponsesTrainTestSplit(
            train=responses.train,
            test_dict=responses.test_dict,
            test_by_trial_dict={name: each for name, each in responses.test_by_trial_dict.items() if len(each) > 1},
            session_kwargs=responses.session_kwargs,
        )
        for session, responses in _containers(base_data_path, test_names, {})[0].items()
    }


def _containers(
    base_data_path: str | os.PathLike[str], test_names: Sequence[str], size: dict[str, int]
) -> tuple[dict[str, ResponsesTrainTestSplit], dict[str, MoviesTrainTestSplit]]:
    folder = Path(base_data_path)
    # the rate is of no consequence for containers, which count frames
    config: dict[str, Any] = {"dataset": folder.name, "rate_hz": 1.0, "test_names": list(test_names), **size}
    stimuli = build_stimuli(config, folder)
    sessions = list_sessions(config, folder)
    return containers_from_recordings([build_recording(config, session, folder, stimuli) for session in sessions])


def _normalised(container: MoviesTrainTestSplit, mean: float, std: float) -> MoviesTrainTestSplit:
    offset, scale = normalisation(container)

    def values(movie: Movie) -> Float32[np.ndarray, "channel time height width"]:
        return movie.astype(np.float32) * np.float32(scale / std) + np.float32((offset - mean) / std)

    tests = {name: values(movie) for name, movie in container.test_dict.items()}
    return MoviesTrainTestSplit(train=values(container.train), test_dict=tests, norm_mean=mean, norm_std=std)
