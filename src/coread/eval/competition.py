"""Competition files of SENSORIUM 2022: what an ensemble predicts for trials whose responses are withheld.

    submission_file_live_test.csv    trials of the tier test
    submission_file_final_test.csv   trials of the tier final_test

One row per trial in the order of the files: `trial_indices` (as published, so usually hidden behind a hash),
`image_ids`, `prediction` (a list of one number per neuron) and `neuron_ids` (the same list in every row). Predictions
are in standard deviations of each neuron's response, the unit in which the competition compares them. Rows are written
and read one after another.
"""

import csv
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Int

from coread.extras import import_extra
from coread.provenance import file_sha256
from coread.recording import Recording, read_recording

COLUMNS = ("trial_indices", "image_ids", "prediction", "neuron_ids")
FILE_TIERS: Mapping[str, str] = {"test": "live_test", "final_test": "final_test"}  # tier -> its name in file names
FORMATS = (".csv", ".parquet")
MEMBER = ("experiment", "fold", "seed")  # what a prediction file says of the member
BLOCK_ROWS = 256  # trials whose predictions lie in memory together
CHUNK_CACHE_BYTES = 2**26  # test trials lie scattered: their chunks of a prediction file are decompressed once
RESPONSE_FLOOR = 0.01  # of the mean standard deviation, as published

log = logging.getLogger(__name__)


class CompetitionError(ValueError):
    """A competition file cannot be written; the message names session and what is missing."""


@dataclass(frozen=True)
class Demand:
    """The rows that a competition file has: one for every trial of a tier, in the order of the files."""

    session: str
    tier: str
    bins: Int[np.ndarray, "row"]
    trial_ids: list[str]
    image_ids: list[int]
    neuron_ids: list[int]

    def file_name(self, suffix: str = ".csv") -> str:
        """Return the published name of the file."""
        return file_name(self.tier, suffix)


def file_name(tier: str, suffix: str) -> str:
    """Return the published name of the file of a tier."""
    return f"submission_file_{FILE_TIERS[tier]}{suffix}"


def demand(recording: Recording, tier: str) -> Demand:
    """Return the rows that are asked for: of a tier that is withheld in part, the withheld trials.

    Raises CompetitionError for recordings that are not of single images, or whose image ids are no numbers.
    """
    session = recording.session
    if tier not in FILE_TIERS:
        raise CompetitionError(f"session {session!r}: tier {tier!r} has no competition file, only {list(FILE_TIERS)}")
    if missing := sorted({"trial_id", "image_id"} - set(recording.trials.columns)):
        raise CompetitionError(
            f"session {session!r} ({recording.dataset}): its trials have no {missing}, which competition files name; "
            "the reader sensorium_2022 keeps them"
        )
    if not np.array_equal(recording.trial, np.arange(len(recording.trials))):
        raise CompetitionError(f"session {session!r}: competition files have one row per trial, so trials of one bin")
    of_tier = recording.trials["tier"].to_numpy().astype(str) == tier
    if not of_tier.any():
        raise CompetitionError(f"session {session!r} has no trials of tier {tier!r}")
    withheld = of_tier & recording.trials["withheld"].to_numpy(bool)
    bins = np.flatnonzero(withheld if withheld.any() else of_tier)
    rows = recording.trials.iloc[bins]
    if rows["image_id"].dtype.kind not in "iu":
        raise CompetitionError(
            f"session {session!r}: competition files name images by whole numbers, found ids such as "
            f"{rows['image_id'].iloc[0]!r}"
        )
    return Demand(
        session=session,
        tier=tier,
        bins=bins,
        trial_ids=rows["trial_id"].astype(str).tolist(),
        image_ids=rows["image_id"].astype(int).tolist(),
        neuron_ids=recording.neurons["unit_id"].astype(int).tolist(),
    )


def withheld_tiers(recording: Recording) -> list[str]:
    """Return the test tiers of a session in which responses are withheld: those that a competition asks for."""
    withheld = recording.trials.loc[recording.trials["withheld"].astype(bool), "tier"]
    return [tier for tier in FILE_TIERS if (withheld == tier).any()]


def missing_neurons(recording: Recording) -> str | None:
    """Return a warning for a session of which neurons were left out: a competition asks for all of them."""
    n_neurons = int(recording.session_info.get("neurons_in_file", recording.n_neurons))
    if n_neurons == recording.n_neurons:
        return None
    return (
        f"session {recording.session!r} was read with {recording.n_neurons} of its {n_neurons} neurons (data_io.areas, "
        "layers, neuron_ids): the competition asks for all of them"
    )


# -------------------------------------------------------------------------------------------------------------- writing


