"""Readouts of images at one point per neuron: sampling, shift, predicted positions."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from coread.modules.readout import point_sampling
from coread.modules.readout.gaussian import MultiSampledGaussianReadout, PointGaussianReadout
from coread.modules.readout.point_sampling import look_at_points, read_points


def test_values_between_pixels_and_outside() -> None:
    maps = torch.tensor([[[[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]]]])
    points = torch.tensor([[[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0], [0.5, -1.0], [2.0, -1.0], [4.0, 0.0]]])
    seen = look_at_points(maps, points)[0, 0]
    # half a pixel beyond the edge half of the last one is seen, further outside nothing
    torch.testing.assert_close(seen, torch.tensor([0.0, 12.0, 6.0, 1.5, 0.0, 0.0]))
    torch.testing.assert_close(look_at_points(maps, torch.tensor([[[1.5, 1.0]]])), torch.full((1, 1, 1), 6.0))


@pytest.mark.parametrize("at_once", [1, 3 * 4 * 6, 10**6])
def test_values_and_gradients_do_not_depend_on_how_many_are_read_at_once(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(point_sampling.SEEN_AT_ONCE, "cpu", at_once)
    inputs = [torch.randn(7, 4, 5, 6), 2 * torch.rand(7, 6, 2) - 1, torch.randn(4, 6)]
    results = []
    for function in (
        read_points,
        lambda m, p, w: torch.einsum("scn,cn->sn", F.grid_sample(m, p[:, :, None], align_corners=True)[..., 0], w),
    ):
        leaves = [value.clone().requires_grad_() for value in inputs]
        y = function(*leaves)
        results.append([y.detach(), *torch.autograd.grad(y.square().sum(), leaves)])
    for ours, direct in zip(*results, strict=True):
        torch.testing.assert_close(ours, direct, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(read_points(*inputs), results[1][0])


def make(**settings: Any) -> PointGaussianReadout:
    torch.manual_seed(1)
    return PointGaussianReadout((3, 1, 8, 9), 5, **settings)


def test_points_are_drawn_for_every_image_and_neuron_and_kept_inside() -> None:
    readout = make(init_mu_range=0.9, init_sigma=2.0, gauss_type="isotropic")
    points = readout.sample_grid(40)[:, :, 0]
    assert float(points.detach().abs().max()) == 1.0  # clamped at the edge
    assert len(points.detach().reshape(-1, 2).unique(dim=0)) > 100
    readout.eval()
    assert torch.equal(readout.sample_grid(40)[:, :, 0], readout.mu[:, :, 0].expand(40, -1, -1))


def test_shift_comes_after_the_clamp_and_may_leave_the_map() -> None:
    readout = make(init_mu_range=1.0).eval()
    readout._mu.data.fill_(1.0)
    maps = torch.rand(2, 3, 8, 9) + 1
    inside = readout(maps)
    assert float((inside - readout.bias).detach().min()) > 0
    outside = readout(maps, shift=torch.tensor([[0.0, 0.0], [0.5, 0.0]]))
    torch.testing.assert_close(outside[0], inside[0])
    torch.testing.assert_close(outside[1], readout.bias)


@pytest.mark.parametrize(("nonlinearity", "act"), [("ELU", F.elu), ("ReLU", F.relu)])
def test_positions_are_predicted_from_the_tissue(nonlinearity: str, act: Any) -> None:
    tissue = torch.randn(5, 3) * torch.tensor([300.0, 100.0, 1000.0]) + 50
    predictor = {
        "type": "cortex",
        "input_dimensions": 2,
        "hidden_layers": 4,
        "hidden_features": 20,
        "nonlinearity": nonlinearity,
        "final_tanh": True,
    }
    readout = make(grid_mean_predictor=predictor, source_grid=tissue)
    plane = tissue[:, :2] - tissue[:, :2].mean(0)
    plane = plane / plane.abs().max()
    torch.testing.assert_close(readout.source_grid, plane)
    shapes = [tuple(readout.mu_transform[i].weight.shape) for i in (0, 2, 4, 6, 8)]
    assert shapes == [(20, 2), (20, 20), (20, 20), (20, 20), (2, 20)]
    for i in (0, 2, 4, 6):
        plane = act(readout.mu_transform[i](plane))
    torch.testing.assert_close(readout.mu[0, :, 0], readout.mu_transform[8](plane).tanh())


def test_points_keep_their_digits_in_mixed_precision() -> None:
    readout = make(grid_mean_predictor={"hidden_layers": 1, "final_tanh": True}, source_grid=torch.randn(5, 2)).eval()
    ramp = torch.arange(9.0).expand(1, 3, 8, 9)  # exact in half precision: what is read tells the point
    expected = readout(ramp)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(readout(ramp.bfloat16()), expected)


def test_unknown_predictors_are_refused() -> None:
    for wrong in ({"nonlinearity": "GELU"}, {"type": "shared"}):
        with pytest.raises(ValueError, match="of type cortex with a nonlinearity of"):
            make(grid_mean_predictor=wrong, source_grid=torch.randn(5, 2))


def test_start_width_has_two_names() -> None:
    for gauss_type in ("uncorrelated", "isotropic"):
        sigma = make(gauss_type=gauss_type, init_sigma=0.14).sigma
        assert torch.equal(sigma, torch.full_like(sigma, 0.14))
    full = MultiSampledGaussianReadout((3, 1, 8, 9), {"a": 400}, init_sigma=0.14)["a"].sigma
    assert 0.13 < float(full.detach().max()) <= 0.14
    assert -0.14 <= float(full.detach().min()) < -0.13
