"""Responses of Höfling et al. 2024: from the datasets of each field to containers, by the steps that the reader takes.

A field is a mapping of the names in its group of the published file to arrays, numbers and texts, or that group itself,
so that `filter_responses(h5py.File(path))` works. The workflow does not need these functions.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np
import yaml
from jaxtyping import Float, Float32, Int

from coread.config import config_directory
from coread.data_io.base import ContainerError, ResponsesTrainTestSplit
from coread.data_io.hoefling_2024.constants import FRAME_RATE_MODEL, STIMULI_IDS
from coread.data_io.quality_filters import filter_cells, parse_steps, session_info_of, tabulate_counts
from coread.data_io.readers import hoefling_2024_field as fields
from coread.data_io.readers.hoefling_2024 import HoeflingParameters
from coread.data_io.readers.hoefling_2024_timing import (
    TEST,
    TRAIN,
    ClipTiming,
    divided_by_std,
    responses_at,
    shown_clips,
)
from coread.data_io.readers.parameters import reader_parameters

Field = Mapping[str, Any]
PER_SCAN = ("roi_mask", "roi_coords")  # may have as many rows as the field has cells
KEPT = ("scan_sequence_idx", "group_assignment", "roi_ids", "roi_mask")


def published_parameters() -> HoeflingParameters:
    """Return what configs/data_io/hoefling_2024.yaml says of clips, triggers and eyes."""
    path = config_directory() / "data_io" / "hoefling_2024.yaml"
    return reader_parameters(HoeflingParameters, yaml.safe_load(path.read_text(encoding="utf-8")))


def filter_responses(
    all_responses: Mapping[str, Field],
    filter_cell_types: bool = False,
    cell_types_list: Sequence[int] | int | None = None,
    chirp_qi: float = 0.35,
    d_qi: float = 0.6,
    qi_logic: str = "or",
    filter_counts: bool = True,
    count_threshold: int = 10,
    classifier_confidence: float | None = 0.25,
    verbose: bool = False,
) -> dict[str, dict[str, Any]]:
    """Return the fields with the cells that pass all steps, in the published order; fields without any are left out.

    Groups in `cell_types_list`; quality of the response to moving bars `d_qi` or (`qi_logic`) to the chirp `chirp_qi`;
    confidence of the classifier; more than `count_threshold` cells. `verbose` prints how many cells each step removed.
    Raises QualityFilterError for a value that a field lacks, RecordingError for odd shapes.
    """
    entries: list[dict[str, Any]] = []
    if filter_cell_types and cell_types_list is not None:
        groups = [cell_types_list] if isinstance(cell_types_list, int) else list(cell_types_list)
        entries.append({"step": "cell_type", "one_of": {"group_assignment": groups}})
    entries.append(_quality(d_qi, chirp_qi, qi_logic))
    if classifier_confidence is not None and classifier_confidence > 0:
        entries.append({"step": "classifier_confidence", "at_least": {"group_confidence": classifier_confidence}})
    if filter_counts:
        entries.append({"step": "n_cells", "more_cells_than": count_threshold})
    return _filtered(all_responses, entries, verbose)


def make_final_responses(
    data_dict: Mapping[str, Field],
    response_type: str = "natural",
    trace_type: str = "spikes",
    d_qi: float | None = None,
    chirp_qi: float | None = None,
    qi_logic: str = "or",
    scale_traces: float = 1.0,
    norm_by_std: bool = True,
) -> dict[str, ResponsesTrainTestSplit]:
    """Return the responses of every field to the movie, in the order in which it saw the clips.

    `norm_by_std` divides every trace by its standard deviation over the whole recording, test bins included, as
    published. Repeats are (repeat, neuron, time), and NaN where a trace has no value. The thresholds that are given
    filter cells. Raises ValueError for responses to other stimuli: their containers need frames that were not
    published; the reader takes them from a user who has them (`data_io.other_stimuli`).
    """
    if response_type != "natural":
        raise ValueError(
            f"response_type is 'natural', found {response_type!r}: responses to chirp and moving bars need the frames "
            "that were shown, see data_io.other_stimuli of configs/data_io/hoefling_2024.yaml"
        )
    thresholds = {name: value for name, value in {"d_qi": d_qi, "chirp_qi": chirp_qi}.items() if value}
    if thresholds:
        step = {"step": "response_quality", "at_least": thresholds, "logic": qi_logic}
        data_dict = _filtered(data_dict, [step], verbose=False)
    parameters = published_parameters()
    return {
        name: _final_responses(name, plain_field(field), parameters, trace_type, scale_traces, norm_by_std)
        for name, field in data_dict.items()
    }


def upsample_traces(
    triggertimes: Float[np.ndarray, " trigger"],
    traces: Float[np.ndarray, "neuron sample"],
    tracestimes: Float[np.ndarray, "neuron sample"],
    stim_id: int,
    target_fr: int = 30,
    norm_by_std: bool = True,
) -> Float32[np.ndarray, "neuron bin"]:
    """Return traces at the times of frames at `target_fr` Hz; times in seconds.

    `stim_id` is one of `constants.STIMULI_IDS`: what was shown says how frames follow triggers. Bins further than one
    sampling interval from a trace are NaN, where the published interpolation goes on with its last value. Raises
    ValueError for an unknown stimulus, RecordingError for times that do not increase.
    """
    kinds = {number: name for name, number in STIMULI_IDS.items()}
    if stim_id not in kinds:
        raise ValueError(f"stim_id is one of {STIMULI_IDS}, found {stim_id}")
    parameters = published_parameters()
    timing = parameters.timing if kinds[stim_id] == "natural" else parameters.all_others[kinds[stim_id]].timing
    n_frames = round(timing.clip_length * target_fr / FRAME_RATE_MODEL)
    timing = ClipTiming(n_frames, timing.clip_duration_s, timing.triggers_per_clip)
    frame_times = timing.frame_times(np.asarray(triggertimes, float))
    times = np.asarray(tracestimes, float).reshape(traces.shape)
    responses = responses_at(frame_times, np.asarray(traces, float), times, f"{kinds[stim_id]} traces")
    return (divided_by_std(responses) if norm_by_std else responses).T


# -------------------------------------------------------------------------------------------------------------- fields


def plain_field(field: Field) -> dict[str, Any]:
    """Return a field as a dictionary of arrays, numbers and texts, with the attributes of a group among them."""
    if not isinstance(field, h5py.Group):
        return dict(field)
    labels = {name: fields.read_attribute(field, name) for name in field.attrs}
    return labels | {name: item[()] for name, item in field.items() if isinstance(item, h5py.Dataset)}


@contextmanager
def _as_group(field: Field, names: Iterable[str]) -> Iterator[h5py.Group]:
    """Show the named values of a field as the group that the reader reads, in memory."""
    with h5py.File("field", "w", driver="core", backing_store=False) as file:
        for name in names:
            if name in field:
                file[name] = field[name]
        yield file


def _filtered(
    data: Mapping[str, Field], entries: Sequence[Mapping[str, Any]], verbose: bool
) -> dict[str, dict[str, Any]]:
    steps = parse_steps(entries)
    kept, counts = {}, {}
    for name, given in data.items():
        field = plain_field(given)
        with _as_group(field, ("roi_ids", "group_assignment", "group_confidences", "d_qi", "chirp_qi")) as group:
            cells = fields.read_cells(group, name)
        passed, table = filter_cells(cells, steps)
        counts[name] = session_info_of(table)
        if len(passed):
            kept[name] = {key: _of_cells(key, value, passed, len(cells)) for key, value in field.items()}
    if verbose:
        print(tabulate_counts(counts).to_string(index=False))
    return kept


def _of_cells(key: str, value: Any, cells: Int[np.ndarray, " kept"], n_cells: int) -> Any:
    """Return the rows (or else columns) of these cells where an array has one for each of the field's."""
    if key in PER_SCAN or not isinstance(value, np.ndarray):
        return value
    axis = next((axis for axis, size in enumerate(value.shape[:2]) if size == n_cells), None)
    return value if axis is None else np.take(value, cells, axis=axis)


