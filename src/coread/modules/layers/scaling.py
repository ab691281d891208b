"""Per-channel offsets."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Bias3DLayer(nn.Module):
    """Adds one learned number per channel."""

    def __init__(self, channels: int, initial: float = 0.0):
        super().__init__()
        self.bias = nn.Parameter(torch.full((1, channels, 1, 1, 1), initial))

    def forward(
        self, x: Float[Tensor, "batch channel time height width"]
    ) -> Float[Tensor, "batch channel time height width"]:
        """Return the shifted input."""
        return x + self.bias
