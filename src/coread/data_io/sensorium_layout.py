"""The file layout of the SENSORIUM 2022 data (Willeke et al. 2022, arXiv:2206.08666): one session of single images.

    static<animal>-<session>-<scan>-GrayImageNet-<hash>/ or .zip
        data/{images,responses,behavior,pupil_center}/<trial>.npy    one small array for every trial and key
        meta/neurons/<name>.npy, meta/trials/<name>.npy              one value (or row) for every neuron or trial
        meta/statistics/<key>/<over>/{min,max,mean,median,std}.npy   over all trials

The number of a trial is its place in the files, not in time. `write_session` writes this layout and
`coread.data_io.readers.sensorium_2022` reads it.
"""

import hashlib
import io
import json
import os
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Num, Shaped

from coread.data_io.lazy_frames import LazyFrames

PREPROCESSING_HASH = "94c6ff995dac583098847cfecd43e7b6"  # of all seven published sessions
STATISTICS = ("min", "max", "mean", "median", "std")
STATISTICS_OVER = ("all", "stimulus_Frame")  # here both are over all trials
HELD_BACK_TIERS = ("test", "final_test")
BLOCK_VALUES = 2**22  # values looked at, or images made, at a time

Write = Callable[[str, bytes], None]  # path inside the session's folder, content


@dataclass(frozen=True)
class SensoriumSession:
    """One session as its files say it, by trial in the order of the files.

    `images (trial, channel, height, width)` may be any integer or float type, and `LazyFrames` of images that are made
    when they are asked for. `behaviour` is pupil dilation, its derivative and running; `cell_motor_coordinates` are in
    um. `trial_idx` is the place in time, or text where it is hidden. Arrays that a session lacks are None.
    """

    data_key: str
    images: Num[np.ndarray, "trial channel height width"] | LazyFrames
    responses: Float[np.ndarray, "trial neuron"]
    tiers: Shaped[np.ndarray, "trial"]
    image_ids: Int[np.ndarray, "trial"]
    trial_idx: Shaped[np.ndarray, "trial"]
    timestamps: Shaped[np.ndarray, "trial"]
    unit_ids: Int[np.ndarray, "neuron"]
    cell_motor_coordinates: Float[np.ndarray, "neuron 3"] | None = None
    behaviour: Float[np.ndarray, "trial 3"] | None = None
    pupil_center: Float[np.ndarray, "trial 2"] | None = None
    area: Shaped[np.ndarray, "neuron"] | str | None = "V1"
    layer: Shaped[np.ndarray, "neuron"] | str | None = "L2/3"
    kind: str = "GrayImageNet"
    preprocessing_hash: str = PREPROCESSING_HASH
    trial_columns: Mapping[str, Shaped[np.ndarray, "trial ..."]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.data_key.split("-")) != 3:
            raise ValueError(f"data_key is <animal>-<session>-<scan>, found {self.data_key!r}")
        names = ("responses", "tiers", "image_ids", "trial_idx", "timestamps", "behaviour", "pupil_center")
        lengths = {name: len(values) for name in names if (values := getattr(self, name)) is not None}
        if wrong := {name: length for name, length in lengths.items() if length != len(self.images)}:
            raise ValueError(f"session {self.data_key}: there are {len(self.images)} images, but {wrong}")
        n_neurons = self.responses.shape[1]
        per_neuron = {name: getattr(self, name) for name in ("unit_ids", "cell_motor_coordinates", "area", "layer")}
        if wrong := {
            name: len(values)
            for name, values in per_neuron.items()
            if values is not None and not isinstance(values, str) and len(values) != n_neurons
        }:
            raise ValueError(f"session {self.data_key}: responses are of {n_neurons} neurons, but {wrong}")

    @property
    def name(self) -> str:
        """Name of the session's folder, and of its archive without .zip."""
        return f"static{self.data_key}-{self.kind}-{self.preprocessing_hash}"

    def withheld(self, *, behaviour: bool = False) -> "SensoriumSession":
        """Return the session as competitors get it: responses of the test tiers are 0 and `trial_idx` is hidden.

        With `behaviour` its behaviour and pupil positions are 0 in all trials too.
        """
        hidden = np.isin(self.tiers, HELD_BACK_TIERS)
        digests = [hashlib.md5(f"{self.name}/{index}".encode()).hexdigest() for index in self.trial_idx]
        session = replace(
            self,
            responses=np.where(hidden[:, None], np.zeros((), self.responses.dtype), self.responses),
            trial_idx=np.array(digests),
        )
        if not behaviour:
            return session
        zeros = [None if values is None else np.zeros_like(values) for values in (self.behaviour, self.pupil_center)]
        return replace(session, behaviour=zeros[0], pupil_center=zeros[1])


def write_session(session: SensoriumSession, folder: Path, *, zipped: bool = False, compressed: bool = False) -> Path:
    """Write a session into `folder`, image by image, and return its own folder or archive.

    What was there is replaced; half-written files are never left under the final name. `compressed` deflates the
    members of an archive: a third smaller and several times slower to write.
    """
    path = folder / (f"{session.name}.zip" if zipped else session.name)
    with _into_archive(path, compressed) if zipped else _into_folder(path) as write:
        write("config.json", json.dumps({"links": {}}).encode())
        _write_neurons(session, write)
        _write_trials(session, write)
        _write_statistics(session, write)
        for key, values in _arrays(session).items():
            for trial, row in enumerate(values):
                write(f"data/{key}/{trial}.npy", _npy(row))
        for trial, image in _each_image(session):
            write(f"data/images/{trial}.npy", _npy(image))
    return path


# ---------------------------------------------------------------------------------------------------------------- files


