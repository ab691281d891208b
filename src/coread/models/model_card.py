"""The README.md of a published model: what it is, on what it was trained, how well it does, how to load it."""

from collections.abc import Mapping, Sequence
from typing import Any

PARTS = ("core", "readout", "shifter", "modulator")  # of models of images the last two, where they have them
METRICS = {
    "single_trial_correlation": "single-trial correlation",
    "correlation_to_average": "correlation to average",
    "fraction_of_ceiling": "fraction of the noise ceiling",
    "feve": "FEVE",
    "noise_ceiling": "noise ceiling",
    "explainable_variance": "explainable variance",
}
LIMITS = """- It predicts the neurons that it was trained on, and no others: readouts of new sessions have to be trained
  (`paths.load_model_path`, `coread.models.add_sessions`).
- It expects stimuli of the size, frame rate and units above; outside of the range that the training stimuli covered its
  predictions are extrapolation.
- Scores are of recorded responses to the test stimuli of this data set. Neurons below the threshold of explainable
  variance are left out of the means (`excluded`). Validation scores are optimistic, because they chose the weights."""


def member_card(config: Mapping[str, Any], sizes: Mapping[str, int]) -> str:
    """Return the card of one member, from its published config and numbers of parameters."""
    info, trained = config["data_info"], config["data_info"].get("trained_with", {})
    sections = [
        _front_matter(config),
        f"# {config['name']}",
        "A core + readout model of visual neurons, trained with coread: one member (fold "
        f"{config['fold']}, seed {config['seed']}) of an experiment.",
        _data(config["data"], info),
        _architecture(config["train"]["model"], info, sizes),
        _scores(config["scores"]),
        _loading("FOLDER", is_told_more="context" in config),
        f"## Limits\n\n{LIMITS}",
        "## Provenance\n\n"
        f"Trained with coread {trained.get('coread', 'unknown')}, torch {trained.get('torch', 'unknown')} on "
        f"{trained.get('device', 'unknown')} in {trained.get('precision', 'unknown')} precision. sha256 of the "
        f"weights: `{config['weights']['sha256']}`. "
        "`config.json` holds all settings and the sha256 of every recording.",
    ]
    return "\n\n".join(sections) + "\n"


def ensemble_card(ensemble: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """Return the card of an ensemble, from its published config and that of one member."""
    names = list(ensemble["members"])
    sections = [
        _front_matter(ensemble),
        f"# {ensemble['name']}",
        f"An ensemble of {len(names)} core + readout models of visual neurons, trained with coread: "
        f"{', '.join(names)}. Its prediction is the mean of theirs. Each has a card of its own in `members/`.",
        _data(ensemble["data"], first["data_info"]),
        _scores(ensemble["scores"]),
        _loading("FOLDER", "load_ensemble", is_told_more="context" in first),
        f"## Limits\n\n{LIMITS}",
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(config: Mapping[str, Any]) -> str:
    """Return what the hub reads: one line per key."""
    return f"---\nlibrary_name: coread\nlicense: {_hub_licence(config['licence'])}\ntags: [neuroscience, vision]\n---"


def _hub_licence(licence: str) -> str:
    """Return a licence as the hub's identifiers are written, in lower case; `other` if it is not one word."""
    return licence.lower() if licence != "unknown" and " " not in licence else "other"


def _data(data: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    counts = info["n_neurons_dict"]
    channels, height, width = info["input_shape"]
    pixel = f", {info['pixel_um']} um per pixel" if info.get("pixel_um") else ""
    lines = [
        "## Data",
        f"Data set `{data['dataset']}`: {len(counts)} session(s), {sum(counts.values())} neurons; responses in "
        f"{info.get('unit', 'unknown units')} at {info.get('rate_hz', 'unknown')} Hz; stimuli of {channels} channel(s) "
        f"and {height} x {width} pixels (height x width){pixel}. The mean {info['stim_mean']:.6g} is subtracted from "
        f"them and the rest divided by {info['stim_std']:.6g} before they enter the model.",
        f"- Licence of the data: {data['licence'] or 'unknown, ask its authors'}",
        f"- Cite: {data['citation'] or 'unknown, ask its authors'}",
    ]
    lines += [f"- {note}" for note in data["notes"]]
    return "\n\n".join(lines[:2]) + "\n\n" + "\n".join(lines[2:])


def _architecture(model: Mapping[str, Any], info: Mapping[str, Any], sizes: Mapping[str, int]) -> str:
    described = []
    for part in (name for name in PARTS if model.get(name) is not None):
        arguments = {key: value for key, value in model[part].items() if key != "_target_"}
        kind = model[part]["_target_"].rpartition(".")[2]
        described.append(f"| {part} | `{kind}` | {_settings(arguments)} | {sizes[part]} |")
    rate = info.get("rate_hz")
    lag = f"{sizes['lag']} bins" + (f" ({1000 * sizes['lag'] / rate:.0f} ms)" if rate else "")
    widths = f"Hidden channels {list(model['hidden_channels'])}; a" if model.get("hidden_channels") else "A"
    table = "\n".join(["| part | class | settings | parameters |", "|---|---|---|---|", *described])
    return f"## Architecture\n\n{widths} prediction sees its own bin and {lag} before it.\n\n{table}"


def _settings(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in arguments.items() if value not in (None, 0.0, False))


def _scores(rows: Sequence[Mapping[str, Any]]) -> str:
    known = [row for row in rows if row["metric"] in METRICS]
    if not known:
        return "## Scores\n\nNone were published with this model."
    lines = [
        "| stimulus | score | mean | 95 % interval | n neurons | excluded |",
        "|---|---|---|---|---|---|",
    ]
    for row in known:
        interval = "n/a" if row["ci_low"] is None else f"{row['ci_low']:.3f} to {row['ci_high']:.3f}"
        cells = (row["stimulus"], METRICS[row["metric"]], f"{row['mean']:.3f}", interval, row["n"], row["n_excluded"])
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "## Scores\n\n" + "\n".join(lines)


OF_STIMULI = """import torch
from coread.models import {function}

model = {function}("{folder}", "cpu")
responses = model(torch.rand(model.stimulus_shape(time_steps=50)))"""
OF_RECORDINGS = """from pathlib import Path
from coread.eval.predictions import predict
from coread.models import {function}
from coread.recording import read_recording

model = {function}("{folder}", "cpu")
recording = read_recording(Path("SESSION.h5"))  # behaviour and past responses are inputs of this model
responses = predict(model, recording, model.data_info)"""


def _loading(folder: str, function: str = "load_core_readout_model", *, is_told_more: bool = False) -> str:
    code = (OF_RECORDINGS if is_told_more else OF_STIMULI).format(folder=folder, function=function)
    return (
        f"## How to load\n\n```python\n{code}\n```\n\n"
        "The folder may also be the name `owner/name` of a repository of the Hugging Face hub. Nothing in it is a "
        "program."
    )
