"""Mouse visual cortex under single images, two-photon imaging: SENSORIUM 2022 (Willeke et al., arXiv:2206.08666).

    <data_dir>/.../static<animal>-<session>-<scan>-GrayImageNet-<hash>.zip, or the folder it unpacks to

Recordings of other labs in the same file layout (see `coread.data_io.sensorium_layout`) are read too. Archives are read
in place. A bin is one presentation, a trial has one bin, and bin i is trial i of the files. Responses that the
competition withholds are masked; nothing is fitted here, and the published statistics, which are over test trials too,
are only kept beside the recording.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Float64, Int, Num

from coread.data_io.readers import sensorium_2022_trials as trials
from coread.data_io.readers.parameters import reader_parameters
from coread.data_io.readers.published_hdf5 import NAN_POLICIES, mask_missing
from coread.data_io.readers.sensorium_2022_files import (
    SessionFiles,
    find_sessions,
    session_sources,
    statistics_over_all,
    texts,
)
from coread.data_io.readers.sensorium_2022_images import read_images, rescale_factor
from coread.data_io.readers.session_files import data_folder, session_file, session_names
from coread.data_io.sensorium_layout import STATISTICS
from coread.recording import TIERS, Recording, RecordingError, Stimulus

DESCRIBED = "static<animal>-<session>-<scan>-GrayImageNet-<hash>, a folder or .zip"
RESPONSE_FLOOR = (
    0.01  # of the mean over neurons: the published floor of the standard deviation that responses are divided by
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parameters:
    """What the files do not say, and choices; the configuration file explains each key."""

    image_s: float = 0.5
    scale: float = 0.25
    behaviour: Sequence[str] = ("pupil_dilation", "pupil_dilation_derivative", "running_speed")
    areas: Sequence[str] | None = None
    layers: Sequence[str] | None = None
    neuron_ids: Mapping[str, Sequence[int]] = field(default_factory=dict)
    tiers: Mapping[str, str | None] = field(default_factory=dict)
    time_order: str = "timestamps"
    nan_responses: str = "error"
    unit: str = "deconvolved activity (a.u.)"
    pixel_deg: float | None = None
    species: str = "mouse"
    area: str | None = None

    def __post_init__(self) -> None:
        rescale_factor(self.scale)
        for key, known in {"nan_responses": NAN_POLICIES, "time_order": trials.TIME_ORDERS}.items():
            if getattr(self, key) not in known:
                raise ValueError(f"data_io.{key} is one of {list(known)}, found {getattr(self, key)!r}")
        if wrong := [tier for tier in self.tiers.values() if tier is not None and tier not in TIERS]:
            raise ValueError(f"data_io.tiers translates to {list(TIERS)} or null, found {wrong[0]!r}")


def list_sessions(config: Mapping[str, Any], data_dir: Path | None) -> list[str]:
    """Return the configured sessions, else those found below the folder."""
    reader_parameters(Parameters, config)
    return session_names(config, lambda: find_sessions(data_folder(config, data_dir)), DESCRIBED)


def source_files(config: Mapping[str, Any], session: str | None, data_dir: Path | None) -> list[Path]:
    """Return the archive of a session, or the files of its folder; there are no shared stimuli."""
    parameters = reader_parameters(Parameters, config)
    return [] if session is None else session_sources(_found(config, parameters, session, data_dir))


def build_stimuli(config: Mapping[str, Any], data_dir: Path | None) -> dict[str, Stimulus]:
    """Return no stimuli: every session has its own images."""
    return {}


def build_recording(
    config: Mapping[str, Any], session: str, data_dir: Path | None, stimuli: Mapping[str, Stimulus]
) -> Recording:
    """Return one session; raises RecordingError naming the file, what was expected and what was found."""
    parameters = reader_parameters(Parameters, config)
    with SessionFiles(_found(config, parameters, session, data_dir)) as files:
        tiers = trials.read_tiers(files, parameters.tiers)
        members = {key: _members(files, key, len(tiers)) for key in ("images", "responses")}
        neurons, kept, n_neurons = _neurons(files, parameters, session)
        responses, heard = _responses(files, members["responses"], n_neurons, kept)
        withheld = trials.withheld_trials(heard, tiers)
        order = trials.read_time_order(files, len(tiers), parameters.time_order)
        stimulus, frame = read_images(
            files, members["images"], rescale_factor(parameters.scale), parameters.image_s, parameters.pixel_deg
        )
        table = trials.trial_table(files, tiers, frame, order, withheld)
        behaviour = _measured(files, "behavior", len(tiers), len(parameters.behaviour))
        pupil_center = _measured(files, "pupil_center", len(tiers), 2)
        responses, valid = _masked(responses, table["withheld"].to_numpy(), parameters, files)
        info = _published_statistics(files, behaviour, pupil_center, n_neurons, kept)
        info |= {
            "behaviour_names": np.array(list(parameters.behaviour), dtype=object),
            "time_ties": np.array(int(order.tied.sum())),
            "time_ties_resolved_by": np.array([order.resolved_by], dtype=object),
            "neurons_in_file": np.array(n_neurons),
            "silent_trials": np.array(int((~heard & valid).sum())),
        }
        _report(files.path.name, table, order, info)
        _report_tiers(files.path.name, table, tiers)
        _report_images(files.path.name, session, table, frame)
        source = {files.path.name: files.sha256()}
    return Recording(
        dataset=str(config["dataset"]),
        session=session,
        stimuli={"images": stimulus},
        trials=table,
        trial=np.arange(len(tiers), dtype=np.int32),
        frame=frame,
        responses=responses,
        valid=valid,
        rate_hz=1 / parameters.image_s,
        unit=parameters.unit,
        neurons=neurons,
        behaviour=behaviour,
        pupil_center=pupil_center,
        session_info=info,
        species=parameters.species,
        area=parameters.area or _areas(neurons),
        source=source,
    )


def _found(config: Mapping[str, Any], parameters: Parameters, session: str, data_dir: Path | None) -> Path:
    """Return the folder or archive of a session; raises ValueError where `neuron_ids` names one that nobody knows."""
    found = find_sessions(data_folder(config, data_dir))
    known = {*map(str, config.get("sessions") or []), *found}
    if unknown := sorted(set(parameters.neuron_ids) - known):
        raise ValueError(f"data_io.neuron_ids names {unknown}, which are not among the sessions {sorted(known)}")
    return session_file(found, session, DESCRIBED)


def _members(files: SessionFiles, key: str, n_trials: int) -> list[str]:
    """Return the files of one key, one for every trial; raises RecordingError for another number of them."""
    names = files.numbered(key)
    if len(names) != n_trials:
        raise RecordingError(
            f"{files.where(f'data/{key}')} holds {len(names)} files, but meta/trials/tiers.npy lists {n_trials} trials"
        )
    return names


# ------------------------------------------------------------------------------------------------------------- neurons


def _neurons(
    files: SessionFiles, parameters: Parameters, session: str
) -> tuple[pd.DataFrame, Int[np.ndarray, "kept"], int]:
    """Return the table of the chosen neurons, their places in the files, and how many neurons the files hold."""
    unit_ids = files.array("meta/neurons/unit_ids.npy")
    if unit_ids.ndim != 1 or unit_ids.dtype.kind not in "iu" or not len(unit_ids):
        raise RecordingError(
            f"{files.where('meta/neurons/unit_ids.npy')} must be whole numbers (neuron), "
            f"found {unit_ids.dtype} of shape {unit_ids.shape}"
        )
    table = pd.DataFrame({"unit_id": unit_ids.astype(np.int64)})
    for name in ("area", "layer"):
        if files.has(path := f"meta/neurons/{name}.npy"):
            table[name] = texts(_per_neuron(files, path, (len(table),), "USiu")).astype(object)
    if files.has(path := "meta/neurons/cell_motor_coordinates.npy"):
        position = _per_neuron(files, path, (len(table), 3), "iuf").astype(np.float64)
        table[["position_x_um", "position_y_um", "position_z_um"]] = position
    chosen = np.ones(len(table), bool)
    for key, column, wanted in (
        ("areas", "area", parameters.areas),
        ("layers", "layer", parameters.layers),
        ("neuron_ids", "unit_id", parameters.neuron_ids.get(session)),
    ):
        if wanted is not None:
            chosen &= _chosen(table, key, column, wanted, files.path.name)
    if not chosen.any():
        raise RecordingError(f"{files.path.name}: no neuron has the areas, layers and ids of data_io")
    return table[chosen].reset_index(drop=True), np.flatnonzero(chosen), len(table)


def _areas(neurons: pd.DataFrame) -> str:
    """Return the areas of the neurons in words."""
    return ", ".join(sorted(set(neurons["area"]))) if "area" in neurons else ""


def _per_neuron(files: SessionFiles, path: str, shape: tuple[int, ...], kinds: str) -> np.ndarray:
    values = files.array(path)
    if values.shape != shape or values.dtype.kind not in kinds:
        kind = "text" if "U" in kinds else "numbers"
        raise RecordingError(
            f"{files.where(path)} must be {kind} of shape {shape} for the neurons of meta/neurons/unit_ids.npy, "
            f"found {values.dtype} of shape {values.shape}"
        )
    return values


def _chosen(
    table: pd.DataFrame, key: str, column: str, wanted: Sequence[Any], where: str
) -> Bool[np.ndarray, "neuron"]:
    if column not in table:
        raise RecordingError(f"{where}: data_io.{key} chooses neurons, but there is no meta/neurons/{column}.npy")
    values = table[column].astype(str)
    found = values.unique()
    if absent := sorted({str(value) for value in wanted} - set(found)):
        listed = ", ".join(found[:10]) + (f", ... ({len(found)} in all)" if len(found) > 10 else "")
        raise RecordingError(f"{where}: data_io.{key} names {absent[0]!r}, the neurons have {listed}")
    return values.isin([str(value) for value in wanted]).to_numpy()


# ------------------------------------------------------------------------------------------------------ arrays by trial


def _each_row(
    files: SessionFiles, names: Sequence[str], n_columns: int
) -> Iterator[tuple[int, Num[np.ndarray, "column"]]]:
    """Yield the number and the values of every file; raises RecordingError naming the file that is not `n_columns`."""
    for trial, name in enumerate(names):
        values = files.array(name)
        if values.shape != (n_columns,) or values.dtype.kind not in "iuf":
            raise RecordingError(
                f"{files.where(name)} must be {n_columns} numbers, found {values.dtype} of shape {values.shape}"
            )
        yield trial, values


def _responses(
    files: SessionFiles, names: Sequence[str], n_neurons: int, kept: Int[np.ndarray, "kept"]
) -> tuple[Float32[np.ndarray, "trial kept"], Bool[np.ndarray, "trial"]]:
    """Return the responses of the `kept` neurons, and in which trials any neuron of the files has one other than 0.

    The latter is asked of all neurons: a few chosen ones may be silent in a whole tier that is published.
    """
    responses = np.empty((len(names), len(kept)), np.float32)
    heard = np.empty(len(names), bool)
    for trial, values in _each_row(files, names, n_neurons):
        responses[trial] = values[kept]
        heard[trial] = (np.isfinite(values) & (values != 0)).any()
    return responses, heard


def _measured(
    files: SessionFiles, key: str, n_trials: int, n_columns: int
) -> Float32[np.ndarray, "trial column"] | None:
    """Return behaviour or pupil positions as recorded; None where a session has none, hides them as 0 or as NaN."""
    if not files.numbered(key):
        return None
    table = np.empty((n_trials, n_columns), np.float32)
    for trial, values in _each_row(files, _members(files, key, n_trials), n_columns):
        table[trial] = values
    return table if np.nan_to_num(table).any() else None


def _masked(
    responses: Float32[np.ndarray, "trial neuron"],
    withheld: Bool[np.ndarray, "trial"],
    parameters: Parameters,
    files: SessionFiles,
) -> tuple[Float32[np.ndarray, "trial neuron"], Bool[np.ndarray, "trial"]]:
    """Return responses, NaN where they are withheld, and which bins count; raises RecordingError for other NaN."""
    responses[withheld] = 0
    responses, valid = mask_missing(responses, parameters.nan_responses, files.where("data/responses"))
    responses[withheld] = np.nan  # so that a use of them shows
    return responses, valid & ~withheld


def _published_statistics(
    files: SessionFiles,
    behaviour: np.ndarray | None,
    pupil_center: np.ndarray | None,
    n_neurons: int,
    kept: Int[np.ndarray, "kept"],
) -> dict[str, np.ndarray]:
    """Return what meta/statistics says over all trials, test trials included: for comparisons, not for training."""
    measured = {"behavior": ("behaviour", behaviour), "pupil_center": ("pupil_center", pupil_center)}
    info = {
        f"{name}_{statistic}_all": values
        for key, (name, array) in measured.items()
        if array is not None
        for statistic, values in statistics_over_all(files, key, STATISTICS).items()
    }
    images = statistics_over_all(files, "images", ("mean", "std"))
    info |= {f"images_{statistic}_all": values for statistic, values in images.items()}
    responses = statistics_over_all(files, "responses", ("std",))
    if "std" in responses:
        info["published_response_scale"] = _published_scale(responses["std"], n_neurons, files)[kept]
    return info


def _published_scale(
    deviation: Float64[np.ndarray, "neuron"], n_neurons: int, files: SessionFiles
) -> Float64[np.ndarray, "neuron"]:
    """Return the standard deviation that the competition divides responses by, with its floor."""
    if deviation.shape != (n_neurons,):
        raise RecordingError(
            f"{files.where('meta/statistics/responses/all/std.npy')} must be of shape ({n_neurons},), "
            f"found {deviation.shape}"
        )
    return np.maximum(deviation, RESPONSE_FLOOR * np.nanmean(deviation))


def _report(name: str, table: pd.DataFrame, order: trials.TimeOrder, info: Mapping[str, np.ndarray]) -> None:
    """Say in the log what a reader of numbers should know of the session."""
    if order.tied.any():
        log.warning(
            "%s: %d of %d trials share a time stamp with another; their order is that of %s",
            name, order.tied.sum(), len(table), order.resolved_by,
        )  # fmt: skip
    if n_silent := int(info["silent_trials"]):
        log.warning("%s: in %d trials every response is 0; they count as recorded", name, n_silent)


def _report_tiers(name: str, table: pd.DataFrame, tiers: trials.Tiers) -> None:
    """Say in the log how many trials of which tiers, by their names in the files, are not used."""
    withheld = table["withheld"].to_numpy() & ~tiers.left_out
    for what, rows in (("responses are withheld and masked in", withheld), ("trials are left out:", tiers.left_out)):
        if rows.any():
            log.info("%s: %s %s", name, what, dict(sorted(Counter(tiers.named[rows].tolist()).items())))


def _report_images(name: str, session: str, table: pd.DataFrame, frame: Int[np.ndarray, "trial"]) -> None:
    """Warn of image ids whose showings are no repeats of each other, because images are told by their pixels."""
    for tier, ids in trials.ids_of_several_images(table, frame).items():
        listed = ", ".join(map(str, ids[:10])) + (f", ... ({len(ids)} in all)" if len(ids) > 10 else "")
        log.warning(
            "%s: session %s, tier %s shows different images under one image_id: %s; only showings of equal pixels "
            "count as repeats", name, session, tier, listed,
        )  # fmt: skip
