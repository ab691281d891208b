"""The trials of a session in the SENSORIUM layout: tiers, images, order in time, and which responses are withheld."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int, Shaped

from coread.data_io.readers.sensorium_2022_files import ANCHOR, SessionFiles, named_array, texts
from coread.recording import TIERS, RecordingError

HELD_BACK_TIERS = ("test", "final_test")
IMAGE_IDS = ("image_id", "colorframeprojector_image_id", "frame_image_id")
TIMES = ("frame_trial_ts", "colorframeprojector_trial_ts")
MOMENT = r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?)"  # as in "Timestamp('2022-05-17 09:30:00')"
TIME_ORDERS = ("timestamps", "trial_idx", "file")


@dataclass(frozen=True)
class TimeOrder:
    """Where every trial lies in time; `tied` trials share their time stamp with another.

    `resolved_by` says what orders trials of one time stamp: trial_idx, or their places in the files.
    """

    rank: Int[np.ndarray, "trial"]
    tied: Bool[np.ndarray, "trial"]
    resolved_by: str


@dataclass(frozen=True)
class Tiers:
    """The tier of every trial: as the files name it, and in this package's names, "" for tiers that are left out."""

    named: Shaped[np.ndarray, "trial"]
    meant: Shaped[np.ndarray, "trial"]

    def __len__(self) -> int:
        return len(self.named)

    @property
    def left_out(self) -> Bool[np.ndarray, "trial"]:
        """Whether a trial's tier is left out."""
        return np.equal(self.meant, "")


def read_tiers(files: SessionFiles, translated: Mapping[str, str | None]) -> Tiers:
    """Return the tier of every trial.

    `translated` maps the files' names to train, validation, test, final_test or None; the published names need no
    entry. Raises RecordingError for a name that nobody knows.
    """
    values = files.array(ANCHOR)
    if values.ndim != 1 or values.dtype.kind not in "US" or not len(values):
        raise RecordingError(
            f"{files.where(ANCHOR)} must be text (trial), found {values.dtype} of shape {values.shape}"
        )
    tiers = texts(values)
    known = {tier: tier for tier in TIERS} | {name: tier or "" for name, tier in translated.items()}
    if unknown := sorted(set(tiers.tolist()) - set(known)):
        raise RecordingError(
            f"{files.where(ANCHOR)} names the tiers {unknown}, expected {sorted(known)}; data_io.tiers says what "
            f"others mean: {{{unknown[0]}: test}}, or null to leave their trials out"
        )
    return Tiers(tiers, np.array([known[tier] for tier in tiers.tolist()]))


def trial_array(files: SessionFiles, names: tuple[str, ...], n_trials: int) -> tuple[str, np.ndarray] | None:
    """Return path and values of the first of several arrays of meta/trials; raises RecordingError for other lengths."""
    found = named_array(files, "meta/trials", names)
    if found is not None and found[1].shape != (n_trials,):
        raise RecordingError(
            f"{files.where(found[0])} must be of shape ({n_trials},) as {ANCHOR}, found {found[1].shape}"
        )
    return found


def read_time_order(files: SessionFiles, n_trials: int, method: str) -> TimeOrder:
    """Return the order in time: by time stamp, trials of one time stamp by trial_idx, or by place where that is hidden.

    `method` "trial_idx" does without time stamps, "file" takes the place in the files for the order in time. Raises
    RecordingError where what the method needs is missing or cannot be understood.
    """
    place = np.arange(n_trials)
    if method == "file":
        return TimeOrder(place, np.zeros(n_trials, bool), "file")
    index = _whole_numbers(trial_array(files, ("trial_idx",), n_trials))
    if method == "trial_idx":
        if index is None or len(np.unique(index)) < n_trials:
            raise RecordingError(
                f"{files.where('meta/trials/trial_idx.npy')} must number every trial for data_io.time_order trial_idx; "
                "it is missing, hidden or names a trial twice"
            )
        return TimeOrder(_rank(index, place), np.zeros(n_trials, bool), "trial_idx")
    found = trial_array(files, TIMES, n_trials)
    if found is None:
        raise RecordingError(
            f"{files.where(f'meta/trials/{TIMES[0]}.npy')} is missing, so the order in time is unknown; "
            "data_io.time_order trial_idx takes it from there, file takes the places in the files for it"
        )
    moments = _moments(found[1], files.where(found[0]))
    _, inverse, counts = np.unique(moments, return_inverse=True, return_counts=True)
    resolved_by = "place in the files" if index is None else "trial_idx"
    return TimeOrder(_rank(moments, place if index is None else index), counts[inverse] > 1, resolved_by)


def _rank(first: np.ndarray, second: np.ndarray) -> Int[np.ndarray, "trial"]:
    order = np.lexsort((second, first))  # stable: what is equal in both keeps the order of the files
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank


