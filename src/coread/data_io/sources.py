"""Where recordings come from: the registry of readers and the questions each one answers.

`config` is the data_io node of an experiment (keys dataset, reader, sessions and the reader's own parameters);
`data_dir` is the local directory of readers that have one, and in no configuration slice.
"""

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from coread.recording import Recording, Stimulus, validate

READERS: Mapping[str, str] = {
    "hdf5_directory": "coread.data_io.readers.hdf5_directory",
    "hoefling_2024": "coread.data_io.readers.hoefling_2024",
    "goldin_2022": "coread.data_io.readers.goldin_2022",
    "karamanlis_2024": "coread.data_io.readers.karamanlis_2024",
    "maheswaranathan_2023": "coread.data_io.readers.maheswaranathan_2023",
    "simulated_cortex": "coread.data_io.readers.simulated_cortex",
    "simulated_retina": "coread.data_io.simulate.retina",
    "simulated_tuning": "coread.data_io.simulate.tuning",
    "sridhar_2025_natural_movie": "coread.data_io.readers.sridhar_2025_natural_movie",
    "sridhar_2025_white_noise": "coread.data_io.readers.sridhar_2025_white_noise",
    "gollisch_white_noise": "coread.data_io.readers.gollisch_white_noise",
    "nwb": "coread.data_io.readers.nwb",
    "sensorium_2022": "coread.data_io.readers.sensorium_2022",
}


class Reader(Protocol):
    """What the module of a reader offers."""

    def list_sessions(self, config: Mapping[str, Any], data_dir: Path | None) -> list[str]:
        """Return the names of the sessions."""

    def build_stimuli(self, config: Mapping[str, Any], data_dir: Path | None) -> dict[str, Stimulus]:
        """Return the stimuli that sessions share."""

    def build_recording(
        self, config: Mapping[str, Any], session: str, data_dir: Path | None, stimuli: Mapping[str, Stimulus]
    ) -> Recording:
        """Return one session."""

    def source_files(self, config: Mapping[str, Any], session: str | None, data_dir: Path | None) -> list[Path]:
        """Return the raw files behind a session, or behind the shared stimuli for None."""


def list_sessions(config: Mapping[str, Any], data_dir: Path | None = None) -> list[str]:
    """Return the session names, from the configuration or else from the local directory.

    Raises ValueError for an unknown reader and FileNotFoundError where there are no sessions.
    """
    return _reader(config).list_sessions(config, data_dir)


def build_stimuli(config: Mapping[str, Any], data_dir: Path | None = None) -> dict[str, Stimulus]:
    """Return the stimuli that the sessions of a dataset share."""
    return _reader(config).build_stimuli(config, data_dir)


def build_recording(
    config: Mapping[str, Any],
    session: str,
    data_dir: Path | None = None,
    stimuli: Mapping[str, Stimulus] | None = None,
) -> Recording:
    """Return one session as a validated recording; `stimuli` are those of `build_stimuli`, built here if absent.

    Raises RecordingError (a ValueError) that names the session or file, what was expected and what was found.
    """
    shared = build_stimuli(config, data_dir) if stimuli is None else stimuli
    recording = _reader(config).build_recording(config, session, data_dir, shared)
    validate(recording)
    return recording


def build_recordings(config: Mapping[str, Any], data_dir: Path | None = None) -> list[Recording]:
    """Return all sessions in memory; those that see the same stimulus share one copy of it."""
    lazy = build_stimuli(config, data_dir)
    stimuli = {name: replace(stimulus, frames=np.array(stimulus.frames)) for name, stimulus in lazy.items()}
    return [build_recording(config, session, data_dir, stimuli) for session in list_sessions(config, data_dir)]


def source_files(config: Mapping[str, Any], session: str | None, data_dir: Path | None = None) -> list[Path]:
    """Return the raw files that a session (None: the shared stimuli) is read from; none for a simulation."""
    return _reader(config).source_files(config, session, data_dir)


def _reader(config: Mapping[str, Any]) -> Reader:
    name = str(config.get("reader"))
    if name not in READERS:
        raise ValueError(f"data_io.reader is {name!r}; the known readers are {sorted(READERS)}")
    return import_module(READERS[name])
