"""What a padding argument means: space only, unless the published behaviour is asked for."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

Padding = bool | int | str | Sequence[int]
Sides = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]  # (before, after) for time, height and width


def resolve_padding(padding: Padding, kernel_size: tuple[int, int, int], published_behaviour: bool = False) -> Sides:
    """Return the number of zeros before and after in time, height and width.

    False or "valid" pads nothing; True or "same" keeps the size and an int adds that many zeros, both in space only,
    because zeros around time let a filter see the future; three ints (time, height, width) are taken literally.
    `published_behaviour` makes "same" and an int pad time as well, as openretina does. Raises ValueError for
    anything else.
    """
    none = (0, 0)
    if padding is False or padding == "valid":
        return none, none, none
    if padding is True or padding == "same":
        time, height, width = (((size - 1) // 2, size // 2) for size in kernel_size)
        return (time if published_behaviour else none), height, width
    if isinstance(padding, int):
        side = (padding, padding)
        return (side if published_behaviour else none), side, side
    if isinstance(padding, str) or len(padding) != 3:
        raise ValueError(f'padding must be a bool, "same", "valid", an int or (time, height, width), got {padding!r}')
    time, height, width = ((int(size), int(size)) for size in padding)
    return time, height, width


def divided(sides: Sides) -> tuple[Sides, tuple[int, int]]:
    """Return zeros that must be put around the input, and (height, width) that a convolution adds on both sides."""
    time, height, width = sides
    if height[0] != height[1] or width[0] != width[1] or min(*height, *width) < 0:  # negative ones crop
        return sides, (0, 0)
    return (time, (0, 0), (0, 0)), (height[0], width[0])


def pad_sides(
    x: Tensor,  # (batch, channel, time, height, width)
    sides: Sides,
) -> Tensor:
    """Return `x` with zeros around time, height and width."""
    flat = [size for side in reversed(sides) for size in side]
    return F.pad(x, flat) if any(flat) else x