def write_submissions(
    recordings: Sequence[Path],
    predictions: Sequence[Path],
    folder: Path,
    tiers: Sequence[str] | None = None,
    *,
    parquet: bool | None = None,
) -> pd.DataFrame:
    """Write and check the files of every session in `<folder>/<session>/`, and list them in `<folder>/files.csv`.

    `tiers` None writes the tiers whose responses are withheld, else these of every recording. `parquet` None writes
    Parquet where its package is installed and says in the log where it is not. Nothing in the folder changes before
    every file has passed its check; what earlier calls wrote of other sessions and tiers stays, and stays listed.
    Returns the list of what was written: session, tier, file, rows, neurons, members, experiment, sha256. Raises
    CompetitionError, also for a file that does not pass its check.
    """
    from coread.eval.competition_folder import LISTED, publish, read_list

    if parquet is None and not (parquet := find_spec("pyarrow") is not None):
        log.warning("only CSV is written: Parquet needs the package pyarrow, pip install 'coread[parquet]'")
    folder.mkdir(parents=True, exist_ok=True)
    earlier = read_list(folder)
    written: list[dict[str, object]] = []
    sources: dict[str, Path] = {}
    with TemporaryDirectory(prefix=".", dir=folder) as staged:
        for source in recordings:
            recording = read_recording(source, load_frames=False, load_responses=False, check=False)
            if recording.session in sources:
                raise CompetitionError(f"{sources[recording.session]} and {source}: both are {recording.session!r}")
            sources[recording.session] = source
            asked = withheld_tiers(recording) if tiers is None else tiers
            if asked and (warning := missing_neurons(recording)) is not None:
                log.warning(warning)
            for tier in asked:
                for suffix in FORMATS if parquet else FORMATS[:1]:
                    written.append(_write_checked(recording, predictions, tier, suffix, Path(staged)))
        table = pd.DataFrame(written, columns=list(LISTED))
        publish(Path(staged), folder, table, earlier)
    return table


def _write_checked(
    recording: Recording, predictions: Sequence[Path], tier: str, suffix: str, folder: Path
) -> dict[str, object]:
    """Write one file, check it, and return its line of the list."""
    from coread.eval.competition_check import check_submission

    asked = demand(recording, tier)
    name = f"{recording.session}/{asked.file_name(suffix)}"
    with opened_predictions(predictions, recording.session) as members:
        write_submission(recording, members, tier, folder / name)
        experiment = str(members[0].file.attrs["experiment"])
    if problems := check_submission(folder / name, recording, tier):
        raise CompetitionError(f"{name}: would be no file that can be submitted: {'; '.join(problems)}")
    return {
        "session": recording.session,
        "tier": tier,
        "file": name,
        "rows": len(asked.bins),
        "neurons": len(asked.neuron_ids),
        "members": len(members),
        "experiment": experiment,
        "sha256": file_sha256(folder / name),
    }


@contextmanager
def opened_predictions(paths: Sequence[Path], session: str) -> Iterator[list[h5py.Dataset]]:
    """Open what each member predicts for one session, (bin, neuron) in recorded units, without reading it.

    Raises CompetitionError that names the file, also for files of one member or of several experiments.
    """
    with ExitStack() as stack:
        opened: list[h5py.Dataset] = []
        for path in paths:
            try:
                file = stack.enter_context(h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE_BYTES))
            except OSError as error:
                raise CompetitionError(f"{path}: not a readable prediction file ({error})") from error
            if session not in file or "prediction" not in file[session]:
                raise CompetitionError(f"{path}: no predictions of session {session!r}, only of {sorted(file)}")
            opened.append(file[session]["prediction"])
        _check_members(paths, [prediction.file for prediction in opened])
        yield opened


def _check_members(paths: Sequence[Path], files: Sequence[h5py.File]) -> None:
    """Raise CompetitionError unless every file is of another member of one experiment."""
    experiments: dict[str, Path] = {}
    members: dict[tuple[str, ...], Path] = {}
    for path, file in zip(paths, files, strict=True):
        if absent := [name for name in MEMBER if name not in file.attrs]:
            raise CompetitionError(f"{path}: does not say whose predictions it holds: no attribute {absent[0]!r}")
        experiment, fold, seed = member = tuple(str(file.attrs[name]) for name in MEMBER)
        if member in members:
            raise CompetitionError(f"{members[member]} and {path}: both are fold {fold}, seed {seed} of {experiment!r}")
        experiments.setdefault(experiment, path)
        members[member] = path
    if len(experiments) > 1:
        named = ", ".join(f"{path} of {experiment!r}" for experiment, path in experiments.items())
        raise CompetitionError(f"predictions of several experiments are no ensemble: {named}")


