"""A training callback that draws the weights as they change."""

from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from coread.plotting.weights import write_core_filters, write_readout_masks


class WeightVisualizationCallback(Callback):
    """Draw every core filter and every readout mask before the first epoch and after every `every_n_epochs`.

    Args:
        every_n_epochs: epochs between drawings.
        start_epoch: first epoch (from 0) after which weights are drawn.
        folder_path: where; None for `weights/` beside the files of the first logger.

    Raises ValueError without a folder or a logger.

    """

    def __init__(self, every_n_epochs: int = 10, start_epoch: int = 0, folder_path: str | None = None):
        if every_n_epochs < 1:
            raise ValueError(f"every_n_epochs must be at least 1, got {every_n_epochs}")
        self.every_n_epochs = every_n_epochs
        self.start_epoch = start_epoch
        self.folder_path = folder_path

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the weights from which training starts."""
        if trainer.current_epoch == 0:
            self._draw(trainer, pl_module, "start")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the weights of this epoch, if it is its turn."""
        epoch = trainer.current_epoch
        if epoch >= self.start_epoch and (epoch + 1) % self.every_n_epochs == 0:
            self._draw(trainer, pl_module, f"epoch{epoch + 1:03d}")

    def _draw(self, trainer: pl.Trainer, pl_module: pl.LightningModule, name: str) -> None:
        if trainer.is_global_zero:
            folder = self._folder(trainer) / name
            write_core_filters(pl_module.core, folder)  # type: ignore[arg-type]
            write_readout_masks(pl_module.readout, folder)  # type: ignore[arg-type]

    def _folder(self, trainer: pl.Trainer) -> Path:
        if self.folder_path is not None:
            return Path(self.folder_path)
        if trainer.logger is None or trainer.log_dir is None:
            raise ValueError(
                "training_callbacks.weight_visualization.folder_path is needed where nothing is logged to files"
            )
        return Path(trainer.log_dir) / "weights"
