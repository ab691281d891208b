"""Pearson correlation over time, per batch item and neuron."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from coread.modules.losses.base import Mask, Output, Target, align, celltype_weights


class CorrelationLoss3d(nn.Module):
    """Correlation over the counted bins of each batch item, averaged over items and neurons.

    Its sign is turned by default, for minimisation; `negate=False` makes it a score. Items with fewer than two counted
    bins do not enter. `avg=False` sums instead, `per_neuron` averages over items only. `bias` is added to both
    variances, so that a constant trace has correlation 0.
    """

    def __init__(self, bias: float = 1e-16, per_neuron: bool = False, avg: bool = True, negate: bool = True):
        super().__init__()
        self.bias = bias
        self.per_neuron = per_neuron
        self.avg = avg
        self.negate = negate

    def correlations(self, output: Output, target: Output, counted: Tensor) -> tuple[Tensor, Tensor]:
        """Return `(item, neuron)` correlations and `(item, 1)` whether an item enters."""
        weight = counted.float()
        n_bins = weight.sum(1)
        n = n_bins.clamp(min=1)
        output = (output - ((output * weight).sum(1) / n).unsqueeze(1)) * weight
        target = (target - ((target * weight).sum(1) / n).unsqueeze(1)) * weight
        power = (output.square().sum(1) / n + self.bias) * (target.square().sum(1) / n + self.bias)
        return (output * target).sum(1) / n / power.sqrt(), n_bins >= 2

    def forward(self, output: Output, target: Target, mask: Mask | None = None) -> Float[Tensor, ""]:
        """Return the loss, `(neuron,)` with `per_neuron`; 0 where the mask counts nothing."""
        return self.reduce(output, target, mask)

    def reduce(
        self, output: Output, target: Target, mask: Mask | None = None, weights: Tensor | None = None
    ) -> Float[Tensor, ""]:
        """Return the mean or sum of the correlations, times `weights` `(item or 1, neuron)` if there are any."""
        values, enters = self.correlations(*align(output, target, mask))
        values = (values if weights is None else values * weights).masked_fill(~enters, 0.0)
        n_items = enters.sum().clamp(min=1)
        if self.per_neuron:
            result = values.sum(0) / n_items
        elif self.avg:
            result = values.sum() / (n_items * values.shape[1])
        else:
            result = values.sum()
        return -result if self.negate else result


class ScaledCorrelationLoss3d(CorrelationLoss3d):
    """Correlation within windows of `scale` bins, which slow drifts do not enter; a shorter rest is left out."""

    def __init__(
        self, bias: float = 1e-16, scale: int = 30, per_neuron: bool = False, avg: bool = True, negate: bool = True
    ):
        super().__init__(bias, per_neuron, avg, negate)
        self.scale = scale

    def correlations(self, output: Output, target: Output, counted: Tensor) -> tuple[Tensor, Tensor]:
        """Return `(item, neuron)` correlations, averaged over the windows that enter, and `(item, 1)` whether any does.

        Raises ValueError if the output is shorter than one window.
        """
        n_windows = output.shape[1] // self.scale
        if n_windows == 0:
            raise ValueError(f"an output of {output.shape[1]} bins is shorter than one window of {self.scale}")
        windows = [
            x[:, : n_windows * self.scale].unflatten(1, (n_windows, self.scale)) for x in (output, target, counted)
        ]
        values, enters = super().correlations(*(x.flatten(0, 1) for x in windows))
        values, enters = (x.unflatten(0, (-1, n_windows)) for x in (values, enters))
        mean = values.masked_fill(~enters, 0.0).sum(1) / enters.sum(1).clamp(min=1)
        return mean, enters.any(dim=1)


class CelltypeCorrelationLoss3d(CorrelationLoss3d):
    """Correlation in which every cell type counts alike, however many cells it has."""

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
        return self.reduce(output, target, mask, celltype_weights(group_assignment, group_counts).squeeze(-2))


class L1CorrelationLoss3d(CorrelationLoss3d):
    """Correlation plus `gamma_L1` times the mean absolute activity, for sparse responses.

    The activity is the output itself, or the second of a pair `(output, activity)`, for models that tell what drives
    the output (spikes behind calcium, say), as `(batch, time, neuron)`.
    """

    def __init__(
        self,
        bias: float = 1e-16,
        per_neuron: bool = False,
        avg: bool = True,
        negate: bool = True,
        gamma_L1: float = 0.0002,  # noqa: N803 (the published name)
    ):
        super().__init__(bias, per_neuron, avg, negate)
        self.gamma_L1 = gamma_L1

    def forward(
        self, output: Output | tuple[Output, Output], target: Target, mask: Mask | None = None
    ) -> Float[Tensor, ""]:
        """Return the loss, `(neuron,)` with `per_neuron`; 0 where the mask counts nothing."""
        output, activity = output if isinstance(output, tuple) else (output, output)
        activity, _, counted = align(activity, target, mask)
        size = activity.abs().masked_fill(~counted, 0.0)
        total = size.sum((0, 1)) if self.per_neuron else size.sum()
        if self.per_neuron or self.avg:
            total = total / (counted.sum() * (1 if self.per_neuron else size.shape[2])).clamp(min=1)
        penalty = self.gamma_L1 * total
        return self.reduce(output, target, mask) + (penalty if self.negate else -penalty)
