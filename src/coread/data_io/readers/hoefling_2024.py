"""Mouse retina under natural movies, two-photon calcium imaging: Höfling et al. 2024 (eLife 13:e86860).

    <data_dir>/.../<movie_file>         pickle: train and test (channel, time, height, width), random_sequences
                                        (clip, sequence): the clip of the training movie shown at each place
    <data_dir>/.../<response_file>      HDF5, one group per session (field of cells), see hoefling_2024_field

Every session saw the clips of the training movie in one of the sequences and, on the left eye, mirrored. The movie is
stored once, in its own order: the sequence is the `frame` of every bin, the eye the `mirror` of the recording.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Int

from coread.data_io.quality_filters import filter_cells, parse_steps, session_info_of
from coread.data_io.readers import hoefling_2024_field as fields
from coread.data_io.readers.hoefling_2024_movie import MovieFile, make_stimulus
from coread.data_io.readers.hoefling_2024_timing import (
    TEST,
    TRAIN,
    ClipTiming,
    Presentations,
    divided_by_std,
    joined,
    movie_presentations,
    repeated_presentations,
    responses_at,
)
from coread.data_io.readers.parameters import parse_parameters, reader_parameters
from coread.data_io.readers.published_hdf5 import NAN_POLICIES, mask_missing, opened
from coread.data_io.readers.session_files import data_folder
from coread.provenance import unchanged_sha256
from coread.recording import Recording, RecordingError, Stimulus

NORMALIZATIONS = ("none", "published")
NO_RESPONSES = "no responses"  # the last row of a session's quality table, if a cell has no value at all


@dataclass(frozen=True)
class OtherStimulus:
    """A stimulus whose frames the user brings: `file` (channel, time, height, width) in the units of the movie."""

    clip_length: int
    clip_duration_s: float
    file: str | None = None
    triggers_per_clip: int = 1
    clips: int = 1
    tier: str = TEST

    def __post_init__(self) -> None:
        if self.tier not in (TRAIN, TEST):
            raise ValueError(f"data_io.other_stimuli: tier is {TRAIN} or {TEST}, found {self.tier!r}")

    @property
    def timing(self) -> ClipTiming:
        """How the stimulus follows its triggers."""
        return ClipTiming(self.clip_length, self.clip_duration_s, self.triggers_per_clip)


@dataclass(frozen=True)
class HoeflingParameters:
    """What the files do not say, and choices; the configuration file explains each key."""

    movie_file: str
    response_file: str
    rate_hz: float
    clip_length: int
    clip_duration_s: float
    train_blocks: Sequence[int]
    pixel_um: float
    longest_pause_s: float
    roi_pixel_um: float
    trace_type: str = "spikes"
    response_normalization: str = "none"
    nan_responses: str = "mask"
    eye_corrections: Mapping[str, str] = field(default_factory=dict)
    quality_filters: Sequence[Mapping[str, Any]] = ()
    other_stimuli: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    species: str = ""
    area: str = ""

    def __post_init__(self) -> None:
        choices = {
            "trace_type": tuple(fields.TRACES),
            "response_normalization": NORMALIZATIONS,
            "nan_responses": NAN_POLICIES,
        }
        for key, known in choices.items():
            if getattr(self, key) not in known:
                raise ValueError(f"data_io.{key} is one of {list(known)}, found {getattr(self, key)!r}")

    @property
    def unit(self) -> str:
        """The unit of the responses, in words."""
        if self.response_normalization == "published":
            return "standard deviations"
        return {"spikes": "inferred spikes (a.u.)"}.get(self.trace_type, f"{self.trace_type} fluorescence (a.u.)")

    @property
    def timing(self) -> ClipTiming:
        """How the movie follows its triggers."""
        return ClipTiming(self.clip_length, self.clip_duration_s)

    @property
    def all_others(self) -> dict[str, OtherStimulus]:
        """The further stimuli that were shown, by the prefix of their datasets."""
        return {
            prefix: parse_parameters(OtherStimulus, settings, f"data_io.other_stimuli.{prefix}")
            for prefix, settings in self.other_stimuli.items()
        }

    @property
    def others(self) -> dict[str, OtherStimulus]:
        """Those of them that the user has frames of."""
        return {prefix: other for prefix, other in self.all_others.items() if other.file is not None}


# ------------------------------------------------------------------------------------------------------------ questions


def list_sessions(config: Mapping[str, Any], data_dir: Path | None) -> list[str]:
    """Return the configured sessions, else those of the response file in which a cell passes the quality filters.

    Raises FileNotFoundError if the file is not there or has none.
    """
    if config.get("sessions"):
        return [str(name) for name in config["sessions"]]
    parameters = reader_parameters(HoeflingParameters, config)
    path = _found(config, data_dir, parameters.response_file)
    steps = parse_steps(parameters.quality_filters)
    with opened(path, path.name) as file:
        groups = {name: group for name, group in file.items() if isinstance(group, h5py.Group)}
        kept = {
            name: len(filter_cells(fields.read_cells(group, f"{path.name}: {name}"), steps)[0])
            for name, group in groups.items()
        }
    if not any(kept.values()):
        raise FileNotFoundError(f"{path.name}: no session in which a cell passes the quality filters, of {len(kept)}")
    return sorted(name for name, n_cells in kept.items() if n_cells)


def source_files(config: Mapping[str, Any], session: str | None, data_dir: Path | None) -> list[Path]:
    """Return the files that a session, or for None the shared movies, are read from."""
    parameters = reader_parameters(HoeflingParameters, config)
    movie = _found(config, data_dir, parameters.movie_file)
    if session is not None:
        return [_found(config, data_dir, parameters.response_file), movie]
    return [movie, *(_found(config, data_dir, str(other.file)) for other in parameters.others.values())]


def build_stimuli(config: Mapping[str, Any], data_dir: Path | None) -> dict[str, Stimulus]:
    """Return train and test movie, and further stimuli that the user has, in the smallest dtype that holds each.

    Raises RecordingError or PickleError naming the file.
    """
    parameters = reader_parameters(HoeflingParameters, config)
    rate_hz, pixel_um = parameters.rate_hz, parameters.pixel_um
    movies = MovieFile(_found(config, data_dir, parameters.movie_file))
    stimuli = {name: movies.stimulus(name, parameters.clip_length, rate_hz, pixel_um) for name in (TRAIN, TEST)}
    for prefix, other in parameters.others.items():
        path = _found(config, data_dir, str(other.file))
        stimuli[prefix] = make_stimulus(_array(path), path.name, other.clip_length, rate_hz, pixel_um)
        if (n_frames := stimuli[prefix].frames.shape[0]) != other.clip_length * other.clips:
            expected = f"{other.clips} clips of {other.clip_length} frames"
            raise RecordingError(f"{path.name}: {prefix} must have {expected}, found {n_frames} frames")
    return stimuli


def build_recording(
    config: Mapping[str, Any], session: str, data_dir: Path | None, stimuli: Mapping[str, Stimulus]
) -> Recording:
    """Return one session; raises RecordingError naming file and dataset, what was expected and what was found."""
    parameters = reader_parameters(HoeflingParameters, config)
    movies = MovieFile(_found(config, data_dir, parameters.movie_file))
    sequences = movies.sequences(_n_clips(parameters, stimuli[TRAIN]))
    with _field(_found(config, data_dir, parameters.response_file), session) as (group, where):
        kept, counts = _kept_cells(group, parameters, where)
        order = _order(group, sequences, where)
        shown, responses, triggers = _shown(group, parameters, order, stimuli, kept, where)
        kept, counts, responses = _with_responses(kept, counts, responses)
        info = fields.field_labels(group) | fields.cell_arrays(group, kept.index.to_numpy())
        eye = fields.read_eye(group, parameters.eye_corrections.get(session), where)
    responses, valid = mask_missing(responses, parameters.nan_responses, where)
    if not valid.any():
        raise RecordingError(f"{where}: no bin in which all cells have a value; do traces and triggers share a clock?")
    neurons, coordinates = _neurons(session, kept, info.get("roi_mask"), parameters.roi_pixel_um)
    info |= coordinates | movies.normalization() | session_info_of(counts)
    return Recording(
        dataset=str(config["dataset"]),
        session=session,
        stimuli={name: stimuli[name] for name in dict.fromkeys(shown.trials["stimulus"])},
        trials=shown.trials,
        trial=shown.trial,
        frame=shown.frame,
        responses=responses,
        valid=valid,
        rate_hz=parameters.rate_hz,
        unit=parameters.unit,
        neurons=neurons,
        session_info=info | {"presentation_order": order, "trigger_times": triggers},
        species=parameters.species,
        area=parameters.area,
        mirror="width" if eye == "left" else "none",
        source={path.name: unchanged_sha256(path) for path in source_files(config, session, data_dir)},
    )


# ---------------------------------------------------------------------------------------------------------------- files


def _found(config: Mapping[str, Any], data_dir: Path | None, name: str) -> Path:
    """Return a published file: at its own path, or wherever below the folder its archive was unpacked to."""
    folder = data_folder(config, data_dir)
    if (folder / name).is_file():
        return folder / name
    base = Path(name).name
    matches = [path for path in sorted(folder.rglob(base)) if path.is_file() and "__MACOSX" not in path.parts]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise FileNotFoundError(f"{folder}: {base} is there more than once: {', '.join(map(str, matches))}")
    archive = next(folder.rglob(f"{Path(base).stem}.zip"), None)
    hint = f"; unpack {archive.name}" if archive else ""
    raise FileNotFoundError(f"dataset {config.get('dataset')!r}: there is no {base} below {folder}{hint}")


def _array(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RecordingError(f"{path.name}: not a readable .npy array, truncated or damaged ({error})") from error


@contextmanager
def _field(path: Path, session: str) -> Iterator[tuple[h5py.Group, str]]:
    """Open the group of a session, and say where it is; of the file only what is asked of the group is read."""
    with opened(path, path.name) as file:
        group = file.get(session)
        if not isinstance(group, h5py.Group):
            names = sorted(name for name, item in file.items() if isinstance(item, h5py.Group))
            raise RecordingError(f"{path.name}: no session {session!r}, found {len(names)}: {', '.join(names)}")
        yield group, f"{path.name}: {session}"


# ---------------------------------------------------------------------------------------------------------------- cells


def _kept_cells(group: h5py.Group, parameters: HoeflingParameters, where: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the cells that pass the quality filters, with their place in the file as index, and the counts."""
    cells = fields.read_cells(group, where)
    rows, counts = filter_cells(cells, parse_steps(parameters.quality_filters))
    if not len(rows):
        removed = ", ".join(f"{step} -{n_removed}" for step, _, n_removed in counts.itertuples(index=False))
        raise RecordingError(f"{where}: no cell passes the quality filters ({len(cells)} cells: {removed})")
    return cells.iloc[rows], counts


