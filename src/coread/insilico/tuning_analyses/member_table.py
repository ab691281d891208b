"""Tables of quantities with their spread over the members of an ensemble, and which of them can be relied on.

Arrays have an axis `row`: row 0 is the ensemble, whose response is the mean of its members'; the members follow. A
single member is its own ensemble and has no further row.
"""

from itertools import combinations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from coread.insilico.experiment import Quantity
from coread.insilico.population import Population

# endings of the names of quantities, the first that fits, and their units
UNITS = {
    "_cyc_px": "cycles / px",
    "_cyc_deg": "cycles / deg",
    "_cyc_mm": "cycles / mm",
    "_deg": "deg",
    "_px": "px",
    "_um": "um",
    "_hz": "Hz",
    "_s": "s",
    "_octaves": "octaves",
}


def with_ensemble(responses: Float[Tensor, "member *shape"]) -> Float[Tensor, "row *shape"]:
    """Return the mean over members, followed by the members where there are several."""
    if len(responses) == 1:
        return responses
    return torch.cat([responses.mean(dim=0, keepdim=True), responses])


def spread(values: Float[np.ndarray, "row neuron"], period: float | None = None) -> Float[np.ndarray, "neuron"]:
    """Return the standard deviation over members, circular where values have a period; NaN for fewer than two.

    The circular one is sqrt(-2 ln R) with R the length of the mean vector (Mardia & Jupp 2000, Directional Statistics).
    """
    members = values[1:]
    n_known = np.isfinite(members).sum(axis=0)
    if period is None:
        centred = members - np.divide(
            np.nansum(members, axis=0), n_known, out=np.zeros(members.shape[1]), where=n_known > 0
        )
        with np.errstate(invalid="ignore"):  # infinite ratios have no spread
            squares = np.nansum(np.square(centred), axis=0)
        return np.sqrt(np.divide(squares, n_known - 1, out=np.full(len(n_known), np.nan), where=n_known > 1))
    turns = np.exp(2j * np.pi * members / period)
    length = np.abs(np.nansum(turns, axis=0)) / np.maximum(n_known, 1)
    circular = np.sqrt(-2 * np.log(np.clip(length, 1e-12, 1.0))) * period / (2 * np.pi)
    return np.where(n_known > 1, circular, np.nan)


def agreement(responses: Float[np.ndarray, "row neuron *value"]) -> Float[np.ndarray, "neuron"]:
    """Return the mean correlation between members' responses to all stimuli, over pairs; NaN for one member.

    A pair of which one responds always the same has the correlation 0.
    """
    if len(responses) < 3:
        return np.full(responses.shape[1], np.nan)
    members = responses[1:].reshape(len(responses) - 1, responses.shape[1], -1)
    known = np.isfinite(members).all(axis=(0, 1))
    centred = members[..., known] - members[..., known].mean(axis=-1, keepdims=True)
    norm = np.linalg.norm(centred, axis=-1, keepdims=True)
    unit = np.divide(centred, norm, out=np.zeros_like(centred), where=norm > 0)
    return np.mean([(unit[i] * unit[j]).sum(axis=-1) for i, j in combinations(range(len(unit)), 2)], axis=0)


def responds(
    peak: Float[np.ndarray, "row neuron"], baseline: Float[np.ndarray, "row neuron"], share: float
) -> Bool[np.ndarray, "row neuron"]:
    """Return where the largest change of a response is more than a share of the response to grey, and not rounding."""
    return peak > np.maximum(share * np.abs(baseline), 1e-6)


class MemberTable:
    """A table with one row per neuron: every quantity beside its spread over members."""

    def __init__(self, population: Population, neurons: Int[np.ndarray, "neuron"]) -> None:
        self._columns: dict[str, np.ndarray] = {
            str(name): column.to_numpy() for name, column in population.neurons.iloc[neurons].items()
        }
        self._members: dict[str, Quantity] = {}

    def add(self, name: str, values: Float[np.ndarray, "row neuron"], period: float | None = None) -> None:
        """Add the ensemble's values as `name` and their spread as `<name>_sd_members`."""
        self._columns[name] = values[0]
        self._columns[f"{name}_sd_members"] = spread(values, period)
        unit = next((unit for ending, unit in UNITS.items() if name.endswith(ending)), "")
        self._members[f"{name}_members"] = Quantity(values[1:].T, ("neuron", "member"), unit)

    def note(self, name: str, values: np.ndarray) -> None:
        """Add a column that has no spread."""
        self._columns[name] = values

    def judge(
        self,
        responding: Bool[np.ndarray, "row neuron"],
        responses: Float[np.ndarray, "row neuron *value"],
        threshold: float,
    ) -> None:
        """Add `responds`, `member_correlation` and `reliable`.

        Reliable are neurons that respond in the ensemble and in every member, and whose members' responses correlate at
        least as much as the threshold; of a single member it is not known, and those that respond count as reliable.
        """
        correlation = agreement(responses)
        self._columns["responds"] = responding[0]
        self._columns["member_correlation"] = correlation
        self._columns["reliable"] = responding.all(axis=0) & ~(correlation < threshold)

    @property
    def shape(self) -> tuple[int, int]:
        """Return (row, neuron): -1 rows, whatever their number, of the neurons of the table."""
        return -1, len(self._columns["neuron"])

    def frame(self) -> pd.DataFrame:
        """Return the table."""
        return pd.DataFrame(self._columns)

    def members(self) -> dict[str, Quantity]:
        """Return the values of every member, `<name>_members (neuron, member)`."""
        return dict(self._members)
