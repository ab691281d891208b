"""What several members must not share inside `torch.vmap`: random draws; and what it makes slow: convolutions."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor
from torch.overrides import TorchFunctionMode

from coread.packing.random_state import RandomState


class EachMember(TorchFunctionMode):
    """Inside `torch.vmap` over members, lets each draw its own random numbers and run its own convolutions.

    `member` is the number of the member as a tensor that vmap maps; `states` move on with the draws, which are those
    that a member would make alone. Drawn so are `torch.randn` and dropout. Others would be drawn once for all members:
    `shared_draws` tells whether any was. vmap itself would make one grouped convolution of the members', for which
    libraries have much slower kernels, and other roundings, than for one member's.
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
        """Replace draws and convolutions."""
        kwargs = kwargs or {}
        if func is torch.randn:
            return self._of_members(lambda: func(*args, **kwargs))
        if func in _DROPPED_SHAPE:
            return self._dropout(func, *args, **kwargs)
        if func in _CONVOLUTIONS:
            return _Convolution.apply(func, kwargs, *args)
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


class _Convolution(torch.autograd.Function):
    """A convolution whose gradient is PyTorch's and which is computed member by member."""

    @staticmethod
    def forward(function: Callable[..., Tensor], options: dict[str, Any], *arguments: Any) -> Tensor:
        return function(*arguments, **options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep nothing: a convolution that vmap does not map is not replaced."""

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], function: Callable[..., Tensor], options: dict[str, Any], *arguments: Any
    ) -> tuple[Tensor, int]:
        def of_member(i: int) -> Tensor:
            own = (
                x.select(dim, i) if isinstance(dim, int) else x for x, dim in zip(arguments, in_dims[2:], strict=True)
            )
            return function(*own, **options)

        return torch.stack([of_member(i) for i in range(info.batch_size)]), 0


def _features(x: Tensor) -> tuple[int, ...]:
    return (*x.shape[:2], *(1 for _ in x.shape[2:]))


_DROPPED_SHAPE: dict[Any, Callable[[Tensor], tuple[int, ...]]] = {
    F.dropout: lambda x: tuple(x.shape),
    F.dropout1d: _features,
    F.dropout2d: _features,
    F.dropout3d: _features,
}
_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
