"""The documented parts of a loader by hand: a movie with its responses, and the places of its samples.

`multiple_movies_dataloaders` does not need them: its windows never join frames that were apart. These are for movies
that are in memory as they shall be shown, with `DataLoader(MovieDataSet(...), sampler=MovieSampler(...))`.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from coread.data_io.base import ContainerError, ResponsesTrainTestSplit
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
    train, validation = _clip_frames(val_clip_idc, num_clips, clip_length)
    return movie[:, train], movie[:, validation], movie_test


def _clip_frames(
    val_clip_idc: Sequence[int], num_clips: int, clip_length: int
) -> tuple[Int[np.ndarray, " train_time"], Int[np.ndarray, " val_time"]]:
    """Return the frames of the clips left for training, in order, and of the validation clips, as listed."""
    chosen = [int(clip) for clip in val_clip_idc]
    if len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(num_clips)):
        raise ContainerError(f"val_clip_idc must be different clips of 0 to {num_clips - 1}, found {chosen}")
    left = np.setdiff1d(np.arange(num_clips), chosen)
    train, validation = (
        (np.asarray(clips, int)[:, None] * clip_length + np.arange(clip_length)).reshape(-1) for clips in (left, chosen)
    )
    return train, validation


class NeuronDataSplit:
    """The responses of a session as tensors (time, neuron), cut into training and validation clips.

    Args:
        responses: the container of the session.
        val_clip_idx: the clips that validate.
        num_clips: clips of the training movie; responses beyond the last of them are in no split.
        clip_length: bins of a clip.
        key: anything, kept.

    Raises ContainerError for clips that the responses do not have or that are listed twice.

    """

    def __init__(
        self,
        responses: ResponsesTrainTestSplit,
        val_clip_idx: Sequence[int],
        num_clips: int,
        clip_length: int,
        key: Mapping[str, Any] | None = None,
    ):
        if responses.train.shape[1] < num_clips * clip_length:
            raise ContainerError(
                f"{num_clips} clips of {clip_length} bins need {num_clips * clip_length} bins of train responses, "
                f"found {responses.train.shape[1]}"
            )
        self.neural_responses, self.key, self.num_neurons = responses, key, responses.n_neurons
        self.val_clip_idx, self.num_clips, self.clip_length = list(val_clip_idx), num_clips, clip_length
        self.responses_train_and_val = responses.train.T
        self.responses_train, self.responses_val = self.split_data_train_val()
        self.test_responses_by_trial = dict(responses.test_by_trial_dict)

    def split_data_train_val(
        self,
    ) -> tuple[Float[np.ndarray, "train_time neuron"], Float[np.ndarray, "val_time neuron"]]:
        """Return the responses to the clips left for training, in order, and to the validation clips, as listed."""
        train, validation = _clip_frames(self.val_clip_idx, self.num_clips, self.clip_length)
        return self.responses_train_and_val[train], self.responses_train_and_val[validation]

    @cached_property
    def response_dict_test(self) -> dict[str, dict[str, Tensor | None]]:
        """By test stimulus `{"avg": (time, neuron), "by_trial": (repeat, neuron, time) or None}`."""
        repeats = {name: _float32(values) for name, values in self.test_responses_by_trial.items()}
        return {
            name: {"avg": _float32(mean.T), "by_trial": repeats.get(name)}
            for name, mean in self.neural_responses.test_dict.items()
        }

    @property
    def response_dict(self) -> dict[str, Any]:
        """`{"train": (time, neuron), "validation": (time, neuron), "test": response_dict_test}`."""
        train, validation = _float32(self.responses_train), _float32(self.responses_val)
        return {"train": train, "validation": validation, "test": self.response_dict_test}


def _float32(values: np.ndarray) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(values, np.float32))


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
        if self.allow_over_boundaries:
            moved = self.indices + torch.randint(0, self.chunk_size, (len(self),))
            start = moved.clamp(max=self.movie_length - self.chunk_size)
        else:
            bounds = [*range(0, self.movie_length, self.scene_length), self.movie_length]
            start = torch.tensor(gen_shifts_with_boundaries(bounds, self.indices.tolist(), self.chunk_size))
        return iter(start[torch.randperm(len(self))].tolist())


def gen_shifts_with_boundaries(
    clip_bounds: Sequence[int], start_indices: Sequence[int], clip_chunk_size: int = 50
) -> list[int]:
    """Return starts moved by less than half of `clip_chunk_size`, and then back as far as their clip's end asks for.

    `clip_bounds` increase from the first frame of the first clip to one past the last frame of the last. Draws are of
    torch's global generator. In contrast to the published function, a start that a draw would move beyond its clip is
    moved as far as it can be, not left where it was.
    """
    bounds, starts = torch.as_tensor(list(clip_bounds)), torch.as_tensor(list(start_indices))
    following = bounds[torch.searchsorted(bounds, starts, right=True).clamp(max=len(bounds) - 1)]
    moved = starts + torch.randint(0, max(1, clip_chunk_size // 2), (len(starts),))
    return torch.minimum(moved, following - clip_chunk_size).tolist()


def get_movie_dataloader(
    movie: Float[np.ndarray | Tensor, "channel time height width"],
    responses: Float[np.ndarray | Tensor, "time neuron"] | Mapping[str, Any],
    *,
    split: str,
    scene_length: int,
    chunk_size: int,
    batch_size: int,
    start_indices: Sequence[int] | None = None,
    roi_ids: Int[np.ndarray, " neuron"] | None = None,
    roi_coords: Float[np.ndarray, "neuron 2"] | None = None,
    group_assignment: Int[np.ndarray, " neuron"] | None = None,
    drop_last: bool = True,
    allow_over_boundaries: bool = True,
    **kwargs: Any,
) -> DataLoader:
    """Return the loader of a `MovieDataSet` with its `MovieSampler`.

    Without `start_indices`, training samples start every `chunk_size` frames, validation samples every `scene_length`,
    and the test movie is one sample or, without `allow_over_boundaries`, one per scene. `drop_last` concerns training;
    `kwargs` are those of torch's DataLoader. Raises ContainerError for responses that are not finite, for which the
    published function returns no loader at all, and ValueError for samples that do not fit.
    """
    dataset = MovieDataSet(movie, responses, roi_ids, roi_coords, group_assignment, split, chunk_size)
    if n_missing := int((~torch.isfinite(dataset.responses)).sum()):
        raise ContainerError(f"{n_missing} {split} responses are not finite")
    n_frames = dataset.movies.shape[1]
    if start_indices is None and split == "train":
        start_indices = range(0, n_frames, chunk_size)
    elif start_indices is None:
        whole = split == "test" and allow_over_boundaries
        start_indices = range(0, n_frames - chunk_size + 1, n_frames if whole else scene_length)
    sampler = MovieSampler(start_indices, split, chunk_size, n_frames, scene_length, allow_over_boundaries)
    last = split == "train" and drop_last
    return DataLoader(dataset, sampler=sampler, batch_size=batch_size, drop_last=last, **kwargs)


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split is one of {list(SPLITS)}, found {split!r}")
