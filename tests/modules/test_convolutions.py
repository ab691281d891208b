import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coread.modules.layers.convolutions import (
    CONVOLUTION_TYPES,
    SpaceTimeConv,
    STSeparableBatchConv3d,
    compute_temporal_kernel,
    get_conv_class,
)
from coread.modules.layers.padding import pad_sides, resolve_padding
from coread.modules.layers.time_filters import correlate_pairs, correlate_shared

PADDINGS = [False, True, 0, 2, "same", (0, 1, 2)]


def make(name: str, n_in: int = 2, n_out: int = 3, time: int = 6, space: int = 4, **kwargs) -> SpaceTimeConv:
    return get_conv_class(name)(n_in, n_out, {}, time, space, **kwargs)


def test_temporal_basis_golden_numbers():
    sines, cosines = STSeparableBatchConv3d.temporal_basis(torch.ones(1), 21)
    mask = STSeparableBatchConv3d.mask_tf(torch.arange(-21.0, 0.0), torch.ones(1), 21)
    expected_mask = torch.tensor([0.119203, 0.268941, 0.5, 0.731059, 0.880797, 0.952574])
    torch.testing.assert_close(mask[:6], expected_mask, rtol=0, atol=1e-6)
    assert sines.shape == cosines.shape == (7, 21)
    assert (sines[0] == 0).all()
    torch.testing.assert_close(sines[1, :4], torch.tensor([0, 0.079272, 0.28166, 0.571565]), rtol=0, atol=1e-5)
    torch.testing.assert_close(cosines[1, -3:], torch.tensor([0.62349, 0.826239, 0.955573]), rtol=0, atol=1e-5)


