"""Loaders of either system over fabricated data: python data_memory_program.py FOLDER, in that system's environment."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 32


def main() -> None:
    """Make the loaders, draw one training batch of every session, and write seconds and the bytes of a batch."""
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text())
    started = time.perf_counter()
    batches = coread_batches(folder, job) if job["system"] == "coread" else openretina_batches(folder, job)
    shapes = [tuple(inputs.shape) for inputs in batches]
    assert len(shapes) == job["sessions"], shapes
    assert set(shapes) == {(BATCH, job["shape"][0], job["window"], *job["shape"][1:])}, shapes
    (folder / "measured.json").write_text(json.dumps({"seconds": time.perf_counter() - started}))


def coread_batches(folder: Path, job: dict[str, Any]) -> Iterator[Any]:
    """Yield a batch of every session; loaders of all sessions are alive, for training and validation."""
    from coread.data_io.dataloader import SessionWindows
    from coread.data_io.splits import TRAIN, VALIDATION, label_bins
    from coread.data_io.statistics import compute_statistics
    from coread.recording import read_recordings

    recordings = read_recordings(sorted(folder.glob("session_*.h5")), memory_budget_bytes=16e9)
    split = {"method": "folds", "n_folds": 7, "clip_length": job["clip"], "seed": 0}
    labels = {recording.session: label_bins(recording, split, 0, 30) for recording in recordings}
    statistics = compute_statistics(recordings, labels, normalize_stimulus=True, response_scale="none")
    sizes = {"lag": 30, "window_length": job["window"], "batch_size": BATCH, "statistics": statistics}
    windows = [
        {label: SessionWindows(recording, labels[recording.session], label, **sizes) for label in (TRAIN, VALIDATION)}
        for recording in recordings
    ]
    rng = np.random.default_rng(0)
    for of_session in windows:
        yield of_session[TRAIN].shuffled(rng)[0].inputs


def openretina_batches(folder: Path, job: dict[str, Any]) -> Iterator[Any]:
    """Yield a batch of every session, from the loaders that the published datasets are trained with."""
    from openretina.data_io.base import MoviesTrainTestSplit, ResponsesTrainTestSplit
    from openretina.data_io.base_dataloader import multiple_movies_dataloaders
    from openretina.data_io.hoefling_2024.dataloaders import natmov_dataloaders_v2

    arrays = np.load(folder / "peer.npz")
    n_frames = job["clips"] * job["clip"]
    train, test = (normalised(np.load(folder / f"{name}.npy"), job) for name in ("movie", "test"))
    orders = arrays["orders"] if job["orders"] > 1 else None
    movies = MoviesTrainTestSplit(train=train, test=test, stim_id="natural", random_sequences=orders)
    sessions = {
        f"session_{session}": ResponsesTrainTestSplit(
            train=arrays["responses"][:n_frames].T.copy(),
            test=arrays["responses"][n_frames:].T.copy(),
            test_by_trial=arrays["responses"][n_frames:].T.copy()[..., None],
            stim_id="natural",
            session_kwargs={"eye": "right", "scan_sequence_idx": session % job["orders"]} if orders is not None else {},
        )
        for session in range(job["sessions"])
    }
    if orders is None:
        loaders = multiple_movies_dataloaders(
            sessions, {"session_0": movies}, job["window"], BATCH, clip_length=job["clip"], num_val_clips=20
        )
    else:
        # the validation clips of the shipped config
        validation = [0, 4, 10, 11, 18, 30, 45, 62, 67, 77, 79, 80, 81, 83, 95]
        loaders = natmov_dataloaders_v2(sessions, movies, validation, job["window"], BATCH)
    for loader in loaders["train"].values():
        yield next(iter(loader)).inputs


def normalised(movie: np.ndarray, job: dict[str, Any]) -> np.ndarray:
    """Return the movie as it was published, (channel, time, height, width) float32 of mean 0, one channel at a time."""
    result = np.empty((movie.shape[1], movie.shape[0], *movie.shape[2:]), np.float32)
    for channel in range(movie.shape[1]):
        np.subtract(movie[:, channel], np.float32(job["mean"]), out=result[channel])
        result[channel] /= np.float32(job["std"])
    return result


if __name__ == "__main__":
    main()
