"""Peak memory of training against the number of sessions: everything in memory, and streamed above a memory budget.

    python benchmarks/memory.py [--sessions 1 4 16] [--frames 40000] [--neurons 200] [--output FILE.csv]

All sessions see one movie. Each case is a process of its own that reads the recordings, trains one short epoch and
tells its peak resident memory. Predicted is a constant (from the smallest case of the same mode) plus one copy of the
movie in its stored dtype and the float32 responses, or nothing beyond the constant where the recordings are streamed.
The C library is told to give freed blocks back (MALLOC_MMAP_THRESHOLD_), so that the peak is that of memory in use.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd

from coread.config import compose, stage_slice
from coread.recording import Recording, Stimulus, read_recordings, write_recording, write_stimuli

HEIGHT, WIDTH = 60, 64
TRIAL_BINS = 2000
N_BATCHES = 16  # sessions take turns
STREAM_BUDGET_MB = 64.0
MODES = ("loaded", "streamed")


class Case(NamedTuple):
    """One measured training; sizes in MB (10^6 bytes)."""

    mode: str
    n_sessions: int
    peak_mb: float
    movie_mb: float
    responses_mb: float

    @property
    def data_mb(self) -> float:
        """What the recordings take in memory in this mode: the movie once and all responses, or nothing."""
        return self.movie_mb + self.responses_mb if self.mode == "loaded" else 0.0


def measure(session_counts: Sequence[int], n_frames: int, n_neurons: int, folder: Path) -> list[Case]:
    """Write recordings to `folder` and return the peak memory of every mode and number of sessions."""
    paths = apart(write_sessions, folder, max(session_counts), n_frames, n_neurons)
    movie_mb, responses_mb = n_frames * HEIGHT * WIDTH / 1e6, n_frames * n_neurons * 4 / 1e6
    return [
        Case(mode, count, _peak_of_child(mode, paths[:count]), movie_mb, count * responses_mb)
        for mode in MODES
        for count in session_counts
    ]


def apart(function: Callable[..., Any], *arguments: object) -> Any:
    """Call a function in a process of its own: Linux hands the peak of this one down to those that are measured."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def write_sessions(folder: Path, n_sessions: int, n_frames: int, n_neurons: int) -> list[Path]:
    """Write one movie and sessions that see it; all sessions have the same responses, which no memory can share."""
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 256, (n_frames, 1, HEIGHT // 4, WIDTH // 4), dtype=np.uint8)
    movie = Stimulus(tiles.repeat(4, axis=2).repeat(4, axis=3), 30.0)
    write_stimuli({"movie": movie}, folder / "stimuli.h5")
    n_trials = n_frames // TRIAL_BINS
    trials = pd.DataFrame({"stimulus": "movie", "tier": "train", "repeat": 0, "time_order": range(n_trials)})
    recording = Recording(
        dataset="benchmark",
        session="session_0",
        stimuli={"movie": movie},
        trials=trials.assign(withheld=False),
        trial=np.repeat(np.arange(n_trials, dtype=np.int32), TRIAL_BINS),
        frame=np.arange(n_trials * TRIAL_BINS, dtype=np.int32),
        responses=rng.poisson(0.3, (n_trials * TRIAL_BINS, n_neurons)).astype(np.float32),
        valid=np.ones(n_trials * TRIAL_BINS, bool),
        rate_hz=30.0,
        unit="spike count",
        neurons=pd.DataFrame({"unit_id": range(n_neurons)}),
    )
    return write_copies(recording, n_sessions, folder)


def write_copies(recording: Recording, n_sessions: int, folder: Path) -> list[Path]:
    """Write a recording under the names of so many sessions, its stimuli being those of stimuli.h5 in the folder."""
    paths = [folder / f"session_{index}.h5" for index in range(n_sessions)]
    write_recording(recording, paths[0], shared_stimuli=folder / "stimuli.h5")
    for index, path in enumerate(paths[1:], start=1):
        shutil.copy(paths[0], path)
        with h5py.File(path, "a") as file:
            file.attrs["session"] = f"session_{index}"
    return paths


def markdown_table(cases: Sequence[Case]) -> str:
    """Return measured beside predicted peaks."""
    lines = [
        "| mode | sessions | movie MB | responses MB | predicted peak MB | measured peak MB | MB per further session |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for case in cases:
        first = next(other for other in cases if other.mode == case.mode)
        predicted = first.peak_mb - first.data_mb + case.data_mb
        more = case.n_sessions - first.n_sessions
        growth = f"{(case.peak_mb - first.peak_mb) / more:.1f}" if more else ""
        lines.append(
            f"| {case.mode} | {case.n_sessions} | {case.movie_mb:.0f} | {case.responses_mb:.0f} | {predicted:.0f} "
            f"| {case.peak_mb:.0f} | {growth} |"
        )
    return "\n".join(lines)


def train_and_print_peak(mode: str, paths: Sequence[Path]) -> None:
    """Train one short epoch in this process and print its peak resident memory as JSON."""
    from coread.training import train

    config = compose(
        "simulated_retina",
        [
            "model.hidden_channels=[2]",
            "model.core.spatial_kernel_sizes=[3]",
            "dataloader.window_length=50",
            "dataloader.batch_size=4",
            "initialization.n_lags=3",
            "trainer.max_epochs=1",
        ],
    )
    settings = stage_slice(config, "train")
    # as many steps with few sessions as with many; statistics and STA read every bin of all of them anyway
    settings["trainer"] |= {"limit_train_batches": N_BATCHES, "limit_val_batches": N_BATCHES}
    budget = float("inf") if mode == "loaded" else STREAM_BUDGET_MB * 1e6
    recordings = read_recordings(paths, memory_budget_bytes=budget)
    assert isinstance(recordings[0].responses, np.ndarray) == (mode == "loaded")
    with tempfile.TemporaryDirectory() as work_dir:
        train(settings, recordings, 0, 0, work_dir=Path(work_dir), accelerator="cpu", progress_bar=False)
    unit = 1 if sys.platform == "darwin" else 1024
    print(json.dumps({"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6}))


def _peak_of_child(mode: str, paths: Sequence[Path]) -> float:
    command = [sys.executable, __file__, "--measure", mode, *map(str, paths)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "MALLOC_MMAP_THRESHOLD_": "131072"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(result.stderr)
    return float(json.loads(result.stdout.splitlines()[-1])["peak_mb"])


def main() -> None:
    """Run the benchmark, or one case of it with `--measure`."""
    if sys.argv[1:2] == ["--measure"]:
        train_and_print_peak(sys.argv[2], [Path(path) for path in sys.argv[3:]])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--frames", type=int, default=40_000, help="bins per session and frames of the movie")
    parser.add_argument("--neurons", type=int, default=200, help="per session")
    parser.add_argument("--output", type=Path, help="write the table there as CSV")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cases = measure(arguments.sessions, arguments.frames, arguments.neurons, Path(folder))
    print(markdown_table(cases))
    if arguments.output is not None:
        pd.DataFrame(cases).to_csv(arguments.output, index=False)


if __name__ == "__main__":
    main()
