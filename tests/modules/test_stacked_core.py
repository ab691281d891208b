"""The stacked core: geometry, options, penalties."""

from typing import Any

import pytest
import torch
from torch import nn

from coread.models.output_shape import core_output_shape
from coread.modules.core.stacked_core import DepthSeparableConv2d, Stacked2dCore

BASELINE: dict[str, Any] = {
    "hidden_channels": 64,
    "input_kern": 9,
    "hidden_kern": 7,
    "layers": 4,
    "stack": -1,
    "depth_separable": True,
}


def small(**settings: Any) -> Stacked2dCore:
    plain = {"input_channels": 2, "hidden_channels": 4, "input_kern": 5, "hidden_kern": 3, "layers": 3}
    return Stacked2dCore(**plain | settings)


@pytest.mark.parametrize(("kernel", "size", "n_parameters"), [(7, (28, 56), 55_232), (10, (31, 59), 65_024)])
def test_sizes_are_the_published_ones(kernel: int, size: tuple[int, int], n_parameters: int) -> None:
    core = Stacked2dCore(input_channels=4, **BASELINE | {"hidden_kern": kernel})
    assert core_output_shape(core, (4, 1, 36, 64)) == (64, 1, *size)
    assert sum(parameter.numel() for parameter in core.parameters()) == n_parameters


def test_layers_are_convolution_norm_and_elu() -> None:
    core = small(stack=None).train()
    x = torch.randn(3, 2, 12, 14)
    expected, outputs = x, []
    for i in range(3):
        conv = core.features[i].conv
        expected = nn.functional.conv2d(expected, conv.weight, padding=0 if i == 0 else 1)
        mean, variance = expected.mean((0, 2, 3), keepdim=True), expected.var((0, 2, 3), keepdim=True, correction=0)
        expected = nn.functional.elu((expected - mean) / (variance + 1e-5).sqrt())
        outputs.append(expected)
    torch.testing.assert_close(core(x), torch.cat(outputs, 1))


def test_depth_separable_layers_mix_filter_and_mix() -> None:
    conv = DepthSeparableConv2d(3, 5, 3, padding=1)
    full = torch.einsum(
        "om,mhw,mi->oihw",
        conv.out_depth_conv.weight[..., 0, 0],
        conv.spatial_conv.weight[:, 0],
        conv.in_depth_conv.weight[..., 0, 0],
    )
    x = torch.randn(2, 3, 6, 7)
    torch.testing.assert_close(conv(x), nn.functional.conv2d(x, full, padding=1))


@pytest.mark.parametrize("pad_input", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_planes_are_channels_that_are_the_same_everywhere(pad_input: bool, training: bool) -> None:
    torch.manual_seed(1)
    core = small(input_channels=4, pad_input=pad_input, batch_norm=training, bias=True).train(training)
    x, behaviour = torch.randn(3, 1, 12, 14), torch.randn(3, 3)
    stacked = torch.cat([x, behaviour[:, :, None, None].expand(-1, -1, 12, 14)], 1)
    torch.testing.assert_close(core(x, planes=behaviour), core(stacked), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="the core takes 4 channels, images and planes have 3"):
        core(x, planes=behaviour[:, :2])


def test_frames_of_a_window_are_images_of_their_own() -> None:
    core = small().eval()
    x = torch.randn(2, 2, 3, 12, 14)
    torch.testing.assert_close(core(x)[:, :, 1], core(x[:, :, 1]))


def test_linear_core_is_affine_and_an_elu_makes_it_not() -> None:
    x, y = torch.randn(2, 1, 2, 12, 14)
    for settings, is_affine in (
        ({"linear": True}, True),
        ({}, False),
        ({"layers": 1, "final_nonlinearity": False}, True),
    ):
        core = small(**settings).eval()
        middle = core(0.5 * (x + y))
        assert torch.allclose(middle, 0.5 * (core(x) + core(y)), atol=1e-5) == is_affine


def test_final_nonlinearity_is_of_the_last_layer_only() -> None:
    names = [list(dict(layer.named_children())) for layer in small(final_nonlinearity=False).features]
    assert names == [["conv", "norm", "nonlin"], ["conv", "norm", "nonlin"], ["conv", "norm"]]


@pytest.mark.parametrize(("stack", "n_maps"), [(None, 12), (-1, 4), (-2, 8), (1, 8), ([0, 2], 8), ([0], 4)])
def test_stack_chooses_layers(stack: Any, n_maps: int) -> None:
    core = small(stack=stack)
    assert core.out_channels == n_maps == core(torch.randn(2, 2, 12, 14)).shape[1]


def test_skipping_layers_see_the_last_outputs() -> None:
    core = small(layers=4, skip=2, stack=-1)
    assert [layer.conv.in_channels for layer in core.features] == [2, 4, 8, 8]
    assert core(torch.randn(1, 2, 12, 14)).shape == (1, 4, 8, 10)


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({}, (8, 10)),
        ({"pad_input": True}, (12, 14)),
        ({"hidden_padding": 0}, (4, 6)),
        ({"hidden_padding": [0, 1]}, (6, 8)),
        ({"hidden_dilation": 2}, (8, 10)),
        ({"hidden_kern": [5, 3]}, (8, 10)),
        ({"hidden_kern": 4}, (10, 12)),
    ],
)
def test_padding_and_dilation(settings: dict[str, Any], size: tuple[int, int]) -> None:
    assert small(**settings | {"stack": -1})(torch.randn(1, 2, 12, 14)).shape[2:] == size


