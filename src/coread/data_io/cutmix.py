"""CutMix: training images that hold a patch of another trial's image, with responses mixed by area.

Yun et al. 2019, as used for responses of cortical neurons by the winner of SENSORIUM 2023.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from coread.data_io.dataloader import DataPoint


@dataclass(frozen=True)
class CutMix:
    """Settings of the mixing: `probability` of a trial to get a patch, whose area is drawn from Beta(alpha, alpha).

    A patch is cut at the borders of the image, and a trial keeps the share of the area that the patch really leaves it.
    """

    alpha: float = 1.0
    probability: float = 0.5

    def __post_init__(self) -> None:
        if self.alpha <= 0 or not 0 <= self.probability <= 1:
            raise ValueError(
                "dataloader.cutmix needs alpha > 0 and a probability between 0 and 1, found "
                f"alpha {self.alpha} and probability {self.probability}"
            )

    def mix(self, point: DataPoint, rng: np.random.Generator) -> DataPoint:
        """Return the batch with patches; stimuli of several frames get the same patch in every frame.

        Responses and context are averaged with the weights of the areas, a bin counts if it counts in both trials. The
        order in time, which has no average, is that of the larger share.
        """
        device = point.inputs.device
        batch, height, width = len(point.inputs), *point.inputs.shape[-2:]
        partner = torch.as_tensor(rng.permutation(batch), device=device)
        patch = torch.as_tensor(self.draw_patches(rng, batch, height, width), device=device)
        kept = 1 - patch.float().mean(dim=(1, 2))
        inside = patch[:, None, None]
        return DataPoint(
            torch.where(inside, point.inputs[partner], point.inputs),
            _mixed(point.targets, partner, kept),
            # a trial without a patch takes nothing from its partner
            point.mask & (point.mask[partner] | (kept == 1)[:, None]),
            _mixed_context(point.context, partner, kept),
        )

    def draw_patches(
        self, rng: np.random.Generator, batch: int, height: int, width: int
    ) -> Bool[np.ndarray, "batch height width"]:
        """Return where every trial gets another's pixels; nowhere in the trials that stay as they are."""
        side = np.sqrt(1 - rng.beta(self.alpha, self.alpha, batch)) * (rng.random(batch) < self.probability)
        row = _between(rng.integers(0, height, batch), np.rint(side * height).astype(int), height)
        column = _between(rng.integers(0, width, batch), np.rint(side * width).astype(int), width)
        return row[:, :, None] & column[:, None, :]


def _between(
    centre: Int[np.ndarray, "batch"], length: Int[np.ndarray, "batch"], size: int
) -> Bool[np.ndarray, "batch size"]:
    """Mark `length` places around every centre, fewer at the border."""
    first = (centre - length // 2)[:, None]
    return (np.arange(size) >= first) & (np.arange(size) < first + length[:, None])


def _mixed(
    values: Float[Tensor, "batch *rest"], partner: Int[Tensor, "batch"], kept: Float[Tensor, "batch"]
) -> Float[Tensor, "batch *rest"]:
    weight = kept.reshape(-1, *[1] * (values.dim() - 1))
    return torch.where(weight == 1, values, weight * values + (1 - weight) * values[partner])


def _mixed_context(
    context: Mapping[str, Tensor], partner: Int[Tensor, "batch"], kept: Float[Tensor, "batch"]
) -> dict[str, Tensor]:
    owner = torch.where(kept >= 0.5, torch.arange(len(kept), device=kept.device), partner)
    return {
        name: _mixed(values, partner, kept) if values.is_floating_point() else values[owner]
        for name, values in context.items()
    }
