"""What the report says about one experiment, read from its files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import yaml

from coread.data_io.quality_filters import ALL_SESSIONS, tabulate
from coread.eval.scores import DATA, ENSEMBLE, read_scores
from coread.eval.tables import rows_of
from coread.provenance import file_sha256
from coread.recording import Recording, digest_path, read_recording
from coread.report.analyses import (
    AnalysisContents,
    Figure,
    collect_analysis,
    collect_consistency,
    collect_truth,
    embedded_figure,
)
from coread.report.loss_terms import loss_term_table
from coread.report.tables import Table, make_table, summary_rows

FIGURES = {
    "score_distribution": "Scores",
    "traces": "Recorded and predicted responses",
    "image_responses": "Recorded and predicted responses",
    "receptive_fields": "Receptive fields",
    "truth_cosine": "Receptive fields against the truth",
    "gain": "Learned gain over time",
    "history_kernels": "Learned history kernels",
    "state_loadings": "Learned loadings on the network's state",
    "shifter": "Learned shifts with the eye",
    "retinotopy": "Learned retinotopy",
    "learning_curves": "Learning curves",
}
HEADLINE = {
    "correlation_to_average": "correlation to average",
    "fraction_of_ceiling": "fraction of the noise ceiling",
    "feve": "FEVE",
}
NEURON_METRICS = ["single_trial_correlation", "correlation_to_average", "fraction_of_ceiling", "feve"]
FIELD_COLUMNS = ["polarity", "diameter_um", "diameter_px", "latency_s", "biphasic_index", "truth_cosine"]


class Headline(NamedTuple):
    """One number at the top of an experiment."""

    label: str
    value: str
    detail: str


@dataclass(frozen=True)
class ExperimentContents:
    """Everything the template shows of one experiment."""

    name: str
    sentences: list[str]
    headlines: list[Headline]
    recordings: Table
    quality: Table | None
    members: Table
    loss_terms: Table | None
    summary: Table
    neurons: Table
    figures: list[Figure]
    analyses: list[AnalysisContents]
    configs: list[tuple[str, str]]
    files: Table


def collect_experiment(
    name: str,
    results_dir: Path,
    recordings: Sequence[Path],
    members: Sequence[Path],
    summary: pd.DataFrame,
    analyses: Sequence[str] = (),
) -> ExperimentContents:
    """Read the files of one experiment and of its in-silico analyses; `summary` is that of all experiments."""
    folder = results_dir / name
    sessions = [read_recording(path, load_frames=False, load_responses=False, check=False) for path in recordings]
    scores = read_scores(folder / "scores.csv")
    fields_path = folder / "receptive_fields.csv"
    fields = pd.read_csv(fields_path, dtype={"unit_id": str}) if fields_path.exists() else None
    own = summary[summary["experiment"] == name]
    configs = _config_paths(folder, recordings, analyses)
    produced = [folder / "scores.csv", *([fields_path] if fields is not None else [])]
    produced += [folder / f"{analysis}.{suffix}" for analysis in analyses for suffix in ("csv", "h5")]
    predictions = [path.with_name("predictions.h5") for path in members]
    return ExperimentContents(
        name=name,
        sentences=_sentences(sessions, members, configs),
        headlines=_headlines(own),
        recordings=_recording_table(sessions),
        quality=_quality_table(sessions),
        members=_member_table(members),
        loss_terms=loss_term_table(members),
        summary=summary_rows(own),
        neurons=_neuron_table(scores, fields),
        figures=_figures(folder / "figures"),
        analyses=[collect_analysis(folder, analysis) for analysis in analyses] + _comparisons(folder),
        configs=[(title, path.read_text(encoding="utf-8")) for title, path in configs.items()],
        files=_file_table(results_dir, recordings, [*configs.values(), *members, *predictions, *produced]),
    )


def _comparisons(folder: Path) -> list[AnalysisContents]:
    """Return how the analyses compare between members and with a known truth, as far as that is known."""
    found = (collect_consistency(folder), collect_truth(folder))
    return [contents for contents in found if contents is not None]


def _config_paths(folder: Path, recordings: Sequence[Path], analyses: Sequence[str]) -> dict[str, Path]:
    """Return the settings behind one experiment by title: of its dataset, of every stage and in-silico analysis."""
    of_data = recordings[0].with_name("config.yaml")
    stages = {path.stem: path for path in sorted((folder / "config").glob("*.yaml"))}
    insilico = {f"insilico: {name}": folder / "config" / "insilico" / f"{name}.yaml" for name in analyses}
    return ({"data": of_data} if of_data.exists() else {}) | stages | insilico


def _sentences(sessions: Sequence[Recording], members: Sequence[Path], configs: Mapping[str, Path]) -> list[str]:
    first = sessions[0]
    subject = " ".join(part for part in (first.species, first.area) if part)
    n_neurons = sum(session.n_neurons for session in sessions)
    said = [
        f"Dataset {first.dataset}{f' ({subject})' if subject else ''}: {n_neurons} neurons in {len(sessions)} "
        f"{'session' if len(sessions) == 1 else 'sessions'}, {first.unit} at {first.rate_hz:.4g} bins per second."
    ]
    settings = yaml.safe_load(configs["train"].read_text(encoding="utf-8")) if "train" in configs else {}
    model = settings.get("model", {})
    if model:
        parts = [str(model[part]["_target_"]).rsplit(".", 1)[-1] for part in ("core", "readout") if part in model]
        described = f" ({' with '.join(parts)})" if parts else ""
        count = f"{len(members)} {'member' if len(members) == 1 else 'members'}"
        name = str(model.get("_target_", "")).rsplit(".", 1)[-1]
        said.append(f"Model {name}{described}; {count} (folds and seeds), whose mean prediction is the ensemble.")
    return said


def _headlines(summary: pd.DataFrame) -> list[Headline]:
    """Return the ensemble's mean of the main metrics on every test stimulus."""
    chosen = summary[(summary["predictor"] == ENSEMBLE) & (summary["tier"] != "validation")]
    order = {metric: rank for rank, metric in enumerate(HEADLINE)}
    usable = [row for row in rows_of(chosen) if row.metric in HEADLINE and np.isfinite(row.mean)]
    return [
        Headline(
            f"{HEADLINE[row.metric]}, {row.stimulus}",
            f"{row.mean:.3f}",
            f"95 % interval {row.ci_low:.3f} to {row.ci_high:.3f}, median {row.median:.3f}, n\u00a0=\u00a0{row.n}",
        )
        for row in sorted(usable, key=lambda row: (row.stimulus, order[row.metric]))
    ]