@pytest.mark.parametrize(
    "settings",
    [{}, {"pad_input": True}, {"hidden_kern": 4}, {"hidden_padding": 0, "hidden_dilation": 2}, {"input_kern": 4}],
)
def test_spatial_offset_is_the_middle_of_what_a_pixel_sees(settings: dict[str, Any]) -> None:
    core = small(linear=True, batch_norm=False, stack=-1, **settings)
    for parameter in core.parameters():
        torch.nn.init.ones_(parameter)
    image = torch.zeros(1, 2, 24, 26, requires_grad=True)
    core(image)[0, 0, 6, 7].backward()
    seen = image.grad[0, 0]
    rows, columns = torch.arange(24.0), torch.arange(26.0)
    middle = (float((seen.sum(1) * rows).sum() / seen.sum()), float((seen.sum(0) * columns).sum() / seen.sum()))
    assert middle == pytest.approx((core.spatial_offset[0] + 6, core.spatial_offset[1] + 7), abs=1e-4)


def test_offsets_stand_where_they_are_asked_for() -> None:
    def offsets(**settings: Any) -> list[str]:
        return [name for name, _ in small(layers=2, **settings).named_parameters() if name.endswith("conv.bias")]

    assert offsets() == []
    assert offsets(bias=True) == ["features.layer1.conv.bias"]
    assert offsets(bias=True, batch_norm=False) == ["features.layer0.conv.bias", "features.layer1.conv.bias"]


def test_momentum_is_that_of_the_running_statistics() -> None:
    x = torch.randn(4, 2, 12, 14)
    for momentum in (0.1, 0.9):
        core = small(momentum=momentum, layers=1).train()
        core(x)
        mean = nn.functional.conv2d(x, core.features[0].conv.weight).mean((0, 2, 3))
        torch.testing.assert_close(core.features[0].norm.running_mean, momentum * mean)


def test_filters_start_xavier_normal_and_offsets_at_zero() -> None:
    core = Stacked2dCore(input_channels=4, **BASELINE | {"bias": True})
    conv = core.features[0].conv.weight
    assert float(conv.detach().std()) == pytest.approx((2 / ((4 + 64) * 81)) ** 0.5, rel=0.05)
    assert not any(value.any() for name, value in core.named_parameters() if name.endswith("conv.bias"))


def test_roughness_is_relative_and_a_ratio_of_means_where_asked() -> None:
    weight = small().features[0].conv.weight
    laplacian = torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]])
    images = weight.reshape(-1, 1, 5, 5)
    for padding, in_mean in ((None, 1.0), (0, 25 / 9)):
        filtered = nn.functional.conv2d(images, laplacian[None, None], padding=1 if padding is None else 0)
        ratio = filtered.square().sum() / images.square().sum()
        for use_avg_reg, factor in ((False, 1.0), (True, in_mean)):
            core = small(gamma_input=2.0, laplace_padding=padding, use_avg_reg=use_avg_reg)
            core.features[0].conv.weight.data.copy_(weight)
            torch.testing.assert_close(core.penalties(), {"input": 2 * factor * ratio})
    assert float(small(input_regularizer="GaussianLaplaceL2", gamma_input=1.0).regularizer().detach()) > 0


def test_group_sparsity_is_the_mean_norm_of_hidden_filters() -> None:
    core = small(gamma_hidden=3.0)
    norms = [layer.conv.weight.square().sum((2, 3)).sqrt().mean() for layer in list(core.features)[1:]]
    torch.testing.assert_close(core.penalties(), {"hidden": 3 * (norms[0] + norms[1]) / 2})
    with pytest.raises(ValueError, match="gamma_hidden is the group sparsity of full hidden filters"):
        small(gamma_hidden=1.0, depth_separable=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_channels": [4, 4]}, r"hidden_channels must be one number or 3, got \[4, 4\]"),
        ({"hidden_kern": [3]}, r"hidden_kern must be one number or 2, got \[3\]"),
        ({"skip": 2, "hidden_channels": [4, 8, 4]}, "skip 2 needs the same hidden_channels"),
        ({"input_regularizer": "Lasso"}, "input_regularizer 'Lasso' is unknown"),
        ({"stack": [5]}, r"stack \[5\] chooses none"),
        ({"stack": 3}, "stack 3 chooses none"),
        ({"gamma_input": 1.0, "laplace_padding": 0, "input_kern": 2}, "input_kern of at least 3"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**settings)


DEEP = {"depth_separable": True, "layers": 4, "stack": -1}


@pytest.mark.parametrize(
    "settings",
    [{}, {"stack": [0, 3]}, {"skip": 2}, {"bias": True, "batch_norm": False}, {"linear": True}, {"pad_input": True}],
    ids=["last", "stacked", "skip", "bias", "linear", "padded"],
)
def test_recomputing_changes_neither_values_nor_gradients_nor_statistics(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coread.modules.core.stacked_core.FILTERED_AT_ONCE", 2 * 4 * 12 * 14)  # two images
    x, planes = torch.randn(5, 1, 12, 14).double(), torch.randn(5, 1).double()  # what differs is not rounding
    results = []
    for recompute in (False, True):
        torch.manual_seed(1)
        core = small(**DEEP | {"recompute": recompute} | settings).double().train()
        y = core(x, planes)
        y.square().sum().backward()
        gradients = {name: parameter.grad for name, parameter in core.named_parameters()}
        results.append((y.detach(), gradients, dict(core.named_buffers())))
    torch.testing.assert_close(results[0], results[1])
