"""Marmoset ganglion cells under a film with simulated eye movements (Sridhar et al. 2025), as published.

    <folder>/stimuli_padded_4/NNNNN_img_MMMMM.npy   (x, y) = (350, 300): film image NNNNN with a margin of 50 pixels
    <folder>/fixations/<file>.txt                   a line per refresh of the screen; fields 0, 3, 4 and the last are
                                                    film image, gaze x, gaze y, flip
    <folder>/responses/cell_responses_<session>_fixation_movie.pkl      see `sridhar_2025`

The first `test_frames` lines are the test sequence, the rest are the training trials one after the other. The frame of
a line is the window of 200 x 150 pixels around the gaze as (height, width) = (y, x), upside down where flip is 0, and
of it the inner 80 x 90 pixels. Here every distinct frame (image, gaze and flip) is rendered once, in the order of its
first appearance; trials are index arrays into them, so what two trials or two sessions share is the same frame.

The flip happens to the frame that the screen showed: reversing the y axis of the image before it is transposed reverses
the rows (height) of the frame. Receptive fields measured with these frames therefore need no flip of their own; whoever
compares them with a field in coordinates of the unflipped image has to reverse the height axis, never the width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from coread.data_io.lazy_frames import LazyFrames
from coread.data_io.readers.parameters import reader_parameters
from coread.data_io.readers.sridhar_2025 import (
    dataset_folder,
    exclusion_steps,
    load_responses,
    neuron_table,
    response_file,
    response_table,
    session_value,
    trial_rows,
)
from coread.provenance import file_sha256
from coread.recording import BLANK, Recording, RecordingError, Stimulus

IMAGE_PATTERN = "*_img_*.npy"
N_SAMPLED = 16  # images looked at to choose the dtype; every other one is checked against it when it is rendered
POLICIES = ("error", "mask")


@dataclass(frozen=True)
class MovieParameters:
    """What the files do not say; the configuration file explains each key."""

    rate_hz: float
    fixations: Mapping[str, str]
    folder: str = ""
    images: str = "stimuli_padded_4"
    responses: str | Mapping[str, str] = "responses/cell_responses_{session}_fixation_movie.pkl"
    test_frames: int = 5100
    margin_px: int = 50
    window_px: Sequence[int] = (150, 200)
    crop_px: Sequence[int] = (35, 35, 55, 55)
    stimulus_seed: int | None = None
    test_trials: Mapping[str, int] = field(default_factory=dict)
    missing_fixations: str = "error"
    excluded_cells: Mapping[str, Sequence[int]] = field(default_factory=dict)
    unit: str = "spike count"
    pixel_um: float | None = None
    species: str = ""
    area: str = ""

    def __post_init__(self) -> None:
        if self.missing_fixations not in POLICIES:
            raise ValueError(f"data_io.missing_fixations is one of {list(POLICIES)}, found {self.missing_fixations!r}")
        top, bottom, left, right = self.crop_px
        if min(self.crop_px) < 0 or top + bottom >= self.window_px[0] or left + right >= self.window_px[1]:
            raise ValueError(
                f"data_io.crop_px {list(self.crop_px)} (top, bottom, left, right) leaves nothing of the window "
                f"{list(self.window_px)} (height, width)"
            )

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Height and width of a frame after the crop."""
        top, bottom, left, right = self.crop_px
        return self.window_px[0] - top - bottom, self.window_px[1] - left - right


@dataclass(frozen=True)
class Gaze:
    """Which frames a stretch of lines shows: `shown (line,)` are rows of the distinct frames below."""

    shown: Int[np.ndarray, "line"]
    image: Int[np.ndarray, "frame"]
    x: Int[np.ndarray, "frame"]
    y: Int[np.ndarray, "frame"]
    flip: Int[np.ndarray, "frame"]

    @property
    def n_frames(self) -> int:
        """Number of distinct frames."""
        return len(self.image)


