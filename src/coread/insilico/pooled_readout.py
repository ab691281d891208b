"""Readouts that sum feature maps under a mask per neuron, in one form for all of them, and where a mask looks."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from coread.modules.readout.base import Readout, projected_clamp
from coread.modules.readout.cloned import ClonedReadout
from coread.modules.readout.factorized import FactorizedReadout
from coread.modules.readout.factorized_gaussian import GaussianMaskReadout
from coread.modules.readout.gaussian import PointGaussianReadout
from coread.modules.readout.spline import SplineMaskReadout


class PooledReadout(NamedTuple):
    """Response = gain * f(sum over channels of weights * sum over pixels of mask * maps + bias) + offset.

    Masks of points have no other pixels than the up to four around a point (`is_exact`).
    """

    mask: Float[Tensor, "neuron height width"]
    weights: Float[Tensor, "neuron channel"]
    bias: Float[Tensor, " neuron"]
    nonlinearity: Callable[[Tensor], Tensor]
    is_exact: bool
    gain: Float[Tensor, " neuron"] | None = None
    offset: Float[Tensor, " neuron"] | None = None


@torch.no_grad()
def pooled_readout(readout: Readout, shift: Float[Tensor, " 2"] | None = None) -> PooledReadout | None:
    """Return a readout in the common form; None for one that has another.

    `shift` moves the points (x, y) of a point readout.
    """
    if type(readout) is GaussianMaskReadout:
        weights = readout.feature_weights[0, :, 0].T * readout.scale_param[:, None]
        return PooledReadout(readout.get_mask(), weights, readout.bias.detach(), readout.nonlinearity, False)
    if type(readout) is FactorizedReadout:
        mask = readout.masks.permute(2, 0, 1)
        return PooledReadout(mask, readout.constrained_weights.T, readout.bias.detach(), readout.nonlinearity, False)
    if type(readout) is SplineMaskReadout:
        weights = readout.features[0, :, 0].T
        return PooledReadout(readout.get_mask(), weights, readout.bias.detach(), readout.nonlinearity, False)
    if type(readout) is PointGaussianReadout:
        points = readout.mu[0, :, 0] + (0.0 if shift is None else shift)
        mask = bilinear_masks(points, *readout.in_shape[2:], align_corners=readout.align_corners)
        weights = readout.features[0, :, 0].T
        bias = torch.zeros_like(weights[:, 0]) if readout.bias is None else readout.bias.detach()
        return PooledReadout(mask, weights, bias, readout.nonlinearity, True)
    if type(readout) is ClonedReadout:
        return _cloned(readout)
    return None


def _cloned(readout: ClonedReadout) -> PooledReadout | None:
    source = pooled_readout(readout._source)
    if source is None or source.gain is not None:
        return None
    gain: Tensor = readout.alpha
    offset: Tensor = readout.beta
    if not readout.published_behaviour and readout.nonlinearity.name != "identity":
        gain, offset = projected_clamp(gain, 0.0), projected_clamp(offset, 0.0)
    return source._replace(gain=gain.detach(), offset=offset.detach())


def bilinear_masks(
    points: Float[Tensor, "neuron 2"], height: int, width: int, *, align_corners: bool
) -> Float[Tensor, "neuron height width"]:
    """Return the weights of the pixels around points (x, y) in [-1, 1], as `grid_sample` interpolates."""
    size = torch.tensor([width, height], device=points.device)
    place = (points + 1) / 2 * (size - 1) if align_corners else ((points + 1) * size - 1) / 2
    x, y = (
        torch.relu(1 - (place[:, axis, None] - torch.arange(n, device=points.device)).abs())
        for axis, n in ((0, width), (1, height))
    )
    return y[:, :, None] * x[:, None, :]


class Boxes(NamedTuple):
    """Where masks look: first row and column, and number of rows and columns."""

    start: Int[Tensor, "neuron 2"]
    size: Int[Tensor, "neuron 2"]


def mask_boxes(readout: PooledReadout, tolerance: float) -> Boxes:
    """Return the smallest boxes outside of which a mask has at most a share `tolerance` of its absolute mass.

    Boxes of points hold all of their pixels. A mask of zeros has a box of one pixel.
    """
    share = 0.0 if readout.is_exact else tolerance / 4
    mask = readout.mask.abs().double()
    edges = [_support(mask.sum(dim=axis), share) for axis in (2, 1)]
    start, stop = (torch.stack([edge[i] for edge in edges], dim=1) for i in (0, 1))
    return Boxes(start, stop - start)


def _support(mass: Float[Tensor, "neuron position"], share: float) -> tuple[Int[Tensor, " neuron"], Tensor]:
    """Return first and behind the last position without at most `share` of the mass on either side."""
    total = mass.sum(dim=1, keepdim=True)
    normed = mass / torch.where(total > 0, total, 1.0)
    begins = normed.cumsum(dim=1) > share
    ends = normed.flip(1).cumsum(dim=1) > share
    first = begins.int().argmax(dim=1)
    stop = mass.shape[1] - ends.int().argmax(dim=1)
    empty = total[:, 0] == 0
    return torch.where(empty, 0, first), torch.where(empty, 1, stop)


def join_boxes(boxes: Sequence[Boxes]) -> Boxes:
    """Return the boxes around the boxes of each neuron."""
    start = torch.stack([box.start for box in boxes]).amin(dim=0)
    stop = torch.stack([box.start + box.size for box in boxes]).amax(dim=0)
    return Boxes(start, stop - start)
