"""Per-channel offsets and gains, learned or set by a condition."""

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


class Scale2DLayer(nn.Module):
    """Multiplies each channel of images by one learned number."""

    def __init__(self, num_channels: int, initial: float = 1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.full((1, num_channels, 1, 1), float(initial)))

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch channel height width"]:
        """Return the scaled input."""
        return x * self.scale


class Scale3DLayer(nn.Module):
    """Multiplies each channel by one learned number."""

    def __init__(self, num_channels: int, initial: float = 1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.full((1, num_channels, 1, 1, 1), initial))

    def forward(
        self, x: Float[Tensor, "batch channel time height width"]
    ) -> Float[Tensor, "batch channel time height width"]:
        """Return the scaled input."""
        return x * self.scale


class FiLM(nn.Module):
    """Feature-wise linear modulation: a gain and an offset per channel, linear in a condition (Perez et al. 2018).

    It starts near the identity: gains 1 and offsets 0, with small weights on the condition.
    """

    def __init__(self, num_features: int, cond_dim: int):
        super().__init__()
        self.num_features = num_features
        self.cond_dim = cond_dim
        self.fc_gamma = nn.Linear(cond_dim, num_features)
        self.fc_beta = nn.Linear(cond_dim, num_features)
        for layer, bias in ((self.fc_gamma, 1.0), (self.fc_beta, 0.0)):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.constant_(layer.bias, bias)

    def forward(
        self, x: Float[Tensor, "batch channel time height width"], cond: Float[Tensor, "batch condition"]
    ) -> Float[Tensor, "batch channel time height width"]:
        """Return the modulated features; raises ValueError for a condition of another size."""
        if cond.shape != (x.shape[0], self.cond_dim):
            raise ValueError(
                f"need a condition (batch, variable) of {(x.shape[0], self.cond_dim)}, got {tuple(cond.shape)}"
            )
        gain, offset = (layer(cond)[..., None, None, None] for layer in (self.fc_gamma, self.fc_beta))
        return gain * x + offset
