"""Training in rounds of patience, as published for SENSORIUM 2022 (Willeke et al. 2022)."""

import logging
from typing import Any

import pytorch_lightning as pl

from coread.callbacks import KeepBest
from coread.weight_average import WeightAverage

log = logging.getLogger(__name__)


class RoundsOfPatience(KeepBest):
    """End a round after `patience` validations without a better one, return to the best weights, lower the rate.

    The two are one event, after which the next of `rounds` rounds begins; training ends with the last round. Weights
    are better if their validation correlation is higher by more than `tolerance`. The learning rate is multiplied by
    `factor` and never lower than `min_lr`; moments of the optimiser are kept, as published, unless `reset_optimizer`.

    With `factor` null the rate is left to `lr_scheduler`. That, with reduce_lr_on_plateau of the same patience, is the
    published behaviour: PyTorch waits one validation longer than a round, so every round but the first begins at the
    rate of the round before. The untrained model is no candidate here, unlike the published one.
    """

    def __init__(
        self,
        rounds: int = 4,
        patience: int = 5,
        factor: float | None = 0.3,
        min_lr: float = 1e-4,
        tolerance: float = 1e-6,
        reset_optimizer: bool = False,
    ) -> None:
        super().__init__(tolerance=tolerance)
        if rounds < 1 or patience < 1 or not (factor is None or 0 < factor <= 1):
            raise ValueError(
                "rounds_of_patience needs at least one round, a patience of at least 1 and a factor in (0, 1], found "
                f"rounds {rounds}, patience {patience}, factor {factor}"
            )
        self.rounds, self.patience = rounds, patience
        self.factor, self.min_lr, self.reset_optimizer = factor, min_lr, reset_optimizer
        self.rounds_ended, self.waited = 0, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raise ValueError for a schedule that sets the rate as well, or for averaged weights, which have no return."""
        if self.factor is not None and trainer.lr_scheduler_configs:
            raise ValueError(
                "rounds_of_patience and lr_scheduler both set the learning rate: use lr_scheduler: null, or "
                "training_callbacks.rounds_of_patience.factor=null"
            )
        if any(isinstance(callback, WeightAverage) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            raise ValueError("rounds_of_patience returns to weights that weight_average never had: use one of them")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge the weights, and end the round if it has waited long enough."""
        if trainer.sanity_checking:
            return
        self.waited = 0 if self.judge(trainer, pl_module) else self.waited + 1
        if self.waited < self.patience:
            return
        self.rounds_ended, self.waited = self.rounds_ended + 1, 0
        if self.rounds_ended == self.rounds:
            trainer.should_stop = True
            return
        pl_module.load_state_dict(self.best_weights)
        self._lower_rate(trainer)
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        log.info(
            "round %d of %d ends: back to epoch %d (%.4f), learning rate %.2g",
            self.rounds_ended,
            self.rounds,
            self.best_epoch + 1,
            self.best_score,
            rate,
        )

    def _lower_rate(self, trainer: pl.Trainer) -> None:
        for optimizer in trainer.optimizers:
            if self.reset_optimizer:
                optimizer.state.clear()
            for group in optimizer.param_groups if self.factor is not None else ():
                group["lr"] = max(group["lr"] * self.factor, min(self.min_lr, group["lr"]))

    def state_dict(self) -> dict[str, Any]:
        """Return what the resume checkpoint keeps."""
        return {**super().state_dict(), "rounds_ended": self.rounds_ended, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a resume checkpoint."""
        super().load_state_dict(state_dict)
        self.rounds_ended, self.waited = state_dict["rounds_ended"], state_dict["waited"]
