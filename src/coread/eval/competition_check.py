"""Whether a competition file is what the competition asks for: everything that is wrong with it, in sentences."""

import ast
import csv
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from coread.eval.competition import COLUMNS, FILE_TIERS, FORMATS, Demand, demand, import_parquet
from coread.recording import Recording

Row = tuple[str, Any, Any, Any]  # trial, image, prediction, neurons: as they stand in the file


@dataclass
class _Findings:
    """What is wrong, by kind: how often, and the sentence of the first time."""

    first: dict[str, str] = field(default_factory=dict)
    count: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, sentence: str) -> None:
        """Note a problem of one row."""
        self.first.setdefault(kind, sentence)
        self.count[kind] = self.count.get(kind, 0) + 1

    def sentences(self) -> list[str]:
        """Return one sentence per kind."""
        return [
            text + (f" (and {self.count[kind] - 1} more such rows)" if self.count[kind] > 1 else "")
            for kind, text in self.first.items()
        ]


def check_submission(path: Path, recording: Recording, tier: str | None = None) -> list[str]:
    """Return what is wrong with a competition file for one session, nothing if it can be submitted.

    Checked are columns, number, order and identity of trials, image and neuron ids, and that every prediction is one
    finite number for each neuron that is not negative. `tier` None takes it from the file's name. The file is read row
    by row. Raises FileNotFoundError, and CompetitionError for a session without such a file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    if path.suffix not in FORMATS:
        return [f"its name ends in {path.suffix!r}, expected one of {list(FORMATS)}"]
    tier = tier or next((tier for tier, name in FILE_TIERS.items() if path.stem.endswith(name)), None)
    if tier is None:
        return [f"its name says no tier: expected {[f'submission_file_{name}' for name in FILE_TIERS.values()]}"]
    asked, findings = demand(recording, tier), _Findings()
    try:
        with _rows(path) as (columns, rows):
            if tuple(columns) != COLUMNS:
                return [f"its columns are {list(columns)}, expected {list(COLUMNS)} in this order"]
            found = list(_checked_rows(rows, asked, findings))
    except (UnicodeDecodeError, csv.Error) as error:
        return [f"it is no text of comma-separated values ({error})"]
    return [*_trial_problems(found, asked), *findings.sentences()]


# -------------------------------------------------------------------------------------------------------------- reading


@contextmanager
def _rows(path: Path) -> Iterator[tuple[Sequence[str], Iterator[Sequence[Any]]]]:
    """Open a file: its columns, and its rows one after another."""
    if path.suffix == ".parquet":
        _, parquet = import_parquet()
        with parquet.ParquetFile(path) as file:
            batches = file.iter_batches(batch_size=64)
            yield file.schema_arrow.names, (tuple(row.values()) for batch in batches for row in batch.to_pylist())
        return
    longest = csv.field_size_limit(sys.maxsize)  # a list of 8000 numbers exceeds the default
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            yield next(reader, []), reader
    finally:
        csv.field_size_limit(longest)


def _numbers(value: Any) -> Float[np.ndarray, "number"] | None:
    """Return a list of numbers, or its Python literal; None for anything else."""
    if isinstance(value, str):
        try:
            # as fast as nothing else for long lists; Python writes nan and inf in another way than JSON
            value = json.loads(value.replace("nan", "NaN").replace("inf", "Infinity"))
        except ValueError:
            try:
                value = ast.literal_eval(value)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                return None
    try:
        numbers = np.asarray(value)
    except ValueError:
        return None
    if numbers.ndim != 1 or numbers.dtype.kind not in "iuf":
        return None
    return numbers.astype(np.float64)


# ------------------------------------------------------------------------------------------------------------- checking


def _checked_rows(rows: Iterator[Sequence[Any]], asked: Demand, findings: _Findings) -> Iterator[str]:
    """Note what is wrong inside every row and yield which trial it is."""
    images = dict(zip(asked.trial_ids, asked.image_ids, strict=True))
    neuron_ids = np.array(asked.neuron_ids)
    good_ids: Any = None  # the text of the last row whose ids were right: equal texts need no second look
    for number, row in enumerate(rows, 1):
        if len(row) != len(COLUMNS):
            findings.add("fields", f"row {number} has {len(row)} fields, expected {len(COLUMNS)}")
            continue
        trial, image, prediction, ids = str(row[0]), row[1], row[2], row[3]
        where = f"row {number} (trial {trial})"
        if trial in images and str(image) != str(images[trial]):
            findings.add("image", f"{where}: image_ids is {image}, that trial showed image {images[trial]}")
        if ids != good_ids:
            wrong = _wrong_neurons(ids, neuron_ids)
            good_ids = ids if wrong is None else good_ids
            if wrong is not None:
                findings.add("neurons", f"{where}: neuron_ids {wrong}")
        for kind, wrong in _wrong_prediction(prediction, len(neuron_ids)):
            findings.add(kind, f"{where}: prediction {wrong}")
        yield trial


def _wrong_neurons(ids: Any, expected: np.ndarray) -> str | None:
    found = _numbers(ids)
    if found is None:
        return "is no list of numbers separated by commas"
    if len(found) != len(expected):
        return f"lists {len(found)} neurons, the session has {len(expected)}"
    if np.array_equal(found, expected):
        return None
    if np.array_equal(np.sort(found), np.sort(expected)):
        return "are in another order than those of the session"
    first = np.flatnonzero(found != expected)[0]
    return f"are not those of the session: neuron {first} is {found[first]:g}, expected {expected[first]}"


def _wrong_prediction(prediction: Any, n_neurons: int) -> Iterator[tuple[str, str]]:
    """Yield kind and description of what is wrong with the prediction of one row."""
    values = _numbers(prediction)
    if values is None:
        yield "prediction", "is no list of numbers separated by commas"
        return
    if len(values) != n_neurons:
        yield "length", f"has {len(values)} numbers, the session has {n_neurons} neurons"
    if n_bad := int((~np.isfinite(values)).sum()):
        yield "finite", f"has {n_bad} numbers that are not finite"
    if n_negative := int((values < 0).sum()):
        yield "negative", f"has {n_negative} negative numbers; responses are not negative"


def _trial_problems(found: list[str], asked: Demand) -> Iterator[str]:
    """Yield what is wrong with which trials are there and in which order."""
    expected = asked.trial_ids
    place = f"tier {asked.tier} of session {asked.session}"
    if len(found) != len(expected):
        yield f"it has {len(found)} rows, {place} has {len(expected)} trials"
    times, wanted = Counter(found), Counter(expected)
    if twice := [trial for trial, count in times.items() if count > wanted[trial] > 0]:
        yield f"{len(twice)} trials are there more than once, such as {twice[0]}"
    if unknown := sorted(set(times) - set(wanted)):
        yield f"{len(unknown)} trials are not of {place}, such as {unknown[0]}"
    if missing := sorted(set(wanted) - set(times)):
        yield f"{len(missing)} trials of {place} are missing, such as {missing[0]}"
    if times == wanted and found != expected:
        first = next(row for row, (one, other) in enumerate(zip(found, expected, strict=True)) if one != other)
        yield (
            f"the trials are in another order than the files of the session: row {first + 1} is trial {found[first]}, "
            f"expected {expected[first]}"
        )
