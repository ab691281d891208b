"""Gaussian bumps on the pixels of feature maps."""

import torch
from jaxtyping import Float
from torch import Tensor


def gaussian_bumps(
    positions: Float[Tensor, "neuron 2"], sigma: float | Tensor, height: int, width: int
) -> Float[Tensor, "neuron height width"]:
    """Return one circular Gaussian of sum 1 per neuron.

    Positions are (x, y) in [-1, 1], (-1, -1) being the centre of the first pixel; `sigma`, a number or one per neuron,
    is in the same units along the longer side.
    """
    pixels = torch.tensor([width - 1, height - 1]) * (positions + 1) / 2
    spread = torch.as_tensor(sigma, dtype=torch.float32, device="cpu").reshape(-1, 1, 1) * (max(height, width) - 1) / 2
    x = (torch.arange(width) - pixels[:, :1]).square()[:, None, :]
    y = (torch.arange(height) - pixels[:, 1:]).square()[:, :, None]
    exponent = -(x + y) / (2 * spread.clamp(min=0.1).square())
    return torch.softmax(exponent.flatten(1), dim=1).unflatten(1, (height, width))
