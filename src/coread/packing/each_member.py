"""What `torch.vmap` over members must not share, random draws, or does badly, convolutions and batch norm."""

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
    libraries have much slower kernels, and other roundings, than for one member's; its batch norm refuses bfloat16.
    """

    def __init__(self, states: list[RandomState]) -> None:
        super().__init__()
        self.states = states
        self.member: Int[Tensor, ""] = torch.zeros((), dtype=torch.int64)
        self._ours = RandomState.now()
        self._shared = False

    def shared_draws(self) -> bool:
        """Return whether anything was drawn that all members share."""
        return self._shared or self._ours.torch_differs()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace draws, convolutions and batch norm."""
        kwargs = kwargs or {}
        if func is torch.randn:
            return self._of_members(lambda: func(*args, **kwargs))
        if func in _DROPPED_SHAPE:
            return self._dropout(func, *args, **kwargs)
        if func in _ONE_BY_ONE:
            return _OneByOne.apply(func, kwargs, *args)
        return func(*args, **kwargs)

    def _dropout(self, func: Any, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0.0:
            return x
        shape = _DROPPED_SHAPE[func](x)
        # what is dropped from ones is the factor of every element, or of every feature map
        kept = self._of_members(lambda: func(torch.ones(shape, dtype=x.dtype, device=x.device), p, True))
        return x.mul_(kept) if inplace else x * kept

    def _of_members(self, draw: Callable[[], Tensor]) -> Tensor:
        self._shared = self.shared_draws()  # before what follows hides it
        drawn = []
        for state in self.states:
            state.restore_torch()
            drawn.append(draw())
            state.keep_torch()
        self._ours.restore_torch()
        return torch.stack(drawn).index_select(0, self.member.view(1)).squeeze(0)


class _OneByOne(torch.autograd.Function):
    """A function that is computed member by member, with PyTorch's gradient; what it changes in place is changed."""

    @staticmethod
    def forward(function: Callable[..., Tensor], options: dict[str, Any], *arguments: Any) -> Tensor:
        return function(*arguments, **options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep nothing: only what vmap maps comes here."""

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], function: Callable[..., Tensor], options: dict[str, Any], *arguments: Any
    ) -> tuple[Tensor, int]:
        _, dims_of_options, *dims = in_dims

        def own(x: Any, dim: Any, i: int) -> Any:
            return x.select(dim, i) if isinstance(dim, int) else x

        def of_member(i: int) -> Tensor:
            given = [own(x, dim, i) for x, dim in zip(arguments, dims, strict=True)]
            return function(*given, **{name: own(x, dims_of_options[name], i) for name, x in options.items()})

        return torch.stack([of_member(i) for i in range(info.batch_size)]), 0


def _features(x: Tensor) -> tuple[int, ...]:
    return (*x.shape[:2], *(1 for _ in x.shape[2:]))


_DROPPED_SHAPE: dict[Any, Callable[[Tensor], tuple[int, ...]]] = {
    F.dropout: lambda x: tuple(x.shape),
    F.dropout1d: _features,
    F.dropout2d: _features,
    F.dropout3d: _features,
}
_ONE_BY_ONE = (F.conv1d, F.conv2d, F.conv3d, F.batch_norm)
