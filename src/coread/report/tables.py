"""Tables of the report: text to read beside the number to sort by."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from coread.eval.scores import DATA, ENSEMBLE
from coread.eval.tables import DATA_METRICS, MODEL_METRICS, PAIRED_NOTE, VALIDATION_NOTE, rows_of

MAX_ROWS = 2000


class Cell(NamedTuple):
    """What a cell shows, its value for sorting (None: sort by the text), and a second, smaller line."""

    text: str
    value: float | None = None
    detail: str = ""


class Table(NamedTuple):
    """A table of the report; `numeric` says which columns are aligned right."""

    columns: list[str]
    numeric: list[bool]
    rows: list[list[Cell]]
    caption: str = ""
    filterable: bool = False


def make_table(
    frame: pd.DataFrame,
    formats: dict[str, Callable[[Any], str]] | None = None,
    caption: str = "",
    *,
    filterable: bool = False,
) -> Table:
    """Turn a data frame into a table: numbers get three decimals unless `formats` says otherwise."""
    formats = formats or {}
    numeric = [frame[column].dtype.kind in "iuf" for column in frame.columns]
    shown = frame.head(MAX_ROWS)
    columns = [_cells(shown[column].tolist(), formats.get(str(column))) for column in frame.columns]
    if len(frame) > MAX_ROWS:
        caption += f" The first {MAX_ROWS} of {len(frame)} rows are shown."
    rows = [list(row) for row in zip(*columns, strict=True)]
    return Table([str(column) for column in frame.columns], numeric, rows, caption, filterable)


def _cells(values: Sequence[Any], form: Callable[[Any], str] | None) -> list[Cell]:
    return [_cell(value, form) for value in values]


def _cell(value: Any, form: Callable[[Any], str] | None) -> Cell:
    if not isinstance(value, (int, float, np.integer, np.floating)) or isinstance(value, bool):
        return Cell("yes" if value is True else "no" if value is False else str(value))
    if not np.isfinite(value):
        return Cell("", float("-inf"))
    text = form(value) if form else f"{value:,}" if isinstance(value, (int, np.integer)) else f"{value:.3f}"
    return Cell(text, float(value))


def with_interval(row: Any, n: int) -> Cell:
    """Show the mean of a summary's row with its 95 % interval; its own number of neurons where that is not n."""
    if row is None or not np.isfinite(row.mean):
        return Cell("", float("-inf"))
    interval = f"{row.ci_low:.3f} to {row.ci_high:.3f}" if np.isfinite(row.ci_low) else ""
    count = f"n\u00a0=\u00a0{row.n}" if row.n != n else ""
    return Cell(f"{row.mean:.3f}", float(row.mean), "\n".join(part for part in (interval, count) if part))


def overview_rows(summary: pd.DataFrame) -> Table:
    """Return the ensembles of all experiments: mean and interval of every metric on every test stimulus."""
    metrics = MODEL_METRICS | DATA_METRICS
    tested = summary[summary["tier"] != "validation"]
    values = {
        (row.experiment, row.stimulus, row.metric): row
        for row in rows_of(tested[tested["predictor"].isin([ENSEMBLE, DATA])])
    }
    rows = []
    places = tested[tested["predictor"] == ENSEMBLE][["experiment", "stimulus"]].drop_duplicates()
    for experiment, stimulus in places.itertuples(index=False, name=None):
        counts = values[experiment, stimulus, "correlation_to_average"]
        n, n_excluded = counts.n + counts.n_undefined, counts.n_excluded
        cells = [with_interval(values.get((experiment, stimulus, metric)), n) for metric in metrics]
        numbers = [Cell(str(count), float(count)) for count in (n, n_excluded)]
        rows.append([Cell(str(experiment)), Cell(str(stimulus)), *cells, *numbers])
    return Table(
        ["experiment", "test stimulus", *metrics.values(), "n", "excluded"],
        [False, False, *[True] * (len(metrics) + 2)],
        rows,
        "Ensembles: mean over included neurons with its 95 % bootstrap interval over neurons; n included neurons. "
        "Where a cell names an n of its own, its mean is over fewer neurons, because the others have no value. "
        "Excluded neurons lie below the threshold of explainable variance. Test bins chose nothing: neither weights "
        "nor the best epoch.",
    )


def summary_rows(summary: pd.DataFrame) -> Table:
    """Return one experiment's summary: every stimulus, predictor and metric."""
    rows = [
        [
            Cell(str(row.stimulus)),
            Cell(str(row.predictor)),
            Cell(str(row.metric).replace("_", " ")),
            with_interval(row, row.n),
            Cell(f"{row.median:.3f}" if np.isfinite(row.median) else "", _sortable(row.median)),
            *(Cell(str(count), float(count)) for count in (row.n, row.n_excluded, row.n_undefined)),
            Cell(f"{row.n_members:.3g}", _sortable(row.n_members)),
        ]
        for row in rows_of(summary)
    ]
    return Table(
        ["stimulus", "predictor", "metric", "mean, 95 % interval", "median", "n", "excluded", "undefined", "members"],
        [False, False, False, *[True] * 6],
        rows,
        "Means over included neurons with 95 % bootstrap intervals over neurons. Predictor data: needs no model; "
        "member mean: scores of single members, averaged per neuron; ensemble: score of their mean prediction. "
        "Every mean is over the n neurons of its row; undefined ones are included but have no value. "
        f"{VALIDATION_NOTE} Validation bins of the ensemble are predicted only by members not trained on them: members "
        "says by how many on average.",
        filterable=True,
    )


def difference_rows(differences: pd.DataFrame) -> Table | None:
    """Return the paired differences between experiments; None if no two share a dataset."""
    shown = differences[differences["metric"].isin(MODEL_METRICS)]
    if shown.empty:
        return None
    rows = [
        [
            Cell(f"{row.experiment} − {row.baseline}"),  # noqa: RUF001 (a minus sign)
            Cell(str(row.stimulus)),
            Cell(str(row.cell_type)),
            Cell(MODEL_METRICS[str(row.metric)]),
            Cell(f"{row.mean_difference:+.3f} [{row.ci_low:+.3f}, {row.ci_high:+.3f}]", _sortable(row.mean_difference)),
            Cell(f"{100 * float(row.share_better):.0f} %", _sortable(row.share_better)),
            Cell(str(row.n), _sortable(row.n)),
        ]
        for row in rows_of(shown)
    ]
    return Table(
        ["experiments", "test stimulus", "cell type", "metric", "mean difference [95 %]", "share better", "n"],
        [False, False, False, False, True, True, True],
        rows,
        "Ensemble against ensemble on the same neurons; bootstrap over neurons. Share better: neurons that the first "
        f"experiment predicts better; n: neurons with a value in both. {PAIRED_NOTE}{VALIDATION_NOTE}",
        filterable=True,
    )


def _sortable(value: Any) -> float:
    return float(value) if np.isfinite(value) else float("-inf")
