"""Loaders of the movies of Höfling et al. 2024, which every session saw in an order, and with an eye, of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.utils.data import DataLoader

from coread.data_io.base import ContainerError, MoviesTrainTestSplit, ResponsesTrainTestSplit
from coread.data_io.base_dataloader import ValidationClips, session_loaders
from coread.data_io.conversion import TRAIN_MOVIE, normalisation, recordings_from_containers
from coread.data_io.hoefling_2024.constants import CLIP_LENGTH, NUM_CLIPS
from coread.data_io.hoefling_2024.responses import published_parameters
from coread.data_io.readers.hoefling_2024_field import EYES
from coread.data_io.statistics import Statistics
from coread.recording import Recording


def natmov_dataloaders_v2(
    neuron_data_dictionary: Mapping[str, ResponsesTrainTestSplit],
    movies_dictionary: MoviesTrainTestSplit,
    validation_clip_indices: Sequence[int],
    train_chunk_size: int = 50,
    batch_size: int = 32,
    num_clips: int = NUM_CLIPS,
    clip_length: int = CLIP_LENGTH,
    allow_over_boundaries: bool = True,
) -> dict[str, dict[str, DataLoader]]:
    """Return {"train" | "validation" | "test": {session: loader}}, as `multiple_movies_dataloaders` does.

    The movie is in its own order; a session says in `session_kwargs` its `scan_sequence_idx` (a column of the movie's
    `random_sequences`) and its `eye`. `validation_clip_indices` are clips of the movie, wherever a session saw them.
    In contrast to the published loaders the movie is not copied for every order and eye, and no window joins the
    blocks of training clips between which the test movie was shown. Raises ContainerError that names the session.
    """
    corrections = published_parameters().eye_corrections
    mean, std = normalisation(movies_dictionary)
    loaders: dict[str, dict[str, DataLoader]] = {"train": {}, "validation": {}, "test": {}}
    offsets = {TRAIN_MOVIE: _block_starts(num_clips, clip_length)}
    means = {
        name: ResponsesTrainTestSplit(train=each.train, test=each.test_response, session_kwargs=each.session_kwargs)
        for name, each in neuron_data_dictionary.items()
    }
    for recording in recordings_from_containers(means, movies_dictionary, rate_hz=1.0, trial_offsets=offsets):
        session, responses = recording.session, neuron_data_dictionary[recording.session]
        if responses.train.shape[1] != num_clips * clip_length:
            found = f"{responses.train.shape[1]} bins"
            raise ContainerError(
                f"session {session!r}: expected {num_clips} clips of {clip_length} bins, found {found}"
            )
        order = _order(session, responses, movies_dictionary, num_clips)
        eye = corrections.get(session, responses.session_kwargs.get("eye") or "right")
        shown = _as_shown(recording, order, eye, clip_length)
        statistics = Statistics(mean, std, {session: torch.ones(recording.n_neurons)}, {})
        place = np.argsort(order)
        # what lies outside stays outside, for the error that names it
        chosen = [int(place[clip]) if 0 <= clip < num_clips else clip for clip in validation_clip_indices]
        clips = ValidationClips(clip_length, len(chosen), 0, chosen)
        of_session = session_loaders(
            shown, clips, statistics, train_chunk_size, batch_size, over_boundaries=allow_over_boundaries
        )
        for name, loader in of_session.items():
            loaders[name][session] = loader
    return loaders


def _block_starts(num_clips: int, clip_length: int) -> list[int]:
    """Return the first frame of every block of training clips, if the published blocks are what was shown."""
    blocks = published_parameters().train_blocks
    if sum(blocks) != num_clips:
        return [0]
    return (np.cumsum([0, *blocks[:-1]]) * clip_length).tolist()


def _order(
    session: str, responses: ResponsesTrainTestSplit, movies: MoviesTrainTestSplit, num_clips: int
) -> np.ndarray:
    """Return the clip that a session saw at each place."""
    sequences = np.arange(num_clips)[:, None] if movies.random_sequences is None else movies.random_sequences
    index = responses.session_kwargs.get("scan_sequence_idx", 0 if sequences.shape[1] == 1 else None)
    if index is None or not 0 <= int(index) < sequences.shape[1]:
        raise ContainerError(
            f"session {session!r}: scan_sequence_idx is {index}, but there are {sequences.shape[1]} sequences"
        )
    order = np.asarray(sequences)[:, int(index)].astype(np.int64)  # published as uint8, in which frames overflow
    if not np.array_equal(np.sort(order), np.arange(num_clips)):
        raise ContainerError(f"random_sequences must hold each of the {num_clips} clips once in every column")
    return order


def _as_shown(recording: Recording, order: np.ndarray, eye: str, clip_length: int) -> Recording:
    """Return a recording that shows the training movie in this order, to this eye."""
    if eye not in EYES:
        raise ContainerError(f"session {recording.session!r}: eye is {eye!r}, expected one of {list(EYES)}")
    frame = recording.frame.copy()
    train = (order[:, None] * clip_length + np.arange(clip_length)).reshape(-1)
    frame[: len(train)] = train  # the training movie comes first
    return replace(recording, frame=frame, mirror="width" if eye == "left" else "none")