def list_sessions(config: Mapping[str, Any], data_dir: Path | None) -> list[str]:
    """Return the configured sessions, else all that have a gaze file."""
    return [str(name) for name in config.get("sessions") or sorted(config["fixations"])]


def build_stimuli(config: Mapping[str, Any], data_dir: Path | None) -> dict[str, Stimulus]:
    """Return the training and the test frames of every gaze file in use, rendered when they are asked for.

    Raises RecordingError that names the file, what was expected and what was found.
    """
    parameters = reader_parameters(MovieParameters, config)
    folder = dataset_folder(config, data_dir, parameters.folder)
    images = _image_files(folder / parameters.images)
    stimuli = {}
    for path in _gaze_files(config, parameters, folder):
        train, test = _load_gaze(path, parameters, images)
        for name, gaze in zip(_stimulus_names(path), (train, test), strict=True):
            stimuli[name] = _stimulus(gaze, images, parameters)
    return stimuli


def build_recording(
    config: Mapping[str, Any], session: str, data_dir: Path | None, stimuli: Mapping[str, Stimulus]
) -> Recording:
    """Return one session; raises RecordingError that names the file, what was expected and what was found."""
    parameters = reader_parameters(MovieParameters, config)
    folder = dataset_folder(config, data_dir, parameters.folder)
    gaze_path, response_path = _session_files(parameters, folder, session)
    train_name, test_name = _stimulus_names(gaze_path)
    train, test = _load_gaze(gaze_path, parameters)
    for name, gaze in ((train_name, train), (test_name, test)):
        if stimuli[name].frames.shape[0] != gaze.n_frames:
            found = stimuli[name].frames.shape[0]
            raise RecordingError(f"{gaze_path.name}: {gaze.n_frames} distinct frames, stimulus {name!r} has {found}")
    responses = load_responses(
        response_path,
        parameters.excluded_cells.get(session, ()),
        parameters.stimulus_seed,
        parameters.test_trials.get(session),
    )
    trials, trial = trial_rows(responses, train_name, test_name)
    n_train, n_test = responses.train.shape[1], responses.test.shape[1]
    frame = np.concatenate(
        [
            # lines follow the published number of a trial, also where only trials of one seed are used
            _shown(train, (responses.train_trial[:, None] * n_train + np.arange(n_train)).reshape(-1)),
            np.tile(_shown(test, np.arange(n_test)), len(responses.test)),
        ]
    )
    valid = frame != BLANK
    if not valid.all():
        _report_missing(gaze_path, session, trials, trial, valid, parameters)
    return Recording(
        dataset=str(config["dataset"]),
        session=session,
        stimuli={name: stimuli[name] for name in (train_name, test_name)},
        trials=trials,
        trial=trial,
        frame=frame.astype(np.int32),
        responses=response_table(responses),
        valid=valid,
        rate_hz=parameters.rate_hz,
        unit=parameters.unit,
        neurons=neuron_table(session, responses),
        session_info=exclusion_steps(responses),
        species=parameters.species,
        area=parameters.area,
        source={str(path.relative_to(folder)): file_sha256(path) for path in (gaze_path, response_path)},
    )


def source_files(config: Mapping[str, Any], session: str | None, data_dir: Path | None) -> list[Path]:
    """Return gaze file and responses of a session, or film images and gaze files for None."""
    parameters = reader_parameters(MovieParameters, config)
    folder = dataset_folder(config, data_dir, parameters.folder)
    if session is not None:
        return list(_session_files(parameters, folder, session))
    return [*_gaze_files(config, parameters, folder), *_image_files(folder / parameters.images)]


def _gaze_files(config: Mapping[str, Any], parameters: MovieParameters, folder: Path) -> list[Path]:
    names = {session_value(parameters.fixations, session, "fixations") for session in list_sessions(config, None)}
    return [folder / name for name in sorted(names)]


def _session_files(parameters: MovieParameters, folder: Path, session: str) -> tuple[Path, Path]:
    gaze = folder / session_value(parameters.fixations, session, "fixations")
    return gaze, response_file(folder, parameters.responses, session)


