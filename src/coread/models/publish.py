"""Publishing of trained members: a folder of weights, settings, scores, checksums and a model card.

A folder holds data only (safetensors, JSON, Markdown): `coread.models.load_core_readout_model` reads it back with
bit-equal outputs.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from coread.config import config_directory
from coread.eval.scores import DATA, ENSEMBLE, read_scores
from coread.eval.tables import MEMBER_MEAN, summarize
from coread.models.member import Member, load_member
from coread.models.model_card import PARTS, ensemble_card, member_card
from coread.models.pretrained.folder import (
    CARD_FILE,
    CONFIG_FILE,
    CONTEXT_FILE,
    ENSEMBLE_FORMAT,
    FORMAT,
    MEMBERS,
    WEIGHTS_FILE,
    context_to_json,
    is_ensemble,
    is_published,
    read_member,
    statistics_to_json,
)
from coread.provenance import code_version, file_sha256, library_versions, write_text

# what of data_info is published: sizes, units and what was fitted; arrays of single sessions are not
KEPT = (
    "n_neurons_dict",
    "n_trials_dict",
    "input_shape",
    "rate_hz",
    "pixel_um",
    "pixel_deg",
    "dataset",
    "unit",
    "stim_mean",
    "stim_std",
    "trained_with",
    "model_config",
)
UNKNOWN = "unknown"


class PublishError(ValueError):
    """A member cannot be published as asked; the message names the file and what is wrong."""


@dataclass(frozen=True)
class Statement:
    """What the publisher says of a model: its name, who made it and under which licence it is given away."""

    name: str
    licence: str = UNKNOWN
    author: str = UNKNOWN


def publish(
    members: Sequence[Path],
    target: Path,
    statement: Statement,
    *,
    scores: Path | None = None,
    data: Path | None = None,
    replace: bool = False,
    data_changed: bool = False,
) -> Path:
    """Write members as a folder, several of them as an ensemble with a folder for each, and return it.

    `scores` is the scores.csv of their experiment; `data` the folder of their recordings with checksums, by default
    where the workflow has it beside the members' experiment. The folder appears whole or not at all. Raises
    PublishError if it exists and `replace` is not set or it is no published model, if scores and members do not
    belong together, or, without `data_changed`, if a recording is no longer the one that a member was trained on.
    """
    if target.exists() and not replace:
        raise PublishError(f"{target} exists: choose another folder, or replace it (--replace)")
    if target.exists() and not _is_replaceable(target):
        raise PublishError(f"{target} is no published model, so it is not replaced: choose another folder")
    if not members:
        raise PublishError("there is no member to publish")
    loaded = [(path, load_member(path)) for path in members]
    if len({_name(member) for _, member in loaded}) < len(loaded):
        raise PublishError(f"two of the members are of one fold and seed: {sorted(_name(m) for _, m in loaded)}")
    with _whole_folder(target) as folder:
        if len(loaded) == 1:
            path, member = loaded[0]
            _write_member(folder, path, member, statement, scores, data, data_changed)
        else:
            _write_ensemble(folder, loaded, statement, scores, data, data_changed)
    return target


def _is_replaceable(target: Path) -> bool:
    """Return whether nothing but a published model would be lost: of a folder of other work, all would be."""
    if target.is_symlink() or not target.is_dir():
        return False
    return is_published(target) or is_ensemble(target) or not any(target.iterdir())


def _write_ensemble(
    folder: Path,
    loaded: Sequence[tuple[Path, Member]],
    statement: Statement,
    scores: Path | None,
    data: Path | None,
    data_changed: bool,
) -> None:
    configs = {}
    for path, member in loaded:
        name = _name(member)
        own = Statement(f"{statement.name}, {name}", statement.licence, statement.author)
        configs[name] = _write_member(folder / MEMBERS / name, path, member, own, scores, data, data_changed)
    if len({json.dumps(sorted(config["data_info"]["n_neurons_dict"].items())) for config in configs.values()}) > 1:
        raise PublishError("the members were trained on different sessions, they are no ensemble")
    first = next(iter(configs.values()))
    ensemble = {
        "format": ENSEMBLE_FORMAT,
        "name": statement.name,
        "licence": statement.licence,
        "author": statement.author,
        "members": {name: {"sha256": file_sha256(folder / MEMBERS / name / CONFIG_FILE)} for name in configs},
        "data": first["data"],
        "scores": _scores(scores, [_name(member) for _, member in loaded], ENSEMBLE),
    }
    _write_json(folder / CONFIG_FILE, ensemble)
    write_text(folder / CARD_FILE, ensemble_card(ensemble, first))


def _write_member(
    folder: Path,
    path: Path,
    member: Member,
    statement: Statement,
    scores: Path | None,
    data: Path | None,
    data_changed: bool,
) -> dict[str, Any]:
    """Write one member and return its config."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(_weights(member), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    info = member.data_info
    tree, arrays = context_to_json(info)
    context: dict[str, Any] = {}
    if tree:
        save_file(arrays, folder / CONTEXT_FILE, metadata={"format": "pt"})
        context["context"] = {"sha256": file_sha256(folder / CONTEXT_FILE), "tree": tree}
    recordings = _data_folder(path, info) if data is None else data
    name = _name(member)
    kept = (*KEPT, *getattr(member.model.readout, "session_tables", ()))  # without which readouts are not built
    config = {
        "format": FORMAT,
        "name": statement.name,
        "licence": statement.licence,
        "author": statement.author,
        "fold": member.fold,
        "seed": member.seed,
        "train": member.config,
        "data_info": {key: info[key] for key in kept if key in info} | statistics_to_json(info),
        "weights": {"sha256": file_sha256(folder / WEIGHTS_FILE), "member_sha256": file_sha256(path)},
        "data": _describe_data(recordings, member, data_changed),
        "scores": _scores(scores, [name], name),
        "published_with": {"coread": code_version(), **library_versions()},
    } | context
    _write_json(folder / CONFIG_FILE, config)
    write_text(folder / CARD_FILE, member_card(config, _sizes_of(member)))
    _check_loads(folder, member, path)
    return config


