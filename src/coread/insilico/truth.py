"""What analyses find in simulated cells against what is true of them: one row per cell and quantity."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
from jaxtyping import Float

from coread.insilico.experiment import ExperimentResult
from coread.insilico.spike_triggered import relevant_subspace
from coread.insilico.stc import principal_angles
from coread.recording import Recording

COLUMNS = (
    "session",
    "neuron",
    "unit_id",
    "cell_type",
    "quantity",
    "analysis",
    "truth",
    "found",
    "error",
    "tolerance",
    "unit",
    "passed",
)
INSIDE = 0.1  # of the largest root mean square over time and channels: the pixels inside of a receptive field


class HasTable(Protocol):
    """A result of an analysis: of an experiment, or receptive fields."""

    @property
    def table(self) -> pd.DataFrame:
        """One row per neuron."""
        ...


class Compared(NamedTuple):
    """What is true, what was found, and how far they are apart; truth is NaN where there is nothing to compare."""

    truth: Float[np.ndarray, "neuron"]
    found: Float[np.ndarray, "neuron"]
    error: Float[np.ndarray, "neuron"]


Truth = Mapping[str, np.ndarray]  # what a recording keeps of its cells, the rows of one analysis


@dataclass(frozen=True)
class Check:
    """A quantity that an analysis finds; `tolerance` is the largest error that passes.

    `needs` are the names of the truth that `compare(truth, result)` reads.
    """

    quantity: str
    analysis: str
    unit: str
    tolerance: float
    needs: tuple[str, ...]
    compare: Callable[[Truth, Any], Compared]


def compare_with_truth(
    results: Mapping[str, Mapping[str, HasTable]], recordings: Sequence[Recording], widen: float = 2.0
) -> pd.DataFrame:
    """Return a row per cell and quantity of `TOLERANCES`, with the columns `COLUMNS`.

    `results` are analyses by name and session. Tolerances are those for a model that is the simulator itself; they are
    `widen` times as wide for models that were trained on its responses. What was not found is a miss. Analyses and
    truths that are absent have no rows.
    """
    known = {recording.session: recording.session_info for recording in recordings}
    parts = [
        _rows(check, session, result, known[session], widen)
        for check in TOLERANCES
        for session, result in results.get(check.analysis, {}).items()
        if session in known and all(name in known[session] for name in check.needs)
    ]
    parts = [part for part in parts if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(COLUMNS))


def _rows(check: Check, session: str, result: HasTable, truth: Truth, widen: float) -> pd.DataFrame:
    table = result.table
    neuron = table["neuron"].to_numpy(int)
    compared = check.compare({name: np.asarray(truth[name])[neuron] for name in check.needs}, result)
    tolerance = widen * check.tolerance
    rows = pd.DataFrame(
        {
            "session": session,
            "neuron": neuron,
            "unit_id": table["unit_id"].to_numpy() if "unit_id" in table else neuron.astype(str),
            "cell_type": table["cell_type"].to_numpy() if "cell_type" in table else "",
            "quantity": check.quantity,
            "analysis": check.analysis,
            **compared._asdict(),
            "tolerance": tolerance,
            "unit": check.unit,
            "passed": np.nan_to_num(compared.error, nan=np.inf) <= tolerance,
        }
    )
    return rows[np.isfinite(compared.truth)]


# ------------------------------------------------------------------------------------------------------- comparisons


def _column(name: str, truth: str, period: float | None = None, relative: bool = False) -> Callable[..., Compared]:
    """Compare a column with a truth: their difference, on a circle of a period, or relative to the truth."""

    def compare(cells: Truth, result: HasTable) -> Compared:
        return _compared(cells[truth], result.table[name].to_numpy(float), period, relative)

    return compare


def _compared(truth: np.ndarray, found: np.ndarray, period: float | None = None, relative: bool = False) -> Compared:
    true = truth.astype(float)
    error = np.abs(found - true)
    if period is not None:
        error = np.minimum(error % period, period - error % period)
    return Compared(true, found, error / np.abs(true) if relative else error)


def _place(cells: Truth, result: HasTable) -> Compared:
    """Compare places: how far the found one is from the true one."""
    found = result.table[["center_y_px", "center_x_px"]].to_numpy(float)
    distance = np.linalg.norm(found - cells["truth_center_px"], axis=1)
    return Compared(np.zeros(len(distance)), distance, distance)


def _place_of_linear(cells: Truth, result: HasTable) -> Compared:
    """Compare places of cells with a linear receptive field of one sign."""
    compared = _place(cells, result)
    return compared._replace(truth=np.where(_has_sign(cells), compared.truth, np.nan))


def _polarity(cells: Truth, result: HasTable) -> Compared:
    true = np.where(_has_sign(cells), cells["truth_polarity"].astype(float), np.nan)
    return _compared(true, result.table["polarity"].to_numpy(float))


def _has_sign(cells: Truth) -> np.ndarray:
    return np.isin(cells["truth_polarity"].astype(float), (-1.0, 1.0))


def _flat_average(cells: Truth, result: HasTable) -> Compared:
    """Compare the strength of the spike-triggered average of cells that have none with zero."""
    true = np.where(cells["truth_linear"].astype(bool), np.nan, 0.0)
    return _compared(true, result.table["sta_strength"].to_numpy(float))


def _subspace(cells: Truth, result: ExperimentResult) -> Compared:
    """Compare the true subspace with the found one: the largest principal angle, NaN where dimensions are missing."""
    found, true = _same_lags(relevant_subspace(result), cells["truth_subspace"])
    angles = principal_angles(*(values.reshape(*values.shape[:2], -1) for values in (found, true)))
    n_true = (np.abs(true).max(axis=(2, 3, 4, 5)) > 0).sum(axis=1)
    largest = angles[np.arange(len(angles)), n_true - 1]
    return Compared(np.zeros(len(angles)), largest, largest)


def _direction_selectivity(cells: Truth, result: HasTable) -> Compared:
    """Compare direction selectivity, of the mean response or of the modulation, as the analysis measured it."""
    measure = result.table["response_measure"].to_numpy(str)
    true = np.where(measure == "F1", cells["truth_dsi_f1"], cells["truth_dsi"])
    return _compared(true, result.table["dsi"].to_numpy(float))


def _best_stimulus(cells: Truth, result: ExperimentResult) -> Compared:
    """Compare the most exciting stimulus with what the cell's filters span, inside its receptive field.

    The cosine with the filter of a linear cell, with the nearest stimulus in the subspace of another one.
    """
    stimulus = result.arrays["stimulus"].data.astype(float)
    found = stimulus[:, :, ::-1].swapaxes(1, 2)[:, None]  # the current bin first
    found, space = _same_lags(found, cells["truth_subspace"])
    image = np.sqrt(np.square(space).sum(axis=(1, 2, 3)))
    inside = image >= INSIDE * image.max(axis=(1, 2), keepdims=True)
    seen = (found[:, 0] * inside[:, None, None]).reshape(len(found), -1)
    basis = (space * inside[:, None, None, None]).reshape(*space.shape[:2], -1)
    linear = cells["truth_linear"].astype(bool)
    sign = np.sign(np.einsum("nf,nf->n", seen, cells["truth_filter"].astype(float).reshape(len(seen), -1)))
    cosine = np.cos(np.deg2rad(np.nanmin(principal_angles(seen[:, None], basis), axis=1)))
    cosine = cosine * np.where(linear, sign, 1.0)
    return Compared(np.ones(len(cosine)), cosine, 1 - cosine)


def _same_lags(*filters: Float[np.ndarray, "neuron axis lag_bin channel height width"]) -> list[np.ndarray]:
    """Return filters with as many lags as the longest one, zeros for those that a filter lacks."""
    longest = max(values.shape[2] for values in filters)
    return [
        np.pad(values.astype(float), [(0, 0), (0, 0), (0, longest - values.shape[2]), (0, 0), (0, 0), (0, 0)])
        for values in filters
    ]


_PLACE = ("truth_center_px",)
TOLERANCES: tuple[Check, ...] = (
    Check("center (gradient)", "receptive_fields", "px", 0.5, (*_PLACE, "truth_polarity"), _place_of_linear),
    Check("polarity", "receptive_fields", "", 0.0, ("truth_polarity",), _polarity),
    Check("center (sensitivity)", "spike_triggered", "px", 0.5, _PLACE, _place),
    Check("strength of a flat STA", "spike_triggered", "SD of noise", 0.1, ("truth_linear",), _flat_average),
    Check("angle to the subspace", "spike_triggered", "deg", 15.0, ("truth_subspace",), _subspace),
    Check(
        "color angle",
        "spike_triggered",
        "deg",
        10.0,
        ("truth_color_angle_deg",),
        _column("color_angle_deg", "truth_color_angle_deg", period=360.0),
    ),
    Check(
        "preferred orientation",
        "grating_tuning",
        "deg",
        5.0,
        ("truth_orientation_deg",),
        _column("preferred_orientation_deg", "truth_orientation_deg", period=180.0),
    ),
    Check(
        "preferred direction",
        "grating_tuning",
        "deg",
        10.0,
        ("truth_direction_deg",),
        _column("preferred_direction_deg", "truth_direction_deg", period=360.0),
    ),
    Check(
        "preferred spatial frequency",
        "grating_tuning",
        "cycles / px, relative error",
        0.1,
        ("truth_spatial_frequency_cyc_px",),
        _column("preferred_spatial_frequency_cyc_px", "truth_spatial_frequency_cyc_px", relative=True),
    ),
    Check("DSI", "grating_tuning", "", 0.1, ("truth_dsi", "truth_dsi_f1"), _direction_selectivity),
    Check(
        "cosine of the most exciting stimulus",
        "most_exciting",
        "",
        0.05,
        ("truth_linear", "truth_filter", "truth_subspace"),
        _best_stimulus,
    ),
)
