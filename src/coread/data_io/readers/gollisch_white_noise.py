"""White noise of the Gollisch lab that was never stored: responses from a file, frames regenerated from their seed.

    <directory>/<session>.h5
        running_counts                   (neuron, trial, bin): responses to noise that goes on from trial to trial
        frozen_counts                    (neuron, trial, bin), optional: responses to the same noise in every trial
        unit_id, cell_type               (neuron,), optional; session_info/<key>: optional arrays, kept
        attributes                       optional: any of the settings below that describe the noise, by their names

A trial is a stretch of running noise and then, where there is any, one of frozen noise. The lab's stimulator draws the
running frames of all trials from one generator that starts at `running_seed`, and the frozen frames of every trial from
one that starts anew at `frozen_seed`; the package `retinawhitenoise` of the lab repeats the generator (ran1 and gasdev
of Numerical Recipes) bit for bit. Within a frame y runs fastest: pixel (y, x) of a frame here is number x * ny + y.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from jaxtyping import Float32, Num

from coread.data_io.readers.parameters import reader_parameters
from coread.data_io.readers.session_files import data_folder, named_file
from coread.extras import import_extra
from coread.provenance import file_sha256
from coread.recording import Recording, RecordingError, Stimulus

PATTERN = "*.h5"
DISTRIBUTIONS = ("binary", "gaussian")
CHUNK_VALUES = 2**21  # numbers drawn at a time: the generator returns a list of them


@dataclass(frozen=True)
class NoiseParameters:
    """Settings of the noise and of the recording; the configuration file explains each key.

    The first group may stand in the files instead, session by session.
    """

    rate_hz: float
    running_seed: int | None = None
    frozen_seed: int | None = None
    nx: int | None = None
    ny: int | None = None
    distribution: str | None = None
    contrast: float | None = None
    bins_per_frame: int | None = None
    crop_px: Sequence[int] | None = None

    unit: str = "spike count"
    pixel_um: float | None = None
    species: str = ""
    area: str = ""


IN_FILE = ("running_seed", "frozen_seed", "nx", "ny", "distribution", "contrast", "bins_per_frame", "crop_px")


@dataclass(frozen=True)
class Noise:
    """One sequence of noise frames: everything that decides what was on the screen."""

    kind: str
    seed: int
    nx: int
    ny: int
    distribution: str
    contrast: float
    crop_px: tuple[int, int, int, int]  # first and one past the last column, first and one past the last row
    bins_per_frame: int = 1

    @property
    def name(self) -> str:
        """Name of the stimulus: what has the same name showed the same frames, each for as long."""
        x0, x1, y0, y1 = self.crop_px
        part = "" if self.crop_px == (0, self.nx, 0, self.ny) else f"_x{x0}-{x1}_y{y0}-{y1}"
        contrast = "" if self.contrast == 1 else f"_contrast{self.contrast:g}"
        held = "" if self.bins_per_frame == 1 else f"_{self.bins_per_frame}bins"
        return f"{self.kind}_{self.distribution}_{self.nx}x{self.ny}_seed{self.seed}{contrast}{part}{held}"

    @property
    def sequence(self) -> "Noise":
        """The frames, whatever time each of them was shown."""
        return replace(self, bins_per_frame=1)


@dataclass(frozen=True)
class Session:
    """What a file says about its session; responses stay in it."""

    path: Path
    parameters: NoiseParameters
    shapes: Mapping[str, tuple[int, int, int]]  # running, frozen -> (neuron, trial, bin)

    @property
    def bins_per_frame(self) -> int:
        """Response bins for which a frame stays on the screen."""
        return int(self.parameters.bins_per_frame or 1)

    def noise(self, kind: str) -> Noise:
        """Return the sequence behind the running or the frozen responses; raises RecordingError naming what lacks."""
        parameters = self.parameters
        needed = {name: getattr(parameters, name) for name in (f"{kind}_seed", "nx", "ny")}
        if missing := [name for name, value in needed.items() if value is None]:
            raise RecordingError(
                f"{self.path.name}: {kind}_counts needs {', '.join(missing)}, which neither the file's attributes nor "
                "data_io say"
            )
        seed, nx, ny = (int(value) for value in needed.values())
        crop = (0, nx, 0, ny) if parameters.crop_px is None else tuple(int(value) for value in parameters.crop_px)
        if len(crop) != 4 or not (0 <= crop[0] < crop[1] <= nx and 0 <= crop[2] < crop[3] <= ny):
            raise RecordingError(
                f"{self.path.name}: crop_px {list(crop)} (x0, x1, y0, y1) does not lie inside {nx} x {ny} pixels"
            )
        distribution = parameters.distribution or "binary"
        if distribution not in DISTRIBUTIONS:
            raise RecordingError(
                f"{self.path.name}: distribution is one of {list(DISTRIBUTIONS)}, found {distribution!r}"
            )
        contrast = 1.0 if parameters.contrast is None else float(parameters.contrast)
        return Noise(kind, seed, nx, ny, distribution, contrast, crop, self.bins_per_frame)

    def n_frames(self, kind: str) -> int:
        """Return how many frames of the sequence were shown: all trials of running noise, one of frozen noise."""
        _, n_trials, n_bins = self.shapes[kind]
        if n_bins % self.bins_per_frame:
            raise RecordingError(
                f"{self.path.name}: {kind}_counts has {n_bins} bins per trial, no multiple of bins_per_frame "
                f"{self.bins_per_frame}"
            )
        return n_bins // self.bins_per_frame * (n_trials if kind == "running" else 1)


def list_sessions(config: Mapping[str, Any], data_dir: Path | None) -> list[str]:
    """Return the configured sessions, else those found in the directory; raises FileNotFoundError if there are none."""
    if config.get("sessions"):
        return [str(name) for name in config["sessions"]]
    names = sorted(path.stem for path in data_folder(config, data_dir).glob(PATTERN))
    if not names:
        raise FileNotFoundError(f"no sessions in {data_dir}: no file there matches {PATTERN}")
    return names


def build_stimuli(config: Mapping[str, Any], data_dir: Path | None) -> dict[str, Stimulus]:
    """Regenerate every sequence once, as long as the longest session needs it.

    Sessions that showed its frames for different times have stimuli of their own, with the same frames.
    """
    lengths: dict[Noise, int] = {}
    noises: dict[Noise, tuple[float, float | None]] = {}
    for name in list_sessions(config, data_dir):
        session = _session(config, name, data_dir)
        for kind in session.shapes:
            noise = session.noise(kind)
            rate = session.parameters.rate_hz / session.bins_per_frame
            noises[noise] = (rate, session.parameters.pixel_um)
            lengths[noise.sequence] = max(lengths.get(noise.sequence, 0), session.n_frames(kind))
    frames = {sequence: regenerate(sequence, length) for sequence, length in lengths.items()}
    return {
        noise.name: Stimulus(frames[noise.sequence], rate, scale=noise.contrast, pixel_um=pixel_um)
        for noise, (rate, pixel_um) in noises.items()
    }


def build_recording(
    config: Mapping[str, Any], session: str, data_dir: Path | None, stimuli: Mapping[str, Stimulus]
) -> Recording:
    """Return one session; raises RecordingError naming file and dataset, what was expected and what was found."""
    opened = _session(config, session, data_dir)
    names = {kind: opened.noise(kind).name for kind in opened.shapes}
    with _readable(opened.path) as file:
        responses = {kind: _counts(file, kind) for kind in opened.shapes}
        session_info = {key: _read(item) for key, item in file.get("session_info", {}).items()}
        neurons = _neurons(file, session, responses["running"].shape[0], opened.path)
    trials, trial = _trials(opened, names)
    frame = np.concatenate([_frames(opened, kind) for kind in opened.shapes])
    return Recording(
        dataset=str(config["dataset"]),
        session=session,
        stimuli={name: stimuli[name] for name in names.values()},
        trials=trials,
        trial=trial,
        frame=frame.astype(np.int32),
        responses=np.concatenate(
            [values.transpose(1, 2, 0).reshape(-1, len(neurons)) for values in responses.values()]
        ),
        valid=np.ones(len(frame), bool),
        rate_hz=opened.parameters.rate_hz,
        unit=opened.parameters.unit,
        neurons=neurons,
        session_info=session_info,
        species=opened.parameters.species,
        area=opened.parameters.area,
        source={opened.path.name: file_sha256(opened.path)},
    )


def source_files(config: Mapping[str, Any], session: str | None, data_dir: Path | None) -> list[Path]:
    """Return the file of a session, or for None those of all sessions: they say which noise is needed and how much."""
    if session is not None:
        return [named_file(data_folder(config, data_dir), session, ".h5")]
    return [named_file(data_folder(config, data_dir), name, ".h5") for name in list_sessions(config, data_dir)]


# --------------------------------------------------------------------------------------------------------------- noise


def regenerate(noise: Noise, n_frames: int) -> Num[np.ndarray, "frame 1 height width"]:
    """Draw the first `n_frames` frames of a sequence: int8 -1 and 1, or float32 of standard deviation 1.

    Every pixel of the screen is drawn, only those inside the crop are kept.
    """
    generator = _generator(noise.seed)
    draw: Callable[[int], list] = generator.ranb if noise.distribution == "binary" else generator.gasdev
    x0, x1, y0, y1 = noise.crop_px
    frames = np.empty((n_frames, 1, y1 - y0, x1 - x0), np.int8 if noise.distribution == "binary" else np.float32)
    n_pixels = noise.nx * noise.ny
    step = max(1, CHUNK_VALUES // n_pixels)
    for start in range(0, n_frames, step):
        chunk = frames[start : start + step]
        drawn = np.array(draw(len(chunk) * n_pixels), frames.dtype).reshape(len(chunk), noise.nx, noise.ny)
        chunk[:, 0] = drawn[:, x0:x1, y0:y1].transpose(0, 2, 1)
    if noise.distribution == "binary":  # drawn as 0 and 1
        frames *= 2
        frames -= 1
    return frames


def _generator(seed: int) -> Any:
    return import_extra("retinawhitenoise", "whitenoise", "regenerating white noise").Rng(seed)


# --------------------------------------------------------------------------------------------------------------- files


def _readable(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise RecordingError(f"{path.name}: not a readable HDF5 file, truncated or damaged ({error})") from error


def _session(config: Mapping[str, Any], name: str, data_dir: Path | None) -> Session:
    path = named_file(data_folder(config, data_dir), name, ".h5")
    with _readable(path) as file:
        said = {key: _plain(file.attrs[key]) for key in IN_FILE if key in file.attrs}
        if unknown := sorted(set(file.attrs) - set(IN_FILE)):
            raise RecordingError(f"{path.name}: unknown attributes {unknown}; known are {sorted(IN_FILE)}")
        shapes = {kind: _shape(file, kind, path) for kind in ("running", "frozen") if f"{kind}_counts" in file}
        found = sorted(file)
    if "running" not in shapes:
        raise RecordingError(f"{path.name}: no dataset running_counts, found {found}")
    if len({shape[0] for shape in shapes.values()}) > 1:
        raise RecordingError(
            f"{path.name}: running_counts has {shapes['running'][0]} neurons, frozen_counts {shapes['frozen'][0]}"
        )
    parameters = reader_parameters(NoiseParameters, config)
    for key, value in said.items():
        configured = getattr(parameters, key)
        if configured is not None and configured != value:
            raise RecordingError(f"{path.name}: the file says {key} is {value}, data_io says {configured}")
    return Session(path, replace(parameters, **said), shapes)


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value.tolist() if hasattr(value, "tolist") else value


def _shape(file: h5py.File, kind: str, path: Path) -> tuple[int, int, int]:
    dataset = file[f"{kind}_counts"]
    if dataset.ndim != 3 or dataset.dtype.kind not in "buif" or 0 in dataset.shape:
        raise RecordingError(
            f"{path.name}: {kind}_counts must be numbers (neuron, trial, bin), found {dataset.dtype} of shape "
            f"{dataset.shape}"
        )
    return tuple(dataset.shape)


def _counts(file: h5py.File, kind: str) -> Float32[np.ndarray, "neuron trial bin"]:
    return file[f"{kind}_counts"][()].astype(np.float32)


def _read(dataset: h5py.Dataset) -> np.ndarray:
    text = h5py.check_string_dtype(dataset.dtype) is not None
    return np.asarray(dataset.asstr()[()] if text else dataset[()])


def _neurons(file: h5py.File, session: str, n_neurons: int, path: Path) -> pd.DataFrame:
    table = pd.DataFrame({"unit_id": [f"{session}_{neuron:03d}" for neuron in range(n_neurons)]})
    for column in ("unit_id", "cell_type"):
        if column in file:
            values = _read(file[column])
            if values.shape != (n_neurons,):
                raise RecordingError(f"{path.name}: {column} has shape {values.shape}, there are {n_neurons} neurons")
            table[column] = [str(value) for value in values]
    return table


# -------------------------------------------------------------------------------------------------------------- trials


def _trials(session: Session, names: Mapping[str, str]) -> tuple[pd.DataFrame, np.ndarray]:
    tables, lengths = [], []
    for kind, (_, n_trials, n_bins) in session.shapes.items():
        number = np.arange(n_trials)
        table = pd.DataFrame({"stimulus": names[kind], "tier": "train", "repeat": 0, "time_order": 2 * number}, number)
        if kind == "frozen":  # after the running noise of the same trial
            table = table.assign(tier="test", repeat=number, time_order=2 * number + 1)
        tables.append(table)
        lengths += [n_bins] * n_trials
    trials = pd.concat(tables, ignore_index=True)
    trials["time_order"] = trials["time_order"].rank().astype(int) - 1
    return trials.assign(withheld=False), np.repeat(np.arange(len(trials)), lengths).astype(np.int32)


def _frames(session: Session, kind: str) -> np.ndarray:
    """Return the frame in every bin: running noise goes on from trial to trial, frozen noise starts again."""
    n_trials = session.shapes[kind][1]
    n_frames = session.n_frames(kind)
    shown = np.arange(n_frames) if kind == "running" else np.tile(np.arange(n_frames), n_trials)
    return np.repeat(shown, session.bins_per_frame)
