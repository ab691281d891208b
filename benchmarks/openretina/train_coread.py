"""Train coread on an HDF5 directory as its command and its workflow do: python train_coread.py JOB.json."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning import Callback
from scoring import Probe

from coread.config import compose, stage_slice
from coread.data_io.sources import build_recordings
from coread.eval.predictions import predict
from coread.training import train


class Watch(Callback):
    """Gives the probe the model after every validation."""

    def __init__(self, job: dict[str, Any], recordings: list[Any]) -> None:
        self.probe = Probe(Path(job["data"]), job["test_names"], Path(job["output"]))
        self.recordings = {recording.session: recording for recording in recordings}

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Score the model as it is, in eval mode."""

        def of(session: str, name: str) -> np.ndarray:
            recording = self.recordings[session]
            first = (recording.bin_column("stimulus") == name) & (recording.bin_column("repeat") == 0)
            return predict(pl_module, recording, pl_module.data_info, bins=first)[first]

        self.probe.note(float(trainer.callback_metrics["val_correlation"]), of)


def main() -> None:
    """Compose, read, train."""
    job = json.loads(Path(sys.argv[1]).read_text())
    config = compose(job["experiment"], job["coread"])
    recordings = build_recordings(stage_slice(config, "data")["data_io"], Path(job["data"]))
    with tempfile.TemporaryDirectory() as folder:
        watch = Watch(job, recordings)
        train(
            stage_slice(config, "train"),
            recordings,
            0,
            job["seed"],
            work_dir=Path(folder),
            accelerator="cpu",
            callbacks=[watch],
        )


if __name__ == "__main__":
    main()
