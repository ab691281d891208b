"""Comparisons of experiments with a baseline, as the report shows them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from coread.eval.comparison import Comparison, printed_tables, read_comparison
from coread.eval.settings import EvaluationSettings
from coread.report.tables import Table, make_table


class ShownComparison(NamedTuple):
    """The title of a comparison and its tables: of all sessions pooled, and by session where there are several."""

    name: str
    title: str
    tables: list[Table]


def collect_comparisons(results_dir: Path, comparisons: Mapping[str, Mapping[str, Any]]) -> list[ShownComparison]:
    """Read `tables/comparison_<name>.csv` of every comparison; `comparisons` is what configs/workflow.yaml says."""
    shown = []
    for name, config in comparisons.items():
        comparison = Comparison.from_config(name, config)
        settings = _settings(results_dir / comparison.baseline / "config" / "evaluate.yaml")
        table = read_comparison(results_dir / "tables" / f"comparison_{name}.csv")
        printed = printed_tables(comparison, table, settings)
        tables = [make_table(frame, caption=caption) for frame, caption, _ in printed]
        shown.append(ShownComparison(name, comparison.title, tables))
    return shown


def _settings(path: Path) -> EvaluationSettings:
    return EvaluationSettings.from_config(yaml.safe_load(path.read_text(encoding="utf-8"))["evaluation"])
