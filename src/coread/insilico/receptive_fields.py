"""Receptive fields of model neurons: the gradient of a response with respect to the frames it depends on."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

from coread import __version__
from coread.data_io.statistics import Statistics
from coread.eval.predictions import evaluating, stimulus_input
from coread.insilico.field_measures import measure_fields, members_spread
from coread.insilico.separable import separate
from coread.models.typical_context import respond_typically
from coread.provenance import write_text
from coread.recording import COMPRESSION, Recording

if TYPE_CHECKING:
    from coread.models.member import Member

REFERENCES = ("mean", "noise", "recorded")


@dataclass(frozen=True)
class ReceptiveFields:
    """Receptive fields of one session, averaged over members, in model coordinates (the recording's mirror applied).

    `filter` holds d response / d stimulus in recorded response units per bin and physical stimulus unit; entry 0 along
    lag_bin is the current bin. `table` has one row per neuron with everything that is one number.
    """

    filter: Float32[np.ndarray, "neuron lag_bin channel height width"]
    spatial: Float32[np.ndarray, "neuron channel height width"]
    temporal: Float32[np.ndarray, "neuron channel lag_bin"]
    channel: Int[np.ndarray, "neuron"]
    table: pd.DataFrame
    bin_s: float
    pixel_um: float | None


def compute_receptive_fields(
    members: Sequence["Member"],
    recordings: Sequence[Recording],
    config: Mapping[str, Any],
    *,
    device: torch.device | str | None = None,
    batch_size: int = 64,
) -> dict[str, ReceptiveFields]:
    """Return the receptive fields of every session: gradients averaged over members, decomposed and measured.

    `config` is the `insilico` node: `reference`, `n_samples`, `noise_std`, `seed`, `smoothing_px`, `contour_sigma`.
    A mean stimulus is where published gradient receptive fields are taken; units that are silent there (rectified
    subunits, ON-OFF cells) have small or empty gradients, which an average over `noise` or `recorded` stimuli avoids.
    Raises ValueError for an unknown reference.
    """
    if config["reference"] not in REFERENCES:
        raise ValueError(f"reference {config['reference']!r} is unknown, expected one of {list(REFERENCES)}")
    return {
        recording.session: _describe(
            recording, np.stack([_member_filter(m, recording, config, device, batch_size) for m in members]), config
        )
        for recording in recordings
    }


def _member_filter(
    member: "Member",
    recording: Recording,
    config: Mapping[str, Any],
    device: torch.device | str | None,
    batch_size: int,
) -> Float32[np.ndarray, "neuron lag_bin channel height width"]:
    if device is not None:
        member.model.to(device)
    statistics = member.statistics
    references = _references(recording, member.model, statistics, config)
    gradient = response_gradient(member.model, recording.session, references, recording.n_neurons, batch_size)
    scale = statistics.response_scale[recording.session].cpu().numpy() / statistics.stim_std
    return (gradient.cpu().numpy() * scale[:, None, None, None, None]).astype(np.float32)


def response_gradient(
    model: nn.Module,
    session: str,
    references: Float[Tensor, "sample channel time height width"],
    n_neurons: int,
    batch_size: int = 64,
) -> Float[Tensor, "neuron lag_bin channel height width"]:
    """Return d response(last bin) / d normalised stimulus of every neuron, averaged over the reference stimuli.

    `references` are `model.lag` + 1 frames long. Every neuron gets its own copy of a reference in the batch; because
    the items of a batch do not interact, one backward pass through the sum of their responses gives all gradients.
    What the model wants beside the stimulus is held at its mean in training.
    """
    total = torch.zeros((n_neurons, *references.shape[1:]), device=references.device)
    for place, gradient in own_gradients(model, session, references, np.arange(n_neurons), batch_size):
        total.index_add_(0, place, gradient)
    return (total / len(references)).flip(2).movedim(1, 2)


def own_gradients(
    model: nn.Module,
    session: str,
    references: Float[Tensor, "sample channel time height width"],
    neurons: Int[np.ndarray, "chosen"],
    batch_size: int = 64,
) -> Iterator[tuple[Int[Tensor, " pair"], Float[Tensor, "pair channel time height width"]]]:
    """Yield the gradients of the last bin of every neuron at every reference, with its place in `neurons`.

    Pairs of a neuron and a reference come in batches; weights get no gradients.
    """
    n_samples, n_pairs = len(references), len(neurons) * len(references)
    chosen = torch.tensor(neurons, device=references.device)
    with evaluating(model):
        for first in range(0, n_pairs, batch_size):
            pair = torch.arange(first, min(first + batch_size, n_pairs), device=references.device)
            place, sample = pair // n_samples, pair % n_samples
            with torch.enable_grad():
                stimulus = references[sample].requires_grad_()
                response = respond_typically(model, stimulus, session)[:, -1]
                own = response.gather(1, chosen[place][:, None]).sum()
                gradient = torch.autograd.grad(own, stimulus)[0]
            yield place, gradient


def _references(
    recording: Recording, model: nn.Module, statistics: Statistics, config: Mapping[str, Any]
) -> Float[Tensor, "sample channel time height width"]:
    """Return the normalised stimuli to linearise around; zero is the mean of the training stimulus."""
    device = next(model.parameters()).device
    lag = int(model.lag)  # type: ignore[arg-type]
    if config["reference"] == "recorded":
        return _recorded_references(recording, lag, statistics, config, device)
    shape = (lag + 1, *next(iter(recording.stimuli.values())).frames.shape[1:])
    if config["reference"] == "mean":
        return torch.zeros(1, shape[1], shape[0], *shape[2:], device=device)
    generator = torch.Generator().manual_seed(int(config["seed"]))
    noise = torch.randn(int(config["n_samples"]), shape[1], shape[0], *shape[2:], generator=generator)
    return (noise * float(config["noise_std"])).to(device)


def _recorded_references(
    recording: Recording, lag: int, statistics: Statistics, config: Mapping[str, Any], device: torch.device
) -> Float[Tensor, "sample channel time height width"]:
    tier = recording.bin_column("tier").astype(str)
    usable = np.flatnonzero((tier == "train") & recording.valid & (recording.bin_in_trial() >= lag))
    if not len(usable):
        raise ValueError(f"session {recording.session!r} has no training bin with {lag} predecessors to start from")
    drawn = np.random.default_rng(int(config["seed"])).choice(usable, int(config["n_samples"]))
    names = recording.bin_column("stimulus")[drawn]
    frames = recording.frame[drawn[:, None] + np.arange(-lag, 1)]
    parts = [stimulus_input(recording, name, frames[names == name], statistics, device) for name in sorted(set(names))]
    return torch.cat(parts)


def _describe(
    recording: Recording,
    member_filters: Float32[np.ndarray, "member neuron lag_bin channel height width"],
    config: Mapping[str, Any],
) -> ReceptiveFields:
    average = member_filters.mean(axis=0)
    parts = separate(average, float(config["smoothing_px"]))
    bin_s = 1.0 / recording.rate_hz
    pixel_um = next(iter(recording.stimuli.values())).pixel_um
    measures = measure_fields(parts, float(config["contour_sigma"]), bin_s, pixel_um)
    of_members = [
        measure_fields(
            separate(filters, float(config["smoothing_px"])), float(config["contour_sigma"]), bin_s, pixel_um
        )
        for filters in (member_filters if len(member_filters) > 1 else [])
    ]
    table = pd.concat([_identity(recording), measures, members_spread(measures, of_members)], axis=1)
    table["member_consistency"] = member_consistency(member_filters)
    if "truth_filter" in recording.session_info:
        table["truth_cosine"] = cosine(*_same_lags(average, recording.session_info["truth_filter"]))
    if "truth_center_px" in recording.session_info:
        offset = measures[["center_y_px", "center_x_px"]].to_numpy() - recording.session_info["truth_center_px"]
        table["truth_distance_px"] = np.linalg.norm(offset, axis=1)
    return ReceptiveFields(average, parts.spatial, parts.temporal, parts.channel, table, bin_s, pixel_um)


def _identity(recording: Recording) -> pd.DataFrame:
    known = {name: recording.neurons[name].to_numpy() for name in ("unit_id", "cell_type") if name in recording.neurons}
    return pd.DataFrame(
        {"dataset": recording.dataset, "session": recording.session, "neuron": range(recording.n_neurons), **known}
    )


def cosine(
    first: Float[np.ndarray, "neuron *shape"], second: Float[np.ndarray, "neuron *shape"]
) -> Float[np.ndarray, "neuron"]:
    """Return the cosine between two filters of every neuron; NaN where one of them is empty."""
    a, b = (values.reshape(len(values), -1).astype(np.float64) for values in (first, second))
    norm = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.divide((a * b).sum(axis=1), norm, out=np.full(len(a), np.nan), where=norm > 0)


def member_consistency(
    filters: Float[np.ndarray, "member neuron lag_bin channel height width"],
) -> Float[np.ndarray, "neuron"]:
    """Return the mean cosine over all pairs of members; NaN for a single member."""
    pairs = list(combinations(range(len(filters)), 2))
    if not pairs:
        return np.full(filters.shape[1], np.nan)
    return np.mean([cosine(filters[i], filters[j]) for i, j in pairs], axis=0)


def _same_lags(
    first: Float[np.ndarray, "neuron lag_bin channel height width"],
    second: Float[np.ndarray, "neuron lag_bin channel height width"],
) -> list[np.ndarray]:
    """Return both filters with zeros for the old bins that only the other one has."""
    longest = max(first.shape[1], second.shape[1])
    return [
        np.pad(values, [(0, 0), (0, longest - values.shape[1]), (0, 0), (0, 0), (0, 0)]) for values in (first, second)
    ]


# ---------------------------------------------------------------------------------------------------------------- files


def write_receptive_fields(fields: Mapping[str, ReceptiveFields], h5_path: Path, csv_path: Path) -> None:
    """Write filters and their parts to HDF5 (one group per session) and the table of all neurons to CSV, atomically."""
    h5_path.parent.mkdir(parents=True, exist_ok=True)
    temporary = h5_path.with_name(f".{h5_path.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(temporary, "w") as file:
            file.attrs["coread_version"] = __version__
            for session, field in fields.items():
                group = file.create_group(session)
                group.attrs["bin_s"] = field.bin_s
                if field.pixel_um is not None:
                    group.attrs["pixel_um"] = field.pixel_um
                for name in ("filter", "spatial", "temporal"):
                    group.create_dataset(name, data=getattr(field, name), chunks=True, **COMPRESSION)
                group["channel"] = field.channel
                _write_columns(group.create_group("neurons"), field.table)
        temporary.replace(h5_path)
    finally:
        temporary.unlink(missing_ok=True)
    table = pd.concat([field.table for field in fields.values()], ignore_index=True)
    write_text(csv_path, table.to_csv(index=False, lineterminator="\n"))


def _write_columns(group: h5py.Group, table: pd.DataFrame) -> None:
    group.attrs["columns"] = list(table.columns)
    for column in table.columns:
        values = table[column].to_numpy()
        group[column] = values if values.dtype.kind in "biuf" else [str(value) for value in values]


def read_receptive_fields(h5_path: Path) -> dict[str, ReceptiveFields]:
    """Read receptive fields of all sessions; raises ValueError that names the file."""
    try:
        with h5py.File(h5_path, "r") as file:
            return {session: _read_session(group) for session, group in file.items()}
    except (OSError, KeyError) as error:
        raise ValueError(f"{h5_path}: not a readable file of receptive fields ({error})") from error


def _read_session(group: h5py.Group) -> ReceptiveFields:
    columns = {}
    for name in group["neurons"].attrs["columns"]:
        values = group["neurons"][name]
        columns[name] = values.asstr()[:] if h5py.check_string_dtype(values.dtype) is not None else values[:]
    pixel_um = group.attrs.get("pixel_um")
    return ReceptiveFields(
        filter=group["filter"][:],
        spatial=group["spatial"][:],
        temporal=group["temporal"][:],
        channel=group["channel"][:],
        table=pd.DataFrame(columns),
        bin_s=float(group.attrs["bin_s"]),
        pixel_um=None if pixel_um is None else float(pixel_um),
    )