def test_temporal_kernel_golden_numbers():
    ones = torch.ones(1, 1, 7)
    kernel = compute_temporal_kernel(torch.zeros(1), ones, ones, 21).flatten()
    torch.testing.assert_close(kernel[:4], torch.tensor([0.83442, 2.196112, 1.10533, 0]), rtol=0, atol=1e-4)
    torch.testing.assert_close(kernel[-3:], torch.tensor([0, -3.518246, -0.920061]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("way", ["pairs", "shared", "dense"])
@pytest.mark.parametrize(("n_in", "n_out", "time"), [(1, 4, 20), (3, 2, 20), (2, 3, 250)])
@pytest.mark.parametrize("padding", [False, True, 1, (3, 2, 0), -1])  # True pads unevenly: one side is even
def test_every_way_is_the_dense_convolution(way: str, n_in: int, n_out: int, time: int, padding, monkeypatch):
    conv = STSeparableBatchConv3d(n_in, n_out, {}, 9, 4, 3, padding=padding)
    nn.init.normal_(conv.bias)
    x = torch.randn(2, n_in, time, 8, 7, requires_grad=True)
    monkeypatch.setattr(conv, "cheapest_way", lambda *size: way)
    y = conv(x)
    expected = F.conv3d(pad_sides(x, conv.sides), conv.weight(), conv.bias)
    scale = float(expected.detach().abs().max())
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-6 * scale)
    downstream = torch.randn_like(y)
    variables = [x, *conv.parameters()]
    for actual, wanted in zip(
        torch.autograd.grad(y, variables, downstream), torch.autograd.grad(expected, variables, downstream), strict=True
    ):
        torch.testing.assert_close(actual, wanted, rtol=1e-3, atol=2e-6 * float(wanted.abs().max()))


def test_the_cheapest_way_depends_on_the_operations():
    # one input channel, large filters: filter in space once per output channel
    assert STSeparableBatchConv3d(1, 16, {}, 21, 11).cheapest_way(60, 40, 40) == "pairs"
    # many pairs, few basis functions: filter in time first
    assert STSeparableBatchConv3d(16, 32, {}, 5, 5).cheapest_way(60, 30, 30) == "shared"
    # three taps from two basis functions and a single pixel: nothing to save
    assert STSeparableBatchConv3d(64, 64, {}, 3, 1).cheapest_way(4, 1, 1) in ("shared", "dense")


def test_time_filters_do_not_depend_on_the_blocks():
    x, kernels = torch.randn(3, 4, 400, 5, dtype=torch.float64), torch.randn(4, 3, 7, dtype=torch.float64)
    expected = F.conv2d(x.flatten(0, 1)[None], kernels.transpose(0, 1).reshape(12, 1, 7, 1), groups=12)
    expected = expected.view(3, 4, 394, 5).sum(0)
    torch.testing.assert_close(correlate_pairs(x, kernels), expected)
    traces, basis = x[0], kernels[0]
    for i in range(3):
        alone = F.conv2d(traces[:, None], basis[i].reshape(1, 1, 7, 1))[:, 0]
        torch.testing.assert_close(correlate_shared(traces, basis)[:, :, i], alone)


@pytest.mark.parametrize("name", sorted(CONVOLUTION_TYPES))
@pytest.mark.parametrize("padding", PADDINGS)
def test_the_future_is_never_seen(name: str, padding):
    conv = make(name, padding=padding)
    x = torch.randn(1, 2, 15, 9, 8)
    changed = x.clone()
    changed[:, :, -1] += 1
    y, y_changed = conv(x), conv(changed)
    assert y.shape[2] == 15 - conv.lag
    torch.testing.assert_close(y[:, :, :-1], y_changed[:, :, :-1])
    assert not torch.allclose(y[:, :, -1], y_changed[:, :, -1])


@pytest.mark.parametrize("name", ["custom_separable", "separable", "full"])
def test_published_padding_sees_the_future(name: str):
    conv = make(name, padding="same", published_behaviour=True)
    x = torch.randn(1, 2, 15, 9, 8)
    changed = x.clone()
    changed[:, :, -1] += 1
    assert conv.lag == 0
    assert not torch.allclose(conv(x)[:, :, -2], conv(changed)[:, :, -2])


@pytest.mark.parametrize("name", sorted(CONVOLUTION_TYPES))
@pytest.mark.parametrize("kernel", [3, 4])
def test_same_padding_keeps_the_size(name: str, kernel: int):
    assert make(name, space=kernel, padding="same")(torch.randn(1, 2, 12, 9, 8)).shape[3:] == (9, 8)


def test_padding_arguments():
    assert resolve_padding(2, (5, 3, 3)) == ((0, 0), (2, 2), (2, 2))
    assert resolve_padding(2, (5, 3, 3), published_behaviour=True) == ((2, 2), (2, 2), (2, 2))
    assert resolve_padding([1, 0, 2], (5, 3, 3)) == ((1, 1), (0, 0), (2, 2))
    assert resolve_padding("same", (8, 8, 3), published_behaviour=True) == ((3, 4), (3, 4), (1, 1))
    for wrong in ("sane", (1, 2)):
        with pytest.raises(ValueError, match="padding must be"):
            resolve_padding(wrong, (5, 3, 3))


@pytest.mark.parametrize("name", sorted(CONVOLUTION_TYPES))
def test_spatial_weights_carry_gradients(name: str):
    conv = make(name)
    gradients = torch.autograd.grad(conv.weight_spatial.square().sum(), list(conv.parameters()), allow_unused=True)
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


def test_nothing_of_the_graph_is_kept():
    conv = make("custom_separable")
    conv(torch.randn(1, 2, 12, 9, 8))
    tensors = [value for value in vars(conv).values() if isinstance(value, Tensor)]
    assert not any(tensor.grad_fn is not None for tensor in tensors)


def test_log_speed_of_a_session_stretches_the_filter():
    speed = nn.Parameter(torch.tensor([math.log(1.5)]))
    conv = STSeparableBatchConv3d(1, 1, {"log_speed_a": speed, "b": 0.0}, 21, 3)
    x = torch.randn(1, 1, 30, 5, 5)
    torch.testing.assert_close(conv((x, "b")), conv(x))
    fast = conv((x, "a"))
    assert not torch.allclose(fast, conv(x))
    fast.sum().backward()
    assert speed.grad is not None
    assert speed.grad.abs() > 0
    torch.testing.assert_close(conv((x, "unknown session")), conv(x))


def test_loading_a_default_log_speed_refreshes_the_cached_basis():
    conv, other = make("custom_separable"), make("custom_separable")
    state = conv.state_dict()
    state["_log_speed_default"] = torch.tensor([0.4])
    other.load_state_dict(state)
    temporal = compute_temporal_kernel(torch.tensor([0.4]), other.sin_weights, other.cos_weights, 6)
    torch.testing.assert_close(other.weight(), temporal * other.weight_spatial)


@pytest.mark.parametrize("length", [1, 2])
def test_short_temporal_filters_are_not_silent(length: int):
    x = torch.randn(1, 2, 12, 9, 8)
    assert make("custom_separable", time=length)(x).abs().sum() > 0
    with pytest.warns(UserWarning, match="zero"):
        published = make("custom_separable", time=length, published_behaviour=True, bias=False)
    assert (published(x) == 0).all()


def test_too_few_frames_are_an_error():
    with pytest.raises(ValueError, match="5 frames"):
        make("custom_separable")(torch.randn(1, 2, 5, 9, 8))


def test_unknown_type_is_an_error():
    with pytest.raises(ValueError, match="unknown convolution type 'sin_cos'"):
        get_conv_class("sin_cos")


@pytest.mark.parametrize("build", [lambda: make("custom_separable"), lambda: make("full")])
def test_state_dict_has_no_cached_basis(build: Callable[[], SpaceTimeConv]):
    assert not any("basis" in key for key in build().state_dict())
