"""Loaders of the marmoset recordings of Sridhar et al. 2025, by their published names and from the published files.

They show what the readers of the workflow read. In contrast to all other loaders `targets` are as long as what a model
with a lag of `frame_overhead` answers.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import yaml
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from coread.config import config_directory
from coread.data_io.dataloader import Runs, SessionWindows
from coread.data_io.download.local_path import get_local_file_path
from coread.data_io.points import DataPoint
from coread.data_io.sources import build_recordings
from coread.data_io.splits import TRAIN
from coread.data_io.sridhar_2025.constants import TEST_DATA_FRAMES
from coread.data_io.sridhar_2025.dataloader_utils import ChunkedSampler, split_trials
from coread.data_io.statistics import Statistics
from coread.recording import Recording

Crop = int | Sequence[int]
Loaders = dict[str, dict[Any, DataLoader]]


class TrialSamples(Dataset):
    """Samples of `time_chunk_size` bins, each with the `frame_overhead` frames before them.

    Sample i is part `i % samples_per_trial` of trial `indices[i // samples_per_trial]`. Parts follow each other
    without overlap of their bins; what is left at the end of a trial is in no sample.

    Args:
        recording: of one session, all of whose training trials are of one length.
        indices: which of the training trials, from 0; None for the test sequence, with the mean over its repeats.
        time_chunk_size: bins of a sample.
        frame_overhead: frames more than that.
        subsample: every how many pixels one is shown.

    Raises ValueError for trials that are shorter than a sample.

    """

    def __init__(
        self,
        recording: Recording,
        indices: Sequence[int] | None,
        *,
        time_chunk_size: int,
        frame_overhead: int,
        subsample: int = 1,
    ) -> None:
        self.recording, self.frame_overhead, self.subsample = recording, frame_overhead, subsample
        self.is_test, self.chunk = indices is None, time_chunk_size
        first, stop = recording.trial_bounds()
        rows = np.flatnonzero((recording.trials["tier"] == ("test" if self.is_test else "train")).to_numpy())
        self._trial_bins = first[rows], stop[rows]
        self.num_of_trials, self.n_neurons = len(rows), recording.n_neurons
        self.num_of_imgs = int(stop[rows[0]] - first[rows[0]])
        self.indices = [0] if indices is None else [int(index) for index in indices]
        self.samples_per_trial = (self.num_of_imgs - frame_overhead) // time_chunk_size
        if self.samples_per_trial < 1:
            raise ValueError(
                f"session {recording.session!r}: samples of {time_chunk_size} + {frame_overhead} frames do not fit "
                f"trials of {self.num_of_imgs}"
            )
        # grey levels and counts are shown as they are
        shown = Statistics(0.0, 1.0, {recording.session: torch.ones(recording.n_neurons)}, {})
        labels = np.full(recording.n_bins, TRAIN, np.int8)
        self._windows = SessionWindows(
            recording,
            labels,
            TRAIN,
            lag=frame_overhead,
            window_length=frame_overhead + time_chunk_size,
            batch_size=1,
            statistics=shown,
        )

    def __len__(self) -> int:
        return len(self.indices) * self.samples_per_trial

    def __getitem__(self, item: int) -> DataPoint:
        if not 0 <= item < len(self):
            raise IndexError(f"there are {len(self)} samples, sample {item} is none of them")
        trial, part = divmod(item, self.samples_per_trial)
        start = self.frame_overhead + part * self.chunk
        first = self._trial_bins[0][self.indices[trial]] + start
        point = self._windows.batch(Runs(np.array([first]), np.array([first + self.chunk])))
        targets = point.targets[0, self.frame_overhead :]
        if self.is_test:
            targets = self.responses[start : start + self.chunk]
        return DataPoint(point.inputs[0, ..., :: self.subsample, :: self.subsample], targets)

    @property
    def test_responses_by_trial(self) -> Float[Tensor, "repeat neuron time"]:
        """The repeats of the test sequence; raises AttributeError for training trials."""
        self._check_test("test_responses_by_trial")
        first, stop = self._trial_bins
        repeats = [self.recording.responses[a:b].T for a, b in zip(first, stop, strict=True)]
        return torch.as_tensor(np.stack(repeats))

    @cached_property
    def responses(self) -> Float[Tensor, "time neuron"]:
        """The mean responses to the test sequence; raises AttributeError for training trials."""
        self._check_test("responses")
        return self.test_responses_by_trial.mean(dim=0).T

    @property
    def movies(self) -> Float[Tensor, "channel time height width"]:
        """The whole test sequence; raises AttributeError for training trials."""
        self._check_test("movies")
        first = int(self._trial_bins[0][0])
        stimulus = self.recording.stimuli[str(self.recording.bin_column("stimulus")[first])]
        frames = stimulus.frames[self.recording.frame[first : first + self.num_of_imgs]]
        shown = torch.as_tensor(frames).float() * stimulus.scale + stimulus.offset
        return shown.transpose(0, 1)[..., :: self.subsample, :: self.subsample]

    def _check_test(self, name: str) -> None:
        if not self.is_test:
            raise AttributeError(f"{name} are those of the test sequence, these samples are of training trials")


class MarmosetMovieDataset(TrialSamples):
    """Samples of the film with simulated eye movements, rendered from gaze and film images when they are asked for.

    It is made of a recording, as `frame_movie_loader` does, not of arrays and folders like the published one.
    """


class NoiseDataset(TrialSamples):
    """Samples of binary white noise, read from the file of a trial when they are asked for.

    It is made of a recording, as `white_noise_loader` does, not of arrays and folders like the published one.
    """


def frame_movie_loader(
    files: Mapping[Any, str],
    fixation_files: Mapping[Any, str],
    big_crops: Mapping[Any, Crop],
    basepath: str | os.PathLike[str],
    *,
    batch_size: int = 16,
    seed: int | None = None,
    train_frac: float = 0.8,
    subsample: int = 1,
    crop: Crop = 0,
    num_of_trials_to_use: int | None = None,
    start_using_trial: int = 0,
    num_of_frames: int | Sequence[int] = 30,
    temporal_dilation: int = 1,
    hidden_temporal_dilation: int | Sequence[int] = 1,
    cell_index: int | None = None,
    retina_index: Any = None,
    time_chunk_size: int = 1,
    excluded_cells: Mapping[Any, Sequence[int]] | None = None,
    img_dir_name: str = "stimuli",
    full_img_w: int = 1400,
    full_img_h: int = 1200,
    img_h: int | None = None,
    img_w: int | None = None,
    final_training: bool = False,
    padding: int = 200,
    retina_specific_crops: bool = True,
    stimulus_seed: int = 0,
    hard_coded: Sequence[Sequence[int]] | None = None,
    shuffle: bool | None = None,
    test_frames: int = TEST_DATA_FRAMES,
) -> Loaders:
    """Return {"train" | "validation" | "test": {retina: loader}} of the natural movie.

    `files`, `fixation_files` and `big_crops` (top, bottom, left, right in pixels) are by retina; a retina has its own
    gaze file, where the published loader uses the first one's for all. Trials are split by `split_trials`; a trial
    keeps its own lines of gaze also where only those of `stimulus_seed` are used. `num_of_frames` and dilations, of the
    first and of each hidden layer, give the overhead of a sample. Arguments of the published loader that change no
    sample are not taken. Raises the errors of the reader.
    """
    height = full_img_h - 3 * padding if img_h is None else img_h
    width = full_img_w - 3 * padding if img_w is None else img_w
    images = {
        "images": img_dir_name,
        "margin_px": padding,
        "window_px": [height, width],
        "stimulus_seed": stimulus_seed or None,
        "test_frames": test_frames,
    }
    loaders: Loaders = {"train": {}, "validation": {}, "test": {}}
    for retina in fixation_files if retina_index is None else [retina_index]:
        changes = images | {"fixations": {str(retina): fixation_files[retina]}}
        cropped = big_crops[retina] if retina_specific_crops else crop
        recording = _recording("natural_movie", basepath, retina, files, cropped, excluded_cells, cell_index, changes)
        trials = split_trials(
            int((recording.trials["tier"] == "train").sum()),
            train_frac,
            seed,
            final_training,
            hard_coded,
            num_of_trials_to_use,
            start_using_trial,
        )
        size: Any = {
            "time_chunk_size": time_chunk_size,
            "frame_overhead": frame_overhead(num_of_frames, temporal_dilation, hidden_temporal_dilation),
            "subsample": subsample,
        }
        for split, indices, mixed in (
            ("train", trials[0], True if shuffle is None else shuffle),
            ("validation", trials[1], bool(shuffle)),
            ("test", None, False),
        ):
            dataset = MarmosetMovieDataset(recording, indices, **size)
            loaders[split][retina] = DataLoader(dataset, batch_size=batch_size, shuffle=mixed)
    return loaders


def white_noise_loader(
    basepath: str | os.PathLike[str],
    files: Mapping[Any, str],
    big_crops: Mapping[Any, Crop],
    train_image_path: Mapping[Any, str] | str,
    test_image_path: Mapping[Any, str] | str,
    *,
    excluded_cells: Mapping[Any, Sequence[int]] | None = None,
    batch_size: int = 10,
    seed: int | None = None,
    train_frac: float = 0.8,
    subsample: int = 1,
    crop: Crop = 20,
    retina_index: Any = None,
    num_of_trials_to_use: int | None = None,
    start_using_trial: int = 0,
    num_of_frames: int | Sequence[int] = 15,
    temporal_dilation: int = 1,
    hidden_temporal_dilation: int | Sequence[int] = 1,
    cell_index: int | None = None,
    time_chunk_size: int = 1,
    retina_specific_crops: bool = True,
    hard_coded: Sequence[Sequence[int]] | None = None,
    chunked_sampling: bool = True,
) -> Loaders:
    """Return {"train" | "validation" | "test": {retina: loader}} of white noise; arguments as in `frame_movie_loader`.

    Training samples come trial by trial in a new order in every pass, or in order without `chunked_sampling`. All cells
    are shown unless `cell_index` names one; the published default is cell 0 alone.
    """
    loaders: Loaders = {"train": {}, "validation": {}, "test": {}}
    for retina in files if retina_index is None else [retina_index]:
        train_path, test_path = (
            path if isinstance(path, str) else path[retina] for path in (train_image_path, test_image_path)
        )
        changes = {"non_repeating": {str(retina): train_path}, "repeating": {str(retina): test_path}}
        cropped = big_crops[retina] if retina_specific_crops else crop
        recording = _recording("white_noise", basepath, retina, files, cropped, excluded_cells, cell_index, changes)
        n_trials = int((recording.trials["tier"] == "train").sum())
        trials = split_trials(n_trials, train_frac, seed, False, hard_coded, num_of_trials_to_use, start_using_trial)
        overhead = frame_overhead(num_of_frames, temporal_dilation, hidden_temporal_dilation)
        for split, indices in (("train", trials[0]), ("validation", trials[1]), ("test", None)):
            dataset = NoiseDataset(
                recording, indices, time_chunk_size=time_chunk_size, frame_overhead=overhead, subsample=subsample
            )
            sampler = ChunkedSampler(dataset, seed=8) if split == "train" and chunked_sampling else None
            loaders[split][retina] = DataLoader(dataset, batch_size=batch_size, sampler=sampler)
    return loaders


def frame_overhead(
    num_of_frames: int | Sequence[int], temporal_dilation: int, hidden_temporal_dilation: int | Sequence[int]
) -> int:
    """Return the lag of layers with filters of so many frames, the first and the hidden ones, and their dilations.

    Raises ValueError unless there is a dilation for every hidden layer.
    """
    first, *hidden = [num_of_frames] if isinstance(num_of_frames, int) else list(num_of_frames)
    if isinstance(hidden_temporal_dilation, int):
        dilations = [hidden_temporal_dilation] * len(hidden)
    else:
        dilations = list(hidden_temporal_dilation)
    if len(dilations) != len(hidden):
        raise ValueError(f"{len(hidden)} hidden layers need as many dilations, found {dilations}")
    layers = zip([first, *hidden], [temporal_dilation, *dilations], strict=True)
    return sum((frames - 1) * dilation for frames, dilation in layers)


def _recording(
    part: str,
    basepath: str | os.PathLike[str],
    retina: Any,
    files: Mapping[Any, str],
    crop: Crop,
    excluded: Mapping[Any, Sequence[int]] | None,
    cell_index: int | None,
    changes: Mapping[str, Any],
) -> Recording:
    """Return one retina as the reader of this part reads it; of one cell only, if it is named."""
    path = config_directory() / "data_io" / f"sridhar_2025_{part}.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8")) | {
        "sessions": [str(retina)],
        "folder": "",
        "responses": {str(retina): files[retina]},
        "crop_px": [crop] * 4 if isinstance(crop, int) else list(crop),
        "excluded_cells": {str(retina): (excluded or {}).get(retina, [])} if cell_index is None else {},
        **changes,
    }
    (recording,) = build_recordings(config, get_local_file_path(os.fspath(basepath)))
    if cell_index is None:
        return recording
    if not 0 <= cell_index < recording.n_neurons:
        raise ValueError(f"cell_index {cell_index} is none of the {recording.n_neurons} cells of retina {retina}")
    one = slice(cell_index, cell_index + 1)
    return replace(recording, responses=recording.responses[:, one], neurons=recording.neurons.iloc[one])
