"""The spatial-contrast readout against its formula, and filters of averages against planted ones."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from coread.data_io.sta_filters import extract_filters
from coread.modules.readout import MultiSpatialContrastReadout, SpatialContrastReadout

SIZE = (18, 22)


def planted(n: int = 6, frames: int = 9, noise: float = 0.0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return averages (neuron, frame, height, width) of elliptical Gaussians of both signs with a time course."""
    rng = np.random.default_rng(4)
    center = rng.uniform([4, 4], [13, 17], (n, 2))
    sigma, angle = rng.uniform(1.0, 2.5, (n, 2)), rng.uniform(0, np.pi, n)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    dy, dx = y - center[:, 0, None, None], x - center[:, 1, None, None]
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    squared = ((cos * dx + sin * dy) / sigma[:, 0, None, None]) ** 2
    squared += ((cos * dy - sin * dx) / sigma[:, 1, None, None]) ** 2
    time = rng.standard_normal((n, frames)) * np.where(np.arange(n) % 2, -1, 1)[:, None]
    sta = time[:, :, None, None] * np.exp(-squared / 2)[:, None]
    sta = sta + noise * rng.standard_normal(sta.shape)
    return sta, {"center": center, "squared": squared, "time": time}


def test_filters_are_the_planted_gaussians_and_time_courses() -> None:
    sta, truth = planted()
    filters = extract_filters(sta, temporal_crop_frames=5)
    expected = np.where(truth["squared"] <= 9, np.exp(-truth["squared"] / 2), 0)
    expected /= np.linalg.norm(expected.reshape(6, -1), axis=1)[:, None, None]
    # pixels on the very contour may fall to either side
    clear = np.abs(truth["squared"] - 9) > 1e-3
    np.testing.assert_allclose(np.where(clear, filters.spatial, 0), np.where(clear, expected, 0), atol=1e-4)
    time = truth["time"][:, -5:] / np.linalg.norm(truth["time"][:, -5:], axis=1)[:, None]
    np.testing.assert_allclose(filters.temporal, time, atol=1e-4)
    np.testing.assert_allclose(filters.center_px, truth["center"], atol=1e-3)
    assert filters.usable.all()


def test_noise_moves_the_filters_little() -> None:
    (noisy, truth), (clean, _) = planted(noise=0.05), planted()
    found, expected = extract_filters(noisy), extract_filters(clean)
    assert np.abs(found.center_px - truth["center"]).max() < 0.5
    assert (found.spatial * expected.spatial).sum((1, 2)).min() > 0.97


def test_neurons_without_average_have_no_filter_and_are_told() -> None:
    sta, _ = planted()
    sta[1, 2, 3, 4], sta[2] = np.nan, 0
    filters = extract_filters(sta)
    np.testing.assert_array_equal(filters.usable, [True, False, False, True, True, True])
    assert (filters.spatial[1:3] == 0).all()
    assert (filters.temporal[1:3] == 0).all()
    np.testing.assert_array_equal(filters.spatial[3:], extract_filters(planted()[0]).spatial[3:])


def test_a_receptive_field_beyond_the_border_is_fitted_within_the_frame() -> None:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    beyond = np.exp(-((y + 2.0) ** 2 + (x - 9.0) ** 2) / 8)
    point = np.zeros(SIZE)
    point[7, 8] = -1.0
    filters = extract_filters(np.stack([beyond, point])[:, None])
    assert filters.center_px[0, 0] == pytest.approx(0, abs=1e-6)
    assert filters.center_px[0, 1] == pytest.approx(9, abs=0.01)
    assert np.unravel_index(filters.spatial[1].argmax(), SIZE) == (7, 8)
    assert filters.temporal[1, 0] == -1.0


def direct(readout: SpatialContrastReadout, x: torch.Tensor, floor: float) -> torch.Tensor:
    """Return the published formula, neuron by neuron over all pixels."""
    outputs = []
    for n in range(readout.outdims):
        s, t = readout.spatial_filters[n].double(), readout.temporal_filters[n].double()
        f = F.conv3d(x.double(), t[None, None, :, None, None])[:, 0]
        mean = (s * f).sum((2, 3)) / (s.sum() + 1e-8)
        variance = (s * f.square()).sum((2, 3)) / (s.sum() + 1e-8) - mean.square()
        drive = readout.nl_b[n] * (mean + readout.w[n] * variance.clamp(min=floor).sqrt()) + readout.nl_c[n]
        outputs.append(readout.nl_a[n] * F.softplus(drive))
    return torch.stack(outputs, 2)