def _whole_numbers(found: tuple[str, np.ndarray] | None) -> Int[np.ndarray, "trial"] | None:
    """Return whole numbers, None where they are missing or hidden behind text that is no number."""
    if found is None:
        return None
    values = found[1]
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    if values.dtype.kind == "f" and np.isfinite(values).all() and np.array_equal(values, np.rint(values)):
        return values.astype(np.int64)
    if values.dtype.kind in "US" and np.char.isdigit(values).all() and np.char.str_len(values).max() < 19:
        return values.astype(np.int64)
    return None


def _moments(values: np.ndarray, where: str) -> np.ndarray:
    """Return time stamps as numbers that order them; raises RecordingError for one that is no time."""
    moments: np.ndarray
    if values.dtype.kind == "M":
        wrong = np.isnat(values)
        moments = values.astype("datetime64[ns]").astype(np.int64)
    elif values.dtype.kind in "iuf":
        moments, wrong = values, np.logical_not(np.isfinite(values))
    elif values.dtype.kind in "US":
        found = pd.Series(texts(values)).str.extract(MOMENT, expand=False)
        stamps = pd.to_datetime(found, format="ISO8601", errors="coerce")
        moments, wrong = stamps.astype("datetime64[ns]").astype(np.int64).to_numpy(), stamps.isna().to_numpy()
    else:
        raise RecordingError(f"{where} must be text, numbers or times, found {values.dtype}")
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise RecordingError(
            f"{where}: {values[first].item()!r} of trial {first} is no time such as 2022-05-17 09:30:00"
        )
    return moments


def withheld_trials(heard: Bool[np.ndarray, "trial"], tiers: Tiers) -> Bool[np.ndarray, "trial"]:
    """Return the trials of test tiers in which no response of the session is published: all are 0 or missing.

    `heard` says in which trials any neuron of the files has a response other than 0. A tier is withheld as a whole: a
    single silent trial beside others that are not is a response. What counts as one tier is what the files call so:
    another one that is translated to the same name may be published.
    """
    withheld = np.zeros(len(tiers), bool)
    for name in np.unique(tiers.named[np.isin(tiers.meant, HELD_BACK_TIERS)]):
        rows = tiers.named == name
        withheld[rows] = not heard[rows].any()
    return withheld


def trial_table(
    files: SessionFiles,
    tiers: Tiers,
    frame: Int[np.ndarray, "trial"],
    order: TimeOrder,
    withheld: Bool[np.ndarray, "trial"],
) -> pd.DataFrame:
    """Return the trials of a recording; raises RecordingError for arrays of other lengths.

    `repeat` counts the showings of an image within a tier, in time. Trials of tiers that are left out are withheld
    training trials, which nothing uses.
    """
    table = pd.DataFrame(
        {
            "stimulus": "images",
            "tier": np.where(tiers.left_out, "train", tiers.meant).astype(object),
            "repeat": 0,
            "time_order": order.rank,
            "withheld": withheld | tiers.left_out,
            "image_id": _image_ids(files, frame),
            "trial_id": _trial_ids(files, len(tiers)),
        }
    )
    showings = table.assign(frame=frame).sort_values("time_order").groupby(["tier", "frame"]).cumcount()
    return table.assign(repeat=showings.reindex(table.index))


def _image_ids(files: SessionFiles, frame: Int[np.ndarray, "trial"]) -> Shaped[np.ndarray, "trial"]:
    """Return the files' image ids, numbers or text, or the rows of the stimulus where the files have none.

    Raises RecordingError for ids of another kind.
    """
    found = trial_array(files, IMAGE_IDS, len(frame))
    if found is None:
        return frame.astype(np.int64)
    if (numbers := _whole_numbers(found)) is not None:
        return numbers
    path, values = found
    if values.dtype.kind in "US":
        return texts(values).astype(object)
    wrong = ((trial, value) for trial, value in enumerate(values.tolist()) if not _is_whole(value))
    trial, value = next(wrong)
    raise RecordingError(
        f"{files.where(path)} must be whole numbers or text (trial), found {value!r} of trial {trial} ({values.dtype})"
    )


def _is_whole(value: object) -> bool:
    return isinstance(value, float) and value.is_integer()


def _trial_ids(files: SessionFiles, n_trials: int) -> Shaped[np.ndarray, "trial"]:
    """Return what the files call every trial: text as it stands there, numbers in decimals, else its place."""
    found = trial_array(files, ("trial_idx",), n_trials)
    if found is None:
        return texts(np.arange(n_trials)).astype(object)
    numbers = None if found[1].dtype.kind in "US" else _whole_numbers(found)
    return texts(found[1] if numbers is None else numbers).astype(object)


def ids_of_several_images(table: pd.DataFrame, frame: Int[np.ndarray, "trial"]) -> dict[str, list[int | str]]:
    """Return for every test tier the image ids that stand for more than one image in it, none where there are none."""
    shown = table.assign(frame=frame)[table["tier"].isin(HELD_BACK_TIERS)]
    n_images = shown.groupby(["tier", "image_id"])["frame"].nunique()
    several: dict[str, list[int | str]] = {}
    for tier, image_id in n_images.index[n_images > 1]:
        several.setdefault(tier, []).append(image_id)
    return several
