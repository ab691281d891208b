"""Mouse and axolotl ganglion cells under flashed natural images (Goldin et al. 2022, Nature Communications 13:5556).

    .../<session>.h5                          a name with the species in it
        train/stimulus, test/stimulus         (image, height, width)
        {train,test}/response/binned          (neuron, image) spikes in the 300 ms of a flash, averaged over repeats
        test/repeats/cell<NN> or cell_<NN>    (repeat, image) of one neuron each

A bin is the flash of one image: every trial has one bin, of `image_s` seconds, and models of these data have no lag.
The order of presentation is not published: `time_order` follows the file. Images are (row, column) with the first
row on top, the assumption of the published loader; `transpose_images` swaps the two.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from jaxtyping import Float, Float32

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

TRAIN, TEST = "train", "test"

Responses = Float32[np.ndarray, "repeat neuron image"]


@dataclass(frozen=True)
class Parameters:
    """What the files do not say; the configuration file explains each key."""

    species: str
    image_s: float
    response_type: str = "binned"
    fr_normalization: float = 1.0
    transpose_images: bool = False
    nan_responses: str = "error"
    unit: str = "Hz"
    pixel_um: float | None = None
    area: str = "retina"

    def __post_init__(self) -> None:
        if self.nan_responses not in NAN_POLICIES:
            raise ValueError(f"data_io.nan_responses is one of {list(NAN_POLICIES)}, found {self.nan_responses!r}")


def list_sessions(config: Mapping[str, Any], data_dir: Path | None) -> list[str]:
    """Return the configured sessions, else the files of the species."""
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
    with opened(path, path.name) as file:
        responses = {part: _responses(file, part, path.name, parameters) for part in (TRAIN, TEST)}
        if responses[TRAIN].shape[1] != responses[TEST].shape[1]:
            listed = ", ".join(f"{part} {values.shape[1]}" for part, values in responses.items())
            raise RecordingError(f"{path.name}: the numbers of neurons differ: {listed}")
        unit_ids = _unit_ids(file, session, responses[TRAIN].shape[1])
        shown = {part: _stimulus(file, part, path.name, parameters) for part in (TRAIN, TEST)}
    layout = {part: (len(values), values.shape[2]) for part, values in responses.items()}
    each_image = {part: range(n_images) for part, (_, n_images) in layout.items()}
    trials, trial, frame = trial_table(layout, TrialCutting(None, each_image, frozenset({TEST})))
    table = table_of_bins(responses.values())
    table, valid = mask_missing(table, parameters.nan_responses, path.name)
    return Recording(
        dataset=str(config["dataset"]),
        session=session,
        stimuli=shown,
        trials=trials,
        trial=trial,
        frame=frame,
        responses=table,
        valid=valid,
        rate_hz=1 / parameters.image_s,
        unit=parameters.unit,
        neurons=pd.DataFrame({"unit_id": unit_ids}),
        species=parameters.species,
        area=parameters.area,
        source={path.name: file_sha256(path)},
    )


def source_files(config: Mapping[str, Any], session: str | None, data_dir: Path | None) -> list[Path]:
    """Return the file of a session; there are no shared stimuli."""
    parameters = reader_parameters(Parameters, config)
    if session is None:
        return []
    return [session_file(_files(config, data_dir, parameters), session, _described(parameters))]


def _files(config: Mapping[str, Any], data_dir: Path | None, parameters: Parameters) -> dict[str, Path]:
    def session_of(path: Path) -> str | None:
        return path.stem if parameters.species in path.name else None

    return files_by_session(data_folder(config, data_dir), "*.h5", session_of)


def _described(parameters: Parameters) -> str:
    return f"<session with {parameters.species} in its name>.h5"


def _stimulus(file: h5py.File, part: str, where: str, parameters: Parameters) -> Stimulus:
    dataset = numbers(file, f"{part}/stimulus", "(image, height, width)", where)
    frames, scale, offset = read_frames(dataset, f"{where}: {part}/stimulus", transpose=parameters.transpose_images)
    return Stimulus(frames, 1 / parameters.image_s, scale, offset, pixel_um=parameters.pixel_um)


# ------------------------------------------------------------------------------------------------------------ responses


def _responses(file: h5py.File, part: str, where: str, parameters: Parameters) -> Responses:
    """Return the responses to all training or test images, in units of the normalisation."""
    key = f"{part}/response/{parameters.response_type}"
    dataset = numbers(file, key, "(neuron, image)", where)
    n_images = numbers(file, f"{part}/stimulus", "(image, height, width)", where).shape[0]
    if dataset.shape[1] != n_images:
        hint = "; its axes look transposed" if dataset.shape[0] == n_images else ""
        raise RecordingError(
            f"{where}: {key} must be (neuron, image) with {n_images} images, found shape {tuple(dataset.shape)}{hint}"
        )
    mean = dataset[()].astype(np.float64)
    repeats = _repeats(file, mean, where) if part == TEST and "repeats" in file[TEST] else mean[None]
    return (repeats / parameters.fr_normalization).astype(np.float32)


def _repeats(
    file: h5py.File, mean: Float[np.ndarray, "neuron image"], where: str
) -> Float[np.ndarray, "repeat neuron image"]:
    """Return single flashes of the test images, of which the published response must be the average."""
    key = "test/repeats/cell<NN>"
    names = numbered_cells(file["test/repeats"])
    if len(names) != len(mean):
        raise RecordingError(
            f"{where}: {key} should be one per neuron, {len(mean)}, found {sorted(file['test/repeats'])}"
        )
    cells = [numbers(file, f"test/repeats/{name}", "(repeat, image)", where) for name in names]
    shapes = sorted({cell.shape for cell in cells})
    if len(shapes) > 1 or shapes[0][1] != mean.shape[1]:
        raise RecordingError(
            f"{where}: {key} must all be (repeat, image) with {mean.shape[1]} images, found the shapes {shapes}"
        )
    repeats = np.stack([cell[()] for cell in cells], axis=1).astype(np.float64)
    if close(repeats.mean(axis=0), mean):
        return repeats
    # as many repeats as images: only the average tells which axis is which
    swapped = repeats.shape[0] == repeats.shape[2] and close(repeats.mean(axis=2).T, mean)
    raise RecordingError(
        f"{where}: the average of {key} over repeats, its first axis, is not test/response"
        + ("; the one over its second axis is: expected (repeat, image), found (image, repeat)" if swapped else "")
    )


def _unit_ids(file: h5py.File, session: str, n_neurons: int) -> list[str]:
    names = numbered_cells(file["test/repeats"]) if "repeats" in file[TEST] else []
    return [f"{session}_{name}" for name in names or [f"{neuron:03d}" for neuron in range(n_neurons)]]