def make(**kwargs: object) -> SpatialContrastReadout:
    filters = extract_filters(planted()[0])
    readout = SpatialContrastReadout(
        (1, 40, *SIZE), 6, torch.as_tensor(filters.spatial), torch.as_tensor(filters.temporal), **kwargs
    )
    with torch.no_grad():
        readout.w.copy_(torch.randn(6))
        readout.nl_c.copy_(torch.randn(6))
    return readout


def test_the_readout_is_the_formula_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    readout = make()
    x = torch.randn(3, 1, 40, *SIZE) + 0.5
    y = readout(x)
    assert y.shape == (3, 40 - readout.lag, 6)
    torch.testing.assert_close(y, direct(readout, x, 1e-6).float(), rtol=1e-4, atol=1e-5)
    monkeypatch.setattr("coread.modules.readout.spatial_contrast_model_readout.BLOCK_VALUES", 1)
    torch.testing.assert_close(readout(x), y)
    assert readout.support.shape[1] < SIZE[0] * SIZE[1] / 2, "only pixels inside the filters are computed"


def test_only_four_numbers_are_learned_and_all_of_them() -> None:
    readout = make()
    readout(torch.randn(2, 1, 40, *SIZE)).sum().backward()
    assert {name for name, _ in readout.named_parameters()} == {"w", "nl_a", "nl_b", "nl_c"}
    for name, parameter in readout.named_parameters():
        assert (parameter.grad != 0).all(), name
    state = {"spatial_filters", "temporal_filters", "sf_sums", "w", "nl_a", "nl_b", "nl_c", "bias"}
    assert set(readout.state_dict()) == state
    fresh = SpatialContrastReadout((1, 40, *SIZE), 6, temporal_crop_frames=9)
    fresh.load_state_dict(readout.state_dict())
    x = torch.randn(2, 1, 40, *SIZE)
    torch.testing.assert_close(fresh(x), readout(x))


def test_a_gain_below_zero_is_zero_and_can_return() -> None:
    readout = make()
    with torch.no_grad():
        readout.nl_a.fill_(-1)
    y = readout(torch.randn(1, 1, 40, *SIZE))
    assert (y == 0).all()
    (-y.sum()).backward()
    assert (readout.nl_a.grad < 0).all()


def test_filters_come_from_averages_in_lag_order() -> None:
    sta, _ = planted()
    readout = SpatialContrastReadout((1, 40, *SIZE), 6, temporal_crop_frames=9, spat_crop_size=(5, 5))
    assert readout.needs_sta
    assert readout.without_sta.all()
    sta[4] = np.nan
    readout.initialize_filters(torch.as_tensor(sta[:, ::-1, None].copy()))
    expected = extract_filters(sta)
    torch.testing.assert_close(readout.temporal_filters, torch.as_tensor(expected.temporal))
    assert readout.without_sta.tolist() == [False] * 4 + [True, False]
    inside = readout.spatial_filters[0] != 0
    assert inside.any(1).sum() <= 5 >= inside.any(0).sum()
    torch.testing.assert_close(readout.spatial_filters[0][inside], torch.as_tensor(expected.spatial[0])[inside])
    assert torch.isfinite(readout(torch.randn(1, 1, 40, *SIZE))).all()
    with pytest.raises(ValueError, match=r"averages \(6, 9, 1, 18, 22\)"):
        readout.initialize_filters(torch.zeros(6, 8, 1, *SIZE))


def test_gradients_reach_the_stimulus() -> None:
    readout, x = make(), torch.randn(1, 1, 12, *SIZE, requires_grad=True)
    readout(x).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert (x.grad != 0).any()


def test_sessions_have_filters_of_their_own() -> None:
    filters = extract_filters(planted()[0])
    spatial, temporal = torch.as_tensor(filters.spatial), torch.as_tensor(filters.temporal)
    readout = MultiSpatialContrastReadout(
        (1, 40, *SIZE), {"a": 2, "b": 4}, {"a": spatial[:2], "b": spatial[2:]}, {"a": temporal[:2], "b": temporal[2:]}
    )
    x = torch.randn(1, 1, 40, *SIZE)
    whole = SpatialContrastReadout((1, 40, *SIZE), 6, spatial, temporal)
    torch.testing.assert_close(readout(x), whole(x))
    assert readout.regularizer("a") == 0
