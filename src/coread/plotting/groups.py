"""Which neurons a figure of an experiment shows, and in which groups."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Int

from coread.insilico.experiment import ExperimentResult


def joined_table(results: Mapping[str, ExperimentResult]) -> pd.DataFrame:
    """Return the rows of all sessions, numbered anew."""
    return pd.concat([result.table for result in results.values()], ignore_index=True)


def group_names(table: pd.DataFrame) -> tuple[list[str], np.ndarray]:
    """Return the cell types and every neuron's; without cell types one group, "all neurons"."""
    kind = table["cell_type"].astype(str).to_numpy() if "cell_type" in table else np.full(len(table), "all neurons")
    return sorted(set(kind)), kind


def evenly_chosen(table: pd.DataFrame, n_chosen: int) -> Int[np.ndarray, "chosen"]:
    """Return rows of a table that lie evenly along session, cell type and neuron."""
    order = [column for column in ("session", "cell_type", "neuron") if column in table]
    rows = table.sort_values(order, kind="stable").index.to_numpy()
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(n_chosen, len(rows))).round().astype(int))]
