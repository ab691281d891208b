"""Members of an ensemble trained together in one process, beside the same members one after the other.

Together means what the workflow does, which leaves steps on a CPU to the members, and steps in one call anyway.

    python benchmarks/packed.py [--members 1 3 5] [--epochs 3] [--device cpu] [--output FILE.csv]

Every case is a process of its own that trains the demo's model on two fabricated sessions of 100 neurons; seconds are
those of the epochs, without imports and reading. The members' validation scores must agree, or the comparison fails.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scaling import write_sessions

SYSTEMS = ("coread", "coread, one after the other", "coread, steps in one call")
SIZES = {"sessions": 2, "neurons": 100, "frames": 12_000}
TOLERANCE = 0.01  # of a validation correlation: float32 in another order, over a few epochs


def main() -> None:
    """Measure the cases and print their table, or one of them with `--measure`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, nargs="+", default=[1, 3, 5])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="write the table there as CSV")
    parser.add_argument("--measure", nargs=2, metavar=("FOLDER", "SYSTEM"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        folder, system = arguments.measure
        print(json.dumps(measure(Path(folder), system, arguments.members[0], arguments.epochs, arguments.device)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_sessions(Path(folder), **SIZES)
        for n_members in arguments.members:
            for system in SYSTEMS:
                rows.append(of_child(folder, system, n_members, arguments.epochs, arguments.device))
                print(json.dumps(rows[-1]), flush=True)
            check_scores(rows[-len(SYSTEMS) :])
    table = pd.DataFrame(rows).drop(columns="scores")
    if arguments.output is not None:
        table.to_csv(arguments.output, index=False)


def of_child(folder: str, system: str, n_members: int, epochs: int, device: str) -> dict[str, Any]:
    """Measure a case in a process of its own."""
    command = [sys.executable, __file__, "--members", str(n_members), "--epochs", str(epochs), "--device", device]
    result = subprocess.run(
        [*command, "--measure", folder, system],
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise SystemExit(f"{system}, {n_members} members failed:\n{result.stderr[-3000:]}")
    return {"system": system, "members": n_members, **json.loads(result.stdout.splitlines()[-1])}


def check_scores(cases: list[dict[str, Any]]) -> None:
    """Exit unless every member has the same score in all cases."""
    scores = np.array([case["scores"] for case in cases])
    if np.ptp(scores, axis=0).max() > TOLERANCE:
        raise SystemExit(f"the members' scores differ by up to {np.ptp(scores, axis=0).max():.3g}: {cases}")


def measure(folder: Path, system: str, n_members: int, epochs: int, device: str) -> dict[str, Any]:
    """Train members and return seconds, peak memory and the validation score of each in the last epoch."""
    from coread.config import compose, stage_slice
    from coread.packing.packed_training import train_together
    from coread.recording import read_recordings
    from coread.training import train

    settings = stage_slice(compose("simulated_retina", [f"trainer.max_epochs={epochs}"]), "train")
    settings["training_callbacks"] = {}
    recordings = read_recordings(sorted(folder.glob("session_*.h5")), memory_budget_bytes=8e9)

    def fit(seed: int, together: Any = None) -> float:
        with tempfile.TemporaryDirectory() as work_dir:
            member = train(
                settings,
                recordings,
                0,
                seed,
                work_dir=Path(work_dir),
                accelerator=device,
                progress_bar=False,
                together=together,
            )
        return float(member.history["val_correlation"].iloc[-1])

    started = time.perf_counter()
    if system != SYSTEMS[1]:
        vectorize = True if system == SYSTEMS[2] else None
        results = train_together({str(seed): partial(fit, seed) for seed in range(n_members)}, vectorize)
        failed = [result for result in results.values() if isinstance(result, Exception)]
        if failed:
            raise failed[0]
        scores = [results[str(seed)] for seed in range(n_members)]
    else:
        scores = [fit(seed) for seed in range(n_members)]
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time(),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6,
        "scores": scores,
    }


if __name__ == "__main__":
    main()
