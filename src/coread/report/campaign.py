"""What the report says about the jobs behind its numbers: what they waited, ran, used, and why some failed."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from coread.attempts import summarize_attempts
from coread.eval.tables import rows_of
from coread.report.tables import Cell, Table

MAX_FOLDED = 100


class Folded(NamedTuple):
    """The last lines of a failed attempt's log, below a title that unfolds them."""

    title: str
    text: str


class Campaign(NamedTuple):
    """The section about the jobs: sentences, a row per rule, a row per failed attempt and the ends of their logs."""

    sentences: list[str]
    summary: Table
    failures: Table | None
    logs: list[Folded]


def collect_campaign(attempts: pd.DataFrame) -> Campaign | None:
    """Return what the report shows of the attempts (`coread.attempts.read_attempts`); None if there are none."""
    if attempts.empty:
        return None
    failed = attempts[attempts["state"].isin(["failed", "lost"])].iloc[::-1]
    return Campaign(
        _sentences(attempts, len(failed)),
        _summary_table(summarize_attempts(attempts)),
        None if failed.empty else _failure_table(failed),
        [
            Folded(f"{row.job}, attempt {row.attempt}: {row.reason}", "\n".join(row.last_lines) or "(nothing printed)")
            for row in rows_of(failed.head(MAX_FOLDED))
        ],
    )


def _sentences(attempts: pd.DataFrame, n_failed: int) -> list[str]:
    n_lost = int((attempts["state"] == "lost").sum())
    first = attempts["started"].min().strftime("%d %B %Y, %H:%M UTC")
    return [
        f"{attempts['job'].nunique()} jobs in {len(attempts)} attempts since {first}, "
        f"{duration(attempts['seconds'].sum())} of running time in all; {n_failed} attempts failed, "
        f"{n_lost} of them killed without a word. Attempts of earlier runs in this folder count as well; the one that "
        "wrote this report is still running in it."
    ]


def _summary_table(summary: pd.DataFrame) -> Table:
    """Return one row per rule; columns of a scheduler or a GPU only where there was one."""
    columns: dict[str, list[Cell]] = {"rule": [Cell(str(rule)) for rule in summary["rule"]]}
    for name in ("jobs", "attempts", "running", "retries", "failed", "lost"):
        columns[name] = [Cell(f"{count:,}", float(count)) for count in summary[name]]
    columns["waited, median"] = [_span(row.wait_median_s, row.wait_max_s) for row in rows_of(summary)]
    columns["ran, median"] = [_span(row.run_median_s, row.run_max_s) for row in rows_of(summary)]
    columns["ran, total"] = [_cell(value, duration(value)) for value in summary["run_total_s"]]
    columns["peak memory (MB)"] = [_memory(row.peak_memory_mb, row.mem_mb) for row in rows_of(summary)]
    columns["GPU memory (MB)"] = [
        _cell(row.gpu_peak_memory_mb, f"{row.gpu_peak_memory_mb:,.0f}", f"{100 * row.gpu_utilization:.0f} % in use")
        for row in rows_of(summary)
    ]
    shown = {title: cells for title, cells in columns.items() if any(cell.text for cell in cells)}
    return Table(
        list(shown),
        [title != "rule" for title in shown],
        [list(row) for row in zip(*shown.values(), strict=True)],
        "Retries: attempts after one that failed. Lost: attempts that ended without a record, because the node crashed "
        "or everything was killed at once; how long they ran is not known. Waited: from submission (or requeue) to the "
        "scheduler's start; ran: of the attempts that succeeded; below the median the longest. Ran, total: of all "
        "attempts whose end was recorded. Peak memory: the kernel's high-water mark of the largest process of any "
        "attempt, summed over the ranks of a distributed training; below it what that attempt's job had asked for, "
        "which jobs that share a submission share. GPU memory: highest sum over an attempt's GPUs; in use: mean share "
        "of time in which a kernel ran. Jobs that only write a config file are not listed.",
    )


def _failure_table(failed: pd.DataFrame) -> Table:
    rows = [
        [
            Cell(str(row.job), None, str(row.log)),
            Cell(str(row.attempt), float(row.attempt)),
            Cell(_text(row.node) or _text(row.host), None, f"job {row.job_id}" if _text(row.job_id) else ""),
            _cell(row.exit, f"{row.exit:.0f}", _text(row.signal)) if np.isfinite(row.exit) else Cell(_text(row.signal)),
            _cell(row.seconds, duration(row.seconds)),
            Cell(_text(row.reason)),
        ]
        for row in rows_of(failed)
    ]
    return Table(
        ["job and its log", "attempt", "node", "exit", "ran", "reason"],
        [False, True, False, True, True, False],
        rows,
        "Newest first. An attempt that a later one made good is listed as well. Exit: 128 + signal where a signal "
        f"ended it. Below, the last lines of the logs of the newest {MAX_FOLDED} at most.",
        filterable=True,
    )


def duration(seconds: float) -> str:
    """Return a time span as a reader wants it: 8.1 s, 4 min 05 s, 3 h 20 min."""
    if not np.isfinite(seconds):
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _cell(value: float, text: str, detail: str = "") -> Cell:
    return Cell(text, float(value), detail) if np.isfinite(value) else Cell("", float("-inf"))


def _span(median: float, longest: float) -> Cell:
    return _cell(median, duration(median), f"longest {duration(longest)}" if longest > median else "")


def _memory(peak: float, asked: float) -> Cell:
    return _cell(peak, f"{peak:,.0f}", f"of {asked:,.0f}" if np.isfinite(asked) else "")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