@contextmanager
def _into_folder(path: Path) -> Iterator[Write]:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    made: set[Path] = set()

    def write(name: str, content: bytes) -> None:
        target = temporary / name
        if target.parent not in made:
            target.parent.mkdir(parents=True, exist_ok=True)
            made.add(target.parent)
        target.write_bytes(content)

    try:
        yield write
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _into_archive(path: Path, compressed: bool) -> Iterator[Write]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    try:
        with zipfile.ZipFile(temporary, "w", method, compresslevel=1) as archive:
            # a fixed time instead of the clock's: equal sessions make equal archives, so nothing is built again
            yield lambda name, content: archive.writestr(
                zipfile.ZipInfo(f"{path.stem}/{name}"), content, compress_type=method
            )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def _arrays(session: SensoriumSession) -> dict[str, np.ndarray]:
    """Return the arrays with one row for every trial, by their published names."""
    arrays = {"responses": session.responses, "behavior": session.behaviour, "pupil_center": session.pupil_center}
    return {key: values for key, values in arrays.items() if values is not None}


def _each_image(session: SensoriumSession) -> Iterator[tuple[int, np.ndarray]]:
    """Yield number and image of every trial; images that are made on demand come in blocks."""
    n_trials = len(session.images)
    step = max(1, BLOCK_VALUES // max(1, int(np.prod(session.images.shape[1:]))))
    for start in range(0, n_trials, step):
        yield from enumerate(session.images[start : start + step], start)


# ----------------------------------------------------------------------------------------------------------------- meta


def _write_neurons(session: SensoriumSession, write: Write) -> None:
    n_neurons = session.responses.shape[1]
    animal, number, scan = session.data_key.split("-")
    columns: dict[str, np.ndarray | str | None] = {
        "unit_ids": np.asarray(session.unit_ids, np.int64),
        "animal_ids": np.full(n_neurons, _number(animal)),
        "sessions": np.full(n_neurons, _number(number)),
        "scan_idx": np.full(n_neurons, _number(scan)),
        "area": session.area,
        "layer": session.layer,
        "cell_motor_coordinates": session.cell_motor_coordinates,
    }
    for name, values in columns.items():
        if values is not None:
            write(f"meta/neurons/{name}.npy", _npy(_texts(np.broadcast_to(values, (n_neurons, *np.shape(values)[1:])))))


def _write_trials(session: SensoriumSession, write: Write) -> None:
    n_trials = len(session.images)
    animal, number, scan = session.data_key.split("-")
    seconds = np.datetime_as_string(np.asarray(session.timestamps).astype("datetime64[s]"))
    columns: dict[str, np.ndarray] = {
        "tiers": session.tiers,
        "frame_image_id": np.asarray(session.image_ids, np.int64),
        "frame_image_class": np.full(n_trials, "imagenet"),
        "trial_idx": session.trial_idx,
        "frame_trial_ts": np.array([f"Timestamp('{text.replace('T', ' ')}')" for text in seconds]),
        "animal_id": np.full(n_trials, _number(animal)),
        "session": np.full(n_trials, _number(number)),
        "scan_idx": np.full(n_trials, _number(scan)),
        **session.trial_columns,
    }
    for name, values in columns.items():
        write(f"meta/trials/{name}.npy", _npy(_texts(np.asarray(values))))


def _number(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _texts(values: np.ndarray) -> np.ndarray:
    """Return text as NumPy's fixed-width kind, which needs no pickle; other arrays as they are."""
    return values.astype(str) if values.dtype.kind in "OTS" else values


def _write_statistics(session: SensoriumSession, write: Write) -> None:
    tables: dict[str, Mapping[str, float | np.ndarray]] = {"images": _of_images(session)}
    tables |= {key: _per_column(values) for key, values in _arrays(session).items()}
    for key, table in tables.items():
        for over in STATISTICS_OVER:
            for statistic, values in table.items():
                write(f"meta/statistics/{key}/{over}/{statistic}.npy", _npy(np.asarray(values)))


def _per_column(values: Float[np.ndarray, "trial column"]) -> dict[str, Float[np.ndarray, "column"]]:
    """Return the statistics of every column over its finite trials; blocks, so that no float64 copy is made of all."""
    step = max(1, BLOCK_VALUES // max(1, len(values)))
    blocks = [values[:, start : start + step].astype(np.float64) for start in range(0, values.shape[1], step)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column without any value has NaN for its statistics
        return {
            name: np.concatenate([getattr(np, f"nan{name}")(block, axis=0) for block in blocks]) for name in STATISTICS
        }


def _of_images(session: SensoriumSession) -> dict[str, float]:
    """Return the statistics of all pixels, image by image; only the median of float images takes a copy of all."""
    total, squares, low, high = 0.0, 0.0, np.inf, -np.inf
    counts = np.zeros(0, np.int64)
    integer = session.images.dtype.kind == "u" and session.images.dtype.itemsize <= 2
    for _, image in _each_image(session):
        values = image.astype(np.float64)
        total, squares = total + values.sum(), squares + np.square(values).sum()
        low, high = min(low, values.min()), max(high, values.max())
        if integer:
            found = np.bincount(image.reshape(-1), minlength=len(counts))
            found[: len(counts)] += counts
            counts = found
    n_pixels = int(np.prod(session.images.shape))
    mean = total / n_pixels
    if integer:
        middle = np.searchsorted(np.cumsum(counts), [(n_pixels - 1) // 2, n_pixels // 2], side="right").mean()
    else:
        middle = np.median(np.asarray(session.images))
    std = np.sqrt(max(squares / n_pixels - mean**2, 0.0))
    named = {"min": low, "max": high, "mean": mean, "median": middle, "std": std}
    return {name: float(value) for name, value in named.items()}
