"""What was measured: benchmarks/results.csv, one row per measured value, and benchmarks/results.md, made from it.

A benchmark that runs again on such a machine replaces its rows; every row says on which commit, machine and versions it
was measured.
"""

import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import psutil

from coread.provenance import write_text

HERE = Path(__file__).resolve().parent
TABLE, PAGE = HERE / "results.csv", HERE / "results.md"
FIGURES = "docs/figures/"
ABOUT = ("commit", "date", "machine", "versions")
COLUMNS = ["benchmark", "case", "system", "quantity", "unit", "value", *ABOUT]
OURS = "coread"


class Benchmark(NamedTuple):
    """One script and what of its table is kept."""

    title: str
    command: tuple[str, ...]  # script and arguments; --output FILE.csv is added
    quantities: Mapping[str, str]  # columns of values, and their units
    cases: tuple[str, ...] = ()  # columns that tell cases apart, beside "system"
    peer: str | None = None  # whose environment it needs; <peer>/compare.py makes it
    takes_device: bool = False  # whether the script has --device


def tidy(table: pd.DataFrame, name: str, benchmark: Benchmark) -> pd.DataFrame:
    """Return one row per value of a script's table; values that are missing are left out."""
    case = table[list(benchmark.cases)].astype(str).agg(", ".join, axis=1) if benchmark.cases else ""
    named = table.assign(benchmark=name, case=case, system=table.get("system", OURS))
    long = named.melt(["benchmark", "case", "system"], list(benchmark.quantities), "quantity", "value")
    return long.assign(unit=long["quantity"].map(benchmark.quantities)).dropna(subset="value").astype({"value": float})


def known() -> pd.DataFrame:
    """Return all values that were measured so far."""
    if not TABLE.exists():
        return pd.DataFrame(columns=COLUMNS)
    return pd.read_csv(TABLE, keep_default_na=False, na_values={"value": [""]}, dtype={"case": str, "commit": str})


def record(rows: pd.DataFrame) -> None:
    """Put measured values in place of those that the same benchmarks left before on such a machine."""
    before, facts = known(), about()
    others = before[~(before["benchmark"].isin(rows["benchmark"]) & (before["machine"] == facts["machine"]))]
    table = pd.concat([others, rows.assign(**facts)[COLUMNS]]).astype({"value": float})
    write_text(TABLE, table.to_csv(index=False, float_format="%.6g"))


def about() -> dict[str, str]:
    """Return commit, date, machine and versions."""
    git = ["git", "-C", str(HERE)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    ours = (f"{HERE.name}/{TABLE.name}", f"{HERE.name}/{PAGE.name}", FIGURES)  # what earlier benchmarks of a run wrote
    edited = any(not line[3:].startswith(ours) for line in changed.stdout.splitlines())
    packages = ("torch", "pytorch-lightning", "numpy", "snakemake")
    return {
        "commit": commit.stdout.strip() + (" with changes" if edited else ""),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": ", ".join(
            [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)]
        ),
    }


def machine() -> str:
    """Return processor, cores, memory and accelerator."""
    import torch

    names = [line.partition(":")[2].strip() for line in _cpu_lines() if line.startswith("model name")]
    memory_gb = psutil.virtual_memory().total / 1e9
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    cores = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else psutil.cpu_count()
    return f"{(names or [platform.processor()])[0]}, {cores} cores, {memory_gb:.0f} GB, {accelerator}"


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def page(table: pd.DataFrame, benchmarks: Mapping[str, Benchmark]) -> str:
    """Return the page: one table per benchmark, in the order in which they are listed."""
    parts = [
        "# Measured speed and memory",
        "Made by `make bench` from `results.csv`, which has every single value. A cell is the median, in brackets the "
        "lowest and the highest of its runs; a ratio is the other system's median over coread's.",
    ]
    for name, benchmark in benchmarks.items():
        rows = table[table["benchmark"] == name]
        parts += [f"## {name}", f"{benchmark.title} (`{' '.join(benchmark.command)}`)."]
        if rows.empty:
            parts.append("Not run.")
            continue
        for _, of_machine in rows.groupby("machine", sort=False):
            facts = "; ".join(f"{key}: {' / '.join(of_machine[key].unique())}" for key in ABOUT)
            parts += [_section(of_machine), facts]
    return "\n\n".join(parts) + "\n"


def _section(rows: pd.DataFrame) -> str:
    systems: Sequence[str] = sorted(rows["system"].unique(), key=lambda name: (name != OURS, name))
    others = [name for name in systems if name != OURS]
    header = ["case", "quantity", *systems, *(f"{name} / {OURS}" for name in others if OURS in systems), "runs"]
    lines = [header, ["---"] * 2 + ["---:"] * (len(header) - 2)]
    for (case, quantity, unit), group in rows.groupby(["case", "quantity", "unit"], sort=False):
        values = {name: group.loc[group["system"] == name, "value"].to_numpy(float) for name in systems}
        ratios = [_ratio(values[name], values[OURS]) for name in others if OURS in systems]
        runs = "/".join(str(len(values[name])) for name in systems)
        what = quantity.replace("_", " ") + (f" ({unit})" if unit else "")
        lines.append([case, what, *(_spread(values[name]) for name in systems), *ratios, runs])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _spread(values: np.ndarray) -> str:
    if len(values) == 0:
        return ""
    median = f"{np.median(values):.3g}"
    return median if len(values) == 1 else f"{median} [{values.min():.3g}, {values.max():.3g}]"


def _ratio(theirs: np.ndarray, ours: np.ndarray) -> str:
    if len(theirs) == 0 or len(ours) == 0 or np.median(ours) == 0:
        return ""
    return f"{np.median(theirs) / np.median(ours):.3g}"
