"""Predictions of trained members for every bin of a recording, and the file that keeps them."""

import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
import numpy as np
import torch
from jaxtyping import Bool, Float32, Int, Int8
from torch import nn

from coread import __version__
from coread.data_io.dataloader import find_runs, stimulus_input
from coread.data_io.splits import TEST, VALIDATION, label_bins
from coread.data_io.statistics import Statistics
from coread.recording import COMPRESSION, Recording, content_digest
from coread.signatures import GROUP_MODULES

if TYPE_CHECKING:
    from coread.data_io.regressors.session import SessionContext
    from coread.models.member import Member

FORMAT_VERSION = 1
BATCH_BINS = 2048  # input bins computed at once; on a CPU more are no faster
IMAGE_VALUES = 2**20  # images times neurons or pixels, of which a core makes a value per channel: 64 take 256 MiB


class PredictionError(ValueError):
    """A model or a prediction file does not fit the recording; the message names both."""


class SessionPrediction(NamedTuple):
    """Predicted responses of one session with the labels of the member's fold."""

    prediction: Float32[np.ndarray, "bin neuron"]
    label: Int8[np.ndarray, "bin"]


@dataclass(frozen=True)
class MemberPredictions:
    """What one member predicts: per session, finite only in its validation and test bins, withheld ones included."""

    experiment: str
    fold: int
    seed: int
    lag: int
    sessions: Mapping[str, SessionPrediction]

    @property
    def name(self) -> str:
        """Short name of the member, as in scores.csv."""
        return f"fold{self.fold}_seed{self.seed}"


def predict_member(
    member: "Member",
    recordings: Sequence[Recording],
    *,
    experiment: str,
    device: torch.device | str | None = None,
    batch_bins: int | None = None,
    digests: Mapping[str, str] | None = None,
    data_changed: bool = False,
    lazy: bool = False,
) -> MemberPredictions:
    """Predict the validation and test bins of every session, withheld ones included; all other bins are NaN.

    What a model wants beside the stimulus is made of the member's own maps and the labels of its fold. Raises
    PredictionError for a recording other than the one of that session that the member was trained on, unless
    `data_changed`; `digests` are the content digests of the recordings where they are known, computed otherwise.
    If `lazy`, a session is predicted whenever it is asked for, and not kept.
    """
    if not data_changed:
        _check_same_data(member, recordings, digests or {})
    computed = ComputedSessions(member, recordings, device, batch_bins)
    sessions = computed if lazy else dict(computed)
    return MemberPredictions(experiment, member.fold, member.seed, int(member.model.lag), sessions)


