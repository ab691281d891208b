"""The simulated visual cortex, written in the SENSORIUM 2022 layout and read from it, with its truth beside.

What a recording holds went through the same files as a published one; only `session_info` knows more.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from coread.data_io.lazy_frames import LazyFrames
from coread.data_io.readers import sensorium_2022
from coread.data_io.readers.parameters import reader_parameters
from coread.data_io.sensorium_layout import SensoriumSession, write_session
from coread.data_io.simulate.cortex import CortexParameters, CortexSession, simulate_session
from coread.data_io.simulate.movies import photograph_files
from coread.recording import Recording, Stimulus


def list_sessions(config: Mapping[str, Any], data_dir: Path | None) -> list[str]:
    """Return the configured session names; nothing is read."""
    sessions = [str(name) for name in config.get("sessions") or []]
    if not sessions:
        raise ValueError("data_io.sessions: a simulation needs the names of its sessions, for example [cortex-1-1]")
    return sessions


def build_stimuli(config: Mapping[str, Any], data_dir: Path | None) -> dict[str, Stimulus]:
    """Return no stimuli: every session has its own images, and the test images that all share are few."""
    return {}


def build_recording(
    config: Mapping[str, Any], session: str, data_dir: Path | None, stimuli: Mapping[str, Stimulus]
) -> Recording:
    """Return one session as the SENSORIUM reader reads it, with all of the truth in `session_info`.

    Session i of the list is drawn from (seed, i). Raises ValueError for a session that is not in the list.
    """
    simulated, layout = _simulate(config, session)
    with TemporaryDirectory(prefix="coread-") as folder:
        write_session(layout, Path(folder), zipped=True)
        settings = {
            "dataset": config["dataset"],
            "sessions": [session],
            "unit": "simulated activity (a.u.)",
            "species": "simulation",
        }
        recording = sensorium_2022.build_recording(settings, session, Path(folder), stimuli)
    return replace(
        recording,
        session_info=recording.session_info | simulated.truth,
        source=_photograph_source(reader_parameters(CortexParameters, config)),
    )


def source_files(config: Mapping[str, Any], session: str | None, data_dir: Path | None) -> list[Path]:
    """Return no files: a simulation is made from its configuration."""
    return []


def write_sessions(config: Mapping[str, Any], folder: Path, *, zipped: bool = False) -> list[Path]:
    """Write all sessions of a data_io node in the SENSORIUM layout, without their truth; return folders or archives."""
    return [
        write_session(_simulate(config, session)[1], folder, zipped=zipped) for session in list_sessions(config, None)
    ]


def _simulate(config: Mapping[str, Any], session: str) -> tuple[CortexSession, SensoriumSession]:
    parameters = reader_parameters(CortexParameters, config)
    sessions = list_sessions(config, None)
    if session not in sessions:
        raise ValueError(f"session {session!r} is not one of the simulated sessions {sessions}")
    for key in ("competition_sessions", "sessions_without_behaviour"):
        _check_known(key, getattr(parameters, key), sessions)
    _check_known("behaviour.units", list(parameters.behaviour.units), sessions)
    simulated = simulate_session(parameters, session, sessions.index(session))
    return simulated, _recorded(simulated, session, parameters)


def _check_known(key: str, names: Sequence[str], sessions: Sequence[str]) -> None:
    if unknown := sorted(set(names) - set(sessions)):
        raise ValueError(f"data_io.{key} names {unknown}, which are not among the sessions {list(sessions)}")


def _recorded(simulated: CortexSession, session: str, parameters: CortexParameters) -> SensoriumSession:
    """Return what the files of a session say."""
    trials = simulated.trials
    visible = session not in parameters.sessions_without_behaviour
    layout = SensoriumSession(
        data_key=session,
        images=_shown(simulated.images, trials.image),
        responses=simulated.responses,
        tiers=trials.tier,
        image_ids=trials.image_id,
        trial_idx=trials.rank,
        timestamps=trials.onset.astype("datetime64[s]"),
        unit_ids=simulated.unit_ids,
        cell_motor_coordinates=simulated.population.position_um,
        behaviour=simulated.behaviour if visible else np.zeros_like(simulated.behaviour),
        pupil_center=simulated.pupil_center if visible else np.zeros_like(simulated.pupil_center),
    )
    return layout.withheld() if session in parameters.competition_sessions else layout


def _shown(images: UInt8[np.ndarray, "image height width"], image: Int[np.ndarray, "trial"]) -> LazyFrames:
    """Return the image of every trial without a copy of those that are shown repeatedly."""
    return LazyFrames((len(image), 1, *images.shape[1:]), images.dtype, lambda trials: images[image[trials], None])


def _photograph_source(parameters: CortexParameters) -> dict[str, str]:
    """Return the sha256 of the photographs' files by the release that shipped them."""
    release = metadata.version("scikit-image")
    files = photograph_files()
    names = [*parameters.images.train_photographs, *parameters.images.test_photographs]
    return {
        f"scikit-image {release}: {files[name].name}": hashlib.sha256(files[name].read_bytes()).hexdigest()
        for name in names
    }
