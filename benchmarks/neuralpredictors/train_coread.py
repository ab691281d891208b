"""One training epoch of an experiment on static images with coread: python train_coread.py JOB.json."""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pytorch_lightning import Callback

from coread.config import compose, stage_slice
from coread.recording import Recording, Stimulus
from coread.training import train


class Clock(Callback):
    """Seconds from one batch to the next: fetching it, the step, and what surrounds it."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last = 0.0

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin with the fetching of the first batch."""
        self._last = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *details: Any) -> None:
        """Close a batch."""
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last = now


def session(folder: Path, n_validation: int) -> Recording:
    """Return the fabricated session as a recording."""
    held = {
        name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("images", "responses", "position_um")
    }
    n_trials = len(held["images"])
    tier = np.where(np.arange(n_trials) < n_trials - n_validation, "train", "validation")
    position = dict(zip(("position_x_um", "position_y_um", "position_z_um"), held["position_um"].T, strict=True))
    return Recording(
        dataset="sensorium_2022",
        session="session",
        stimuli={"images": Stimulus(held["images"], 2.0)},
        trials=pd.DataFrame(
            {"stimulus": "images", "tier": tier, "repeat": 0, "time_order": np.arange(n_trials)}
        ).assign(withheld=False),
        trial=np.arange(n_trials, dtype=np.int32),
        frame=np.arange(n_trials, dtype=np.int32),
        responses=held["responses"],
        valid=np.ones(n_trials, bool),
        rate_hz=2.0,
        unit="deconvolved activity",
        neurons=pd.DataFrame({"unit_id": range(len(held["position_um"])), **position}),
        behaviour=np.load(folder / "behaviour.npy", allow_pickle=False),
        pupil_center=np.load(folder / "pupil_center.npy", allow_pickle=False),
    )


def main() -> None:
    """Train for one epoch and write the seconds of each batch."""
    job = json.loads(Path(sys.argv[1]).read_text())
    overrides = ["trainer.max_epochs=1", "splits=published", f"dataloader.batch_size={job['batch']}"]
    config = compose(f"sensorium_2022_{job['model']}", overrides)
    clock = Clock()
    with tempfile.TemporaryDirectory() as work:
        train(
            stage_slice(config, "train"),
            [session(Path(job["folder"]), job["validation"])],
            0,
            0,
            work_dir=Path(work),
            accelerator="cpu",
            callbacks=[clock],
        )
    Path(job["output"]).write_text(json.dumps(clock.seconds))


if __name__ == "__main__":
    main()