def _recording_table(sessions: Sequence[Recording]) -> Table:
    rows = []
    for session in sessions:
        tier = session.bin_column("tier").astype(str)
        tested = session.trials[session.trials["tier"].isin(["test", "final_test"])]
        repeats = tested.groupby("stimulus").size()
        rows.append(
            {
                "session": session.session,
                "neurons": session.n_neurons,
                "bins": session.n_bins,
                "training bins": int(np.isin(tier, ("train", "validation")).sum()),
                "test bins": int(np.isin(tier, ("test", "final_test")).sum()),
                "masked bins": int((~session.valid).sum()),
                "test trials": ", ".join(f"{name}: {count}" for name, count in repeats.items()),
                "frame (channel, height, width)": " or ".join(
                    sorted({" x ".join(map(str, stimulus.frames.shape[1:])) for stimulus in session.stimuli.values()})
                ),
            }
        )
    return make_table(pd.DataFrame(rows))


def _quality_table(sessions: Sequence[Recording]) -> Table | None:
    """Return what every quality filter removed, all sessions together first; None where cells were not filtered.

    From the recordings themselves: a table beside them may be left from settings with other filters.
    """
    table = tabulate(sessions)
    if table.empty:
        return None
    table = pd.concat([table[table["session"] == ALL_SESSIONS], table[table["session"] != ALL_SESSIONS]])
    named = table.rename(columns={"n_before": "cells before", "n_removed": "removed", "n_kept": "left"})
    caption = (
        "Quality filters, in the order in which they were applied; each counts the cells that the ones before left. A "
        "session in which no cell passes is no recording: its cells are in no row, the sums included."
    )
    return make_table(named, caption=caption, filterable=True)


