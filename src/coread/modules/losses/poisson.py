"""Negative Poisson log likelihood, without the terms that do not depend on the prediction."""

import torch
from jaxtyping import Float, Int
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
