"""Lightning callbacks of a member's training: what survives a kill, and what a log file shows."""

import logging
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint

from coread.collectives import RunningStatistics, gather_objects

log = logging.getLogger(__name__)

PRINTED = {"train_loss": "train loss", "val_loss": "val loss", "val_correlation": "val correlation"}


class SeedEpochs(Callback):
    """Seed torch at the start of every epoch from (seed, epoch), so that a resumed epoch draws what it would have."""

    def __init__(self, seed: int, rank: int = 0) -> None:
        self.seed, self.rank = seed, rank

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed dropout and position jitter of this epoch, every rank with a stream of its own."""
        torch.manual_seed(epoch_seed(self.seed, trainer.current_epoch, self.rank))


def epoch_seed(seed: int, epoch: int, rank: int = 0) -> int:
    """Return a seed for one epoch of one member on one rank; neighbouring seeds, epochs and ranks share no stream."""
    return (seed * 1_000_003 + epoch * 7_919 + rank * 15_485_863 + 1) % 2**31


class KeepRanksAlike(Callback):
    """What the ranks of a training have in common beside gradients: where they start, and running statistics."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let SIGTERM end a rank at once; raises RuntimeError if the ranks did not all resume from the same step.

        Lightning's own handler would wait for the other ranks, which the signal need not have reached.
        """
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        starts = gather_objects((trainer.current_epoch, trainer.global_step))
        if len(set(starts)) > 1:
            raise RuntimeError(
                f"the ranks start from different (epoch, step) {starts}: the folder of the checkpoint, "
                f"{trainer.default_root_dir}, must be visible on all nodes"
            )
        self._statistics = RunningStatistics(pl_module.modules())

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Bring the running statistics together; after every step, so before every validation."""
        _, _, weight = batch
        self._statistics.combine(counts=weight > 0)


class KeepBest(Callback):
    """Keep the weights with the highest validation correlation; `tolerance` is how much higher another must be."""

    def __init__(self, monitor: str = "val_correlation", tolerance: float = 0.0) -> None:
        self.monitor, self.tolerance = monitor, tolerance
        self.best_score, self.best_epoch = -float("inf"), -1
        self.best_weights: dict[str, torch.Tensor] = {}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy the weights if they are better than any before."""
        if not trainer.sanity_checking:
            self.judge(trainer, pl_module)

    def judge(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> bool:
        """Return whether the weights are better than any before, and keep a copy of them if they are."""
        score = float(trainer.callback_metrics[self.monitor])
        is_better = score > self.best_score + self.tolerance
        if is_better:
            self.best_score, self.best_epoch = score, trainer.current_epoch
            self.best_weights = {name: _copied(value.detach()) for name, value in pl_module.state_dict().items()}
        return is_better

    def outcome(self) -> dict[str, Any]:
        """Return what the member keeps of how its weights were chosen."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return what the resume checkpoint keeps."""
        return {"score": self.best_score, "epoch": self.best_epoch, "weights": self.best_weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a resume checkpoint."""
        self.best_score, self.best_epoch = state_dict["score"], state_dict["epoch"]
        self.best_weights = state_dict["weights"]


def _copied(value: torch.Tensor) -> torch.Tensor:
    """Return a copy in main memory; axes that repeat one row (published grids, per neuron) go on repeating it."""
    rows = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in value.stride())
    return value[rows].cpu().clone().expand(value.shape)


class LearningCurve(Callback):
    """One row per epoch, kept through a resume; also printed as a plain line."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._start = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the epoch's clock."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add this epoch's row; raises ValueError for a loss that is not finite, which no later epoch can mend."""
        metrics = trainer.callback_metrics
        if not math.isfinite(float(metrics["train_loss"])):
            epoch, loss = trainer.current_epoch + 1, float(metrics["train_loss"])
            raise ValueError(
                f"the training loss is {loss} in epoch {epoch}: lower model.learning_rate or clip gradients"
            )
        row: dict[str, float] = {"epoch": trainer.current_epoch}
        terms = sorted(name for name in metrics if name.startswith("train_penalty_"))
        for name in ("train_loss", "train_penalty", *terms, "val_loss", "val_correlation"):
            row[name] = float(metrics[name]) if name in metrics else float("nan")
        row["learning_rate"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        row["seconds"] = time.perf_counter() - self._start
        self.rows.append(row)
        shown = "  ".join(f"{label} {row[name]:.4f}" for name, label in PRINTED.items())
        log.info("epoch %d/%s  %s  %.1f s", trainer.current_epoch + 1, trainer.max_epochs, shown, row["seconds"])

    def state_dict(self) -> dict[str, Any]:
        """Return what the resume checkpoint keeps."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a resume checkpoint."""
        self.rows = list(state_dict["rows"])


class OptimizerResetCallback(Callback):
    """Forget the optimiser's momenta at the start of an epoch whose learning rate is below that of the epoch before.

    Made for schedules that fall in steps (plateau, multi step): after a fall the optimiser starts afresh.
    """

    def __init__(self) -> None:
        self.previous_rates: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare the learning rates with those of the epoch before."""
        rates = [float(group["lr"]) for optimizer in trainer.optimizers for group in optimizer.param_groups]
        if any(rate < before for rate, before in zip(rates, self.previous_rates, strict=False)):
            for optimizer in trainer.optimizers:
                optimizer.state.clear()
        self.previous_rates = rates

    def state_dict(self) -> dict[str, Any]:
        """Return what the resume checkpoint keeps."""
        return {"previous_rates": self.previous_rates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a resume checkpoint."""
        self.previous_rates = list(state_dict["previous_rates"])


class SaveLast(Checkpoint):
    """After every epoch replace the one file from which a killed training resumes.

    Everything is in this file (weights, optimiser, schedule, counters, best weights, learning curve), so a kill between
    two files cannot mix epochs. Checkpoint callbacks run after all others.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.finished = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Train no further if the checkpoint was the last one: killed after it, before the member was saved."""
        trainer.should_stop = self.finished

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write beside, then rename; of several ranks the first writes."""
        self.finished = trainer.should_stop
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        trainer.save_checkpoint(temporary, weights_only=False)
        if not trainer.is_global_zero:
            return
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # a node that crashes after the rename must not leave an empty file behind
        temporary.replace(self.path)

    def state_dict(self) -> dict[str, Any]:
        """Return what the resume checkpoint keeps."""
        return {"finished": self.finished}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a resume checkpoint."""
        self.finished = state_dict["finished"]
