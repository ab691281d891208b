"""The documented loaders: {"train" | "validation" | <test stimulus>: {session: DataLoader}} from containers.

They are windows on the same recordings that `train()` uses, without a copy of any movie. In contrast to the published
ones no window joins frames that did not follow each other on the screen, and training windows change place and order in
every pass, whatever their length.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch.utils.data import DataLoader, Dataset, Sampler

from coread.data_io.base import ContainerError, MoviesTrainTestSplit, ResponsesTrainTestSplit, movies_of
from coread.data_io.conversion import TRAIN_MOVIE, normalisation, recordings_from_containers
from coread.data_io.dataloader import Runs, SessionWindows, find_runs, tile_evenly, tile_randomly
from coread.data_io.movie_windows import (
    MovieDataSet,
    MovieSampler,
    NeuronDataSplit,
    gen_shifts_with_boundaries,
    generate_movie_splits,
    get_movie_dataloader,
)
from coread.data_io.points import DataPoint
from coread.data_io.splits import TRAIN, published_clip_order
from coread.data_io.statistics import Statistics
from coread.recording import Recording

__all__ = [
    "DataPoint",
    "MovieDataSet",
    "MovieSampler",
    "NeuronDataSplit",
    "OrderedWindows",
    "ShuffledWindows",
    "ValidationClips",
    "WindowDataset",
    "cut_at_clips",
    "gen_shifts_with_boundaries",
    "generate_movie_splits",
    "get_movie_dataloader",
    "multiple_movies_dataloaders",
    "session_loaders",
    "training_bins",
]


def multiple_movies_dataloaders(
    neuron_data_dictionary: Mapping[str, ResponsesTrainTestSplit],
    movies_dictionary: Mapping[str, MoviesTrainTestSplit] | MoviesTrainTestSplit,
    train_chunk_size: int = 50,
    batch_size: int = 32,
    seed: int = 42,
    clip_length: int = 100,
    num_val_clips: int = 10,
    val_clip_indices: Sequence[int] | None = None,
    allow_over_boundaries: bool = True,
) -> dict[str, dict[str, DataLoader]]:
    """Return the loaders of every session.

    The training movie is cut into clips of `clip_length` frames; `val_clip_indices`, or else the published draw of
    `num_val_clips` from `seed`, are validation clips, one sample each, in this order. Training samples are
    `train_chunk_size` frames of the rest; they stay inside a clip unless `allow_over_boundaries`, and inside a run of
    consecutive frames always.
    Every test movie is one sample. Raises ContainerError that names the session, also where responses are not finite.
    """
    clips = ValidationClips(clip_length, num_val_clips, seed, val_clip_indices)
    means = {
        session: ResponsesTrainTestSplit(
            train=each.train, test_dict=each.test_dict, stim_id=each.stim_id, session_kwargs=each.session_kwargs
        )
        for session, each in neuron_data_dictionary.items()
    }
    loaders: dict[str, dict[str, DataLoader]] = {"train": {}, "validation": {}}
    # the rate is of no consequence for windows counted in frames
    for recording in recordings_from_containers(means, movies_dictionary, rate_hz=1.0):
        session = recording.session
        mean, std = normalisation(movies_of(session, movies_dictionary))
        statistics = Statistics(mean, std, {session: torch.ones(recording.n_neurons)}, {})
        of_session = session_loaders(
            recording, clips, statistics, train_chunk_size, batch_size, over_boundaries=allow_over_boundaries
        )
        for name, loader in of_session.items():
            loaders.setdefault(name, {})[session] = loader
    return loaders


def session_loaders(
    recording: Recording,
    clips: "ValidationClips",
    statistics: Statistics,
    chunk: int,
    batch_size: int,
    *,
    over_boundaries: bool,
) -> dict[str, DataLoader]:
    """Return the loaders of one session, whose training movie comes first, by the names of its splits."""
    samples = _samples(recording, clips, chunk, batch_size, over_boundaries)
    return {name: _loader(recording, sampler, length, statistics) for name, (sampler, length) in samples.items()}


def training_bins(
    neuron_data_dictionary: Mapping[str, ResponsesTrainTestSplit],
    *,
    clip_length: int = 100,
    num_val_clips: int = 10,
    val_clip_indices: Sequence[int] | None = None,
    seed: int = 42,
) -> dict[str, Bool[np.ndarray, "time"]]:
    """Return which bins of each session's `train` the same arguments of the loaders leave for training."""
    clips = ValidationClips(clip_length, num_val_clips, seed, val_clip_indices)
    return {
        session: ~clips.by_frame(clips.held_out(responses.train.shape[1], session), responses.train.shape[1])
        for session, responses in neuron_data_dictionary.items()
    }


class WindowDataset(Dataset):
    """The windows of a session; an index is a whole batch of them."""

    def __init__(self, windows: SessionWindows) -> None:
        self.windows = windows

    def __getitem__(self, index: Runs) -> DataPoint:
        point = self.windows.batch(index)
        return DataPoint(point.inputs, point.targets)


