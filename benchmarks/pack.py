"""Packing of one SENSORIUM session of real size, from the archive as it is published to a recording.

    python benchmarks/pack.py [--trials 6000] [--neurons 8000] [--output FILE.csv]

The session is fabricated in the published layout: 24,000 small arrays, images of 144 x 256 pixels, in a zip file.
The two scripts of the workflow that read it are timed, imports, hashes of the raw files and writing included.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from coread.config import compose, stage_slice
from coread.data_io.sensorium_layout import SensoriumSession, write_session

SCRIPTS = Path(__file__).resolve().parent.parent / "workflow_scripts"
KEY = "1-1-1"


def main() -> None:
    """Fabricate a session, pack it and print seconds and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=6000)
    parser.add_argument("--neurons", type=int, default=8000)
    parser.add_argument("--output", type=Path, help="write the table there as CSV")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        # in a process of its own: what a parent needed at most counts as memory of the commands that it starts
        fabrication = get_context("spawn").Process(
            target=fabricate, args=(arguments.trials, arguments.neurons, folder / "raw")
        )
        fabrication.start()
        fabrication.join()
        raw = next((folder / "raw").iterdir())
        print(
            f"{arguments.trials} trials of {arguments.neurons} neurons in {raw.name}: {size_gb(raw):.2f} GB", flush=True
        )
        config = stage_slice(compose("sensorium_2022_baseline"), "data")["data_io"] | {"sessions": [KEY]}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        shared = ["--config", "config.yaml", "--data-dirs", f'{{"{config["dataset"]}": "{folder / "raw"}"}}']
        rows = []
        for script, more in (
            ("build_stimuli", ["--output", "stimuli.h5"]),
            ("build_recording", ["--session", KEY, "--stimuli", "stimuli.h5", "--output", "session.h5"]),
        ):
            seconds, peak_gb = timed([sys.executable, str(SCRIPTS / f"{script}.py"), *shared, *more], folder)
            print(f"{script}: {seconds:.1f} s, {peak_gb:.2f} GB", flush=True)
            rows.append({"script": script, "seconds": seconds, "peak_gb": peak_gb})
        print(f"recording: {size_gb(folder / 'session.h5'):.2f} GB")
    if arguments.output is not None:
        pd.DataFrame(rows).to_csv(arguments.output, index=False)


def fabricate(n_trials: int, n_neurons: int, folder: Path) -> None:
    """Write a session of noise with the tiers of the published ones; test images are shown several times."""
    rng = np.random.default_rng(0)
    tiers = np.full(n_trials, "train", "<U10")
    tiers[: n_trials // 6], tiers[n_trials // 6 : n_trials // 4] = "test", "validation"
    image_ids = np.where(tiers == "test", np.arange(n_trials) % 100, np.arange(n_trials))
    when = rng.permutation(n_trials)
    session = SensoriumSession(
        data_key=KEY,
        images=rng.integers(0, 256, (n_trials, 1, 144, 256), dtype=np.uint8)[image_ids],
        responses=rng.standard_gamma(1.0, (n_trials, n_neurons)),
        tiers=tiers,
        image_ids=image_ids,
        trial_idx=when,
        timestamps=np.datetime64("2020-01-01T00:00:00") + 3 * when,
        unit_ids=np.arange(n_neurons),
        cell_motor_coordinates=rng.uniform(0, 600, (n_neurons, 3)),
        behaviour=rng.standard_normal((n_trials, 3)),
        pupil_center=rng.standard_normal((n_trials, 2)),
    )
    write_session(session, folder, zipped=True)


def timed(command: list[str], folder: Path) -> tuple[float, float]:
    """Run a command and return its seconds and its peak memory in GB; raises SystemExit if it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[1]} failed")
    return time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e9


def size_gb(path: Path) -> float:
    """Return the size of a file."""
    return path.stat().st_size / 1e9


if __name__ == "__main__":
    main()