def response_scale(recording: Recording) -> Float[np.ndarray, "neuron"]:
    """Return what the competition divides responses by: each neuron's published standard deviation, with its floor.

    Where a session comes without it, the standard deviation over the trials of tier train with the same floor.
    """
    published = recording.session_info.get("published_response_scale")
    if published is not None:
        return np.asarray(published, np.float64)
    train = (recording.bin_column("tier").astype(str) == "train") & recording.valid
    if not train.any():
        raise CompetitionError(f"session {recording.session!r} has no training responses to take a unit from")
    deviation = np.asarray(recording.responses)[train].std(axis=0, dtype=np.float64)
    return np.maximum(deviation, RESPONSE_FLOOR * deviation.mean())


def write_submission(
    recording: Recording,
    members: Sequence[Float32[np.ndarray, "bin neuron"] | h5py.Dataset],
    tier: str,
    path: Path,
) -> None:
    """Write the mean prediction of the members for the trials of a tier, atomically, as .csv or .parquet.

    `members` predict in recorded units. Raises CompetitionError for predictions of another session or that are not
    finite, and for another ending of `path`; MissingExtraError if Parquet is wanted and its package is missing.
    """
    asked = demand(recording, tier)
    if not members:
        raise CompetitionError(f"session {asked.session!r}: there are no predictions to write")
    shape = (recording.n_bins, recording.n_neurons)
    for member in members:
        if tuple(member.shape) != shape:
            raise CompetitionError(
                f"session {asked.session!r}: a member predicts (bin, neuron) {tuple(member.shape)}, "
                f"the recording has {shape}"
            )
    if path.suffix not in FORMATS:
        raise CompetitionError(f"{path}: competition files end in one of {list(FORMATS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    blocks = _predicted_blocks(asked, members, response_scale(recording))
    try:
        (_write_csv if path.suffix == ".csv" else _write_parquet)(asked, blocks, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _predicted_blocks(
    asked: Demand,
    members: Sequence[Float32[np.ndarray, "bin neuron"] | h5py.Dataset],
    scale: Float[np.ndarray, "neuron"],
) -> Iterator[tuple[slice, Float32[np.ndarray, "row neuron"]]]:
    """Yield which rows come next and their prediction: the mean over members in standard deviations."""
    from coread.data_io.dataloader import read_rows  # here: checking files needs no torch

    for start in range(0, len(asked.bins), BLOCK_ROWS):
        rows = slice(start, min(start + BLOCK_ROWS, len(asked.bins)))
        total = np.zeros((rows.stop - rows.start, len(scale)))
        for member in members:
            total += read_rows(member, asked.bins[rows])
        mean = (total / (len(members) * scale)).astype(np.float32)
        if not np.isfinite(mean).all():
            bad = np.flatnonzero(~np.isfinite(mean).all(axis=1))[0]
            raise CompetitionError(
                f"session {asked.session!r}: trial {asked.trial_ids[start + bad]} of tier {asked.tier} has no finite "
                "prediction for every neuron; predictions made before its responses were known to be withheld lack it"
            )
        yield rows, mean


def _write_csv(
    asked: Demand, blocks: Iterator[tuple[slice, Float32[np.ndarray, "row neuron"]]], temporary: Path
) -> None:
    neuron_ids = str(asked.neuron_ids)
    with temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for rows, predictions in blocks:
            named = zip(asked.trial_ids[rows], asked.image_ids[rows], predictions, strict=True)
            writer.writerows((trial, image, str(values.tolist()), neuron_ids) for trial, image, values in named)


def _write_parquet(
    asked: Demand, blocks: Iterator[tuple[slice, Float32[np.ndarray, "row neuron"]]], temporary: Path
) -> None:
    arrow, parquet = import_parquet()
    kinds = (arrow.string(), arrow.int64(), arrow.list_(arrow.float32()), arrow.list_(arrow.int64()))
    schema = arrow.schema(list(zip(COLUMNS, kinds, strict=True)))
    with parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for rows, predictions in blocks:
            ids = [np.array(asked.neuron_ids)] * len(predictions)
            columns = (asked.trial_ids[rows], asked.image_ids[rows], list(predictions), ids)
            arrays = [arrow.array(values, kind) for values, kind in zip(columns, kinds, strict=True)]
            writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))


def import_parquet() -> tuple:
    """Return the modules (pyarrow, pyarrow.parquet); raises MissingExtraError that says which extra holds them."""
    purpose = "a Parquet file"
    return import_extra("pyarrow", "parquet", purpose), import_extra("pyarrow.parquet", "parquet", purpose)
