"""Pearson correlation over more bins than fit into memory."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class RunningCorrelation:
    """Sums from which the correlation of every neuron over all added bins follows, in float64."""

    def __init__(self, n_neurons: int, device: torch.device | str = "cpu") -> None:
        self.sums = torch.zeros(6, n_neurons, dtype=torch.float64, device=device)

    def update(
        self,
        output: Float[Tensor, "batch time_out neuron"],
        target: Float[Tensor, "batch time neuron"],
        mask: Bool[Tensor, "batch time"],
    ) -> None:
        """Add the bins that the mask counts; targets and mask are cut at the front to the output's length."""
        n_out = output.shape[1]
        counted = mask[:, -n_out:]
        x = output.detach()[counted].double()
        y = target[:, -n_out:][counted].double()
        ones = torch.ones_like(x)
        self.sums += torch.stack([value.sum(dim=0) for value in (ones, x, y, x * x, y * y, x * y)])

    def compute(self) -> Float[Tensor, "neuron"]:
        """Return the correlation per neuron: 0 where only the prediction is constant, NaN where the response is.

        A dead prediction must count against a model: left out, killing neurons would look like progress.
        """
        n, x, y, xx, yy, xy = self.sums
        covariance = xy - x * y / n
        # rounding leaves a trace of variance in a constant series: relative to its own power it is nothing
        var_x, var_y = xx - x * x / n, yy - y * y / n
        correlation = covariance / (var_x * var_y).clamp(min=0).sqrt()
        correlation = torch.where(var_x <= 1e-12 * xx, 0.0, correlation)
        return torch.where(var_y <= 1e-12 * yy, torch.nan, correlation).float()
