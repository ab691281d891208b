"""What the natural-movie and the white-noise part of the marmoset recordings share: responses, cells and trials.

Sridhar S, Vystrčilová M, Khani MH, Karamanlis D, Schreyer HM, Ramakrishna V, Krüppel S, Zapp SJ, Mietsch M, Ecker AS,
Gollisch T (2025) Modeling spatial contrast sensitivity in responses of primate retinal ganglion cells to natural
movies. bioRxiv 2024.03.05.583449.

A session is a piece of retina, `01` to `04`. Its responses are a pickle with

    train_responses                      (neuron, frame, trial)   one bin per refresh of the screen
    test_responses                       (neuron, frame, trial)   repeats of one sequence
    seeds, trial_separation              optional: the seeds of the movie's eye movements, and the trials of each
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int, Int32

from coread.data_io.readers.session_files import data_folder
from coread.data_io.restricted_pickle import load_pickle
from coread.recording import RecordingError


@dataclass(frozen=True)
class Responses:
    """Responses of one session with the published numbers of its trials and of its cells."""

    train: Float32[np.ndarray, "trial frame neuron"]
    test: Float32[np.ndarray, "repeat frame neuron"]
    train_trial: Int[np.ndarray, "trial"]
    cell: Int[np.ndarray, "neuron"]
    n_cells: int  # before exclusion


def dataset_folder(config: Mapping[str, Any], data_dir: Path | None, folder: str) -> Path:
    """Return the folder of the published files; raises FileNotFoundError where it is missing."""
    path = data_folder(config, data_dir) / folder
    if not path.is_dir():
        raise FileNotFoundError(f"dataset {config.get('dataset')!r}: there is no directory {path} (data_io.folder)")
    return path


def session_value(values: Mapping[str, Any], session: str, key: str) -> Any:
    """Return what `data_io.<key>` says about a session; raises ValueError that lists the known sessions."""
    if session not in values:
        raise ValueError(f"data_io.{key} says nothing about session {session!r}; it knows {sorted(values)}")
    return values[session]


def response_file(folder: Path, responses: str | Mapping[str, str], session: str) -> Path:
    """Return the file of a session's responses: by name, or by a pattern with `{session}` in it."""
    if isinstance(responses, str):
        return folder / responses.format(session=session)
    return folder / session_value(responses, session, "responses")


def load_responses(
    path: Path, excluded_cells: Sequence[int], seed: int | None = None, n_test_trials: int | None = None
) -> Responses:
    """Return the responses of a session without the excluded cells.

    `seed` keeps the trials with eye movements of that seed (None: all), `n_test_trials` those test trials whose
    published number is lower. Raises RecordingError that names the file, what was expected and what was found.
    """
    content = load_pickle(path)
    if not isinstance(content, Mapping):
        raise RecordingError(f"{path.name}: expected a dictionary, found {type(content).__name__}")
    train = _array(content, "train_responses", path)
    test = _array(content, "test_responses", path)
    if train.shape[0] != test.shape[0]:
        raise RecordingError(f"{path.name}: train_responses has {train.shape[0]} cells, test_responses {test.shape[0]}")
    train_trial = _trials_of_seed(content, seed, train.shape[2], "train_responses", path)
    test_trial = _trials_of_seed(content, seed, test.shape[2], "test_responses", path)
    if n_test_trials is not None:
        test_trial = test_trial[test_trial < n_test_trials]
    cell = _kept_cells(path, train.shape[0], excluded_cells)
    return Responses(
        train=_rows(train, cell, train_trial),
        test=_rows(test, cell, test_trial),
        train_trial=train_trial,
        cell=cell,
        n_cells=train.shape[0],
    )


