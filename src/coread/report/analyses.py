"""What the report says about the in-silico analyses of an experiment, and how they compare with a known truth."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml

from coread.insilico.experiment import read_provenance
from coread.plotting.analyses import INDEX
from coread.plotting.style import DPI, FULL_WIDTH_IN
from coread.report.tables import Table, make_table

SPREAD, UNCERTAIN = "_sd_members", "_uncertain"
UNITS = {"s": "s", "ms": "ms", "hz": "Hz", "um": "µm", "px": "px", "deg": "°", "rad": "rad", "cpd": "cycles/°"}
SHOWN = {"figure": ("png", "image/png"), "movie": ("gif", "image/gif")}  # suffix and type of what is embedded
TRUTH, CONSISTENCY = "insilico/truth", "insilico/consistency"


class Figure(NamedTuple):
    """An embedded image with its caption; a movie keeps the size of its file."""

    name: str
    title: str
    caption: str
    image: str
    is_movie: bool = False
    width_percent: float = 100.0  # of the page, which is as wide as two columns of a journal


@dataclass(frozen=True)
class AnalysisContents:
    """Everything the template shows of one analysis."""

    name: str
    title: str
    sentence: str
    figures: list[Figure]
    tables: list[Table]
    origin: str


def embedded_figure(path: Path, title: str, kind: str = "figure") -> Figure:
    """Return the figure or movie `<path>.png` or `.gif` with its caption `<path>.txt`; raises OSError."""
    suffix, media_type = SHOWN[kind]
    content = path.with_name(f"{path.name}.{suffix}").read_bytes()
    encoded = base64.b64encode(content).decode()
    caption = path.with_name(f"{path.name}.txt").read_text(encoding="utf-8").strip()
    width = 100.0 if kind == "movie" else 100 * int.from_bytes(content[16:20], "big") / (FULL_WIDTH_IN * DPI)
    return Figure(path.name, title, caption, f"data:{media_type};base64,{encoded}", kind == "movie", min(width, 100.0))


def collect_analysis(folder: Path, name: str) -> AnalysisContents:
    """Read one analysis of the experiment in `folder`; raises OSError or ValueError that names a damaged file."""
    neurons = pd.read_csv(folder / f"{name}.csv", dtype={"unit_id": str, "cell_type": str})
    origin = read_provenance(folder / f"{name}.h5")
    figures = folder / "insilico" / name / "figures"
    listed = pd.read_csv(figures / INDEX, dtype=str)
    n_members, n_sessions = len(origin["members"]), neurons["session"].nunique()
    return AnalysisContents(
        name,
        _words(name),
        f"{_count(len(neurons), 'neuron')} in {_count(n_sessions, 'session')}, {_count(n_members, 'member')}; "
        f"computed by {origin['settings']['_target_']}.",
        [embedded_figure(figures / each, _words(each), kind) for each, kind in listed.itertuples(index=False)],
        [neuron_table(neurons)],
        yaml.safe_dump(origin, sort_keys=True, allow_unicode=True),
    )


def neuron_table(neurons: pd.DataFrame) -> Table:
    """Return one row per neuron; the spread of a value over members, and whether they disagree, stand below it."""
    told = {
        str(column): [f"{column}{ending}" for ending in (SPREAD, UNCERTAIN) if f"{column}{ending}" in neurons]
        for column in neurons
    }
    values = neurons.drop(columns=[name for names in told.values() for name in names])
    formats: dict[str, Callable[[Any], str]] = {
        str(column): _three_digits for column in values if values[column].dtype.kind == "f"
    }
    caption = "One row per neuron."
    if any(neurons[name].notna().any() for names in told.values() for name in names if name.endswith(SPREAD)):
        caption += " Small, below a value: standard deviation over members, and `uncertain` where members disagree."
    table = make_table(values, formats, caption, filterable=True)
    for index, column in enumerate(table.columns):
        for name in told[column]:
            _add_details(table, index, neurons[name])
    return table._replace(columns=[_column(column) for column in table.columns])


def _add_details(table: Table, column: int, told: pd.Series) -> None:
    """Add the spread of a column's values, or that they are uncertain, below them."""
    for row, value in zip(table.rows, told.tolist(), strict=False):  # a long table shows its first rows
        cell = row[column]
        if told.dtype == bool:
            text = "uncertain" if value else ""
        else:
            text = f"± {_three_digits(value)}" if np.isfinite(value) and cell.text else ""
        row[column] = cell._replace(detail=", ".join(part for part in (cell.detail, text) if part))


