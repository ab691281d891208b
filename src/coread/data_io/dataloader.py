"""Windows of a recording as batches on the device.

A window is `window_length` frames in and `window_length - lag` bins out. The stimulus stays one tensor in its stored
dtype, one on a device for all sessions that see it; a batch gathers its frames by index and normalises them there.
Recordings whose frames or responses are lazy h5py datasets are read window by window instead.
"""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import h5py
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int8
from torch import Tensor

from coread.data_io.statistics import Statistics
from coread.recording import BLANK, Recording, Stimulus

if TYPE_CHECKING:
    from coread.data_io.cutmix import CutMix
    from coread.data_io.regressors.session import SessionContext


class DataPoint(NamedTuple):
    """One batch of windows; `mask` is true where a bin counts.

    `context` is what the model wants to know beside the stimulus, by name, each (batch, time, ...): behaviour,
    pupil_center, history, state, time_order.
    """

    inputs: Float[Tensor, "batch channel time height width"]
    targets: Float[Tensor, "batch time neuron"]
    mask: Bool[Tensor, "batch time"]
    context: Mapping[str, Tensor] = {}  # nobody writes into it


@dataclass(frozen=True)
class Runs:
    """Stretches of consecutive bins of one trial that carry the same label: first bin and one past the last."""

    first: Int[np.ndarray, "run"]
    stop: Int[np.ndarray, "run"]


def find_runs(recording: Recording, labels: Int8[np.ndarray, "bin"], label: int) -> Runs:
    """Return the stretches of bins with this label that no trial border cuts."""
    wanted = np.concatenate([[False], labels == label, [False]])
    new_trial = np.concatenate([[True], np.diff(recording.trial) != 0])
    starts = wanted[1:-1] & (~wanted[:-2] | new_trial)
    stops = wanted[1:-1] & (~wanted[2:] | np.concatenate([new_trial[1:], [True]]))
    return Runs(np.flatnonzero(starts), np.flatnonzero(stops) + 1)