def _member_table(members: Sequence[Path]) -> Table:
    rows = []
    for path in members:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        history = pd.DataFrame(content["history"])
        # a member that was never trained has no history
        best = history.iloc[int(history["val_correlation"].argmax())] if len(history) else pd.Series(dtype=float)
        rows.append(
            {
                "member": f"fold{content['fold']}_seed{content['seed']}",
                "parameters": sum(int(values.numel()) for values in content["state_dict"].values()),
                "epochs": len(history),
                "best epoch": best.get("epoch", np.nan) + 1,
                "validation correlation": best.get("val_correlation", np.nan),
                "training time (s)": float(history["seconds"].sum()) if len(history) else np.nan,
                "coread": str(content["coread_version"]),
            }
            | {str(name): str(value) for name, value in content["data_info"].get("trained_with", {}).items()}
        )
    caption = (
        "Validation correlation: mean over neurons of the correlation over all validation bins in the best epoch, "
        "which was chosen by this very number, so that it is optimistic. The last columns say what each member was "
        "trained with: the versions of coread and torch, the device and the precision, as far as the member records "
        "them."
    )
    formats = {"training time (s)": lambda value: f"{value:.1f}", "best epoch": lambda value: f"{value:.0f}"}
    return make_table(pd.DataFrame(rows), formats, caption)


def _neuron_table(scores: pd.DataFrame, fields: pd.DataFrame | None) -> Table:
    """Return one row per neuron and test stimulus: the ensemble's scores beside the receptive field."""
    key = ["session", "unit_id", "cell_type", "stimulus", "included"]
    tested = scores[scores["tier"] != "validation"]
    # a neuron may be left out of some metrics only
    everywhere = tested.groupby(["session", "neuron", "stimulus"], sort=False)["included"].transform("min")
    tested = tested.assign(included=everywhere.astype(bool))
    ensemble = tested[(tested["predictor"] == ENSEMBLE) & tested["metric"].isin(NEURON_METRICS)]
    data = tested[(tested["predictor"] == DATA) & tested["metric"].isin(["noise_ceiling", "explainable_variance"])]
    wide = pd.concat([ensemble, data]).pivot_table(
        index=[*key, "neuron"],
        columns="metric",
        values="value",
        sort=False,
        dropna=False,
        observed=True,
        aggfunc="first",
    )
    wide = wide.dropna(how="all").reset_index()
    columns = [*key, *(name for name in [*NEURON_METRICS, "noise_ceiling", "explainable_variance"] if name in wide)]
    if fields is not None:
        extra = [name for name in FIELD_COLUMNS if name in fields and fields[name].notna().any()]
        wide = wide.merge(fields[["session", "neuron", *extra]], on=["session", "neuron"], how="left")
        columns += [name for name in extra if not (name == "diameter_px" and "diameter_um" in extra)]
    if (wide["cell_type"] == "").all():
        columns.remove("cell_type")
    formats: dict[str, Any] = {
        "polarity": lambda value: {1: "ON", -1: "OFF"}.get(int(value), ""),
        "diameter um": lambda value: f"{value:.0f}",
        "diameter px": lambda value: f"{value:.1f}",
    }
    named = wide[columns].rename(columns=lambda name: str(name).replace("_", " "))
    caption = (
        "Ensemble scores of every neuron; what each column means stands under Definitions. Included: in the means of "
        "all metrics; neurons with too little explainable variance are left out of some or all."
    )
    return make_table(named, formats, caption, filterable=True)


def _figures(folder: Path) -> list[Figure]:
    figures = []
    for name, title in FIGURES.items():
        if (folder / f"{name}.png").exists():
            figures.append(embedded_figure(folder / name, title))
    return figures


def _file_table(results_dir: Path, recordings: Sequence[Path], produced: Sequence[Path]) -> Table:
    """Return the sha256 of every file that decides the numbers: of recordings, the digest of their content."""
    rows = [(path, digest_path(path)) for path in recordings]
    known = [(path, sidecar.read_text().strip() if sidecar.exists() else file_sha256(path)) for path, sidecar in rows]
    known += [(path, file_sha256(path)) for path in produced if path.exists()]
    frame = pd.DataFrame([(_relative(path, results_dir), digest) for path, digest in known], columns=["file", "sha256"])
    return make_table(frame, caption="For recordings: sha256 of their content, however HDF5 packs it.")


def _relative(path: Path, folder: Path) -> str:
    """Return a path below the results, so that the report names no folder of this machine."""
    absolute, base = path.resolve(), folder.resolve()
    return str(absolute.relative_to(base)) if absolute.is_relative_to(base) else path.name