def collect_consistency(folder: Path) -> AnalysisContents | None:
    """Read how much the members of an experiment agree in its analyses; None where they were not compared."""
    path = folder / CONSISTENCY / "comparison.csv"
    if not path.exists():
        return None
    table = pd.read_csv(path)
    n_uncertain = int(table["uncertain"].astype(bool).sum())
    formats = {str(column): _three_digits for column in table if table[column].dtype.kind == "f"}
    named = table.rename(columns=lambda name: str(name).replace("_", " "))
    caption = (
        "One row per quantity; icc: agreement of single members about neurons (intraclass correlation, "
        "Shrout & Fleiss 1979), 1 where they agree; consistent share: neurons whose spread over members is small "
        "against the spread over neurons."
    )
    shown = make_table(named, {key.replace("_", " "): form for key, form in formats.items()}, caption, filterable=True)
    return AnalysisContents(
        "consistency",
        "Consistency over members",
        f"{len(table)} {_plural(len(table), 'quantity', 'quantities')} of all analyses; {n_uncertain} "
        f"{_plural(n_uncertain, 'differs between members and is', 'differ between members and are')} uncertain.",
        [embedded_figure(path.with_suffix(""), "Consistency over members")],
        [shown],
        "",
    )


def collect_truth(folder: Path) -> AnalysisContents | None:
    """Read how the analyses of an experiment compare with the truth; None where nothing is known of it."""
    path = folder / TRUTH / "comparison.csv"
    texts = {"unit_id": str, "cell_type": str, "unit": str}
    table = pd.read_csv(path, dtype=texts) if path.exists() else pd.DataFrame()
    if table.empty:
        return None
    table = table.assign(unit=table["unit"].fillna(""), passed=table["passed"].astype(bool))
    missed = int((~table["passed"]).sum())
    figure = [embedded_figure(path.with_suffix(""), "Found against true")] if path.with_suffix(".png").exists() else []
    return AnalysisContents(
        "truth",
        "Comparison with the truth",
        f"{len(table)} quantities of {table[['session', 'neuron']].drop_duplicates().shape[0]} simulated neurons whose "
        f"tuning is known; {missed} {_plural(missed, 'misses its', 'miss their')} tolerance.",
        figure,
        [_summary_of_truth(table), _cells_against_truth(table)],
        "",
    )


def _summary_of_truth(table: pd.DataFrame) -> Table:
    rows = []
    for (analysis, quantity), group in table.groupby(["analysis", "quantity"], sort=False):
        error = group["error"].abs()
        rows.append(
            {
                "analysis": str(analysis),
                "quantity": str(quantity).replace("_", " "),
                "unit": group["unit"].iloc[0],
                "within": f"{int(group['passed'].sum())} of {len(group)}",
                "median error": error.median(),
                "largest error": error.max(),
                "tolerance": group["tolerance"].median(),
                "not found": int(group["found"].isna().sum()),
            }
        )
    numbers: dict[str, Any] = dict.fromkeys(("median error", "largest error", "tolerance"), _three_digits)
    caption = "Within: neurons whose error is at most the tolerance; a value that was not found is not."
    return make_table(pd.DataFrame(rows), numbers, caption)


def _cells_against_truth(table: pd.DataFrame) -> Table:
    ordered = table.sort_values("passed", kind="stable").rename(columns={"passed": "within"})
    columns = ["session", "neuron", "unit_id", "cell_type", "analysis", "quantity"]
    columns += ["truth", "found", "error", "tolerance", "unit", "within"]
    shown = ordered[[column for column in columns if column in ordered]]
    numbers: dict[str, Any] = dict.fromkeys(("truth", "found", "error", "tolerance"), _three_digits)
    named = shown.rename(columns=lambda name: str(name).replace("_", " "))
    return make_table(named, numbers, "Every neuron, those that miss their tolerance first.", filterable=True)


def _three_digits(value: float) -> str:
    return f"{value:.3g}"


def _words(name: str) -> str:
    text = name.replace("_", " ")
    return text[:1].upper() + text[1:]


def _count(n: int, noun: str) -> str:
    return f"{n} {_plural(n, noun, f'{noun}s')}"


def _plural(n: int, one: str, several: str) -> str:
    return one if n == 1 else several


def _column(name: str) -> str:
    """Return the name of a column in words, its unit in brackets: `latency_s` is latency (s)."""
    words, _, last = name.rpartition("_")
    return f"{words.replace('_', ' ')} ({UNITS[last]})" if words and last in UNITS else name.replace("_", " ")