def tile_evenly(runs: Runs, n_out: int) -> Runs:
    """Return windows as (first output bin, end of its run) that cover every bin of the runs exactly once."""
    n_windows = -(-(runs.stop - runs.first) // n_out)
    return Runs(np.repeat(runs.first, n_windows) + n_out * _counter(n_windows), np.repeat(runs.stop, n_windows))


def tile_randomly(runs: Runs, n_out: int, rng: np.random.Generator) -> Runs:
    """Return windows as (first output bin, end of its run), laid with a random offset in every run and kept inside it.

    Every bin is covered; bins at the ends of a run may be covered twice. The number of windows does not depend on the
    draw, so an epoch always has the same number of steps.
    """
    length = runs.stop - runs.first
    n_windows = np.where(length <= n_out, 1, -(-(length + n_out - 1) // n_out))  # enough at the largest offset
    offset = np.where(length <= n_out, 0, rng.integers(0, n_out, len(length)))
    start = np.repeat(runs.first - offset, n_windows) + n_out * _counter(n_windows)
    last = np.maximum(runs.stop - n_out, runs.first)
    start = np.clip(start, np.repeat(runs.first, n_windows), np.repeat(last, n_windows))
    return Runs(start, np.repeat(runs.stop, n_windows))


def _counter(n_windows: Int[np.ndarray, "run"]) -> Int[np.ndarray, "window"]:
    """Count 0, 1, ... n - 1 within every run."""
    return np.arange(n_windows.sum()) - np.repeat(np.cumsum(n_windows) - n_windows, n_windows)


def read_rows(values: np.ndarray | h5py.Dataset, rows: Int[np.ndarray, "row"]) -> np.ndarray:
    """Return rows of an array, or of a dataset on disk with one read per stretch of consecutive rows."""
    if not isinstance(values, h5py.Dataset):
        return values[rows]
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    stretches = np.split(rows, breaks)
    return np.concatenate([values[stretch[0] : stretch[-1] + 1] for stretch in stretches if len(stretch)])


class SessionWindows:
    """All windows of one session and label, cut into batches; an epoch is `shuffled(rng)` or `in_order()`.

    Batches tell what `context` knows of `context_names`. With `cutmix` the batches of shuffled epochs are mixed.
    """

    def __init__(
        self,
        recording: Recording,
        labels: Int8[np.ndarray, "bin"],
        label: int,
        *,
        lag: int,
        window_length: int,
        batch_size: int,
        statistics: Statistics,
        device: torch.device | str = "cpu",
        context: "SessionContext | None" = None,
        context_names: Sequence[str] = (),
        cutmix: "CutMix | None" = None,
    ) -> None:
        if window_length <= lag:
            raise ValueError(f"window_length {window_length} must exceed the model's lag of {lag} bins")
        self.recording, self.lag, self.window_length, self.batch_size = recording, lag, window_length, batch_size
        self.device = torch.device(device)
        self.statistics = statistics
        self.context, self.context_names, self.cutmix = context, tuple(context_names), cutmix
        if self.context_names and context is None:
            raise ValueError(
                f"session {recording.session!r}: the model wants {list(context_names)} beside the stimulus, but the "
                "experiment has no regressors: set regressors: default"
            )
        self.counted = labels == label
        self.runs = find_runs(recording, labels, label)
        _, self._trial_stop = recording.trial_bounds()
        self._stimulus_names = sorted(recording.stimuli)
        codes = {name: code for code, name in enumerate(self._stimulus_names)}
        self._trial_stimulus = recording.trials["stimulus"].map(codes).to_numpy()
        self._on_device = {
            name: ResidentFrames.of(stimulus.frames, self.device)
            for name, stimulus in recording.stimuli.items()
            if isinstance(stimulus.frames, np.ndarray) and stimulus.frames.flags.writeable
        }
        responses = recording.responses
        is_loaded = isinstance(responses, np.ndarray) and responses.flags.writeable
        self._responses = ResidentFrames.of(responses, self.device) if is_loaded else None

    @property
    def n_out(self) -> int:
        """Bins predicted per window."""
        return self.window_length - self.lag

    def shuffled(self, rng: np.random.Generator) -> "WindowBatches":
        """Return one epoch of randomly laid windows in random order; `again(number)` of it draws anew."""
        windows = tile_randomly(self.runs, self.n_out, rng)
        order = rng.permutation(len(windows.first))
        # drawn only where it is used, so that other trainings draw what they always drew
        seed = None if self.cutmix is None else int(rng.integers(2**63))
        later = rng.spawn(1)[0]  # which draws nothing from `rng`
        return WindowBatches(self, Runs(windows.first[order], windows.stop[order]), seed, later)

    def in_order(self) -> "WindowBatches":
        """Return every bin exactly once, in time order."""
        return WindowBatches(self, tile_evenly(self.runs, self.n_out))

    def batch(self, windows: Runs) -> DataPoint:
        """Return the windows with these first predicted bins; bins past the end of a window's run do not count."""
        bins = windows.first[:, None] - self.lag + np.arange(self.window_length)
        in_run = bins < windows.stop[:, None]
        trial = self.recording.trial[windows.first]
        inside = bins < self._trial_stop[trial][:, None]
        bins = np.minimum(bins, self.recording.n_bins - 1)
        frames = np.where(inside, self.recording.frame[bins], BLANK)
        scale = self.statistics.response_scale[self.recording.session]
        mask = torch.as_tensor(in_run & self.counted[bins], device=self.device)
        scaled = self._targets(bins) / scale.to(self.device)
        # masked bins may hold NaN, and NaN times zero is NaN
        scaled = torch.where(mask[..., None], scaled, torch.zeros((), device=self.device))
        known = {} if self.context is None else self.context.at(bins, self.context_names, self.device)
        return DataPoint(self._inputs(trial, frames), scaled, mask, known)

    def _targets(self, bins: Int[np.ndarray, "batch time"]) -> Float[Tensor, "batch time neuron"]:
        if self._responses is not None:
            return self._responses.tensor[torch.as_tensor(bins, device=self.device)]
        rows = read_rows(self.recording.responses, bins.reshape(-1))
        return torch.as_tensor(rows.reshape(*bins.shape, -1), device=self.device)

    def _inputs(self, trial: np.ndarray, frames: np.ndarray) -> Float[Tensor, "batch channel time height width"]:
        codes = self._trial_stimulus[trial]
        if (codes == codes[0]).all():  # as a rule, and then nothing has to be put together
            name = self._stimulus_names[codes[0]]
            resident = self._on_device.get(name)
            return stimulus_input(self.recording, name, frames, self.statistics, self.device, resident).contiguous()
        shape = self.recording.stimuli[self._stimulus_names[0]].frames.shape[1:]
        inputs = torch.empty((len(trial), shape[0], frames.shape[1], *shape[1:]), device=self.device)
        for code in np.unique(codes):
            rows, name = np.flatnonzero(codes == code), self._stimulus_names[code]
            inputs[rows] = stimulus_input(
                self.recording, name, frames[rows], self.statistics, self.device, self._on_device.get(name)
            )
        return inputs


class ResidentFrames:
    """An array as a tensor on a device; while anybody uses it, whoever asks for the same array gets the same tensor.

    On the CPU the tensor is the array itself.
    """

    _known: ClassVar[weakref.WeakValueDictionary] = weakref.WeakValueDictionary()  # (id of frames, device) -> one of us

    def __init__(self, frames: np.ndarray, device: torch.device) -> None:
        self.frames = frames  # kept, so that no other array can get its identity meanwhile
        self.tensor = torch.as_tensor(frames, device=device)

    @classmethod
    def of(cls, frames: np.ndarray, device: torch.device) -> "ResidentFrames":
        """Return the one copy of these frames on the device."""
        resident = cls._known.get((id(frames), device))
        if resident is None:
            resident = cls._known[id(frames), device] = cls(frames, device)
        return resident


def stimulus_input(
    recording: Recording,
    name: str,
    frames: Int[np.ndarray, "batch time"],
    statistics: Statistics,
    device: torch.device | str,
    resident: "ResidentFrames | None" = None,
) -> Float[Tensor, "batch channel time height width"]:
    """Return frames of a stimulus as a model sees them: normalised, blanks filled in, mirrored for the recorded eye.

    Unless the whole stimulus is resident on the device, every distinct frame is read once from memory or disk.
    """
    stimulus = recording.stimuli[name]
    index = np.maximum(frames, 0)
    if resident is not None:
        held = resident.tensor
    else:
        distinct, position = np.unique(index, return_inverse=True)
        index = position.reshape(index.shape)
        held = torch.as_tensor(read_rows(stimulus.frames, distinct), device=device)
    values = normalised(held[torch.as_tensor(index, device=device)], stimulus, statistics)
    if (frames == BLANK).any():
        blank = (stimulus.blank_value - statistics.stim_mean) / statistics.stim_std
        values[torch.as_tensor(frames == BLANK, device=device)] = blank
    return mirrored(values.movedim(1, 2), recording.mirror)


def normalised(raw: Tensor, stimulus: Stimulus, statistics: Statistics) -> Float[Tensor, "..."]:
    """Return stored frames as (physical value - mean) / std in float32."""
    gain = stimulus.scale / statistics.stim_std
    shift = (stimulus.offset - statistics.stim_mean) / statistics.stim_std
    return raw.to(torch.float32).mul_(gain).add_(shift) if raw.dtype != torch.float32 else raw * gain + shift


def mirrored(frames: Float[Tensor, "... height width"], mirror: str) -> Float[Tensor, "... height width"]:
    """Return frames as the recorded eye saw them."""
    return frames if mirror == "none" else frames.flip({"height": -2, "width": -1}[mirror])


class WindowBatches:
    """The batches of one pass over given windows; with `seed` they are mixed, each from (seed, number of the batch)."""

    def __init__(
        self,
        session: SessionWindows,
        windows: Runs,
        seed: int | None = None,
        later: np.random.Generator | None = None,
    ) -> None:
        self.session, self.windows, self.seed = session, windows, seed
        self.later = later  # where the draws of later passes come from

    def __len__(self) -> int:
        return -(-len(self.windows.first) // self.session.batch_size)

    def __getitem__(self, index: int) -> DataPoint:
        if not 0 <= index < len(self):
            raise IndexError(f"there are {len(self)} batches, batch {index} is none of them")
        size = self.session.batch_size
        rows = slice(index * size, (index + 1) * size)
        point = self.session.batch(Runs(self.windows.first[rows], self.windows.stop[rows]))
        if self.seed is None or self.session.cutmix is None:
            return point
        return self.session.cutmix.mix(point, np.random.default_rng([self.seed, index]))

    def __iter__(self) -> Iterator[DataPoint]:
        return (self[index] for index in range(len(self)))

    def again(self, number: int) -> "WindowBatches":
        """Return pass `number` over the session in the same epoch: as many batches, drawn anew if they are drawn."""
        if self.later is None:
            return self
        source: Any = self.later.bit_generator.seed_seq
        drawn = np.random.SeedSequence(source.entropy, spawn_key=(*source.spawn_key, number))
        return self.session.shuffled(np.random.default_rng(drawn))