class LazySessions(Mapping[str, SessionPrediction]):
    """Sessions of which each is made whenever it is asked for, and not kept: many do not fit together."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)

    def __contains__(self, session: object) -> bool:
        return session in self._names  # without making it

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class ComputedSessions(LazySessions):
    """What a member predicts for sessions, computed."""

    def __init__(
        self,
        member: "Member",
        recordings: Sequence[Recording],
        device: torch.device | str | None = None,
        batch_bins: int | None = None,
    ) -> None:
        self._member, self._device, self._batch_bins = member, device, batch_bins
        self._recordings = {recording.session: recording for recording in recordings}
        super().__init__([*self._recordings])

    def __getitem__(self, session: str) -> SessionPrediction:
        recording, member = self._recordings[session], self._member
        label = label_bins(recording, member.config["splits"], member.fold, member.model.lag)
        wanted = np.isin(label, (VALIDATION, TEST)) | withheld_test_bins(recording)
        prediction = predict(
            member.model,
            recording,
            member.data_info,
            device=self._device,
            batch_bins=self._batch_bins,
            bins=wanted,
            labels=label,
        )
        return SessionPrediction(prediction, label)


def _check_same_data(member: "Member", recordings: Sequence[Recording], digests: Mapping[str, str]) -> None:
    """Raise PredictionError if bins or cells may not be those of the training: trained bins would count as test."""
    for recording in recordings:
        session = recording.session
        if (trained := member.recordings.get(session)) is None:
            continue
        given = digests.get(session) or content_digest(recording)
        if given != trained:
            raise PredictionError(
                f"session {session!r}: the recording is not the one that fold{member.fold}_seed{member.seed} was "
                f"trained on: its content digest is {given}, that of the training {trained}; give the same data "
                "settings (data_io) and files as in the training, or train again (in Python, data_changed=True if "
                "another recording is meant)"
            )


def withheld_test_bins(recording: Recording) -> Bool[np.ndarray, "bin"]:
    """Return the test bins whose responses nobody published: a competition asks for them.

    Their label is unused, so no score reads what is predicted there.
    """
    is_test = np.isin(recording.bin_column("tier").astype(str), ("test", "final_test"))
    return np.logical_and(is_test, recording.bin_column("withheld").astype(bool))


def predict(
    model: nn.Module,
    recording: Recording,
    data_info: Mapping[str, Any],
    *,
    device: torch.device | str | None = None,
    batch_bins: int | None = None,
    bins: Bool[np.ndarray, "bin"] | None = None,
    labels: Int8[np.ndarray, "bin"] | None = None,
) -> Float32[np.ndarray, "bin neuron"]:
    """Return predicted responses in the recorded units; NaN where the model has no output or `bins` asks for none.

    Every distinct frame sequence is computed once and copied to its repeats, unless the model wants more than the
    stimulus: then each is computed with its own behaviour and history, made with the maps that `data_info` keeps.
    `labels` say which responses that history may look at, by default those of the member's training. Sequences of equal
    length share a batch of at most `batch_bins` input bins (None: as many as take little memory); longer stretches are
    cut into chunks that overlap by the model's `lag`, so memory is bounded. A recurrent core is shown whole trials,
    also their masked bins and those that `bins` leaves out: its state starts at zero with every trial and goes on from
    chunk to chunk. An ensemble whose members want context is the mean of their predictions. The model's train/eval
    state is left as found; `device` None means where the model is. Raises PredictionError if the output has not one row
    per bin and one column per neuron.
    """
    names: Sequence[str] = getattr(model, "context_names", ())
    if names and hasattr(model, "members"):
        parts = [
            predict(part, recording, part.data_info, device=device, batch_bins=batch_bins, bins=bins, labels=labels)
            for part in model.members  # type: ignore[union-attr]
        ]
        mean: Float32[np.ndarray, "bin neuron"] = np.stack(parts).mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean
    lag = int(model.lag)  # type: ignore[arg-type]
    if batch_bins is None:
        batch_bins = _affordable_bins(recording)
    if batch_bins <= lag:
        raise PredictionError(f"batch_bins {batch_bins} must exceed the model's lag of {lag} bins")
    if device is not None:
        model.to(device)
    where = next((parameter.device for parameter in model.parameters()), torch.device(device or "cpu"))
    statistics = Statistics(
        data_info["stim_mean"], data_info["stim_std"], dict(data_info["response_scale"]), mean_activity={}
    )
    if recording.session not in statistics.response_scale:
        known = sorted(statistics.response_scale)
        raise PredictionError(f"session {recording.session!r} is not one the model was trained on: {known}")
    scale = statistics.response_scale[recording.session].to(where)
    context = _bind_context(recording, data_info, labels) if names else None
    predicted = np.full((recording.n_bins, recording.n_neurons), np.nan, np.float32)
    with evaluating(model), torch.inference_mode(), _carried_state(model) as cores:
        for batch in _batches(
            recording, bins, lag, batch_bins, each_apart=context is not None, whole_trials=len(cores) > 0
        ):
            if not batch.goes_on:
                for core in cores:
                    core.restart(carry=True)
            inputs = stimulus_input(recording, batch.stimulus, batch.frames, statistics, where)
            told = {} if context is None else context.at(_input_bins(batch, lag), names, where)
            output = model(inputs, recording.session, **told)
            expected = (len(batch.frames), batch.frames.shape[1] - lag, recording.n_neurons)
            if tuple(output.shape) != expected:
                raise PredictionError(
                    f"session {recording.session!r}: the model answers {batch.frames.shape[1]} bins with an output of "
                    f"shape {tuple(output.shape)}, expected (batch, time - lag, neuron) = {expected}"
                )
            rows = batch.first[:, None] + np.arange(expected[1])
            predicted[rows] = (output * scale).float().cpu().numpy()[batch.sequence]
    if bins is not None:
        predicted[~bins] = np.nan
    return predicted


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put all modules into eval mode and give each its own mode back afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _carried_state(model: nn.Module) -> Iterator[list[Any]]:
    """Yield the recurrent cores of a model and let them start every call at zero again afterwards."""
    cores: list[Any] = [module for module in model.modules() if getattr(module, "recurrent", None) is not None]
    try:
        yield cores
    finally:
        for core in cores:
            core.restart(carry=False)


def _affordable_bins(recording: Recording) -> int:
    """Return how many bins are computed at once: of single images fewer, because few bins share a neuron's point."""
    if recording.n_bins > len(recording.trials):
        return BATCH_BINS
    pixels = int(np.prod(next(iter(recording.stimuli.values())).frames.shape[1:]))
    return int(np.clip(IMAGE_VALUES // max(recording.n_neurons, pixels), 1, BATCH_BINS))


def _bind_context(
    recording: Recording, data_info: Mapping[str, Any], labels: Int8[np.ndarray, "bin"] | None
) -> "SessionContext":
    # by name: models that want nothing beside the stimulus do not depend on its code
    return importlib.import_module(GROUP_MODULES["regressors"]).bind_context(recording, data_info, labels)


class _Batch(NamedTuple):
    """Distinct frame sequences and the places they predict: stretch i starts at bin first[i], shows sequence[i].

    One that `goes_on` continues every sequence of the batch before it.
    """

    stimulus: str
    frames: Int[np.ndarray, "distinct time"]
    first: Int[np.ndarray, "stretch"]
    sequence: Int[np.ndarray, "stretch"]
    goes_on: bool = False


def _input_bins(batch: _Batch, lag: int) -> Int[np.ndarray, "stretch time"]:
    """Return the bins that the model sees, of a batch whose stretches are all computed apart."""
    return batch.first[:, None] - lag + np.arange(batch.frames.shape[1])


def _batches(
    recording: Recording,
    bins: Bool[np.ndarray, "bin"] | None,
    lag: int,
    batch_bins: int,
    *,
    each_apart: bool,
    whole_trials: bool,
) -> Iterator[_Batch]:
    has_output = recording.bin_in_trial() >= lag
    wanted = has_output if bins is None else has_output & bins
    if whole_trials:
        wanted = has_output & np.isin(recording.trial, recording.trial[wanted])
    first, length = _stretches(recording, wanted, recording.n_bins if whole_trials else batch_bins - lag)
    names, stimulus = np.unique(recording.trials["stimulus"].to_numpy().astype(str), return_inverse=True)
    shown = stimulus[recording.trial[first]]
    for n_out in np.unique(length):
        for code in np.unique(shown[length == n_out]):
            starts = first[(length == n_out) & (shown == code)]
            frames = recording.frame[starts[:, None] + np.arange(-lag, n_out)]
            if each_apart:
                distinct, sequence = frames, np.arange(len(frames))
            else:
                distinct, sequence = np.unique(frames, axis=0, return_inverse=True)
            sequence = sequence.reshape(-1)
            size = max(1, batch_bins // (n_out + lag))
            for begin in range(0, len(distinct), size):
                inside = (sequence >= begin) & (sequence < begin + size)
                batch = _Batch(names[code], distinct[begin : begin + size], starts[inside], sequence[inside] - begin)
                yield from _pieces(batch, lag, batch_bins)


def _pieces(batch: _Batch, lag: int, batch_bins: int) -> Iterator[_Batch]:
    """Cut sequences of more than `batch_bins` input bins; of those only one shares a batch."""
    n_out, longest = batch.frames.shape[1] - lag, batch_bins - lag
    for start in range(0, n_out, longest):
        frames = batch.frames[:, start : min(start + longest, n_out) + lag]
        yield batch._replace(frames=frames, first=batch.first + start, goes_on=start > 0)


def _stretches(
    recording: Recording, wanted: Bool[np.ndarray, "bin"], longest: int
) -> tuple[Int[np.ndarray, "stretch"], Int[np.ndarray, "stretch"]]:
    """Cut the wanted bins into stretches within trials of at most `longest` bins; return first bins and lengths."""
    runs = find_runs(recording, wanted.astype(np.int8), 1)
    n_pieces = -(-(runs.stop - runs.first) // longest)
    piece = np.arange(n_pieces.sum()) - np.repeat(np.cumsum(n_pieces) - n_pieces, n_pieces)
    first = np.repeat(runs.first, n_pieces) + longest * piece
    return first, np.minimum(np.repeat(runs.stop, n_pieces) - first, longest)


# ---------------------------------------------------------------------------------------------------------------- files


def write_predictions(predictions: MemberPredictions, path: Path) -> None:
    """Write predictions to HDF5 atomically: one group per session, provenance in the root attributes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(temporary, "w") as file:
            file.attrs["format_version"] = FORMAT_VERSION
            file.attrs["coread_version"] = __version__
            for key in ("experiment", "fold", "seed", "lag"):
                file.attrs[key] = getattr(predictions, key)
            for session, (prediction, label) in predictions.sessions.items():
                group = file.create_group(session)
                group.create_dataset("prediction", data=prediction, chunks=True, **COMPRESSION)
                group.create_dataset("label", data=label, chunks=True, **COMPRESSION)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class StoredSessions(LazySessions):
    """The sessions of a prediction file, read."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        super().__init__(names)
        self._path = path

    def __getitem__(self, session: str) -> SessionPrediction:
        if session not in self._names:
            raise KeyError(session)
        try:
            with h5py.File(self._path, "r") as file:
                return SessionPrediction(file[session]["prediction"][:], file[session]["label"][:])
        except (OSError, KeyError) as error:
            raise PredictionError(f"{self._path}: session {session!r} is not readable ({error})") from error


def read_predictions(path: Path, *, lazy: bool = False) -> MemberPredictions:
    """Read predictions, if `lazy` each session when it is asked for; raises PredictionError that names the file."""
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format_version") != FORMAT_VERSION:
                raise PredictionError(f"{path}: not a prediction file of format {FORMAT_VERSION}")
            return MemberPredictions(
                experiment=str(file.attrs["experiment"]),
                fold=int(file.attrs["fold"]),
                seed=int(file.attrs["seed"]),
                lag=int(file.attrs["lag"]),
                sessions=StoredSessions(path, list(file))
                if lazy
                else {
                    name: SessionPrediction(group["prediction"][:], group["label"][:]) for name, group in file.items()
                },
            )
    except FileNotFoundError:
        raise PredictionError(f"{path}: there is no such prediction file") from None
    except (OSError, KeyError) as error:
        raise PredictionError(f"{path}: not a readable prediction file, truncated or foreign ({error})") from error
