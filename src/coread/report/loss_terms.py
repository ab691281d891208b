"""The size of every term of the loss, so that a penalty without effect does not go unnoticed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from coread.report.tables import Table, make_table

PREFIX = "train_penalty_"
INERT = 1e-6  # of the data loss


def loss_term_table(members: Sequence[Path]) -> Table | None:
    """Return one row per term with its mean over members in their last epoch; None where no penalty was logged."""
    last = [history.iloc[-1] for history in map(_history, members) if len(history)]
    rows = pd.DataFrame(last)
    terms = [str(name) for name in rows.columns if str(name).startswith(PREFIX)]
    if not terms:
        return None
    data = rows["train_loss"].abs()
    table: list[dict[str, object]] = [
        {"term": "data loss", "value": rows["train_loss"].mean(), "share of the data loss": 1.0, "remark": ""},
        *(_term_row(name.removeprefix(PREFIX).replace("_", " "), rows[name], data) for name in terms),
    ]
    caption = (
        f"Terms of the training loss in the last epoch, mean over {len(rows)} "
        f"{'member' if len(rows) == 1 else 'members'}: penalties with their weights, as they enter the loss. A penalty "
        f"below {INERT:.0e} of the data loss is marked inert: it is switched on and does nothing."
    )
    formats: dict[str, Callable[[Any], str]] = {"value": lambda value: f"{value:.3g}", "share of the data loss": _share}
    return make_table(pd.DataFrame(table), formats, caption)


def _term_row(name: str, values: pd.Series, data: pd.Series) -> dict[str, object]:
    share = float((values / data).mean())
    return {
        "term": name,
        "value": values.mean(),
        "share of the data loss": share,
        "remark": "inert" if np.isfinite(share) and abs(share) < INERT else "",
    }


def _share(value: float) -> str:
    return f"{100 * value:.2g} %" if value < 1 else f"{100 * value:.0f} %"


def _history(path: Path) -> pd.DataFrame:
    return pd.DataFrame(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["history"])
