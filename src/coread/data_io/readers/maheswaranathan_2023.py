"""Salamander ganglion cells under natural scenes or white noise (Maheswaranathan et al. 2023, Neuron 111:2742).

    .../ganglion_cell_data/<session>/{naturalscene,whitenoise}.h5
        train/stimulus, test/stimulus          (frame, height, width)
        {train,test}/response/<response_type>  (neuron, bin); binned, firing_rate_5ms, _10ms, _20ms
        test/repeats/<response_type>           (repeat, neuron, bin), or
        test/repeats/cell01, cell02, ...       (repeat, bin) of one neuron each

Every session has its own stimuli. Frames are (row, column) as an image is shown with its first row on top, the
assumption of the published loaders; `transpose_images` swaps the two. To check it, compare spike-triggered averages of
`whitenoise` with `train/stas/cellNN`, which some of the files hold. Some sessions have one bin of test response more
than frames: the authors' loader counts bins by `test/time`, one per frame, from the first, so the surplus is cut at the
end (`extra_bins_at`). The training stimulus is several presentations of equal length (the same loader cuts it so).
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Num

from coread.data_io.readers.parameters import reader_parameters
from coread.data_io.readers.published_hdf5 import (
    NAN_POLICIES,
    close,
    mask_missing,
    numbered_cells,
    numbers,
    opened,
    read_frames,
)
from coread.data_io.readers.session_files import data_folder, files_by_session, session_file, session_names
from coread.data_io.readers.trials import TrialCutting, table_of_bins, trial_table
from coread.provenance import file_sha256
from coread.recording import Recording, RecordingError, Stimulus

FOLDER = "ganglion_cell_data"
ENDS = ("end", "start")
MISMATCH_POLICIES = ("error", "use_mean", "keep")

Responses = Float32[np.ndarray, "repeat neuron bin"]


@dataclass(frozen=True)
class Parameters:
    """What the files do not say; the configuration file explains each key."""

    stimulus: str
    rate_hz: float
    response_type: str
    fr_normalization: float = 1.0
    train_blocks: int | None = None
    max_extra_bins: int = 1
    extra_bins_at: str = "end"
    on_repeats_mismatch: str = "error"
    transpose_images: bool = False
    nan_responses: str = "error"
    unit: str = "Hz"
    pixel_um: float | None = None
    species: str = "salamander"
    area: str = "retina"

    def __post_init__(self) -> None:
        for key, known in (
            ("extra_bins_at", ENDS),
            ("on_repeats_mismatch", MISMATCH_POLICIES),
            ("nan_responses", NAN_POLICIES),
        ):
            if getattr(self, key) not in known:
                raise ValueError(f"data_io.{key} is one of {list(known)}, found {getattr(self, key)!r}")


def list_sessions(config: Mapping[str, Any], data_dir: Path | None) -> list[str]:
    """Return the configured sessions, else those with a file of the configured stimulus."""
    parameters = reader_parameters(Parameters, config)
    return session_names(config, lambda: _files(config, data_dir, parameters), _described(parameters))


def build_stimuli(config: Mapping[str, Any], data_dir: Path | None) -> dict[str, Stimulus]:
    """Return no stimuli: every session has its own."""
    return {}


def build_recording(
    config: Mapping[str, Any], session: str, data_dir: Path | None, stimuli: Mapping[str, Stimulus]
) -> Recording:
    """Return one session; raises RecordingError naming file and dataset, what was expected and what was found."""
    parameters = reader_parameters(Parameters, config)
    path = session_file(_files(config, data_dir, parameters), session, _described(parameters))
    where = f"{session}/{path.name}"
    names = {part: f"{parameters.stimulus}_{part}" for part in ("train", "test")}
    with opened(path, where) as file:
        responses = {name: _responses(file, part, where, parameters) for part, name in names.items()}
        _check_neurons(responses, where)
        unit_ids = _unit_ids(file, session, responses[names["train"]].shape[1])
        shown = {name: _stimulus(file, part, where, parameters) for part, name in names.items()}
    layout = {name: (len(values), values.shape[2]) for name, values in responses.items()}
    offsets = {names["train"]: _block_starts(layout[names["train"]][1], where, parameters)}
    trials, trial, frame = trial_table(layout, TrialCutting(None, offsets, frozenset({names["test"]})))
    table = table_of_bins(responses.values())
    table, valid = mask_missing(table, parameters.nan_responses, where)
    return Recording(
        dataset=str(config["dataset"]),
        session=session,
        stimuli=shown,
        trials=trials,
        trial=trial,
        frame=frame,
        responses=table,
        valid=valid,
        rate_hz=parameters.rate_hz,
        unit=parameters.unit,
        neurons=pd.DataFrame({"unit_id": unit_ids}),
        species=parameters.species,
        area=parameters.area,
        source={where: file_sha256(path)},
    )


def source_files(config: Mapping[str, Any], session: str | None, data_dir: Path | None) -> list[Path]:
    """Return the file of a session; there are no shared stimuli."""
    parameters = reader_parameters(Parameters, config)
    if session is None:
        return []
    return [session_file(_files(config, data_dir, parameters), session, _described(parameters))]


def _files(config: Mapping[str, Any], data_dir: Path | None, parameters: Parameters) -> dict[str, Path]:
    folder = data_folder(config, data_dir)

    def session_of(path: Path) -> str | None:
        sessions = path.parent.parent
        # the archive also holds recordings of interneurons, elsewhere; a folder of sessions may have been renamed
        return path.parent.name if sessions == folder or sessions.resolve().name == FOLDER else None

    return files_by_session(folder, f"{parameters.stimulus}.h5", session_of)


def _described(parameters: Parameters) -> str:
    return f"{FOLDER}/<session>/{parameters.stimulus}.h5"


# -------------------------------------------------------------------------------------------------------------- stimuli


def _stimulus(file: h5py.File, part: str, where: str, parameters: Parameters) -> Stimulus:
    dataset = numbers(file, f"{part}/stimulus", "(frame, height, width)", where)
    frames, scale, offset = read_frames(dataset, f"{where}: {part}/stimulus", transpose=parameters.transpose_images)
    return Stimulus(frames, parameters.rate_hz, scale, offset, pixel_um=parameters.pixel_um)


def _block_starts(n_frames: int, where: str, parameters: Parameters) -> list[int]:
    """Return the first frame of every training presentation."""
    blocks = parameters.train_blocks or 1
    if n_frames % blocks:
        warnings.warn(
            f"{where}: {n_frames} training frames are no {blocks} presentations of equal length (data_io.train_blocks);"
            " they are taken as one uninterrupted presentation",
            stacklevel=2,
        )
        blocks = 1
    return list(range(0, n_frames, n_frames // blocks))


# ------------------------------------------------------------------------------------------------------------ responses


def _responses(file: h5py.File, part: str, where: str, parameters: Parameters) -> Responses:
    """Return the responses to the training or test stimulus, one bin per frame, in units of the normalisation."""
    key = f"{part}/response/{parameters.response_type}"
    mean = numbers(file, key, "(neuron, bin)", where)
    n_frames = numbers(file, f"{part}/stimulus", "(frame, height, width)", where).shape[0]
    bins = _counted_bins(mean.shape, n_frames, f"{where}: {key}", parameters)
    values = mean[()].astype(np.float64)
    repeats = _repeats(file, values, where, parameters) if part == "test" else values[None]
    return (repeats[..., bins] / parameters.fr_normalization).astype(np.float32)


def _counted_bins(shape: tuple[int, ...], n_frames: int, where: str, parameters: Parameters) -> slice:
    """Return which bins belong to the frames; up to `max_extra_bins` surplus bins are cut."""
    extra = shape[-1] - n_frames
    if 0 <= extra <= parameters.max_extra_bins:
        return slice(0, n_frames) if parameters.extra_bins_at == "end" else slice(extra, None)
    hint = "; its axes look transposed, expected (neuron, bin)" if n_frames in shape[:-1] else ""
    raise RecordingError(
        f"{where} has {shape[-1]} bins, the stimulus has {n_frames} frames (data_io.max_extra_bins allows "
        f"{parameters.max_extra_bins} more){hint}"
    )


def _repeats(
    file: h5py.File, mean: Float[np.ndarray, "neuron bin"], where: str, parameters: Parameters
) -> Float[np.ndarray, "repeat neuron bin"]:
    """Return single presentations of the test stimulus, or the published average where the file has none."""
    group = file.get("test/repeats")
    if not isinstance(group, h5py.Group):
        return mean[None]
    if parameters.response_type in group:
        key = f"test/repeats/{parameters.response_type}"
        repeats = numbers(file, key, "(repeat, neuron, bin)", where)[()].astype(np.float64)
    else:
        key = "test/repeats/cell<NN>"
        repeats = _repeats_by_cell(file, group, where, parameters)
    if repeats.shape[1:] != mean.shape:
        raise RecordingError(
            f"{where}: {key} has (neuron, bin) {repeats.shape[1:]}, test/response/{parameters.response_type} has "
            f"{mean.shape}; expected (repeat, neuron, bin) or one (repeat, bin) per neuron"
        )
    return _same_unit(file, repeats, mean, f"{where}: {key}", parameters)


def _repeats_by_cell(
    file: h5py.File, group: h5py.Group, where: str, parameters: Parameters
) -> Num[np.ndarray, "repeat neuron bin"]:
    names = numbered_cells(group)
    if not names:
        raise RecordingError(
            f"{where}: test/repeats holds neither {parameters.response_type} nor cell<NN>, found {sorted(group)}"
        )
    cells = [numbers(file, f"test/repeats/{name}", "(repeat, bin)", where)[()] for name in names]
    if len(shapes := {values.shape for values in cells}) > 1:
        raise RecordingError(f"{where}: test/repeats/cell<NN> differ in (repeat, bin): {sorted(shapes)}")
    return np.stack(cells, axis=1).astype(np.float64)


def _same_unit(
    file: h5py.File,
    repeats: Float[np.ndarray, "repeat neuron bin"],
    mean: Float[np.ndarray, "neuron bin"],
    where: str,
    parameters: Parameters,
) -> Float[np.ndarray, "repeat neuron bin"]:
    """Return the repeats if their average is the published one: else they are of another unit or order of axes."""
    if parameters.on_repeats_mismatch == "keep" or close(repeats.mean(axis=0), mean):
        return repeats
    if parameters.on_repeats_mismatch == "use_mean":
        return mean[None]
    published = file["test/response"]
    same = [name for name in sorted(published) if close(repeats.mean(axis=0), published[name][()])]
    found = f"equals test/response/{same[0]}" if same else f"equals none of {sorted(published)}"
    raise RecordingError(
        f"{where}: the average over repeats should be test/response/{parameters.response_type}, but {found}; "
        f"data_io.on_repeats_mismatch: use_mean scores against the published average, keep takes the repeats as found"
    )


def _check_neurons(responses: Mapping[str, Responses], where: str) -> None:
    counts = {name: values.shape[1] for name, values in responses.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise RecordingError(f"{where}: the numbers of neurons differ: {listed}")


def _unit_ids(file: h5py.File, session: str, n_neurons: int) -> list[str]:
    """Return the names of the cells in the file where it names as many as it has responses of."""
    for key in ("spikes", "test/repeats"):
        group = file.get(key)
        names = numbered_cells(group) if isinstance(group, h5py.Group) else []
        if len(names) == n_neurons:
            return [f"{session}_{name}" for name in names]
    return [f"{session}_{neuron:03d}" for neuron in range(n_neurons)]
