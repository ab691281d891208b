"""Tables as people and papers print them: Markdown and LaTeX."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

MISSING = "n/a"
LATEX_SPECIAL = str.maketrans({character: f"\\{character}" for character in "_%&#$"})


def rows_of(frame: pd.DataFrame) -> Iterator[Any]:
    """Return the rows as named tuples, whose fields no type checker knows."""
    return iter(frame.itertuples())


def to_markdown(table: pd.DataFrame, caption: str) -> str:
    """Return a table in pipe syntax with its caption below."""
    header = "| " + " | ".join(table.columns) + " |"
    rule = "|" + "|".join(" --- " for _ in table.columns) + "|"
    rows = ["| " + " | ".join(str(value).replace("|", "\\|") for value in row) + " |" for row in table.to_numpy()]
    return "\n".join([header, rule, *rows, "", caption, ""])


def to_latex(table: pd.DataFrame, caption: str, label: str) -> str:
    """Return a booktabs table; it needs the package booktabs and nothing else."""
    n_text = sum(not _is_number(table[column]) for column in table.columns)
    columns = "l" * n_text + "r" * (len(table.columns) - n_text)
    lines = [r"\begin{table}", r"\centering", f"\\caption{{{_latex(caption)}}}", f"\\label{{{label}}}"]
    lines += [f"\\begin{{tabular}}{{{columns}}}", r"\toprule"]
    lines += [" & ".join(_latex(column) for column in table.columns) + r" \\", r"\midrule"]
    lines += [" & ".join(_latex(str(value)) for value in row) + r" \\" for row in table.to_numpy()]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _is_number(column: pd.Series) -> bool:
    return bool(column.astype(str).str.match(r"^[+\-]?\d|^n/a$").all()) if len(column) else False


def _latex(text: str) -> str:
    return text.translate(LATEX_SPECIAL).replace("±", r"$\pm$").replace(MISSING, "--")
