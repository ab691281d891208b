"""Early stopping cell by cell, of models whose cells share nothing."""

from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from coread.callbacks import KeepBest
from coread.models.single_cell import IndependentCells

NEVER = -1


class EarlyStoppingPerCell(KeepBest):
    """Stop every cell when its own validation correlation stops rising, and keep its own best weights.

    A cell stops after `patience` validations without an improvement by more than `min_delta` and stays at its best
    weights from then on; training ends when all cells have stopped. The member's weights are the best of every cell, as
    if early stopping had watched it alone.
    """

    def __init__(self, patience: int = 10, min_delta: float = 0.0) -> None:
        super().__init__()
        self.patience, self.min_delta = patience, min_delta
        # by session and cell: the best score and its epoch; the score to beat, validations since, and the last epoch
        self.cells: dict[str, dict[str, Tensor]] = {}

    @property
    def stopped(self) -> dict[str, Bool[Tensor, " neuron"]]:
        """Which cells of each session have stopped."""
        return {session: cells["stopped_epoch"] != NEVER for session, cells in self.cells.items()}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raise ValueError for a model whose cells share parameters, or a schedule that follows their mean score."""
        if not isinstance(pl_module, IndependentCells):
            raise ValueError(
                "early_stopping_per_cell is for models whose cells share nothing, which "
                f"{type(pl_module).__name__} is not: use training_callbacks: early_stopping"
            )
        if any(isinstance(config.scheduler, ReduceLROnPlateau) for config in trainer.lr_scheduler_configs):
            raise ValueError(
                "a learning rate that follows the mean score of all cells ties them: use another lr_scheduler"
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take stopped cells back to their best weights."""
        for session, stopped in self.stopped.items():
            if stopped.any():
                rows = stopped.nonzero()[:, 0]
                for name, parameter in _cell_parameters(pl_module, session):
                    best = self.best_weights[name][rows].to(parameter.device)
                    parameter.data[rows.to(parameter.device)] = best

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge every cell that has not stopped; ask for the end of training if none is left."""
        if trainer.sanity_checking or not isinstance(pl_module, IndependentCells):
            return
        if not self.best_weights:
            self.best_weights = {name: value.detach().cpu().clone() for name, value in pl_module.state_dict().items()}
        for session, scores in pl_module.cell_scores.items():
            better = self._judge(session, scores, trainer.current_epoch)
            for name, parameter in _cell_parameters(pl_module, session):
                self.best_weights[name][better] = parameter.detach().cpu()[better]
        best = torch.cat([cells["best_score"] for cells in self.cells.values()])
        self.best_score = float(best.mean())
        self.best_epoch = max(int(cells["best_epoch"].max()) for cells in self.cells.values())
        if all(bool(stopped.all()) for stopped in self.stopped.values()):
            trainer.should_stop = True

    def _judge(self, session: str, scores: Float[Tensor, " neuron"], epoch: int) -> Bool[Tensor, " neuron"]:
        """Count this validation for every cell of a session; return which cells are better than ever."""
        cells = self.cells.setdefault(session, _new_cells(len(scores)))
        active = cells["stopped_epoch"] == NEVER
        better = active & (scores > cells["best_score"])
        cells["best_score"] = torch.where(better, scores, cells["best_score"])
        cells["best_epoch"] = torch.where(better, epoch, cells["best_epoch"])
        improved = active & (scores - self.min_delta > cells["to_beat"])
        cells["to_beat"] = torch.where(improved, scores, cells["to_beat"])
        cells["waited"] = torch.where(improved, 0, cells["waited"] + active.long())
        ends = active & ~improved & (cells["waited"] >= self.patience)
        cells["stopped_epoch"] = torch.where(ends, epoch, cells["stopped_epoch"])
        return better

    def outcome(self) -> dict[str, Any]:
        """Return best epoch, its score, and the epoch of stopping (-1: the last epoch came first) of every cell."""
        wanted = ("best_epoch", "best_score", "stopped_epoch")
        return {"cells": {session: {key: of[key].tolist() for key in wanted} for session, of in self.cells.items()}}

    def state_dict(self) -> dict[str, Any]:
        """Return what the resume checkpoint keeps."""
        return {**super().state_dict(), "cells": self.cells}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a resume checkpoint."""
        super().load_state_dict(state_dict)
        self.cells = {
            session: {key: of.cpu() for key, of in cells.items()} for session, cells in state_dict["cells"].items()
        }
        self.best_weights = {name: value.cpu() for name, value in self.best_weights.items()}


def _new_cells(n_cells: int) -> dict[str, Tensor]:
    return {
        "best_score": torch.full((n_cells,), -torch.inf),
        "best_epoch": torch.full((n_cells,), NEVER),
        "to_beat": torch.full((n_cells,), -torch.inf),
        "waited": torch.zeros(n_cells, dtype=torch.long),
        "stopped_epoch": torch.full((n_cells,), NEVER),
    }


def _cell_parameters(model: pl.LightningModule, session: str) -> list[tuple[str, torch.nn.Parameter]]:
    """Return the parameters (neuron, ...) of a session with their names in the model's state dict."""
    prefix = f"readout.{session}."
    return [(f"{prefix}{name}", parameter) for name, parameter in model.readout[session].named_parameters()]  # type: ignore[index,union-attr]
