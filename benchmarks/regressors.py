"""All regressors of one session of real size, beside the two expensive steps as they were published.

    python benchmarks/regressors.py [--trials 6000] [--neurons 8000] [--iterations 100] [--threads 2]
                                    [--output FILE.csv]

The session is fabricated: a slow latent of 12 dimensions moves the responses of all neurons, three trials in four are
training trials. Each way is a process of its own that loads the responses and tells seconds and its peak resident
memory; seconds of all cores together tell how busy the machine was otherwise. "coread" fits all regressors of
`regressors: default`, binds them and gathers one batch of 128 trials. "published" does only what the Model-4 entry to
SENSORIUM 2022 spends its time on: the reduced-rank regression by alternating pseudo-inverses, on the same number of
principal components (found as coread finds them, not timed), and the history of every trial, neuron and lag as one
float64 array (built, not written to disk).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float32

from coread.config import config_directory
from coread.data_io.regressors import fit_session
from coread.data_io.regressors.network_state import principal_axes
from coread.data_io.splits import label_bins
from coread.recording import Recording, Stimulus

BATCH = 128
LAGS = (1, 2, 5, 10, 30)
RANK, COMPONENTS = 20, 500


def fabricate(n_trials: int, n_neurons: int) -> Float32[np.ndarray, "trial neuron"]:
    """Return non-negative, skewed responses in time order whose square roots follow a slow latent."""
    rng = np.random.default_rng(0)
    latent = np.zeros((n_trials, 12), np.float32)
    for trial in range(1, n_trials):
        latent[trial] = 0.95 * latent[trial - 1] + 0.3 * rng.standard_normal(12, np.float32)
    loadings = 0.12 * rng.standard_normal((12, n_neurons), np.float32)
    root = latent @ loadings + 0.6 + 0.2 * rng.random(n_neurons, np.float32)
    responses = rng.standard_gamma(1.0, (n_trials, n_neurons), np.float32)
    responses *= np.square(np.maximum(root, 0.05, out=root), out=root)
    return responses


def session(folder: Path) -> Recording:
    """Return the fabricated session with its file in an order that is not that of time."""
    responses = np.load(folder / "responses.npy", allow_pickle=False)
    n_trials, n_neurons = responses.shape
    rng = np.random.default_rng(1)
    tier = rng.choice(["train", "validation", "test"], n_trials, p=[0.75, 0.085, 0.165])
    trials = pd.DataFrame({"stimulus": "images", "tier": tier, "repeat": 0, "time_order": rng.permutation(n_trials)})
    return Recording(
        dataset="benchmark",
        session="session",
        stimuli={"images": Stimulus(np.zeros((n_trials, 1, 1, 1), np.uint8), 2.0)},
        trials=trials.assign(withheld=False),
        trial=np.arange(n_trials, dtype=np.int32),
        frame=np.arange(n_trials, dtype=np.int32),
        responses=responses,
        valid=np.ones(n_trials, bool),
        rate_hz=2.0,
        unit="deconvolved activity",
        neurons=pd.DataFrame({"unit_id": range(n_neurons)}),
        behaviour=rng.normal(size=(n_trials, 3)).astype(np.float32),
        pupil_center=rng.normal(size=(n_trials, 2)).astype(np.float32),
    )


class Timer:
    """Seconds of named steps, on the clock and of all cores together."""

    def __init__(self) -> None:
        self.seconds: dict[str, tuple[float, float]] = {}

    def __call__(self, name: str, step: Callable[[], Any]) -> Any:
        """Run a step and keep its seconds."""
        start, cpu_start = time.perf_counter(), time.process_time()
        result = step()
        self.seconds[name] = (time.perf_counter() - start, time.process_time() - cpu_start)
        return result


def coread_way(folder: Path, timer: Timer, _: int) -> None:
    """Fit, bind and gather all regressors of the default settings."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(config_directory()), version_base=None):
        settings = compose("regressors/default").regressors
    recording = session(folder)
    labels, scale = label_bins(recording, {"method": "published"}, 0, 0), torch.ones(recording.n_neurons)
    maps = timer("fit", lambda: fit_session(recording, labels, scale, settings))
    context = timer("bind", lambda: maps.bind(recording, labels, scale))
    timer("gather 128 trials", lambda: context.at(np.arange(BATCH)[:, None], maps.names()))


