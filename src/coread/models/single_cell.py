"""Models whose cells share nothing; those of one session are trained as each of them would be alone."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coread.models.core_readout import BaseCoreReadout, OptimizerFactory, SchedulerFactory
from coread.modules.core.base_core import DummyCore
from coread.modules.readout.base import Readout
from coread.modules.readout.multi_readout import MultiReadoutBase

SINGLE_CELL = "cell"  # the session of a model that was made for one cell, without naming sessions


class IndependentCells(BaseCoreReadout):
    """A readout of the stimulus in which every parameter has neurons first and belongs to one of them.

    Of loss and penalties, both means over neurons, the sum over the cells of a batch's session is minimised, so that a
    cell's gradient does not depend on the others; gradients are clipped cell by cell. Sessions do depend on each other
    in how long and on which windows they are trained: in an epoch a shorter one is visited several times, and the
    windows of all are drawn from one generator. `cell_scores` are the correlations of every cell over all bins of the
    last validation, -1 where a cell has none: what early stopping per cell watches.
    Raises ValueError for a loss that is no mean over neurons, or that weighs them by the population.
    """

    def __init__(
        self,
        readout: MultiReadoutBase,
        learning_rate: float,
        loss: nn.Module | None = None,
        correlation_loss: nn.Module | None = None,
        data_info: Mapping[str, Any] | None = None,
        optimizer: OptimizerFactory | None = None,
        lr_scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__(
            DummyCore(),
            readout,
            learning_rate=learning_rate,
            loss=loss,
            correlation_loss=correlation_loss,
            data_info=data_info,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
        )
        summed = not getattr(self.loss, "avg", True) or getattr(self.loss, "per_neuron", False)
        if summed or getattr(self.loss, "uses_cell_types", False):
            raise ValueError(
                f"{type(self).__name__} needs a loss that is a mean over neurons, got {type(self.loss).__name__} with "
                "avg: false, per_neuron: true or weights by cell type"
            )
        self.cell_scores: dict[str, Float[Tensor, " neuron"]] = {}

    def training_step(self, batch: tuple[Any, ...], batch_idx: int) -> Tensor:
        """Return the sum over cells of loss plus penalties; what is logged stays the mean over cells."""
        return super().training_step(batch, batch_idx) * self.session_readout(batch[0]).outdims

    def on_validation_epoch_end(self) -> None:
        """Log the scores, and keep those of every cell."""
        super().on_validation_epoch_end()
        validation = self._validation.of_all_ranks(self.readout.keys())
        self.cell_scores = {
            session: sums.compute().nan_to_num(nan=-1.0).cpu() for session, sums in validation.correlations.items()
        }

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of every cell's gradient."""
        if gradient_clip_algorithm not in (None, "norm"):
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        for session in self.readout if gradient_clip_val else ():
            clip_per_cell(self.session_readout(session).parameters(), float(gradient_clip_val or 0.0))

    def session_readout(self, session: str) -> Readout:
        """Return the readout of a session."""
        return self.readout[session]  # type: ignore[return-value]


@torch.no_grad()
def clip_per_cell(parameters: Iterator[nn.Parameter], max_norm: float) -> None:
    """Scale down the gradient of every cell whose norm over all its parameters (neuron, ...) exceeds `max_norm`."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return
    squares = torch.stack(
        [gradient.flatten(1).square().sum(1) if gradient.dim() > 1 else gradient.square() for gradient in gradients]
    )
    factor = (max_norm / (squares.sum(0).sqrt() + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor.reshape(-1, *[1] * (gradient.dim() - 1)))


def with_input_shape(data_info: Mapping[str, Any] | None, in_shape: Sequence[int]) -> dict[str, Any]:
    """Return data_info, with (channel, height, width) of the stimulus where nobody said it."""
    channels, _, height, width = in_shape
    return {"input_shape": [int(channels), int(height), int(width)], **(data_info or {})}