def _check_loads(folder: Path, member: Member, path: Path) -> None:
    """Raise PublishError unless the folder gives back the member's weights to the bit."""
    try:
        published = read_member(folder).model.state_dict()
    except ValueError as error:
        raise PublishError(f"{path}: cannot be read back as published ({error})") from error
    state = member.model.state_dict()
    if different := [name for name in state if name not in published or not torch.equal(state[name], published[name])]:
        raise PublishError(f"{path}: read back as published, {different} differ")


def _weights(member: Member) -> dict[str, Tensor]:
    """Return the state dict without the grids of readouts, which follow from shapes and repeat for every neuron.

    What sessions share, as cloned readouts do, is there once under each of its names: models are read strictly, and
    safetensors refuses tensors that share memory. The model that is built on reading shares it again.
    """
    model = member.model
    state = model.state_dict()
    named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    registered = {name for name, _ in named}
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items() if name in registered}


def _sizes_of(member: Member) -> dict[str, int]:
    parts = {name: part for name in PARTS if (part := getattr(member.model, name, None)) is not None}
    counts = {name: sum(parameter.numel() for parameter in part.parameters()) for name, part in parts.items()}
    return {"lag": int(member.model.lag), **counts}


def _name(member: Member) -> str:
    return f"fold{member.fold}_seed{member.seed}"


# ------------------------------------------------------------------------------------------------------ data and scores


def _data_folder(member: Path, info: Mapping[str, Any]) -> Path:
    """Return where the workflow keeps the recordings of a member: beside its experiment, results/data/<dataset>."""
    return member.resolve().parents[3] / "data" / str(info.get("dataset"))