def trial_rows(
    responses: Responses, train_stimulus: str, test_stimulus: str
) -> tuple[pd.DataFrame, Int32[np.ndarray, "bin"]]:
    """Return the trials, training before test, and the trial of every bin.

    The files say in which order training trials were shown and in which order test trials, not how they alternated.
    """
    kinds = (
        (train_stimulus, "train", responses.train, responses.train_trial),
        (test_stimulus, "test", responses.test, np.arange(len(responses.test))),
    )
    tables = [
        pd.DataFrame(
            {
                "stimulus": name,
                "tier": tier,
                # a training trial is shown once; where parts of two trials are equal, their frames are
                "repeat": np.zeros(len(values), int) if tier == "train" else np.arange(len(values)),
                "published_trial": number,
            }
        )
        for name, tier, values, number in kinds
    ]
    table = pd.concat(tables, ignore_index=True)
    table = table.assign(time_order=np.arange(len(table)), withheld=False)
    lengths = [values.shape[1] for _, _, values, number in kinds for _ in number]
    return table, np.repeat(np.arange(len(table)), lengths).astype(np.int32)


def response_table(responses: Responses) -> Float32[np.ndarray, "bin neuron"]:
    """Return the responses of all trials below each other, training before test."""
    return np.concatenate(
        [responses.train.reshape(-1, len(responses.cell)), responses.test.reshape(-1, len(responses.cell))]
    )


def neuron_table(session: str, responses: Responses) -> pd.DataFrame:
    """Return the cells under their published numbers, which name the same cell in both parts of the data set."""
    return pd.DataFrame({"unit_id": [f"{session}_{cell:03d}" for cell in responses.cell], "cell_index": responses.cell})


def exclusion_steps(responses: Responses) -> dict[str, np.ndarray]:
    """Return how many cells the list of excluded cells removed, as the session's table of quality steps."""
    return {
        "quality_step": np.array(["excluded_cells"], dtype=object),
        "quality_n_before": np.array([responses.n_cells]),
        "quality_n_removed": np.array([responses.n_cells - len(responses.cell)]),
    }


def _array(content: Mapping[str, Any], key: str, path: Path) -> np.ndarray:
    if key not in content:
        raise RecordingError(f"{path.name}: no {key}, found {sorted(map(str, content))}")
    values = np.asarray(content[key])
    if values.ndim != 3 or values.dtype.kind not in "buif":
        raise RecordingError(
            f"{path.name}: {key} must be numbers (neuron, frame, trial), found {values.dtype} of shape {values.shape}"
        )
    return values


def _trials_of_seed(
    content: Mapping[str, Any], seed: int | None, n_trials: int, key: str, path: Path
) -> Int[np.ndarray, "trial"]:
    if seed is None:
        return np.arange(n_trials)
    separation = {int(name): trials for name, trials in dict(content.get("trial_separation", {})).items()}
    if seed not in separation:
        raise RecordingError(
            f"{path.name}: no trials of data_io.stimulus_seed {seed}; trial_separation has {sorted(separation)}"
        )
    trials = np.asarray(separation[seed], int)
    if len(trials) and (trials.min() < 0 or trials.max() >= n_trials):
        raise RecordingError(
            f"{path.name}: seed {seed} has the trials {trials.tolist()}, but {key} has {n_trials} trials"
        )
    return trials


def _kept_cells(path: Path, n_cells: int, excluded: Sequence[int]) -> Int[np.ndarray, "neuron"]:
    listed = np.asarray(list(excluded), int)
    outside = listed[(listed < 0) | (listed >= n_cells)]
    described = f"data_io.excluded_cells lists {outside.tolist()}, the file has the cells 0 to {n_cells - 1}"
    if outside.tolist() == [n_cells] and 0 in listed:
        # the published list of retina 02 has one number too many; a list that counts from 1 would not have 0
        warnings.warn(f"{path.name}: {described}: there is nothing to leave out", stacklevel=2)
    elif len(outside):
        raise RecordingError(f"{path.name}: {described}")
    kept = np.setdiff1d(np.arange(n_cells), listed)
    if not len(kept):
        raise RecordingError(f"{path.name}: data_io.excluded_cells leaves none of the {n_cells} cells")
    return kept


def _rows(
    values: np.ndarray, cell: Int[np.ndarray, "neuron"], trial: Int[np.ndarray, "trial"]
) -> Float32[np.ndarray, "trial frame neuron"]:
    # the file is mapped: only what is really left out costs a copy of its own
    kept = values if len(cell) == values.shape[0] else values[cell]
    shown = kept if np.array_equal(trial, np.arange(kept.shape[2])) else kept[:, :, trial]
    return np.ascontiguousarray(shown.transpose(2, 1, 0), np.float32)
