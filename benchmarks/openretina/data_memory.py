"""Peak memory of data loaders beside openretina 1.1.1, on fabricated recordings of the sizes of published ones.

    python benchmarks/openretina/data_memory.py [--cases low_res ...] [--output FILE.csv]

The peer's environment is that of compare.py (`python benchmarks/openretina/compare.py install`). Both get the same
movie and responses, each in the form that it trains from, make their loaders as a training does, and draw one training
batch of every session, a process each. `high_res` has 10 of the 20 published clip orders: with all of them the peer
needs more than 20 GB.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from coread.recording import Recording, Stimulus, write_recording, write_stimuli

HERE = Path(__file__).resolve().parent
PEER = HERE.parent.parent / ".venv-openretina"
SYSTEMS = ("coread", "openretina")
HOEFLING = {"sessions": 67, "neurons": 47, "clip": 150, "clips": 108, "test": 750, "window": 50}
CASES: dict[str, dict[str, Any]] = {
    "hoefling_2024 low resolution": HOEFLING | {"shape": [2, 18, 16], "orders": 20},
    "hoefling_2024 high resolution, 10 orders": HOEFLING | {"shape": [2, 72, 64], "orders": 10},
    "maheswaranathan_2023, one session": {
        "sessions": 1,
        "neurons": 9,
        "clip": 90,
        "clips": 3997,
        "test": 5996,
        "window": 50,
        "shape": [1, 50, 50],
        "orders": 1,
    },
}
MEAN, STD = 37.0, 30.0


def main() -> None:
    """Run both systems on every case and print their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--output", type=Path, help="write the table there as CSV")
    arguments = parser.parse_args()
    rows = []
    for case in arguments.cases:
        with tempfile.TemporaryDirectory() as folder:
            # in a process of its own: Linux hands the peak of this one down to those that are measured
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                pool.submit(fabricate, CASES[case], Path(folder)).result()
            rows += [{"system": system, "case": case} | run(system, CASES[case], Path(folder)) for system in SYSTEMS]
            print(json.dumps(rows[-2:]), flush=True)
    table = pd.DataFrame(rows)
    print(table.pivot_table("peak_mb", "case", "system").round().to_string())
    if arguments.output is not None:
        table.to_csv(arguments.output, index=False)


def fabricate(case: dict[str, Any], folder: Path) -> None:
    """Write movie and responses as arrays, which the peer reads, and as recordings."""
    rng = np.random.default_rng(0)
    n_frames, n_neurons = case["clips"] * case["clip"], case["neurons"]
    channels, height, width = case["shape"]
    movies = {
        name: rng.integers(0, 256, (n, channels, height, width), dtype=np.uint8)
        for name, n in (("movie", n_frames), ("test", case["test"]))
    }
    orders = np.stack([rng.permutation(case["clips"]) for _ in range(case["orders"])], axis=1)
    if case["orders"] == 1:
        orders = np.arange(case["clips"])[:, None]
    responses = rng.poisson(0.3, (n_frames + case["test"], n_neurons)).astype(np.float32)
    np.savez(folder / "peer.npz", orders=orders, responses=responses)
    for name, movie in movies.items():
        np.save(folder / f"{name}.npy", movie)
    stimuli = {name: Stimulus(movie, 30.0) for name, movie in movies.items()}
    write_stimuli(stimuli, folder / "stimuli.h5")
    for session in range(case["sessions"]):
        clips = orders[:, session % case["orders"]]
        shown = (clips[:, None] * case["clip"] + np.arange(case["clip"])).reshape(-1)
        write_recording(
            _recording(f"session_{session}", stimuli, shown, case["test"], responses),
            folder / f"session_{session}.h5",
            shared_stimuli=folder / "stimuli.h5",
        )


def _recording(
    name: str, stimuli: dict[str, Stimulus], shown: np.ndarray, n_test: int, responses: np.ndarray
) -> Recording:
    trials = {"stimulus": ["movie", "test"], "tier": ["train", "test"], "repeat": [0, 0], "time_order": [0, 1]}
    return Recording(
        dataset="benchmark",
        session=name,
        stimuli=stimuli,
        trials=pd.DataFrame(trials | {"withheld": [False, False]}),
        trial=np.repeat(np.arange(2, dtype=np.int32), [len(shown), n_test]),
        frame=np.concatenate([shown, np.arange(n_test)]).astype(np.int32),
        responses=responses,
        valid=np.ones(len(responses), bool),
        rate_hz=30.0,
        unit="spike count",
        neurons=pd.DataFrame({"unit_id": range(responses.shape[1])}),
    )


def run(system: str, case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make the loaders of one system in a process of its own and return its seconds and peak memory."""
    python = sys.executable if system == "coread" else str(PEER / "bin" / "python")
    (folder / "job.json").write_text(json.dumps(case | {"system": system, "mean": MEAN, "std": STD}))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [python, str(HERE / "data_memory_program.py"), str(folder)],
            stdout=log,
            stderr=subprocess.STDOUT,
            # freed blocks are given back, so that the peak is that of memory in use
            env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072", "PYTHONWARNINGS": "ignore"},
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{system} failed:\n" + (folder / "log").read_text()[-3000:])
    return json.loads((folder / "measured.json").read_text()) | {"peak_mb": usage.ru_maxrss * 1024 / 1e6}


if __name__ == "__main__":
    main()
