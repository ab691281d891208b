"""Pearson correlation over time, per batch item and neuron."""

from jaxtyping import Float
from torch import Tensor, nn

from coread.modules.losses.base import Mask, Output, Target, align


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
        values, enters = self.correlations(*align(output, target, mask))
        values = values.masked_fill(~enters, 0.0)
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
        """Return `(item * window, neuron)` correlations and `(item * window, 1)` whether a window enters.

        Raises ValueError if the output is shorter than one window.
        """
        n_windows = output.shape[1] // self.scale
        if n_windows == 0:
            raise ValueError(f"an output of {output.shape[1]} bins is shorter than one window of {self.scale}")
        windows = [
            x[:, : n_windows * self.scale].unflatten(1, (n_windows, self.scale)) for x in (output, target, counted)
        ]
        return super().correlations(*(x.flatten(0, 1) for x in windows))