class OrderedWindows(Sampler[Runs]):
    """Batches of windows that cover runs once, in the order of the runs."""

    def __init__(self, runs: Runs, length: int, batch_size: int) -> None:
        self.windows, self.batch_size = tile_evenly(runs, length), batch_size

    def __len__(self) -> int:
        return -(-len(self.windows.first) // self.batch_size)

    def __iter__(self) -> Iterator[Runs]:
        return _batches(self.windows, self.batch_size)


class ShuffledWindows(Sampler[Runs]):
    """Batches of windows laid anew in every pass, in random order; pass k is drawn from (draw, k) alone."""

    def __init__(self, runs: Runs, length: int, batch_size: int, draw: Sequence[int]) -> None:
        self.runs, self.length, self.batch_size, self.draw = runs, length, batch_size, tuple(draw)
        self.n_passes = 0

    def __len__(self) -> int:
        n_windows = len(tile_randomly(self.runs, self.length, np.random.default_rng(0)).first)
        return -(-n_windows // self.batch_size)

    def __iter__(self) -> Iterator[Runs]:
        rng = np.random.default_rng([*self.draw, self.n_passes])
        self.n_passes += 1
        windows = tile_randomly(self.runs, self.length, rng)
        order = rng.permutation(len(windows.first))
        return _batches(Runs(windows.first[order], windows.stop[order]), self.batch_size)


def cut_at_clips(runs: Runs, clip_length: int, n_clips: int) -> Runs:
    """Return runs cut at the borders of clips; frames beyond the last whole clip belong to it."""
    borders = np.arange(1, n_clips) * clip_length
    inside = borders[((borders[:, None] > runs.first) & (borders[:, None] < runs.stop)).any(axis=1)]
    return Runs(np.sort(np.concatenate([runs.first, inside])), np.sort(np.concatenate([runs.stop, inside])))


def _batches(windows: Runs, batch_size: int) -> Iterator[Runs]:
    for start in range(0, len(windows.first), batch_size):
        rows = slice(start, start + batch_size)
        yield Runs(windows.first[rows], windows.stop[rows])


@dataclass(frozen=True)
class ValidationClips:
    """How a training movie is cut into clips, and which of them validate."""

    length: int
    n_validation: int
    seed: int
    validation: Sequence[int] | None

    def held_out(self, n_frames: int, session: str) -> Bool[np.ndarray, "clip"]:
        """Return which clips validate; raises ContainerError where there are too few."""
        return np.isin(np.arange(n_frames // self.length), self.in_order(n_frames, session))

    def in_order(self, n_frames: int, session: str) -> Int[np.ndarray, " held_out"]:
        """Return the clips that validate in the order of the list or draw; raises ContainerError."""
        chosen: Any = {"method": "random_clips", "n_clips": self.n_validation, "seed": self.seed}
        if self.validation is not None:
            chosen = {"method": "clip_list", "clips": list(self.validation)}
        try:
            clips = published_clip_order(n_frames // self.length, chosen)
        except ValueError as error:
            raise ContainerError(f"session {session!r}, {n_frames} frames, clips of {self.length}: {error}") from error
        # named twice, a clip still validates once
        return np.array(list(dict.fromkeys(clips.tolist())), int)

    def by_frame(self, held_out: Bool[np.ndarray, "clip"], n_frames: int) -> Bool[np.ndarray, "time"]:
        """Return what holds for the clip of every frame; frames beyond the last whole clip share its fate."""
        return held_out[np.minimum(np.arange(n_frames) // self.length, len(held_out) - 1)]


def _samples(
    recording: Recording, clips: ValidationClips, chunk: int, batch_size: int, over_boundaries: bool
) -> dict[str, tuple[OrderedWindows | ShuffledWindows, int]]:
    """Return the sampler of every loader of a session and the length of its samples."""
    session, names = recording.session, recording.bin_column("stimulus").astype(str)
    n_frames = int((names == TRAIN_MOVIE).sum())  # they come first
    held_out = clips.held_out(n_frames, session)
    left = np.zeros(recording.n_bins, bool)
    left[:n_frames] = ~clips.by_frame(held_out, n_frames)
    runs = find_runs(recording, left.astype(np.int8), int(True))
    if not over_boundaries:
        runs = cut_at_clips(runs, clips.length, len(held_out))
    long_enough = runs.stop - runs.first >= chunk
    if not long_enough.any():
        raise ContainerError(f"session {session!r}: no stretch of training frames has train_chunk_size={chunk} frames")
    runs = Runs(runs.first[long_enough], runs.stop[long_enough])
    first = clips.in_order(n_frames, session) * clips.length
    draw = [clips.seed, zlib.crc32(session.encode())]
    samples: dict[str, tuple[OrderedWindows | ShuffledWindows, int]] = {
        "train": (ShuffledWindows(runs, chunk, batch_size, draw), chunk),
        "validation": (OrderedWindows(Runs(first, first + clips.length), clips.length, batch_size), clips.length),
    }
    for name in sorted(set(names) - {TRAIN_MOVIE}):
        shown = np.flatnonzero(names == name)
        samples[name] = (OrderedWindows(Runs(shown[:1], shown[-1:] + 1), len(shown), 1), len(shown))
    return samples


def _loader(
    recording: Recording, sampler: OrderedWindows | ShuffledWindows, length: int, statistics: Statistics
) -> DataLoader:
    # the sampler chose the bins, so that every bin of a window counts
    labels = np.full(recording.n_bins, TRAIN, np.int8)
    size = sampler.batch_size
    windows = SessionWindows(
        recording, labels, TRAIN, lag=0, window_length=length, batch_size=size, statistics=statistics
    )
    return DataLoader(WindowDataset(windows), batch_size=None, sampler=sampler)