def published_way(folder: Path, timer: Timer, n_iterations: int) -> None:
    """Alternate pseudo-inverses, and build the history of every trial, neuron and lag."""
    recording = session(folder)
    in_time = np.argsort(recording.trials["time_order"].to_numpy())
    responses = recording.responses[in_time]
    available = (recording.trials["tier"] != "test").to_numpy()[in_time]
    x, z = _scores(responses, available)
    timer(f"{n_iterations} iterations", lambda: _alternate(x, z, n_iterations))
    timer("history array", lambda: _history(responses, available))


def _scores(
    responses: Float32[np.ndarray, "trial neuron"], available: np.ndarray
) -> tuple[Float[np.ndarray, "component pair"], Float[np.ndarray, "component pair"]]:
    now = np.flatnonzero(available[:-1])
    root = np.sqrt(responses + 1e-6)
    mean = root[now].mean(axis=0)
    axes = principal_axes(root[now] - mean, COMPONENTS, 0)
    return ((root[now] - mean) @ axes).T.astype(np.float64), ((root[now + 1] - mean) @ axes).T.astype(np.float64)


def _alternate(
    x: Float[np.ndarray, "component pair"], z: Float[np.ndarray, "component pair"], n_iterations: int
) -> Float[np.ndarray, "component component"]:
    v = np.random.default_rng(0).normal(size=(RANK, len(x)))
    for _ in range(n_iterations):
        w = z @ np.linalg.pinv(v @ x)
        v = np.linalg.pinv(w) @ z @ np.linalg.pinv(x)
    return w @ v


def _history(
    responses: Float32[np.ndarray, "trial neuron"], available: np.ndarray
) -> Float[np.ndarray, "trial neuron lag"]:
    history = np.zeros((*responses.shape, len(LAGS)))
    queues = [deque[int](maxlen=lag) for lag in LAGS]
    for trial, known in enumerate(available):
        for place, queue in enumerate(queues):
            if queue:
                history[trial, :, place] = responses[list(queue)].sum(axis=0) / LAGS[place]
            if known:
                queue.append(trial)
    return history


WAYS = {"coread": coread_way, "published": published_way}


def measure(way: str, folder: Path, n_iterations: int) -> None:
    """Run one way in this process and print seconds and peak memory as JSON."""
    timer = Timer()
    WAYS[way](folder, timer, n_iterations)
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
    print(json.dumps({"seconds": timer.seconds, "peak_gb": peak}))


def _of_child(way: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", way, str(folder), "--iterations", str(arguments.iterations)]
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, str(arguments.threads))
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(result.stderr)
    return dict(json.loads(result.stdout.splitlines()[-1]))


def main() -> None:
    """Measure both ways and print a table and their ratio, or measure one with `--measure`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=6000)
    parser.add_argument("--neurons", type=int, default=8000)
    parser.add_argument("--iterations", type=int, default=100, help="of the published regression")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="write the table there as CSV")
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure[0], Path(arguments.measure[1]), arguments.iterations)
        return
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "responses.npy", fabricate(arguments.trials, arguments.neurons))
        measured = {way: _of_child(way, Path(folder), arguments) for way in WAYS}
    print(f"{arguments.neurons} neurons, {arguments.trials} trials, {arguments.threads} threads")
    print("| way | step | seconds | CPU seconds |\n|---|---|---:|---:|")
    for way, result in measured.items():
        for step, (seconds, cpu) in result["seconds"].items():
            print(f"| {way} | {step} | {seconds:.2f} | {cpu:.2f} |")
    total = {way: sum(seconds for seconds, _ in result["seconds"].values()) for way, result in measured.items()}
    for way, result in measured.items():
        print(f"{way}: {total[way]:.1f} s, peak memory {result['peak_gb']:.2f} GB (responses included)")
    print(f"ratio: {total['published'] / total['coread']:.1f} x faster, all regressors against those two steps")
    if arguments.output is not None:
        steps_table(measured).to_csv(arguments.output, index=False)


def steps_table(measured: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row per way and step, and one of all steps together."""
    rows = []
    for way, result in measured.items():
        steps = {**result["seconds"], "all": np.sum(list(result["seconds"].values()), axis=0)}
        rows += [
            {"system": way, "step": step, "seconds": seconds, "cpu_seconds": cpu}
            for step, (seconds, cpu) in steps.items()
        ]
        rows[-1]["peak_gb"] = result["peak_gb"]
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
