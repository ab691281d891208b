"""Gradients in little memory: what is made on the way is computed again, in parts, and overwritten."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def in_parts(function: Callable[..., Tensor], n_at_once: int, split: tuple[Tensor, ...], *shared: Tensor) -> Tensor:
    """Return `function(*split, *shared)`, computed for `n_at_once` rows of the tensors `split` at a time.

    What the function makes in between is not kept but made again for the gradient, again in parts. Every row of the
    result must come from its own rows alone, and every tensor that needs a gradient must be an argument. Unlike
    `torch.utils.checkpoint` for every part and `torch.cat`, results and gradients are written where they stay: the C
    library does not give back the memory of parts between which others still live.
    """
    result: Tensor = _InParts.apply(function, n_at_once, len(split), *split, *shared)
    return result


def elu_of_recomputed(x: Tensor) -> Tensor:
    """Return the ELU of `x` in its place; its gradient is written in the place of the result in turn.

    For the inside of `torch.utils.checkpoint`, where nobody sees the result that is made again: what still needed it
    would raise RuntimeError, as PyTorch counts the versions of what it keeps.
    """
    result: Tensor = _OverwrittenElu.apply(x)
    return result


class _OverwrittenElu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        result = F.elu_(x)
        ctx.save_for_backward(result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        slope: Tensor = result.clamp_(max=0.0).add_(1.0)
        return slope.mul_(gradient)


class _InParts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], n_at_once: int, n_split: int, *tensors: Tensor) -> Tensor:
        ctx.function, ctx.n_at_once, ctx.n_split = function, n_at_once, n_split
        ctx.save_for_backward(*tensors)
        device = tensors[0].device.type
        ctx.autocast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        result = None
        for rows in _parts(len(tensors[0]), n_at_once):
            part = function(*_rows(tensors, n_split, rows))
            if result is None:
                result = _empty_like(part, len(tensors[0]))
            result[rows] = part
        assert result is not None, "there is no empty batch"
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        tensors: tuple[Tensor, ...] = ctx.saved_tensors
        n_split, wanted = ctx.n_split, ctx.needs_input_grad[3:]
        gradients: list[Tensor | None] = [
            None if not want else torch.empty_like(tensor) if i < n_split else torch.zeros_like(tensor)
            for i, (tensor, want) in enumerate(zip(tensors, wanted, strict=True))
        ]
        device, dtype, enabled = ctx.autocast
        for rows in _parts(len(tensors[0]), ctx.n_at_once):
            inputs = [
                tensor.detach().requires_grad_(want)
                for tensor, want in zip(_rows(tensors, n_split, rows), wanted, strict=True)
            ]
            with torch.enable_grad(), torch.autocast(device, dtype, enabled):
                part = ctx.function(*inputs)
            found = iter(
                torch.autograd.grad(part, [tensor for tensor in inputs if tensor.requires_grad], gradient[rows])
            )
            for i, whole in enumerate(gradients):
                if whole is not None and i < n_split:
                    whole[rows] = next(found)
                elif whole is not None:
                    whole += next(found)
        return None, None, None, *gradients


def _parts(n_rows: int, n_at_once: int) -> list[slice]:
    return [slice(start, start + n_at_once) for start in range(0, n_rows, n_at_once)]


def _rows(tensors: tuple[Tensor, ...], n_split: int, rows: slice) -> list[Tensor]:
    return [tensor[rows] if i < n_split else tensor for i, tensor in enumerate(tensors)]


def _empty_like(part: Tensor, n_rows: int) -> Tensor:
    """Return memory for as many rows, in the order of axes that the part has."""
    last = part.dim() == 4 and part.is_contiguous(memory_format=torch.channels_last)
    order = torch.channels_last if last else torch.contiguous_format
    return torch.empty((n_rows, *part.shape[1:]), dtype=part.dtype, device=part.device, memory_format=order)
