"""Negative Poisson log likelihood, without the terms that do not depend on the prediction."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from coread.modules.losses.base import ElementwiseLoss, Mask, Output, Target, celltype_weights


class PoissonLoss3d(ElementwiseLoss):
    """Poisson loss `rate - count * log(rate + bias)`, by default its mean over counted bins and neurons."""

    def __init__(self, bias: float = 1e-16, per_neuron: bool = False, avg: bool = True):
        super().__init__(per_neuron, avg)
        self.bias = bias

    def terms(self, output: Output, target: Output) -> Output:
        """Return the loss of every bin and neuron."""
        return output - target * torch.log(output + self.bias)


class PoissonLoss(PoissonLoss3d):
    """Poisson loss of neuralpredictors: a sum, also of responses `(batch, neuron)` without time.

    `scale_by_trials` multiplies the sum of a batch by sqrt(trials of the session / counted bins of the batch), so that
    its size against penalties depends less on the size of the batch (Willeke et al. 2022); then `n_trials` is needed.
    """

    def __init__(
        self,
        bias: float = 1e-12,
        per_neuron: bool = False,
        avg: bool = False,
        scale_by_trials: bool = False,
    ):
        super().__init__(bias, per_neuron, avg)
        self.scale_by_trials = scale_by_trials

    def forward(
        self,
        output: Float[Tensor, "batch *time neuron"],
        target: Float[Tensor, "batch *time neuron"],
        mask: Bool[Tensor, "batch *time"] | None = None,
        n_trials: int | None = None,
    ) -> Float[Tensor, ""]:
        """Return the loss, `(neuron,)` with `per_neuron`; raises ValueError if the number of trials is missing."""
        if output.dim() == 2:
            output, target = output[:, None], target[:, None]
            mask = None if mask is None else mask.reshape(len(output), 1)
        loss = super().forward(output, target, mask)
        if not self.scale_by_trials:
            return loss
        if n_trials is None:
            raise ValueError("scale_by_trials needs the number of trials of the session, n_trials")
        lag = target.shape[1] - output.shape[1]
        counted: Any = output.shape[0] * output.shape[1] if mask is None else mask[:, lag:].sum().clamp(min=1)
        return loss * (n_trials / counted) ** 0.5


class L1PoissonLoss3d(PoissonLoss3d):
    """Poisson loss plus `gamma_l1` times the absolute rate, for sparse responses (Maheswaranathan et al. 2023)."""

    def __init__(self, bias: float = 1e-16, per_neuron: bool = False, avg: bool = True, gamma_l1: float = 0.001):
        super().__init__(bias, per_neuron, avg)
        self.gamma_l1 = gamma_l1

    def terms(self, output: Output, target: Output) -> Output:
        """Return the loss of every bin and neuron."""
        return super().terms(output, target) + self.gamma_l1 * output.abs()


class CelltypePoissonLoss3d(PoissonLoss3d):
    """Poisson loss in which every cell type counts alike, however many cells it has."""

    uses_cell_types = True

    def forward(  # type: ignore[override]
        self,
        output: Output,
        target: Target,
        group_assignment: Int[Tensor, "*batch neuron"],
        group_counts: Int[Tensor, "type"],
        mask: Mask | None = None,
    ) -> Float[Tensor, ""]:
        """Return the loss; see `celltype_weights` for the types. `(neuron,)` with `per_neuron`."""
        return self.reduce(output, target, mask, celltype_weights(group_assignment, group_counts))
