"""Quality filters: named steps, one after another, on a table of cells; how many each removed is kept with the session.

    quality_filters:
      - {step: cell_type, one_of: {group_assignment: [1, 2, 3]}}
      - {step: response_quality, at_least: {d_qi: 0.6, chirp_qi: 0.35}, logic: or}
      - {step: n_cells, more_cells_than: 10}

A list, because the order decides how many cells are counted at which step, not which are left.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from coread.data_io.readers.parameters import parse_parameters
from coread.recording import Recording

COLUMNS = ("step", "n_before", "n_removed")
LOGICS = ("and", "or")
ALL_SESSIONS = "all sessions"


class QualityFilterError(ValueError):
    """A filter cannot be applied as configured; the message names the step."""


@dataclass(frozen=True)
class QualityStep:
    """One step: `one_of` and `at_least` judge every cell, `more_cells_than` the session as a whole.

    A cell passes `one_of` if each named column holds one of its listed values, and `at_least` if the named columns
    reach their thresholds, all of them (`logic: and`) or any of them (`or`). A value that is not a number passes no
    threshold. `more_cells_than` keeps all cells of a session that has more than so many left, and none otherwise.
    """

    step: str
    one_of: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    at_least: Mapping[str, float] = field(default_factory=dict)
    logic: str = "and"
    more_cells_than: int | None = None

    def __post_init__(self) -> None:
        if self.logic not in LOGICS:
            raise QualityFilterError(
                f"quality filter {self.step!r}: logic is one of {list(LOGICS)}, not {self.logic!r}"
            )
        if not self.one_of and not self.at_least and self.more_cells_than is None:
            raise QualityFilterError(f"quality filter {self.step!r}: needs one_of, at_least or more_cells_than")

    def passes(self, cells: pd.DataFrame) -> Bool[np.ndarray, "cell"]:
        """Return which of these cells pass; raises QualityFilterError for a column that the table does not have."""
        if absent := sorted({*self.one_of, *self.at_least} - set(cells.columns)):
            raise QualityFilterError(
                f"quality filter {self.step!r}: there is no {absent[0]!r} of the cells, only {sorted(cells.columns)}"
            )
        passed = np.full(len(cells), self.more_cells_than is None or len(cells) > self.more_cells_than)
        for column, values in self.one_of.items():
            passed &= np.isin(cells[column].to_numpy(), list(values))
        if self.at_least:
            reached = [cells[column].to_numpy() >= threshold for column, threshold in self.at_least.items()]
            passed &= (np.logical_and if self.logic == "and" else np.logical_or).reduce(reached)
        return passed


def parse_steps(filters: Sequence[Mapping[str, Any]] | None) -> list[QualityStep]:
    """Return the steps of a `quality_filters` list; raises ValueError for unknown keys and for names used twice."""
    steps = [
        parse_parameters(QualityStep, entry, f"data_io.quality_filters[{index}]")
        for index, entry in enumerate(filters or [])
    ]
    names = [step.step for step in steps]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise QualityFilterError(f"data_io.quality_filters names the step {twice[0]!r} twice")
    return steps


def filter_cells(
    cells: pd.DataFrame, steps: Sequence[QualityStep]
) -> tuple[Int[np.ndarray, "kept_cell"], pd.DataFrame]:
    """Apply the steps in order to a table with one row per cell.

    Returns the positions of the cells that pass them all, and the table (step, n_before, n_removed). Raises
    QualityFilterError for a column that the table does not have.
    """
    kept = np.arange(len(cells))
    counts = []
    for step in steps:
        passed = step.passes(cells.iloc[kept])
        counts.append((step.step, len(kept), int((~passed).sum())))
        kept = kept[passed]
    return kept, pd.DataFrame(counts, columns=list(COLUMNS))


def session_info_of(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return the counts of a session as entries of `Recording.session_info`."""
    return {
        "quality_step": table["step"].to_numpy(dtype=object),
        "quality_n_before": table["n_before"].to_numpy(dtype=np.int64),
        "quality_n_removed": table["n_removed"].to_numpy(dtype=np.int64),
    }


def tabulate(recordings: Sequence[Recording]) -> pd.DataFrame:
    """Return (session, step, n_before, n_removed, n_kept) of all sessions, and their sums as session ALL_SESSIONS.

    Steps keep the order in which they were applied; recordings without filters do not appear. Nor do sessions in which
    no cell passes, because they are no recordings: the sums are of the sessions that were kept.
    """
    counts = {each.session: each.session_info for each in recordings if "quality_step" in each.session_info}
    return tabulate_counts(counts)


def tabulate_counts(counts: Mapping[str, Mapping[str, np.ndarray]]) -> pd.DataFrame:
    """Return the same table from what `session_info_of` says of every session."""
    tables = [
        pd.DataFrame({"session": session} | {name: info[f"quality_{name}"] for name in COLUMNS})
        for session, info in counts.items()
    ]
    if not tables:
        return pd.DataFrame(columns=["session", *COLUMNS, "n_kept"])
    table = pd.concat(tables, ignore_index=True)
    total = table.groupby("step", sort=False)[["n_before", "n_removed"]].sum().reset_index()
    table = pd.concat([table, total.assign(session=ALL_SESSIONS)], ignore_index=True)
    return table.assign(n_kept=table["n_before"] - table["n_removed"])
