"""Layers that reduce the number of stimulus channels."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class WeightedChannelSumLayer(nn.Module):
    """Weighted sum over channels, for a grey model of a coloured stimulus; a grey stimulus passes unchanged."""

    def __init__(self, init_channel_weights: Sequence[float], trainable: bool = False):
        super().__init__()
        weights = torch.tensor([float(weight) for weight in init_channel_weights])
        self.channel_weights = nn.Parameter(weights, requires_grad=trainable)

    def forward(
        self, x: Float[Tensor, "batch channel time height width"]
    ) -> Float[Tensor, "batch 1 time height width"]:
        """Return the grey stimulus; raises ValueError if the number of channels is not that of the weights."""
        if x.shape[1] == 1:
            return x
        if x.shape[1] != self.channel_weights.numel():
            raise ValueError(f"{self.channel_weights.numel()} channel weights, but the input has {x.shape[1]} channels")
        return torch.einsum("bcthw,c->bthw", x, self.channel_weights).unsqueeze(1)
