"""Random draws of several members in one process: each from streams of its own, as if it were alone."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor
from torch.overrides import TorchFunctionMode


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


class OwnDraws(TorchFunctionMode):
    """Inside `torch.vmap` over members, lets every member draw from its own state what it would draw alone.

    `member` is the number of the member as a tensor that vmap maps; `states` move on with the draws. Drawn so are
    `torch.randn` and dropout. Others would be drawn once for all members: `shared_draws` tells whether any was.
    """

    def __init__(self, states: list[RandomState]) -> None:
        super().__init__()
        self.states = states
        self.member: Int[Tensor, ""] = torch.zeros((), dtype=torch.int64)
        self._ours = RandomState.now()

    def shared_draws(self) -> bool:
        """Return whether anything was drawn that all members share."""
        return self._ours.torch_differs()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace what is drawn."""
        kwargs = kwargs or {}
        if func is torch.randn:
            return self._of_members(lambda: func(*args, **kwargs))
        if func in _DROPPED_SHAPE:
            return self._dropout(func, *args, **kwargs)
        return func(*args, **kwargs)

    def _dropout(self, func: Any, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0.0:
            return x
        shape = _DROPPED_SHAPE[func](x)
        # what is dropped from ones is the factor of every element, or of every feature map
        kept = self._of_members(lambda: func(torch.ones(shape, dtype=x.dtype, device=x.device), p, True))
        return x.mul_(kept) if inplace else x * kept

    def _of_members(self, draw: Callable[[], Tensor]) -> Tensor:
        drawn = []
        for state in self.states:
            state.restore_torch()
            drawn.append(draw())
            state.keep_torch()
        self._ours.restore_torch()
        return torch.stack(drawn).index_select(0, self.member.view(1)).squeeze(0)


def _features(x: Tensor) -> tuple[int, ...]:
    return (*x.shape[:2], *(1 for _ in x.shape[2:]))


_DROPPED_SHAPE: dict[Any, Callable[[Tensor], tuple[int, ...]]] = {
    F.dropout: lambda x: tuple(x.shape),
    F.dropout1d: _features,
    F.dropout2d: _features,
    F.dropout3d: _features,
}