def _stimulus_names(gaze_path: Path) -> tuple[str, str]:
    return f"train_{gaze_path.stem}", f"test_{gaze_path.stem}"


def _shown(gaze: Gaze, lines: Int[np.ndarray, "bin"]) -> Int[np.ndarray, "bin"]:
    """Return the frame of every line, BLANK past the end of the file."""
    present = lines < len(gaze.shown)
    return np.where(present, gaze.shown[np.minimum(lines, len(gaze.shown) - 1)], BLANK)


def _report_missing(
    path: Path, session: str, trials: pd.DataFrame, trial: np.ndarray, valid: np.ndarray, parameters: MovieParameters
) -> None:
    rows = np.unique(trial[~valid])
    if parameters.missing_fixations == "error" or (trials["tier"].iloc[rows] == "test").any():
        first = trials.iloc[int(rows[0])]
        raise RecordingError(
            f"{path.name}: session {session!r} has {int((~valid).sum())} bins without a line, from {first['tier']} "
            f"trial {first['published_trial']} on; data_io.missing_fixations: mask leaves such training bins out"
        )


# ---------------------------------------------------------------------------------------------------------------- gaze


def _load_gaze(path: Path, parameters: MovieParameters, images: Sequence[Path] | None = None) -> tuple[Gaze, Gaze]:
    """Return the gaze of the training and of the test lines; with `images`, check that all frames lie inside them."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file (data_io.fixations)")
    try:
        table = pd.read_csv(path, sep=r"\s+", header=None)
        if table.shape[1] < 6:
            raise ValueError(f"expected at least 6 fields per line, found {table.shape[1]}")
        numbers = table.iloc[:, [0, 3, 4, -1]].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    except (ValueError, UnicodeDecodeError) as error:  # pandas' parser errors are ValueErrors
        raise RecordingError(f"{path.name}: not a table of fixations, truncated or damaged ({error})") from error
    wrong = ~np.isfinite(numbers).all(axis=1) | ~np.isin(numbers[:, 3], (0, 1)) | (numbers[:, 0] < 0)
    if wrong.any():
        line = int(np.flatnonzero(wrong)[0])
        raise RecordingError(
            f"{path.name}: line {line + 1} must give a film image, gaze x and y, and flip 0 or 1 (fields 0, 3, 4 and "
            f"the last), found {table.iloc[line].tolist()}"
        )
    lines = numbers.astype(int)  # towards zero, as published
    if len(lines) <= parameters.test_frames:
        raise RecordingError(
            f"{path.name}: {len(lines)} lines, but data_io.test_frames says the first {parameters.test_frames} are test"
        )
    if images is not None:
        _check_window(path, lines, images, parameters)
    return _distinct(lines[parameters.test_frames :]), _distinct(lines[: parameters.test_frames])


def _distinct(lines: Int[np.ndarray, "line field"]) -> Gaze:
    """Return the distinct lines in the order of their first appearance, which is how windows of time read them."""
    _, first, inverse = np.unique(lines, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), int)
    rank[order] = np.arange(len(order))
    image, x, y, flip = lines[first[order]].T
    return Gaze(rank[inverse.reshape(-1)], image, x, y, flip)


def _check_window(path: Path, lines: np.ndarray, images: Sequence[Path], parameters: MovieParameters) -> None:
    size = _load_image(images[0]).shape
    height, width = parameters.window_px
    image, x, y = lines[:, 0], lines[:, 1] + parameters.margin_px, lines[:, 2] + parameters.margin_px
    outside = (image >= len(images)) | (x < width // 2) | (x + width // 2 > size[0])
    outside |= (y < height // 2) | (y + height // 2 > size[1])
    if outside.any():
        line = int(np.flatnonzero(outside)[0])
        raise RecordingError(
            f"{path.name}: line {line + 1} looks at ({lines[line, 1]}, {lines[line, 2]}) of image {lines[line, 0]}, "
            f"but its window of {width} x {height} is not inside the {len(images)} images of {size[0]} x {size[1]}"
        )


# -------------------------------------------------------------------------------------------------------------- frames


def _image_files(folder: Path) -> list[Path]:
    """Return the film images in order; raises RecordingError if one is missing, which would shift all later ones."""
    paths = sorted(folder.glob(IMAGE_PATTERN))
    if not paths:
        raise FileNotFoundError(f"{folder}: no film images {IMAGE_PATTERN} (data_io.images)")
    numbers = [path.name.split("_")[0] for path in paths]
    wrong = next((index for index, number in enumerate(numbers) if not number.isdigit() or int(number) != index), None)
    if wrong is not None:
        raise RecordingError(
            f"{folder.name}: film image {wrong:05d} is missing, found {paths[wrong].name} in its place"
        )
    return paths


def _load_image(path: Path) -> np.ndarray:
    try:
        image = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RecordingError(f"{path.name}: not a readable .npy array, truncated or damaged ({error})") from error
    if image.ndim != 2 or image.dtype.kind not in "buif":
        raise RecordingError(f"{path.name}: must be numbers (x, y), found {image.dtype} of shape {image.shape}")
    return image


def _stimulus(gaze: Gaze, images: Sequence[Path], parameters: MovieParameters) -> Stimulus:
    """Return the distinct frames; physical values are grey levels / 255.

    Whole grey levels are stored in one byte. Others, if the images hold any, as float16 of the value: what the
    published system computes with.
    """
    sampled = [_load_image(images[index]) for index in np.linspace(0, len(images) - 1, N_SAMPLED).astype(int)]
    whole = all(_is_grey_level(image).all() for image in sampled)
    dtype, scale = (np.uint8, 1 / 255) if whole else (np.float16, 1.0)
    render = partial(_render, gaze, images, parameters, np.dtype(dtype), sampled[0].shape)
    frames = LazyFrames((gaze.n_frames, 1, *parameters.frame_shape), dtype, render)
    return Stimulus(frames, frame_rate_hz=parameters.rate_hz, scale=scale, pixel_um=parameters.pixel_um)


def _is_grey_level(image: np.ndarray) -> np.ndarray:
    return (image == np.rint(image)) & (image >= 0) & (image <= 255)


def _render(
    gaze: Gaze,
    images: Sequence[Path],
    parameters: MovieParameters,
    dtype: np.dtype,
    image_shape: tuple[int, int],
    rows: Int[np.ndarray, "frame"],
) -> np.ndarray:
    """Return frames (frame, channel, height, width) by their rows; every film image is read once."""
    numbers, which = np.unique(gaze.image[rows], return_inverse=True)
    loaded = np.stack([_grey_levels(images[number], dtype, image_shape) for number in numbers])
    top, bottom, left, right = parameters.crop_px
    height, width = parameters.window_px
    row, column = np.arange(top, height - bottom), np.arange(left, width - right)
    upright = gaze.flip[rows, None] == 1
    in_window = np.where(upright, row, height - 1 - row)
    y = gaze.y[rows, None] + parameters.margin_px - height // 2 + in_window
    x = gaze.x[rows, None] + parameters.margin_px - width // 2 + column
    return loaded[which[:, None, None], x[:, None, :], y[:, :, None]][:, None]


def _grey_levels(path: Path, dtype: np.dtype, shape: tuple[int, int]) -> np.ndarray:
    image = _load_image(path)
    if image.shape != shape:
        raise RecordingError(f"{path.name}: must have the shape {shape} of the first film image, found {image.shape}")
    if dtype == np.float16:
        return (image / 255).astype(np.float16)
    if not (grey := _is_grey_level(image)).all():
        value = image[~grey][0]
        raise RecordingError(
            f"{path.name}: must hold whole grey levels 0 to 255 as other film images do, found {value}"
        )
    return image.astype(np.uint8)
