"""What all losses share: the lag, the mask and the reduction."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

Output = Float[Tensor, "batch out_time neuron"]
Target = Float[Tensor, "batch time neuron"]
Mask = Bool[Tensor, "batch time"]


def align(output: Output, target: Target, mask: Mask | None) -> tuple[Output, Output, Bool[Tensor, "batch out_time 1"]]:
    """Return float32 output and target and the mask of counted bins, the lag cut from the front of the last two.

    Targets of masked bins become 0, so that a NaN there reaches neither the loss nor its gradient. Raises ValueError
    if the shapes do not fit each other.
    """
    lag = target.shape[1] - output.shape[1]
    if lag < 0 or output.shape[::2] != target.shape[::2] or (mask is not None and mask.shape != target.shape[:2]):
        shapes = [tuple(x.shape) for x in (output, target, mask) if x is not None]
        raise ValueError(
            f"need output (batch, time - lag, neuron), target (batch, time, neuron), mask (batch, time): {shapes}"
        )
    target = target[:, lag:].float()
    if mask is None:
        return output.float(), target, torch.ones_like(target[..., :1], dtype=torch.bool)
    counted = mask[:, lag:, None]
    return output.float(), target.masked_fill(~counted, 0.0), counted


def celltype_weights(
    group_assignment: Int[Tensor, "*batch neuron"], group_counts: Int[Tensor, "type"]
) -> Float[Tensor, "*batch 1 neuron"]:
    """Return weights of neurons of mean 1 over all counted neurons, the same sum for every type.

    `group_assignment` counts types from 1; `group_counts` are the neurons of each type in all sessions. Raises
    ValueError for a neuron of a type that is not counted.
    """
    low, high = int(group_assignment.min()), int(group_assignment.max())
    if low < 1 or high > len(group_counts) or bool((group_counts[group_assignment - 1] <= 0).any()):
        raise ValueError(
            f"cell types must be 1 ... {len(group_counts)} with at least one neuron each, got {low} ... {high} "
            f"and {group_counts.tolist()} neurons"
        )
    present = group_counts > 0
    weights = group_counts.sum() / present.sum() / group_counts.clamp(min=1)
    return weights[group_assignment - 1].float().unsqueeze(-2)


class ElementwiseLoss(nn.Module):
    """A sum of one term per counted bin and neuron, reduced to its mean.

    `avg=False` returns the sum instead, as openretina does by default; then the weight of every penalty depends on
    the batch, the window and the population. `per_neuron` returns the mean of each neuron.
    """

    def __init__(self, per_neuron: bool = False, avg: bool = True):
        super().__init__()
        self.per_neuron = per_neuron
        self.avg = avg

    def terms(self, output: Output, target: Output) -> Output:
        """Return the loss of every bin and neuron."""
        raise NotImplementedError

    def forward(self, output: Output, target: Target, mask: Mask | None = None) -> Float[Tensor, ""]:
        """Return the loss, `(neuron,)` with `per_neuron`; 0 where the mask counts nothing."""
        return self.reduce(output, target, mask)

    def reduce(
        self, output: Output, target: Target, mask: Mask | None = None, weights: Tensor | None = None
    ) -> Float[Tensor, ""]:
        """Return the sum or mean of the terms, multiplied by `weights` if there are any."""
        output, target, counted = align(output, target, mask)
        terms = self.terms(output, target)
        terms = (terms if weights is None else terms * weights).masked_fill(~counted, 0.0)
        if self.per_neuron:
            return terms.sum((0, 1)) / counted.sum().clamp(min=1)
        if self.avg:
            return terms.sum() / (counted.sum() * terms.shape[2]).clamp(min=1)
        return terms.sum()
