"""The report: all results of all experiments in one self-contained HTML file."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from coread.provenance import code_version, library_versions, machine, write_text
from coread.report.campaign import collect_campaign
from coread.report.comparison import collect_comparisons
from coread.report.contents import collect_experiment
from coread.report.tables import difference_rows, overview_rows

__all__ = ["write_report"]


def write_report(
    path: Path,
    experiments: Sequence[str],
    results_dir: Path,
    recordings: Mapping[str, Sequence[Path]],
    members: Mapping[str, Sequence[Path]],
    attempts: pd.DataFrame | None = None,
    comparisons: Mapping[str, Mapping[str, Any]] | None = None,
    analyses: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write the report of the given experiments, atomically; it makes no request to any other file or host.

    `recordings` and `members` list the files of each experiment; the settings of its dataset are the `config.yaml`
    beside the recordings, which say what quality filters removed. Everything else is read from its place below
    `results_dir`: `{experiment}/{scores.csv, receptive_fields.csv, config/*.yaml, figures/*}` and `tables/*.csv`, of
    the in-silico `analyses` named for an experiment `{experiment}/{analysis}.{csv,h5}` with their figures. What
    an experiment does not have is left out, and so is the section on jobs without `attempts`, their table
    (`coread.attempts.read_attempts`). `comparisons` are those of configs/workflow.yaml that were written. Raises
    OSError or ValueError that names a damaged file.
    """
    summary = pd.read_csv(results_dir / "tables" / "scores.csv")
    differences = pd.read_csv(results_dir / "tables" / "differences.csv")
    page = (
        _environment()
        .get_template("template.html")
        .render(
            experiments=[
                collect_experiment(
                    name, results_dir, recordings[name], members[name], summary, (analyses or {}).get(name, ())
                )
                for name in experiments
            ],
            overview=overview_rows(summary),
            differences=difference_rows(differences),
            comparisons=collect_comparisons(results_dir, comparisons or {}),
            campaign=None if attempts is None else collect_campaign(attempts),
            created=datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
            code=code_version(),
            libraries=library_versions(),
            machine=machine(),
        )
    )
    write_text(path, page)


def _environment() -> jinja2.Environment:
    folder = resources.files("coread.report")
    sources = {name: (folder / name).read_text(encoding="utf-8") for name in ("template.html", "page.css", "page.js")}
    return jinja2.Environment(
        loader=jinja2.DictLoader(sources),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
