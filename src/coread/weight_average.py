"""Moving average of a training's weights, which is what is validated and kept (Polyak & Juditsky 1992)."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback


class WeightAverage(Callback):
    """Average weights and running statistics over optimiser steps: a <- d a + (1 - d) w.

    d is `decay`, and (1 + n) / (10 + n) while that is smaller after n steps, so that the start is soon forgotten.
    Validation sees the average, and so the member's weights are the best average; training goes on with its own.
    Lightning's own callback gives the average to the resume checkpoint as the model and takes it back before other
    callbacks keep the best weights.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"weight_average.decay must lie between 0 and 1, found {decay}")
        self.decay = decay
        self.steps = 0
        self.average: dict[str, torch.Tensor] = {}
        self._own: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start from the weights, or bring the average of a resumed training to their device."""
        state = _averaged(pl_module)
        self.average = {name: self.average.get(name, value).to(value, copy=True) for name, value in state.items()}

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take in the weights after every optimiser step, which several batches may share."""
        if trainer.global_step == self.steps:
            return
        self.steps = trainer.global_step
        weight = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, value in _averaged(pl_module).items():
            self.average[name].lerp_(value, weight)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the average in place of the weights."""
        self._own = {name: value.clone() for name, value in _averaged(pl_module).items()}
        _put(pl_module, self.average)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the weights back; callbacks that keep the best weights come before this one."""
        _put(pl_module, self._own)
        self._own = {}

    def state_dict(self) -> dict[str, Any]:
        """Return what the resume checkpoint keeps."""
        return {"steps": self.steps, "average": self.average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a resume checkpoint."""
        self.steps, self.average = state_dict["steps"], dict(state_dict["average"])


def _averaged(model: pl.LightningModule) -> dict[str, torch.Tensor]:
    """Return the parameters and buffers that have an average: numbers that are no counts, and are no constants.

    A tensor that expands one row over many neurons is a constant.
    """
    return {
        name: value.detach()
        for name, value in (*model.named_parameters(), *model.named_buffers())
        if value.is_floating_point() and 0 not in value.stride()
    }


@torch.no_grad()
def _put(model: pl.LightningModule, values: dict[str, torch.Tensor]) -> None:
    for name, value in _averaged(model).items():
        value.copy_(values[name])
