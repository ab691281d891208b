"""What a documented loader yields."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class DataPoint(NamedTuple):
    """A batch of windows (or one, without that axis); a model's lag is cut from the front of `targets`."""

    inputs: Float[Tensor, "*batch channel time height width"]
    targets: Float[Tensor, "*batch time neuron"]

    @property
    def mask(self) -> Bool[Tensor, "*batch time"]:
        """Every bin counts."""
        return torch.ones(self.targets.shape[:-1], dtype=torch.bool, device=self.targets.device)

    @property
    def context(self) -> Mapping[str, Tensor]:
        """Documented loaders know nothing beside the stimulus."""
        return {}