def _quality(d_qi: float, chirp_qi: float, logic: str) -> dict[str, Any]:
    return {"step": "response_quality", "at_least": {"d_qi": d_qi, "chirp_qi": chirp_qi}, "logic": logic}


def _final_responses(
    name: str, field: Field, parameters: HoeflingParameters, trace_type: str, scale: float, norm_by_std: bool
) -> ResponsesTrainTestSplit:
    if trace_type not in fields.TRACES:
        raise ValueError(f"trace_type is one of {sorted(fields.TRACES)}, found {trace_type!r}")
    with _as_group(field, [key for key in field if key == "roi_ids" or key.startswith("natural_")]) as group:
        recorded = fields.read_traces(group, "natural", trace_type, name, np.arange(len(field["roi_ids"])))
    shown = responses_at(parameters.timing.frame_times(recorded.triggers), recorded.values, recorded.times, name)
    shown = scale * (divided_by_std(shown) if norm_by_std else shown)
    n_train, n_repeats = sum(parameters.train_blocks), len(parameters.train_blocks) + 1
    n_test, rest = divmod(len(recorded.triggers) - n_train, n_repeats)
    if rest or n_test < 1:
        raise ContainerError(
            f"{name}: {len(recorded.triggers)} clips were shown, which are not {n_train} training clips and "
            f"{n_repeats} repeats of a test movie"
        )
    clips = shown_clips(np.arange(n_train), n_test, parameters.train_blocks)
    by_clip = shown.reshape(len(clips), parameters.clip_length, -1)
    is_test = (clips["stimulus"] == TEST).to_numpy()
    train = by_clip[(clips["stimulus"] == TRAIN).to_numpy()].reshape(-1, shown.shape[1]).T
    repeats = by_clip[is_test].reshape(n_repeats, n_test * parameters.clip_length, -1).transpose(0, 2, 1)
    eye = parameters.eye_corrections.get(name, field.get("eye"))
    return ResponsesTrainTestSplit(
        train=train,
        test=repeats.mean(axis=0),
        test_by_trial=repeats,
        stim_id="natural",
        session_kwargs={"eye": eye} | {key: field[key] for key in KEPT if key in field},
    )
