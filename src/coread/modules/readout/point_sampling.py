"""Reading of feature maps at one point per neuron."""

from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from coread.modules.recompute import in_parts
from coread.modules.vmapped import computes_several

SEEN_AT_ONCE = {"cpu": 2**20, "other": 2**26}  # values (sample, channel, neuron), by type of device


def look_at_points(
    maps: Float[Tensor, "sample channel height width"],
    points: Float[Tensor, "sample neuron 2"],
    align_corners: bool = True,
) -> Float[Tensor, "sample channel neuron"]:
    """Return what is at the points (x, y) in [-1, 1]: bilinear between pixels, zero outside the maps."""
    # half precision would move points by up to a tenth of a pixel
    dtype = torch.promote_types(maps.dtype, points.dtype)
    # contiguous and with neurons along the width: ten times as fast, for only then one instruction reads several
    grid = points.to(dtype).contiguous().unsqueeze(1)
    return F.grid_sample(maps.to(dtype).contiguous(), grid, align_corners=align_corners).squeeze(2)


def read_points(
    maps: Float[Tensor, "sample channel height width"],
    points: Float[Tensor, "sample neuron 2"],
    weights: Float[Tensor, "channel neuron"],
    align_corners: bool = True,
) -> Float[Tensor, "sample neuron"]:
    """Return the weighted sum over channels of what is at every neuron's point.

    What 8000 neurons see of 128 images in 64 channels takes 262 MB, several times over in training. So a few samples
    are read at a time, which also stay in the processor's cache, and are read again for the gradient.
    """
    at_once = SEEN_AT_ONCE["cpu" if maps.device.type == "cpu" else "other"]
    n_samples = max(1, at_once // max(1, weights.numel()))
    if n_samples >= len(maps) or computes_several():
        return _weighted(maps, points, weights, align_corners)
    return in_parts(partial(_weighted, align_corners=align_corners), n_samples, (maps, points), weights)


def _weighted(maps: Tensor, points: Tensor, weights: Tensor, align_corners: bool) -> Tensor:
    return (look_at_points(maps, points, align_corners) * weights).sum(1)
