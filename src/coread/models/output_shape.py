"""What a core puts out, without computing it."""

import copy
from collections.abc import Sequence

import torch
from torch import nn

from coread.modules.core.base_core import Core


def core_output_shape(core: Core, in_shape: Sequence[int]) -> tuple[int, ...]:
    """Return (channel, time, height, width) of a core's output for an input of this shape.

    Raises ValueError if the input is smaller than the kernels.
    """
    # on the meta device nothing is computed; a core that cannot be there is asked in main memory, and so is one that
    # fails, for a message about sizes
    try:
        return _output_shape(copy.deepcopy(core).to("meta"), in_shape)
    except (RuntimeError, ValueError, NotImplementedError):
        pass
    try:
        return _output_shape(copy.deepcopy(core), in_shape)
    except (RuntimeError, ValueError) as error:
        shape = tuple(in_shape)
        raise ValueError(f"the core cannot take an input of (channel, time, height, width) {shape}: {error}") from error


@torch.no_grad()
def _output_shape(core: nn.Module, in_shape: Sequence[int]) -> tuple[int, ...]:
    device = next((parameter.device for parameter in core.parameters()), torch.device("meta"))
    return tuple(core.eval()(torch.zeros(1, *in_shape, device=device)).shape[1:])
