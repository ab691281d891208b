"""What an in-silico experiment is, and the files that keep its result.

An experiment is a class that a file `configs/insilico/<name>.yaml` names as `_target_`; the other keys of that file are
the arguments of its constructor. The workflow runs it on a share of the neurons per job, joins the shares, draws the
figures and shows them in the report.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import h5py
import numpy as np
import pandas as pd
from jaxtyping import Int

from coread import __version__
from coread.provenance import write_text
from coread.recording import COMPRESSION

if TYPE_CHECKING:
    from coread.insilico.population import Population
    from coread.plotting.style import Drawing

KEY = ("session", "neuron")


@dataclass(frozen=True)
class Quantity:
    """An array with the name of every axis and its unit ("" for a pure number)."""

    data: np.ndarray
    dims: tuple[str, ...]
    unit: str = ""

    def __post_init__(self) -> None:
        if len(self.dims) != self.data.ndim:
            raise ValueError(f"an array of {self.data.ndim} axes needs as many names, got {self.dims}")


@dataclass(frozen=True)
class ExperimentResult:
    """The result for some neurons of one session.

    `table` has one row per neuron, with the columns session and neuron and what is one number per neuron, units as
    suffixes of the names. `arrays` hold what is more; an array over neurons has "neuron" as its first axis, in the
    order of the rows. `axes` give the values along an axis (an orientation in degrees, a time in seconds) by its name.
    """

    table: pd.DataFrame
    arrays: Mapping[str, Quantity] = field(default_factory=dict)
    axes: Mapping[str, Quantity] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if missing := [name for name in KEY if name not in self.table]:
            raise ValueError(f"the table of an experiment needs the columns {list(KEY)}, {missing[0]!r} is missing")
        for name, array in self.arrays.items():
            if "neuron" in array.dims and (array.dims[0] != "neuron" or len(array.data) != len(self.table)):
                raise ValueError(
                    f"array {name!r}: the first axis is to be the {len(self.table)} neurons of the table, found "
                    f"{array.dims} of shape {array.data.shape}"
                )


@runtime_checkable
class InsilicoExperiment(Protocol):
    """An in-silico experiment.

    `run` gets a population and the neurons it is to look at, and must not depend on which others are asked for beside
    them: the workflow shares them out over jobs. `summarise(results)`, where there is one, gets the joined results of
    all sessions and returns them with what needs all neurons at once (clusters, say). `draw` returns figures by name,
    the most telling one first; `animate(results)`, where there is one, returns stimuli to watch by name
    (`coread.plotting.movies.Movie`). Both see what was written, and no models.
    """

    def run(self, population: "Population", neurons: Int[np.ndarray, "neuron"]) -> ExperimentResult:
        """Return the result for some neurons of the population."""
        ...

    def draw(self, results: Mapping[str, ExperimentResult]) -> Mapping[str, "Drawing"]:
        """Return the figures of all sessions' results, by name."""
        ...


def join_results(parts: Sequence[ExperimentResult]) -> ExperimentResult:
    """Return the result for all neurons of the parts, in the order of their numbers.

    Raises ValueError if a neuron is in two parts, or if they disagree about an axis.
    """
    table = pd.concat([part.table for part in parts], ignore_index=True)
    if (twice := table.duplicated(list(KEY))).any():
        raise ValueError(f"neuron {table.loc[twice, 'neuron'].iloc[0]} is in two parts of the result")
    order = np.argsort(table["neuron"].to_numpy(), kind="stable")
    for name, axis in parts[0].axes.items():
        if any(not np.array_equal(part.axes[name].data, axis.data) for part in parts):
            raise ValueError(f"the parts of the result have different values along the axis {name!r}")
    arrays = {}
    for name, array in parts[0].arrays.items():
        values = array.data
        if array.dims[:1] == ("neuron",):
            values = np.concatenate([part.arrays[name].data for part in parts])[order]
        arrays[name] = Quantity(values, array.dims, array.unit)
    return ExperimentResult(table.iloc[order].reset_index(drop=True), arrays, parts[0].axes)


def write_results(
    results: Mapping[str, ExperimentResult], h5_path: Path, csv_path: Path | None, provenance: Mapping[str, Any]
) -> None:
    """Write arrays and table to HDF5, one group per session, and the table of all neurons to CSV, atomically.

    `provenance` (settings, digests of the models) is kept as JSON in the attribute `provenance`. Without a `csv_path`
    there is only the HDF5 file.
    """
    h5_path.parent.mkdir(parents=True, exist_ok=True)
    temporary = h5_path.with_name(f".{h5_path.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(temporary, "w") as file:
            file.attrs["coread_version"] = __version__
            file.attrs["provenance"] = json.dumps(provenance, sort_keys=True, default=str)
            for session, result in results.items():
                group = file.create_group(session)
                for kind in ("arrays", "axes"):
                    _write_quantities(group.create_group(kind), getattr(result, kind))
                _write_columns(group.create_group("neurons"), result.table)
        temporary.replace(h5_path)
    finally:
        temporary.unlink(missing_ok=True)
    if csv_path is not None:
        table = pd.concat([result.table for result in results.values()], ignore_index=True)
        write_text(csv_path, table.to_csv(index=False, lineterminator="\n"))


def read_results(path: Path) -> dict[str, ExperimentResult]:
    """Read the results of all sessions; raises ValueError that names the file."""
    try:
        with h5py.File(path, "r") as file:
            return {
                session: ExperimentResult(
                    _read_columns(group["neurons"]), _read_quantities(group["arrays"]), _read_quantities(group["axes"])
                )
                for session, group in file.items()
            }
    except (OSError, KeyError) as error:
        raise ValueError(f"{path}: not a readable result of an in-silico experiment ({error})") from error


def read_provenance(path: Path) -> dict[str, Any]:
    """Return what `write_results` was told of the origin of a file, and as `coread` the version that wrote it.

    Raises ValueError that names the file.
    """
    try:
        with h5py.File(path, "r") as file:
            return {"coread": str(file.attrs["coread_version"]), **json.loads(str(file.attrs["provenance"]))}
    except (OSError, KeyError) as error:
        raise ValueError(f"{path}: not a readable result of an in-silico experiment ({error})") from error


def _write_quantities(group: h5py.Group, quantities: Mapping[str, Quantity]) -> None:
    for name, quantity in quantities.items():
        values = quantity.data
        if values.dtype.kind in "OU":
            dataset = group.create_dataset(name, data=[str(value) for value in values.ravel()])
        else:
            packing: Any = {**COMPRESSION, "chunks": True} if values.size > 1 and values.ndim else {}
            dataset = group.create_dataset(name, data=values, **packing)
        dataset.attrs["dims"] = list(quantity.dims)
        dataset.attrs["unit"] = quantity.unit


def _read_quantities(group: h5py.Group) -> dict[str, Quantity]:
    return {
        name: Quantity(_values(data), tuple(str(dim) for dim in data.attrs["dims"]), str(data.attrs["unit"]))
        for name, data in group.items()
    }


def _write_columns(group: h5py.Group, table: pd.DataFrame) -> None:
    group.attrs["columns"] = list(table.columns)
    for column in table.columns:
        values = table[column].to_numpy()
        group[column] = values if values.dtype.kind in "biuf" else [str(value) for value in values]


def _read_columns(group: h5py.Group) -> pd.DataFrame:
    return pd.DataFrame({str(name): _values(group[name]) for name in group.attrs["columns"]})


def _values(data: h5py.Dataset) -> np.ndarray:
    return data.asstr()[()] if h5py.check_string_dtype(data.dtype) is not None else data[()]