def _describe_data(folder: Path, member: Member, data_changed: bool) -> dict[str, Any]:
    """Return checksums of the recordings as the member was trained on them, their licence and citation.

    Raw files are those of the folder's recordings, told only where these are the recordings of the training. Raises
    PublishError for one that has changed since, unless `data_changed`.
    """
    info, trained = member.data_info, member.recordings
    source = _source(folder, str(info.get("dataset")))
    sessions = list(info["n_neurons_dict"])
    present = {session: _digest(folder, session) for session in sessions}
    unknown = [session for session in sessions if session not in trained]
    changed = [
        session for session in sessions if present[session] not in (None, trained.get(session, present[session]))
    ]
    if changed and not data_changed:
        session = changed[0]
        raise PublishError(
            f"{folder / session}.sha256: the recording has changed since {_name(member)} was trained: its digest is "
            f"{present[session]}, that of the training {trained[session]}; train again, or publish the checksums of "
            "the training (--data-changed)"
        )
    same = [session for session in sessions if session in trained and present[session] == trained[session]]
    return {
        "dataset": info.get("dataset"),
        "licence": source.get("licence"),
        "citation": source.get("citation"),
        "sessions": {
            session: {
                "sha256": trained.get(session),
                "raw_files": _raw_files(folder, session) if session in same else {},
            }
            for session in sessions
        },
        "notes": [
            f"Checksums of the recordings are {state} for {len(named)} of {len(sessions)} session(s): "
            f"{', '.join(named)}."
            for state, named in (
                ("unknown, because the member does not keep them,", unknown),
                ("of the training, but the publisher's recordings had changed since,", changed),
            )
            if named
        ],
    }


def _source(folder: Path, dataset: str) -> dict[str, Any]:
    """Return what the settings of a dataset say of where it comes from."""
    for path in (folder / "config.yaml", config_directory() / "data_io" / f"{dataset}.yaml"):
        if path.is_file():
            source = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("source")
            if isinstance(source, dict):
                return source
    return {}


def _digest(folder: Path, session: str) -> str | None:
    path = folder / f"{session}.sha256"
    return path.read_text(encoding="utf-8").split()[0] if path.is_file() else None


def _raw_files(folder: Path, session: str) -> dict[str, str]:
    path = folder / f"{session}.source.json"
    if not path.is_file():
        return {}
    return {entry["name"]: entry["sha256"] for entry in json.loads(path.read_text(encoding="utf-8"))}


def _scores(path: Path | None, members: Sequence[str], predictor: str) -> list[dict[str, Any]]:
    """Return mean, interval and n of every test stimulus and metric of one predictor: a member, or the ensemble.

    Raises PublishError if the table lacks one of the members, or is of an ensemble of others.
    """
    if path is None:
        return []
    table = read_scores(path)
    scored = sorted(set(table["predictor"]) - {DATA, ENSEMBLE})
    if missing := [name for name in members if name not in scored]:
        raise PublishError(f"{path}: has no scores of {missing}, only of {scored}")
    if predictor == ENSEMBLE and sorted(members) != scored:
        raise PublishError(f"{path}: its ensemble is of {scored}, not of the published {sorted(members)}")
    summary = summarize(table[table["predictor"].isin([predictor, DATA])], _evaluation(path))
    shown = summary[summary["predictor"].isin([MEMBER_MEAN if predictor != ENSEMBLE else ENSEMBLE, DATA])]
    columns = ["stimulus", "tier", "metric", "mean", "ci_low", "ci_high", "n", "n_excluded"]
    rows = shown[shown["n"] > 0][columns].to_dict("records")
    return [{str(key): _json_number(value) for key, value in row.items()} for row in rows]


def _evaluation(scores: Path) -> dict[str, Any]:
    """Return the evaluation settings of an experiment: those beside its scores, or else the shipped ones."""
    beside = scores.parent / "config" / "evaluate.yaml"
    if beside.is_file():
        return yaml.safe_load(beside.read_text(encoding="utf-8"))["evaluation"]
    return yaml.safe_load((config_directory() / "evaluation" / "default.yaml").read_text(encoding="utf-8"))


def _json_number(value: Any) -> Any:
    """Return a plain number; null for one that does not exist, which JSON cannot write."""
    number = value.item() if hasattr(value, "item") else value
    return None if isinstance(number, float) and number != number else number


# -------------------------------------------------------------------------------------------------------------- writing


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=1, allow_nan=False, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, torch.Size | tuple):
        return list(value)
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be published as JSON")


@contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """Let a folder be filled beside its place and move it there when all is written; replaces what was there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    try:
        beside.mkdir()
        yield beside
        if target.exists():
            target.replace(old)
        try:
            beside.replace(target)
        except OSError:
            if old.exists():
                old.replace(target)
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
