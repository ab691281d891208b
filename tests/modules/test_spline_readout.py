"""Spline masks: what they can be, how rough they are, and that they learn."""

import pytest
import torch
import torch.nn.functional as F

from coread.modules.readout import MultiSplineMaskReadout, SplineMaskReadout
from coread.modules.readout.spline import spline_basis

SHAPE = (3, 12, 17, 23)


@pytest.mark.parametrize(("size", "n_splines", "degree"), [(23, 8, 3), (5, 8, 3), (3, 10, 3), (1, 10, 3), (40, 6, 1)])
def test_the_basis_is_a_partition_of_unity(size: int, n_splines: int, degree: int) -> None:
    basis = spline_basis(size, n_splines, degree)
    assert basis.shape == (size, min(n_splines, size))
    assert (basis >= 0).all()
    torch.testing.assert_close(basis.sum(1), torch.ones(size))
    assert torch.linalg.matrix_rank(basis) == basis.shape[1]


@pytest.mark.parametrize("surface", ["tensor", "separable"])
@pytest.mark.parametrize("shape", [SHAPE, (2, 5, 1, 9), (1, 5, 4, 3), (1, 5, 1, 1)])
def test_any_size_of_feature_maps(surface: str, shape: tuple[int, ...]) -> None:
    readout = SplineMaskReadout(shape, 4, surface=surface, rank=2, smooth_weight=1.0, mask_l1_reg=1.0)
    assert readout(torch.randn(2, *shape)).shape == (2, 5 if shape != SHAPE else 12, 4)
    assert torch.isfinite(readout.regularizer())
    # splines sum to 1 everywhere, so that the nearest ones to a Gaussian of sum 1 have its sum
    torch.testing.assert_close(readout.get_mask().sum((1, 2)), torch.ones(4))


@pytest.mark.parametrize("surface", ["tensor", "separable"])
def test_masks_start_where_they_are_asked_to(surface: str) -> None:
    readout = SplineMaskReadout(SHAPE, 3, n_splines=(9, 12), surface=surface)
    pixels = torch.tensor([[3, 4], [8, 18], [14, 11]])
    positions = torch.stack([2 * pixels[:, 1] / 22 - 1, 2 * pixels[:, 0] / 16 - 1], 1)
    readout.initialize_positions(positions, sigma=0.25)
    peak = readout.get_mask().flatten(1).argmax(1)
    assert ((torch.stack([peak // 23, peak % 23], 1) - pixels).abs() <= 1).all()


def test_the_surface_is_the_sum_of_products_of_splines() -> None:
    readout = SplineMaskReadout(SHAPE, 2, n_splines=(5, 6))
    with torch.no_grad():
        readout.coefficients.normal_()
    mask = torch.einsum("hy,nyx,wx->nhw", spline_basis(17, 5, 3), readout.coefficients, spline_basis(23, 6, 3))
    x = torch.randn(2, *SHAPE)
    seen = torch.einsum("bcthw,nhw->bctn", x, mask)
    expected = F.softplus(torch.einsum("bctn,cn->btn", seen, readout.features[0, :, 0]) + readout.bias)
    torch.testing.assert_close(readout(x), expected, rtol=1e-4, atol=1e-5)


def test_planes_are_smooth_and_noise_is_not() -> None:
    readout = SplineMaskReadout(SHAPE, 2, n_splines=8, smooth_weight=1.0)
    with torch.no_grad():
        readout.coefficients.copy_(torch.arange(8.0)[:, None] + 2 * torch.arange(8.0))
    assert readout.roughness() < 1e-6  # second differences of a plane are zero
    with torch.no_grad():
        readout.coefficients.normal_()
    rough = readout.roughness()
    assert rough > 5
    with torch.no_grad():
        readout.coefficients.mul_(10)
    torch.testing.assert_close(readout.roughness(), rough)  # relative to the mask's own power


@pytest.mark.parametrize("surface", ["tensor", "separable"])
@pytest.mark.parametrize("name", ["smooth_weight", "mask_l1_reg", "feature_weights_l1_reg"])
def test_every_penalty_has_a_gradient(surface: str, name: str) -> None:
    readout = SplineMaskReadout(SHAPE, 3, surface=surface, **{name: 2.0})
    [(term, value)] = readout.penalties().items()
    assert term == name.replace("_weight", "").replace("_reg", "") or term == name.removesuffix("_reg")
    value.backward()
    assert sum(p.grad.abs().sum() for p in readout.parameters() if p.grad is not None) > 0
    torch.testing.assert_close(readout.regularizer(), value)


@pytest.mark.parametrize(("surface", "rank"), [("tensor", 1), ("separable", 1), ("separable", 3)])
def test_learns_a_smooth_mask_off_the_centre(surface: str, rank: int) -> None:
    shape = (1, 400, 15, 19)
    y, x = torch.meshgrid(torch.arange(15.0), torch.arange(19.0), indexing="ij")
    truth = torch.exp(-((y - 4) ** 2 / 8 + (x - 12) ** 2 / 5)) - 0.4 * torch.exp(-((y - 9) ** 2 + (x - 6) ** 2) / 8)
    frames = torch.randn(1, *shape)
    target = (frames[0, 0] * truth).sum((1, 2))[None, :, None] + torch.randn(1, 400, 1)
    readout = SplineMaskReadout(
        shape, 1, surface=surface, rank=rank, smooth_weight=0.01, nonlinearity_function="identity"
    )
    optimizer = torch.optim.Adam(readout.parameters(), lr=0.03)
    for _ in range(150):
        optimizer.zero_grad()
        (F.mse_loss(readout(frames), target) + readout.regularizer()).backward()
        optimizer.step()
    mask = readout.features[0, 0, 0, 0] * readout.get_mask()[0]
    similarity = F.cosine_similarity(mask.flatten(), truth.flatten(), dim=0)
    assert similarity > (0.85 if (surface, rank) == ("separable", 1) else 0.95), float(similarity)


def test_sessions_rates_and_errors() -> None:
    rates = {"a": torch.tensor([0.2, 3.0]), "b": torch.tensor([1.0])}
    readout = MultiSplineMaskReadout(SHAPE, {"a": 2, "b": 1}, mean_activity_dict=rates, n_splines=6)
    silence = readout(torch.zeros(1, *SHAPE), data_key="a")
    torch.testing.assert_close(silence, rates["a"].expand_as(silence), rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="surface must be"):
        SplineMaskReadout(SHAPE, 2, surface="bicubic")
    with pytest.raises(ValueError, match="made for"):
        readout["a"](torch.randn(1, 3, 12, 8, 11))
