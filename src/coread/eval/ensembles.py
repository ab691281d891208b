"""Predictions of an ensemble: the mean over members, out of fold where a member was trained on some of the bins."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from coread.data_io.splits import VALIDATION
from coread.eval.predictions import SessionPrediction
from coread.eval.repeats import ABSENT

ENSEMBLE = "ensemble"


class OutOfFold(NamedTuple):
    """Predictions of bins by the members that were not trained on them, and how many members these are."""

    prediction: Float[np.ndarray, "row neuron"]
    n_members: Int[np.ndarray, "row"]


def held_out_bins(members: Sequence[SessionPrediction]) -> Bool[np.ndarray, "bin"]:
    """Return the bins that are validation bins of at least one member."""
    return np.any([member.label == VALIDATION for member in members], axis=0)


def out_of_fold(members: Sequence[SessionPrediction], rows: Int[np.ndarray, "row"]) -> OutOfFold:
    """Predict bins by the mean of only those members for which they are validation bins.

    Members of different folds were trained on most of each other's validation bins: their prediction of those is no
    prediction, and is not read. NaN where every member was trained on a bin.
    """
    total, count = np.zeros(1), np.zeros(len(rows), np.int64)
    for member in members:
        own = member.label[rows] == VALIDATION
        total = total + np.where(own[:, None], member.prediction[rows].astype(np.float64), 0.0)
        count += own
    return OutOfFold(total / np.where(count > 0, count, np.nan)[:, None], count)


def predict_rows(
    members: Mapping[str, SessionPrediction], table: Int[np.ndarray, "row repeat"]
) -> dict[str, Float[np.ndarray, "row neuron"] | Float[np.ndarray, "row repeat neuron"]]:
    """Return the prediction of every member and of the ensemble, their mean, for rows of repeats side by side.

    A member that predicts the same for all repeats of a row has one prediction per row; one that knows more than the
    stimulus has one per repeat, NaN where a repeat is absent.
    """
    of_row = {name: _of_rows(member.prediction, table) for name, member in members.items()}
    each = list(of_row.values())
    if any(prediction.ndim == 3 for prediction in each):
        repeats = np.zeros((1, table.shape[1], 1), np.float32)
        each = [prediction if prediction.ndim == 3 else prediction[:, None] + repeats for prediction in each]
    return of_row | {ENSEMBLE: np.asarray(np.mean(each, axis=0, dtype=np.float64))}


def _of_rows(
    prediction: Float[np.ndarray, "bin neuron"], table: Int[np.ndarray, "row repeat"]
) -> Float[np.ndarray, "row neuron"] | Float[np.ndarray, "row repeat neuron"]:
    present = table != ABSENT
    shown = table.max(axis=1)
    first = prediction[shown]
    same = (np.array_equal(prediction[bins[own]], first[own]) for bins, own in zip(table.T, present.T, strict=True))
    if all(same):
        return first
    return np.where(present[..., None], prediction[table], np.nan)
