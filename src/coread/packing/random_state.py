"""The states of all global random generators, which members that share a process take turns with."""

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass
class RandomState:
    """The states of all global generators: of Python, NumPy, and torch on the CPU and on GPUs."""

    python: Any
    numpy: Any
    torch: Tensor
    gpus: list[Tensor]

    @classmethod
    def now(cls) -> "RandomState":
        """Return the present states."""
        gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state(), gpus)  # noqa: NPY002

    def restore(self) -> None:
        """Go on from these states."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002
        self.restore_torch()

    def restore_torch(self) -> None:
        """Go on from the states of torch's generators."""
        torch.set_rng_state(self.torch)
        if self.gpus:
            torch.cuda.set_rng_state_all(self.gpus)

    def keep_torch(self) -> None:
        """Remember where torch's generators are now."""
        self.torch = torch.get_rng_state()
        self.gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def torch_differs(self) -> bool:
        """Return whether torch's generators have moved on from these states."""
        gpus = torch.cuda.get_rng_state_all() if self.gpus else []
        pairs = zip([self.torch, *self.gpus], [torch.get_rng_state(), *gpus], strict=True)
        return any(not torch.equal(before, now) for before, now in pairs)
