"""What the ranks of tests/test_distributed.py run: `python -m tests.rank_program FOLDER SCENARIO...` starts two.

Every scenario trains members; a rank leaves what it saw in FOLDER/<name>.rank<r>.pt.
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from coread.distributed import Ranks, ensure_ranks
from coread.recording import Recording
from coread.training import train
from tests.conftest import fabricate_recording
from tests.test_training import SETTINGS

Settings = dict[str, Any]


def with_trainer(settings: Mapping[str, Any], **trainer: Any) -> Settings:
    return {**settings, "trainer": {**settings["trainer"], **trainer}}


def with_dropout(rate: float) -> Settings:
    model = SETTINGS["model"]
    return {**SETTINGS, "model": {**model, "core": {**model["core"], "dropout_rate": rate}}}


# a linear readout on the stimulus itself: what a rank without a batch must not touch is all that there is
LINEAR = {
    "_target_": "coread.models.core_readout.UnifiedCoreReadout",
    "learning_rate": 0.01,
    "core": {"_target_": "coread.modules.core.base_core.DummyCore"},
    "readout": {
        "_target_": "coread.modules.readout.multi_readout.MultiLNPReadout",
        "temporal_kernel_size": 4,
        "smooth_weight": 0.01,
        "sparse_weight": 0.01,
    },
}
SPARE = with_trainer(with_dropout(0.0), max_epochs=3)
FEW = {
    **with_trainer(SPARE, max_epochs=2),
    "model": LINEAR,
    "initialization": {"method": "none"},
    "dataloader": SETTINGS["dataloader"] | {"batch_size": 1000},
}
RANDOM = with_trainer(with_dropout(0.5), max_epochs=4)


def three_sessions() -> list[Recording]:
    """Sessions of different length and number of neurons; two ranks are left with an incomplete last step."""
    sizes = {"a": (4, 4), "b": (3, 3), "c": (5, 6)}
    return [
        fabricate_recording(session, n_trials=n_trials, n_neurons=n_neurons, seed=seed)
        for seed, (session, (n_trials, n_neurons)) in enumerate(sizes.items())
    ]


def one_session() -> list[Recording]:
    """A session of which an epoch is a single batch."""
    return [fabricate_recording("a", n_trials=4)]


class Watch(Callback):
    """Notes gradients and weights before every step, what the generators draw, and the optimiser's steps."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, torch.Tensor | None]] = []
        self.weights: list[dict[str, torch.Tensor]] = []
        self.drawn: dict[int, float] = {}
        self.optimizer_steps: dict[str, int] = {}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        with torch.random.fork_rng():
            self.drawn[trainer.current_epoch] = float(torch.rand(()))

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        # Lightning clips right after this
        self.gradients.append({n: None if p.grad is None else p.grad.clone() for n, p in pl_module.named_parameters()})
        self.weights.append({n: p.detach().clone() for n, p in pl_module.named_parameters()})

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        state = trainer.optimizers[0].state
        self.optimizer_steps = {n: int(state[p]["step"]) for n, p in pl_module.named_parameters() if p in state}


class Stop(Callback):
    """Ends a training at the start of an epoch, as a failure on all ranks would."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            raise InterruptedError


class Die(Callback):
    """Kills the second of two ranks in the middle of an epoch, once."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_rank == 1 and trainer.current_epoch == 2 and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class Tell(Callback):
    """Leaves a file for every rank that has finished an epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        (self.folder / f"epoch.rank{trainer.global_rank}").touch()


def fit(
    settings: Mapping[str, Any], recordings: Sequence[Recording], work: Path, callbacks: Sequence[Callback] = ()
) -> dict[str, Any]:
    """Train a member and return what the tests compare."""
    watch = Watch()
    member = train(
        settings, recordings, 0, 0, work_dir=work, accelerator="cpu", progress_bar=False, callbacks=[watch, *callbacks]
    )
    return {
        "final": member.model.state_dict(),
        "history": member.history.drop(columns="seconds").to_dict("list"),
        "data_info": {key: member.data_info[key] for key in ("n_neurons_dict", "stim_mean")},
        **vars(watch),
    }


def run_parity(folder: Path, save: Callable[[str, Any], None]) -> None:
    save("parity", fit(with_trainer(SPARE, num_processes=2), three_sessions(), folder / "parity"))
    save("few", fit(with_trainer(FEW, num_processes=2), one_session(), folder / "few"))


def run_resume(folder: Path, save: Callable[[str, Any], None]) -> None:
    settings = with_trainer(RANDOM, num_processes=2)
    save("whole", fit(settings, three_sessions(), folder / "whole"))
    try:
        fit(settings, three_sessions(), folder / "resumed", [Stop(epoch=2)])
    except InterruptedError:
        save("resumed", fit(settings, three_sessions(), folder / "resumed"))


def run_killed(folder: Path, save: Callable[[str, Any], None]) -> None:
    settings = with_trainer(RANDOM, num_processes=2)
    save("killed", fit(settings, three_sessions(), folder / "killed", [Die(folder / "died")]))


def run_endless(folder: Path, save: Callable[[str, Any], None]) -> None:
    settings = with_trainer(SPARE, num_processes=2, max_epochs=100_000) | {"lr_scheduler": None}
    save("endless", fit(settings, three_sessions(), folder / "endless", [Tell(folder)]))


def main() -> None:
    folder, scenarios = Path(sys.argv[1]), sys.argv[2:]
    ranks: Ranks = ensure_ranks(2, [sys.executable, "-m", "tests.rank_program", *sys.argv[1:]])

    def save(name: str, value: Any) -> None:
        torch.save(value, folder / f"{name}.rank{ranks.rank}.pt")

    for scenario in scenarios:
        globals()[f"run_{scenario}"](folder, save)


if __name__ == "__main__":
    main()
