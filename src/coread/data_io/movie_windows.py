"""The documented parts of a loader by hand: a movie with its responses, and the places of its samples.

`multiple_movies_dataloaders` does not need them: its windows never join frames that were apart. These are for movies
that are in memory as they shall be shown, with `DataLoader(MovieDataSet(...), sampler=MovieSampler(...))`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from coread.data_io.base import ContainerError
from coread.data_io.points import DataPoint

TrainMovie = Float[Tensor, "channel train_time height width"]
ValidationMovie = Float[Tensor, "channel val_time height width"]
SPLITS = ("train", "validation", "val", "test")
TestMovies = TypeVar("TestMovies")


def generate_movie_splits(
    movie_train: Float[np.ndarray | Tensor, "channel time height width"],
    movie_test: TestMovies,
    val_clip_idc: Sequence[int],
    num_clips: int,
    clip_length: int,
) -> tuple[TrainMovie, ValidationMovie, TestMovies]:
    """Return the clips left for training joined in order, the validation clips joined as listed, and the test movies.

    Frames beyond the last of `num_clips` whole clips are in neither; the first two are copies. Joined clips did not
    follow each other on the screen. Raises ContainerError for clips that the movie does not have or that are listed
    twice.
    """
    movie = torch.as_tensor(movie_train)
    if movie.ndim != 4 or movie.shape[1] < num_clips * clip_length:
        raise ContainerError(
            f"{num_clips} clips of {clip_length} frames need a movie (channel, time, height, width) with "
            f"{num_clips * clip_length} frames, found shape {tuple(movie.shape)}"
        )
    chosen = [int(clip) for clip in val_clip_idc]
    if len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(num_clips)):
        raise ContainerError(f"val_clip_idc must be different clips of 0 to {num_clips - 1}, found {chosen}")
    left = [clip for clip in range(num_clips) if clip not in set(chosen)]
    train, validation = (
        movie[:, (torch.tensor(clips, dtype=torch.long)[:, None] * clip_length + torch.arange(clip_length)).flatten()]
        for clips in (left, chosen)
    )
    return train, validation, movie_test


class MovieDataSet(Dataset):
    """The samples of `chunk_size` frames of a movie, by their first frame; `len` counts those that do not overlap.

    Args:
        movies: `(channel, time, height, width)`.
        responses: `(time, neuron)`, or for the split "test" `{"avg": (time, neuron), "by_trial": (repeat, neuron,
            time) or None}`.
        roi_ids: `(neuron,)`, kept.
        roi_coords: `(neuron, 2)`, kept.
        group_assignment: `(neuron,)`, kept.
        split: "train", "validation" or "test".
        chunk_size: frames of a sample.

    Raises ContainerError if movie and responses differ in length.

    """

    def __init__(
        self,
        movies: Float[np.ndarray | Tensor, "channel time height width"],
        responses: Float[np.ndarray | Tensor, "time neuron"] | Mapping[str, Any],
        roi_ids: Int[np.ndarray, " neuron"] | None,
        roi_coords: Float[np.ndarray, "neuron 2"] | None,
        group_assignment: Int[np.ndarray, " neuron"] | None,
        split: str,
        chunk_size: int,
    ):
        _check_split(split)
        repeats: Any = None
        if isinstance(responses, Mapping):
            repeats = responses.get("by_trial")
            responses = responses["avg"]
        self.test_responses_by_trial = None if repeats is None else torch.as_tensor(repeats)
        self.samples = torch.as_tensor(movies), torch.as_tensor(responses)
        shapes = tuple(self.movies.shape), tuple(self.responses.shape)
        if self.movies.ndim != 4 or self.responses.ndim != 2 or shapes[0][1] != shapes[1][0]:
            raise ContainerError(
                f"need a movie (channel, time, height, width) and responses (time, neuron) of the same time, found "
                f"{shapes[0]} and {shapes[1]}"
            )
        if not 1 <= chunk_size <= shapes[1][0]:
            raise ContainerError(f"chunk_size {chunk_size} does not fit a movie of {shapes[1][0]} frames")
        self.roi_ids, self.roi_coords, self.group_assignment = roi_ids, roi_coords, group_assignment
        self.split, self.chunk_size = split, chunk_size

    @property
    def movies(self) -> Float[Tensor, "channel time height width"]:
        """The movie."""
        return self.samples[0]

    @property
    def responses(self) -> Float[Tensor, "time neuron"]:
        """The responses."""
        return self.samples[1]

    @property
    def mean_response(self) -> Float[Tensor, " neuron"]:
        """The mean over time."""
        return self.responses.mean(0)

    def __len__(self) -> int:
        return self.movies.shape[1] // self.chunk_size

    def __getitem__(self, start: int) -> DataPoint:
        stop = start + self.chunk_size
        if not 0 <= start <= self.movies.shape[1] - self.chunk_size:
            raise IndexError(f"no sample of {self.chunk_size} frames starts at {start} of {self.movies.shape[1]}")
        return DataPoint(self.movies[:, start:stop], self.responses[start:stop])


class MovieSampler(Sampler[int]):
    """First frames of samples for a `MovieDataSet`: as given, but moved and shuffled anew in every pass for "train".

    A training sample starts up to `chunk_size - 1` frames later than given or, without `allow_over_boundaries`, less
    than half of `chunk_size` later and inside the same scene of `scene_length` frames. Draws are of torch's global
    generator. In contrast to the published one it shuffles also where scenes are as long as samples.

    Args:
        start_indices: first frames.
        split: "train", "validation" or "test".
        chunk_size: frames of a sample.
        movie_length: frames of the movie.
        scene_length: frames of a scene, which start at 0, `scene_length`, ...
        allow_over_boundaries: whether samples may span two scenes.

    Raises ValueError for samples that do not fit into the movie or, where they have to, into their scene.

    """

    def __init__(
        self,
        start_indices: Sequence[int],
        split: str,
        chunk_size: int,
        movie_length: int,
        scene_length: int,
        allow_over_boundaries: bool = False,
    ):
        _check_split(split)
        self.indices = torch.as_tensor(list(start_indices), dtype=torch.long)
        self.split, self.chunk_size, self.movie_length = split, chunk_size, movie_length
        self.scene_length, self.allow_over_boundaries = scene_length, allow_over_boundaries
        if chunk_size > movie_length or not all(0 <= start < movie_length for start in self.indices.tolist()):
            raise ValueError(
                f"samples of {chunk_size} frames from {self.indices.tolist()} do not fit a movie of {movie_length}"
            )
        if split == "train" and not allow_over_boundaries and chunk_size > scene_length:
            raise ValueError(f"samples of {chunk_size} frames do not fit into scenes of {scene_length}")

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        if self.split != "train":
            return iter(self.indices.tolist())
        longest = self.chunk_size if self.allow_over_boundaries else max(1, self.chunk_size // 2)
        start = self.indices + torch.randint(0, longest, (len(self),))
        stop = torch.full_like(start, self.movie_length)
        if not self.allow_over_boundaries:
            stop = torch.minimum(stop, (self.indices // self.scene_length + 1) * self.scene_length)
        start = torch.minimum(start, stop - self.chunk_size)
        return iter(start[torch.randperm(len(self))].tolist())


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split is one of {list(SPLITS)}, found {split!r}")
