"""Consistency over the members of an ensemble: which quantities of an experiment another seed would find again.

A quantity `<name>` has the ensemble's value in the table's column `<name>` and the spread over members in
`<name>_sd_members`; where the array `<name>_members (neuron, member)` is kept too, its agreement is known exactly.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch

import numpy as np
import pandas as pd
from jaxtyping import Bool, Complex, Float

from coread.insilico.experiment import ExperimentResult, Quantity
from coread.insilico.tuning_analyses.member_table import spread

SPREAD, MEMBERS, UNCERTAIN = "_sd_members", "_members", "_uncertain"


@dataclass(frozen=True)
class ConsistencySettings:
    """What counts as consistent.

    `consistent_within`: a neuron is consistent in a quantity whose standard deviation over members is at most this
    times the one over neurons. `min_icc`: a quantity is consistent at this intraclass correlation or above. `periods`:
    names of circular quantities (with wildcards, the first that fits) and their periods, 180 for `orientation_deg`.
    """

    consistent_within: float
    min_icc: float
    periods: Mapping[str, float]

    def period(self, name: str) -> float | None:
        """Return the period of a circular quantity, None for others."""
        return next((float(period) for pattern, period in self.periods.items() if fnmatch(name, pattern)), None)


def member_columns(
    name: str,
    ensemble: Float[np.ndarray, "neuron"],
    members: Float[np.ndarray, "neuron member"],
    period: float | None = None,
    unit: str = "",
) -> tuple[dict[str, np.ndarray], dict[str, Quantity]]:
    """Return the columns `<name>` and `<name>_sd_members` of a table, and the array `<name>_members` that they need.

    Of a circular quantity the deviation is Mardia's (`spread`). It is NaN for one member.
    """
    columns = {name: ensemble, f"{name}{SPREAD}": sd_members(members, period)}
    return columns, {f"{name}{MEMBERS}": Quantity(members, ("neuron", "member"), unit)}


def sd_members(members: Float[np.ndarray, "neuron member"], period: float | None = None) -> Float[np.ndarray, "neuron"]:
    """Return every neuron's standard deviation over members; NaN for one member."""
    rows = members.T.astype(np.float64)
    return spread(np.concatenate([rows[:1], rows]), period)  # whose first row is the ensemble's


def intraclass_correlation(members: Float[np.ndarray, "neuron member"], period: float | None = None) -> float:
    """Return ICC(2,1): agreement of single members, drawn at random, about neurons (Shrout & Fleiss 1979).

    Psychological Bulletin 86:420. Neurons without a value in some member are left out. Of a circular quantity the
    mean squares are those of points on the unit circle. NaN for fewer than two neurons or members, or where nothing
    varies.
    """
    complete = members[np.isfinite(members).all(axis=1)]
    n_neurons, n_members = complete.shape
    if n_neurons < 2 or n_members < 2:
        return float("nan")
    values = complete if period is None else _on_circle(complete, period)
    centred = values - values.mean()
    of_neurons, of_members = centred.mean(axis=1), centred.mean(axis=0)
    rest = centred - of_neurons[:, None] - of_members
    between = n_members * _power(of_neurons) / (n_neurons - 1)
    shift = n_neurons * _power(of_members) / (n_members - 1)
    error = _power(rest) / ((n_neurons - 1) * (n_members - 1))
    total = between + (n_members - 1) * error + n_members * (shift - error) / n_neurons
    return float((between - error) / total) if total > 1e-12 * max(_power(values), 1e-300) else float("nan")


def one_way_intraclass_correlation(
    values: Float[np.ndarray, "neuron"],
    spread: Float[np.ndarray, "neuron"],
    n_members: int,
    period: float | None = None,
) -> float:
    """Return ICC(1,1) from every neuron's mean over members and standard deviation (Shrout & Fleiss 1979).

    It stands in for ICC(2,1) where single members' values are not kept, and counts a shift of a whole member as error
    as well. The ensemble's value is taken for the mean.
    """
    known = np.isfinite(values) & np.isfinite(spread)
    if known.sum() < 2 or n_members < 2:
        return float("nan")
    if period is None:
        between = n_members * values[known].var(ddof=1)
        within = np.square(spread[known]).mean()
    else:
        length = np.exp(-0.5 * np.square(spread[known] * 2 * np.pi / period))
        centres = _on_circle(values[known], period) * length
        between = n_members * _power(centres - centres.mean()) / (known.sum() - 1)
        within = (1 - np.square(length)).mean() * n_members / (n_members - 1)
    total = between + (n_members - 1) * within
    return float((between - within) / total) if total > 0 else float("nan")


