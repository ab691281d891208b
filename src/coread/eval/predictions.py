"""Predictions of trained members for every bin of a recording, and the file that keeps them."""

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
from coread.recording import COMPRESSION, Recording

if TYPE_CHECKING:
    from coread.models.member import Member

FORMAT_VERSION = 1


class PredictionError(ValueError):
    """A model or a prediction file does not fit the recording; the message names both."""


class SessionPrediction(NamedTuple):
    """Predicted responses of one session with the labels of the member's fold."""

    prediction: Float32[np.ndarray, "bin neuron"]
    label: Int8[np.ndarray, "bin"]


@dataclass(frozen=True)
class MemberPredictions:
    """What one member predicts: per session, finite only in its validation and test bins."""

    experiment: str
    fold: int
    seed: int
    lag: int
    sessions: dict[str, SessionPrediction]

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
    batch_bins: int = 8192,
) -> MemberPredictions:
    """Predict the validation and test bins of every session; all other bins are NaN."""
    sessions = {}
    for recording in recordings:
        label = label_bins(recording, member.config["splits"], member.fold, member.model.lag)
        wanted = np.isin(label, (VALIDATION, TEST))
        prediction = predict(
            member.model, recording, member.data_info, device=device, batch_bins=batch_bins, bins=wanted
        )
        sessions[recording.session] = SessionPrediction(prediction, label)
    return MemberPredictions(experiment, member.fold, member.seed, int(member.model.lag), sessions)


def predict(
    model: nn.Module,
    recording: Recording,
    data_info: Mapping[str, Any],
    *,
    device: torch.device | str | None = None,
    batch_bins: int = 8192,
    bins: Bool[np.ndarray, "bin"] | None = None,
) -> Float32[np.ndarray, "bin neuron"]:
    """Return predicted responses in the recorded units; NaN where the model has no output or `bins` asks for none.

    Every distinct frame sequence is computed once and copied to its repeats. Sequences of equal length share a batch of
    at most `batch_bins` input bins; longer stretches are cut into chunks that overlap by the model's `lag`, so memory
    is bounded. The model's train/eval state is left as found; `device` None means where the model is. Raises
    PredictionError if the output has not one row per bin and one column per neuron.
    """
    lag = int(model.lag)  # type: ignore[arg-type]
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
    predicted = np.full((recording.n_bins, recording.n_neurons), np.nan, np.float32)
    with evaluating(model), torch.inference_mode():
        for batch in _batches(recording, bins, lag, batch_bins):
            inputs = stimulus_input(recording, batch.stimulus, batch.frames, statistics, where)
            output = model(inputs, recording.session)
            expected = (len(batch.frames), batch.frames.shape[1] - lag, recording.n_neurons)
            if tuple(output.shape) != expected:
                raise PredictionError(
                    f"session {recording.session!r}: the model answers {batch.frames.shape[1]} bins with an output of "
                    f"shape {tuple(output.shape)}, expected (batch, time - lag, neuron) = {expected}"
                )
            rows = batch.first[:, None] + np.arange(expected[1])
            predicted[rows] = (output * scale).float().cpu().numpy()[batch.sequence]
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


class _Batch(NamedTuple):
    """Distinct frame sequences and the places they predict: stretch i starts at bin first[i], shows sequence[i]."""

    stimulus: str
    frames: Int[np.ndarray, "distinct time"]
    first: Int[np.ndarray, "stretch"]
    sequence: Int[np.ndarray, "stretch"]


def _batches(recording: Recording, bins: Bool[np.ndarray, "bin"] | None, lag: int, batch_bins: int) -> Iterator[_Batch]:
    wanted = recording.bin_in_trial() >= lag
    if bins is not None:
        wanted &= bins
    first, length = _stretches(recording, wanted, batch_bins - lag)
    names, stimulus = np.unique(recording.trials["stimulus"].to_numpy().astype(str), return_inverse=True)
    shown = stimulus[recording.trial[first]]
    for n_out in np.unique(length):
        for code in np.unique(shown[length == n_out]):
            starts = first[(length == n_out) & (shown == code)]
            frames = recording.frame[starts[:, None] + np.arange(-lag, n_out)]
            distinct, sequence = np.unique(frames, axis=0, return_inverse=True)
            sequence = sequence.reshape(-1)
            size = max(1, batch_bins // (n_out + lag))
            for begin in range(0, len(distinct), size):
                inside = (sequence >= begin) & (sequence < begin + size)
                yield _Batch(names[code], distinct[begin : begin + size], starts[inside], sequence[inside] - begin)


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


def read_predictions(path: Path) -> MemberPredictions:
    """Read predictions; raises PredictionError that names the file."""
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format_version") != FORMAT_VERSION:
                raise PredictionError(f"{path}: not a prediction file of format {FORMAT_VERSION}")
            return MemberPredictions(
                experiment=str(file.attrs["experiment"]),
                fold=int(file.attrs["fold"]),
                seed=int(file.attrs["seed"]),
                lag=int(file.attrs["lag"]),
                sessions={
                    name: SessionPrediction(group["prediction"][:], group["label"][:]) for name, group in file.items()
                },
            )
    except FileNotFoundError:
        raise PredictionError(f"{path}: there is no such prediction file") from None
    except (OSError, KeyError) as error:
        raise PredictionError(f"{path}: not a readable prediction file, truncated or foreign ({error})") from error
