"""Computing in parts: the same values, gradients and order of axes as at once."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from coread.modules.recompute import elu_of_recomputed, in_parts


def mixed(x: Tensor, shift: Tensor, weight: Tensor, unused: Tensor) -> Tensor:
    """Mix channels of images, each with a shift of its own."""
    return torch.einsum("nchw,cd->ndhw", (x + shift[:, :, None, None]).tanh(), weight)


def arguments(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((7, 3, 4, 5), (7, 3), (3, 6), (2,))
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes[:3]] + [torch.ones(2)]


@pytest.mark.parametrize("n_at_once", [1, 3, 7, 100])
def test_values_and_gradients_are_those_of_the_whole(n_at_once: int) -> None:
    whole, parts = arguments(), arguments()
    expected = mixed(*whole)
    found = in_parts(mixed, n_at_once, (parts[0], parts[1]), *parts[2:])
    torch.testing.assert_close(found, expected)
    for result in (expected, found):
        (result * torch.arange(result.numel()).reshape(result.shape) / 100).sum().backward()
    for one, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_what_needs_no_gradient_gets_none() -> None:
    x, shift, weight, unused = arguments()
    in_parts(mixed, 2, (x.detach(), shift), weight.detach(), unused).sum().backward()
    assert shift.grad is not None
    assert x.grad is None
    assert weight.grad is None
    with torch.no_grad():
        assert not in_parts(mixed, 2, (x, shift), weight, unused).requires_grad


def test_the_order_of_axes_is_kept() -> None:
    x = arguments()[0]
    last = torch.nn.Conv2d(3, 6, 3, padding=1)(x.contiguous(memory_format=torch.channels_last)).detach()
    assert last.is_contiguous(memory_format=torch.channels_last)
    found = in_parts(lambda part: part * 2, 2, (last,))
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert in_parts(lambda part: part * 2, 2, (x,)).is_contiguous()


def test_the_second_pass_computes_in_the_precision_of_the_first() -> None:
    seen = []

    def product(x: Tensor, weight: Tensor) -> Tensor:
        seen.append((x @ weight).dtype)
        return x @ weight

    x, weight = torch.randn(4, 3, requires_grad=True), torch.randn(3, 2, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        result = in_parts(product, 2, (x,), weight)
    result.float().sum().backward()
    assert seen == [torch.bfloat16] * 4
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32


def test_a_second_derivative_is_refused() -> None:
    x, shift, weight, unused = arguments()
    (slope,) = torch.autograd.grad(in_parts(mixed, 2, (x, shift), weight, unused).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_elu_and_its_gradient() -> None:
    x = torch.linspace(-3, 3, 13, dtype=torch.float64, requires_grad=True)
    y = torch.linspace(-3, 3, 13, dtype=torch.float64, requires_grad=True)
    weight = torch.arange(13.0, dtype=torch.float64)
    found, expected = elu_of_recomputed(x * 1), F.elu(y)
    torch.testing.assert_close(found, expected)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_a_result_that_is_still_needed_is_not_overwritten_silently() -> None:
    result = elu_of_recomputed(torch.ones(3, requires_grad=True) * 1)
    square = result.square().sum()
    result.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        square.backward()