def _on_circle(values: Float[np.ndarray, "*shape"], period: float) -> Complex[np.ndarray, "*shape"]:
    return np.exp(2j * np.pi * values / period)


def _power(values: np.ndarray) -> float:
    return float(np.square(np.abs(values)).sum())


def spread_over_neurons(values: Float[np.ndarray, "neuron"], period: float | None = None) -> float:
    """Return the standard deviation over neurons; of a circular quantity at most that of a uniform one."""
    found = float(sd_members(values[None], period)[0])
    return found if period is None else min(found, period / float(np.sqrt(12)))


def uncertain_neurons(table: pd.DataFrame, name: str, settings: ConsistencySettings) -> Bool[np.ndarray, "neuron"]:
    """Return which neurons' value of a quantity differs between members; none where there is one member."""
    reference = spread_over_neurons(table[name].to_numpy(float), settings.period(name))
    spread = table[f"{name}{SPREAD}"].to_numpy(float)
    return np.isfinite(spread) & ~(spread <= settings.consistent_within * reference)


def quantities(table: pd.DataFrame) -> list[str]:
    """Return the names of the quantities of a table that have a spread over members."""
    names = [str(column).removesuffix(SPREAD) for column in table if str(column).endswith(SPREAD)]
    return [name for name in names if name in table and table[name].dtype.kind in "iuf"]


def mark_uncertain(
    results: Mapping[str, ExperimentResult], settings: ConsistencySettings
) -> dict[str, ExperimentResult]:
    """Return the results with a column `<name>_uncertain` for every quantity, by the spread over all sessions."""
    joined = pd.concat([result.table for result in results.values()], ignore_index=True)
    marks = {f"{name}{UNCERTAIN}": uncertain_neurons(joined, name, settings) for name in quantities(joined)}
    marked, first = {}, 0
    for session, result in results.items():
        own = slice(first, first := first + len(result.table))
        table = result.table.assign(**{name: values[own] for name, values in marks.items()})
        marked[session] = ExperimentResult(table, result.arrays, result.axes)
    return marked


def consistency_table(
    experiments: Mapping[str, Mapping[str, ExperimentResult]], n_members: int, settings: ConsistencySettings
) -> pd.DataFrame:
    """Return one row per quantity of every experiment, over the neurons of all sessions.

    Columns: experiment, quantity, n_neurons, n_members, icc and its form, the median standard deviation over members,
    the standard deviation over neurons, the share of consistent neurons, and whether the quantity is uncertain.
    """
    rows = []
    for experiment, results in experiments.items():
        table = pd.concat([result.table for result in results.values()], ignore_index=True)
        for name in quantities(table):
            rows.append({"experiment": experiment, **_row(results, table, name, n_members, settings)})
    columns = ["experiment", "quantity", "n_neurons", "n_members", "icc", "icc_form", "median_sd_members"]
    return pd.DataFrame(rows, columns=[*columns, "sd_neurons", "consistent_share", "uncertain"])


def _row(
    results: Mapping[str, ExperimentResult],
    table: pd.DataFrame,
    name: str,
    n_members: int,
    settings: ConsistencySettings,
) -> dict[str, str | int | float | bool]:
    period = settings.period(name)
    values, spread = table[name].to_numpy(float), table[f"{name}{SPREAD}"].to_numpy(float)
    kept = [result.arrays.get(f"{name}{MEMBERS}") for result in results.values()]
    if all(array is not None and array.dims == ("neuron", "member") for array in kept):
        members = np.concatenate([array.data for array in kept if array is not None])
        icc, form, n_members = intraclass_correlation(members, period), "ICC(2,1)", members.shape[1]
    else:
        icc, form = one_way_intraclass_correlation(values, spread, n_members, period), "ICC(1,1)"
    known = np.isfinite(spread)
    certain = known & ~uncertain_neurons(table, name, settings)
    return {
        "quantity": name,
        "n_neurons": int(known.sum()),
        "n_members": n_members,
        "icc": icc,
        "icc_form": form,
        "median_sd_members": float(np.median(spread[known])) if known.any() else float("nan"),
        "sd_neurons": spread_over_neurons(values, period),
        "consistent_share": float(certain.sum() / known.sum()) if known.any() else float("nan"),
        "uncertain": not icc >= settings.min_icc,
    }
