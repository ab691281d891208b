"""One epoch of SENSORIUM models beside neuralpredictors 0.3.0: time per batch and peak memory, same machine and batch.

    python benchmarks/neuralpredictors/compare.py install
    python benchmarks/neuralpredictors/compare.py run [--neurons 8000] [--trials 4500] [--repeats 1] [--output CSV]

The peer lives in an environment of its own, made once by `install`. Both train the same network (stacked core of 64
channels, point readouts placed by the tissue, shifter, 36 x 64 images with three planes of behaviour, batches of 128)
on the same fabricated session, each in a process of its own, taking turns. "coread" is its own training from a
recording, Lightning and validation included in memory but not in the time. "model4" has the larger kernels of Model 4
and its deeper prediction of points; ours also history, state and gain, which the peer does not have. The peer is given
its batches as tensors in memory, so reading and rescaling image files, which its loader does for every trial of every
epoch, is not counted.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent
PEER = HERE.parent.parent / ".venv-neuralpredictors"
VERSION = "0.3.0"
VALIDATION_TRIALS = 256
SYSTEMS = ("coread", "neuralpredictors")
MODELS = ("baseline", "model4")


def main() -> None:
    """Install the peer, or run all and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["install", "run"])
    parser.add_argument("--neurons", type=int, default=8000)
    parser.add_argument("--trials", type=int, default=4500, help="of training")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="write the table there as CSV")
    arguments = parser.parse_args()
    if arguments.action == "install":
        install()
        return
    with tempfile.TemporaryDirectory() as folder:
        fabricate(Path(folder), arguments.trials, arguments.neurons)
        rows = [
            run(system, model, Path(folder), arguments)
            for _ in range(arguments.repeats)
            for model in MODELS
            for system in SYSTEMS
        ]
    table = pd.DataFrame(rows)
    print(f"{arguments.neurons} neurons, batches of {arguments.batch}, {arguments.threads} threads")
    print(table.to_string(index=False, float_format="%.2f"))
    medians = table.groupby(["system", "model"])[["seconds_per_batch", "epoch_seconds", "peak_gb"]].median()
    print("neuralpredictors / coread")
    print((medians.loc["neuralpredictors"] / medians.loc["coread"]).round(2).to_string())
    if arguments.output is not None:
        table.to_csv(arguments.output, index=False)


def install() -> None:
    """Make the peer's environment beside the checkout."""
    subprocess.run([sys.executable, "-m", "venv", str(PEER)], check=True)
    pip = [str(PEER / "bin" / "pip"), "--disable-pip-version-check", "install", "-q"]
    subprocess.run([*pip, "-r", str(HERE / "requirements.txt")], check=True)
    subprocess.run([*pip, "--no-deps", f"neuralpredictors=={VERSION}"], check=True)


def fabricate(folder: Path, n_trials: int, n_neurons: int) -> None:
    """Write one session: noise of the shapes and types of a published one."""
    rng = np.random.default_rng(0)
    n_trials += VALIDATION_TRIALS
    np.save(folder / "images.npy", rng.integers(0, 256, (n_trials, 1, 36, 64), np.uint8))
    np.save(folder / "responses.npy", rng.standard_gamma(1.0, (n_trials, n_neurons), np.float32))
    np.save(folder / "behaviour.npy", rng.random((n_trials, 3), np.float32))
    np.save(folder / "pupil_center.npy", rng.standard_normal((n_trials, 2), np.float32))
    np.save(folder / "position_um.npy", rng.uniform(0, 600, (n_neurons, 3)).astype(np.float32))


def run(system: str, model: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train for one epoch in a process of its own and return its row."""
    job = {
        "folder": str(folder),
        "model": model,
        "batch": arguments.batch,
        "validation": VALIDATION_TRIALS,
        "output": str(folder / "seconds.json"),
    }
    (folder / "job.json").write_text(json.dumps(job))
    python = sys.executable if system == "coread" else str(PEER / "bin" / "python")
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(arguments.threads))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [python, str(HERE / f"train_{system}.py"), str(folder / "job.json")],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=os.environ | threads,
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{system} {model} failed:\n" + (folder / "log").read_text()[-3000:])
    seconds = json.loads((folder / "seconds.json").read_text())
    return {
        "system": system,
        "model": model,
        "batches": len(seconds),
        "seconds_per_batch": float(np.median(seconds)),
        "epoch_seconds": sum(seconds),
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_gb": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9,
    }


if __name__ == "__main__":
    main()