def _with_responses(
    kept: pd.DataFrame, counts: pd.DataFrame, responses: Float32[np.ndarray, "bin neuron"]
) -> tuple[pd.DataFrame, pd.DataFrame, Float32[np.ndarray, "bin kept_neuron"]]:
    """Leave out, and count, cells without a single value: they would mask every bin of their session."""
    present = np.isfinite(responses).any(axis=0)
    if present.all() or not present.any():
        return kept, counts, responses
    absent = pd.DataFrame({"step": [NO_RESPONSES], "n_before": [len(kept)], "n_removed": [int((~present).sum())]})
    return kept[present], pd.concat([counts, absent], ignore_index=True), responses[:, present]


def _neurons(
    session: str, cells: pd.DataFrame, roi_mask: np.ndarray | None, roi_pixel_um: float
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Return the table of neurons, and the published guess of where their receptive fields lie.

    Positions are those of the ROIs in the scan, in um from its centre.
    """
    neurons = pd.DataFrame({"unit_id": [f"{session}_roi{roi_id}" for roi_id in cells["roi_id"]]})
    if "group_assignment" in cells:
        neurons["cell_type"] = [str(int(group)) for group in cells["group_assignment"]]
    for name in ("roi_id", "group_confidence", "d_qi", "chirp_qi"):
        if name in cells:
            neurons[name] = cells[name].to_numpy()
    if roi_mask is None:
        return neurons, {}
    row, column = fields.roi_centres(roi_mask, cells["roi_id"].to_numpy())
    neurons["position_y_um"] = (row - (roi_mask.shape[0] - 1) / 2) * roi_pixel_um
    neurons["position_x_um"] = (column - (roi_mask.shape[1] - 1) / 2) * roi_pixel_um
    return neurons, {"roi_coords": fields.readout_coordinates(row, column)}


# -------------------------------------------------------------------------------------------------------- presentations


def _n_clips(parameters: HoeflingParameters, movie: Stimulus) -> int:
    """Return the number of training clips; raises RecordingError unless the blocks hold all of them."""
    n_clips = movie.frames.shape[0] // parameters.clip_length
    if sum(parameters.train_blocks) != n_clips:
        raise RecordingError(
            f"{parameters.movie_file}: train has {n_clips} clips of {parameters.clip_length} frames, but "
            f"data_io.train_blocks {list(parameters.train_blocks)} sum to {sum(parameters.train_blocks)}"
        )
    return n_clips


def _order(group: h5py.Group, sequences: Int[np.ndarray, "clip sequence"], where: str) -> Int[np.ndarray, "clip"]:
    """Return the clip of the training movie that this session saw at each place."""
    index = fields.read_attribute(group, "scan_sequence_idx")
    if index is None and sequences.shape[1] == 1:
        return sequences[:, 0]
    if not isinstance(index, int | float) or not 0 <= int(index) < sequences.shape[1]:
        raise RecordingError(f"{where}: scan_sequence_idx is {index}, but there are {sequences.shape[1]} sequences")
    return sequences[:, int(index)]


def _shown(
    group: h5py.Group,
    parameters: HoeflingParameters,
    order: Int[np.ndarray, "clip"],
    stimuli: Mapping[str, Stimulus],
    kept: pd.DataFrame,
    where: str,
) -> tuple[Presentations, Float32[np.ndarray, "bin neuron"], Float[np.ndarray, "trigger"]]:
    """Return all presentations with the responses of the kept cells, and the movie's triggers."""
    recorded = fields.read_traces(group, "natural", parameters.trace_type, where, kept.index.to_numpy())
    n_test = stimuli[TEST].frames.shape[0] // parameters.clip_length
    n_clips = len(order) + n_test * (len(parameters.train_blocks) + 1)
    if len(recorded.triggers) != n_clips:
        raise RecordingError(
            f"{where}: natural_trigger_times has {len(recorded.triggers)} triggers, but {n_clips} clips were shown"
        )
    pauses = parameters.timing.pauses(recorded.triggers, parameters.longest_pause_s, where)
    shown = [movie_presentations(order, n_test, parameters.train_blocks, parameters.clip_length, pauses)]
    responses = [_responses(recorded, recorded.triggers, parameters.timing, parameters, where)]
    for prefix, other in parameters.others.items():
        if f"{prefix}_trigger_times" not in group:
            continue  # not every field was shown every stimulus
        further = fields.read_traces(group, prefix, parameters.trace_type, where, kept.index.to_numpy())
        n_triggers = other.triggers_per_clip * other.clips
        n_repeats = len(further.triggers) // n_triggers  # a recording that was stopped early ends with a part of one
        shown.append(repeated_presentations(prefix, other.tier, other.clip_length * other.clips, n_repeats))
        whole = further.triggers[: n_repeats * n_triggers]
        responses.append(_responses(further, whole, other.timing, parameters, where))
    return joined(shown), np.concatenate(responses), recorded.triggers


def _responses(
    recorded: fields.Traces,
    triggers: Float[np.ndarray, "trigger"],
    timing: ClipTiming,
    parameters: HoeflingParameters,
    where: str,
) -> Float32[np.ndarray, "bin neuron"]:
    responses = responses_at(timing.frame_times(triggers), recorded.values, recorded.times, where)
    return divided_by_std(responses) if parameters.response_normalization == "published" else responses
