"""Train openretina by its own command's function on an HDF5 directory; runs in the peer's environment.

    python train_openretina.py CONFIGS JOB.json

CONFIGS is the folder `configs` of its source archive, from which the experiment `hdf5_core_readout` is composed with
the overrides of the job. A callback that watches is added; the published evaluation after the training is left out (it
loads the checkpoint in a way that torch has refused since 2.6).
"""

import json
import sys
from pathlib import Path

import hydra
import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from omegaconf import OmegaConf, open_dict
from openretina.cli.train import train_model
from scoring import Probe


class Watch(Callback):
    """Gives the probe the model after every validation."""

    def __init__(self, job: dict) -> None:
        data = Path(job["data"])
        self.probe = Probe(data, job["test_names"], Path(job["output"]))
        self.stimuli = {
            name: torch.from_numpy(np.load(data / "stimuli" / f"{name}.npy").astype(np.float32))
            for name in job["test_names"]
        }

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        """Score the model as it is, in eval mode."""
        if trainer.sanity_checking:
            return
        was_training = pl_module.training
        pl_module.eval()

        def predict(session: str, name: str) -> np.ndarray:
            with torch.inference_mode():
                return pl_module(self.stimuli[name][None], session)[0].numpy()

        self.probe.note(float(trainer.callback_metrics["val_evaluation_loss"]), predict)
        pl_module.train(was_training)


def main() -> None:
    """Compose and train."""
    configs, job = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    folder = Path(job["output"]).parent / "openretina"
    overrides = [f"paths.data_dir={job['data']}", f"paths.output_dir={folder}", f"paths.cache_dir={folder}"]
    overrides += ["trainer.precision=32-true", "+trainer.accelerator=cpu", "~logger.tensorboard", f"seed={job['seed']}"]
    overrides += ["+trainer.enable_progress_bar=false", "+trainer.num_sanity_val_steps=0", *job["openretina"]]
    with hydra.initialize_config_dir(config_dir=str(configs.resolve()), version_base="1.3"):
        config = hydra.compose("hdf5_core_readout", overrides=overrides)
    with open_dict(config):
        config.training_callbacks.watch = {"_target_": "__main__.watch", "job": OmegaConf.create(job)}
    Trainer.test = lambda *arguments, **options: None  # the probe has scored every epoch
    train_model(config)


def watch(job) -> Watch:
    """Return the callback of a job, for Hydra."""
    return Watch(OmegaConf.to_container(job))


if __name__ == "__main__":
    main()
