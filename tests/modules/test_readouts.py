import copy
from multiprocessing import Pipe
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from coread.modules.nonlinearities import NONLINEARITIES, get_nonlinearity
from coread.modules.readout import (
    FactorizedReadout,
    GaussianMaskReadout,
    LNPReadout,
    MultiFactorizedReadout,
    MultiGaussianMaskReadout,
    MultiGaussianReadoutWrapper,
    MultiLNPReadout,
    MultiReadoutBase,
    MultiSampledGaussianReadout,
    MultiSeparableLNPReadout,
    MultiSplineMaskReadout,
    PointGaussianReadout,
    SeparableLNPReadout,
    SplineMaskReadout,
)
from coread.modules.readout.base import Readout, projected_clamp

SHAPE = (3, 12, 7, 11)  # channel, time, height, width
PENALTIES = {"mask_l1_reg": 0.1, "weights_l1_reg": 0.1, "laplace_mask_reg": 0.1}
# y, x of pixels: off centre, on edges and corners
PIXELS = torch.tensor([[0, 0], [6, 10], [2, 8], [5, 1], [3, 5], [0, 7]])


def positions_of(pixels: Tensor, height: int, width: int) -> Tensor:
    """Return (x, y) in [-1, 1] of pixels (y, x)."""
    return torch.stack([2 * pixels[:, 1] / (width - 1) - 1, 2 * pixels[:, 0] / (height - 1) - 1], dim=1)


def make(cls: type[Readout], outdims: int = 6, in_shape: tuple[int, ...] = SHAPE, **kwargs: Any) -> Any:
    defaults: dict[type[Readout], dict[str, Any]] = {
        GaussianMaskReadout: {"gaussian_mean_scale": 6.0, "gaussian_var_scale": 4.0},
        FactorizedReadout: {**PENALTIES, "readout_bias": True},
        PointGaussianReadout: {"nonlinearity_function": "softplus"},
        LNPReadout: {"temporal_kernel_size": 5, "rank": 2},
        SeparableLNPReadout: {"temporal_kernel_size": 5, "rank": 2, "spat_kernel_size": (5, 5)},
        SplineMaskReadout: {},
    }
    return cls(in_shape=in_shape, outdims=outdims, **{**defaults[cls], **kwargs})


CLASSES = [
    GaussianMaskReadout,
    FactorizedReadout,
    PointGaussianReadout,
    LNPReadout,
    SeparableLNPReadout,
    SplineMaskReadout,
]
MULTI = {
    MultiGaussianMaskReadout: {},
    MultiFactorizedReadout: {**PENALTIES, "readout_bias": True},
    MultiSampledGaussianReadout: {},
    MultiLNPReadout: {"temporal_kernel_size": 5},
    MultiSeparableLNPReadout: {"temporal_kernel_size": 5, "spat_kernel_size": (5, 5)},
    MultiSplineMaskReadout: {},
}


def test_gaussian_mask_golden_numbers():
    readout = GaussianMaskReadout((1, 10, 8, 6), 1, gaussian_mean_scale=6.0, gaussian_var_scale=4.0)
    mask = readout.get_mask()[0].detach()
    assert float(mask[0, 0]) == pytest.approx(0.01316744, abs=1e-7)
    assert float(mask[3, 2]) == pytest.approx(0.02814988, abs=1e-7)
    assert float(readout.grid_x[-1]) == pytest.approx(0.75)
    with torch.no_grad():
        readout.mask_mean.copy_(torch.tensor([[0.1, -0.05]]))
        readout.mask_log_var.fill_(-0.5)
    mask = readout.get_mask()[0].detach()
    assert float(mask.max()) == pytest.approx(0.0991991, abs=1e-6)
    assert divmod(int(mask.argmax()), 6) == (6, 1)
    assert float(mask[0, 0]) == pytest.approx(5.135956e-6, rel=1e-4)


@pytest.mark.parametrize(("height", "width"), [(7, 11), (11, 7), (9, 9)])
@pytest.mark.parametrize("sigma", [None, 0.1])
@pytest.mark.parametrize("cls", [GaussianMaskReadout, FactorizedReadout])
def test_masks_peak_on_the_pixel_asked_for(cls: type[Readout], sigma: float | None, height: int, width: int):
    pixels = torch.minimum(PIXELS, torch.tensor([height - 1, width - 1]))
    readout = make(cls, in_shape=(3, 12, height, width))
    readout.initialize_positions(positions_of(pixels, height, width), sigma)
    masks = readout.get_mask().flatten(1) if cls is GaussianMaskReadout else readout.mask_weights.T
    assert torch.equal(masks.argmax(1), pixels[:, 0] * width + pixels[:, 1])
    torch.testing.assert_close(masks.sum(1), torch.ones(6))


@pytest.mark.parametrize(("height", "width"), [(41, 61), (61, 41)])
@pytest.mark.parametrize("cls", [GaussianMaskReadout, FactorizedReadout])
def test_masks_have_the_spread_asked_for(cls: type[Readout], height: int, width: int):
    readout = make(cls, outdims=1, in_shape=(3, 12, height, width))
    readout.initialize_positions(torch.zeros(1, 2), sigma=0.1)
    mask = readout.get_mask()[0] if cls is GaussianMaskReadout else readout.mask_weights.T.reshape(height, width)
    # along the middle row, where the floor of the published mask is negligible within three standard deviations
    row = mask[height // 2].detach()
    x = torch.arange(width) - width // 2
    near = x.abs() <= 9
    measured = (row[near] * x[near].square()).sum() / row[near].sum()
    assert float(measured.sqrt()) == pytest.approx(0.1 * (61 - 1) / 2, rel=0.06)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("height", "width"), [(7, 11), (11, 7)])
def test_point_readout_reads_the_pixel_asked_for(height: int, width: int, align_corners: bool):
    pixels = torch.minimum(PIXELS, torch.tensor([height - 1, width - 1]))
    readout = make(
        PointGaussianReadout,
        in_shape=(3, 12, height, width),
        nonlinearity_function="identity",
        align_corners=align_corners,
        bias=False,
    ).eval()
    readout.initialize_positions(positions_of(pixels, height, width), sigma=0.1)
    x = torch.randn(2, 3, 4, height, width)
    expected = x[:, :, :, pixels[:, 0], pixels[:, 1]].mean(1)
    torch.testing.assert_close(readout(x), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(readout.sigma[0], (0.1 * torch.eye(2)).expand(6, 2, 2))


@pytest.mark.parametrize("cls", [GaussianMaskReadout, FactorizedReadout, PointGaussianReadout])
def test_positions_outside_are_an_error(cls: type[Readout]):
    for wrong in (torch.full((6, 2), 1.5), torch.zeros(5, 2)):
        with pytest.raises(ValueError, match=r"\(6, 2\) positions in \[-1, 1\]"):
            make(cls).initialize_positions(wrong)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("nonlinearity", ["softplus", "elu1", "exp"])
def test_without_input_the_output_is_the_mean_rate(cls: type[Readout], nonlinearity: str):
    rates = torch.tensor([1e-4, 0.01, 0.3, 1.0, 5.0, 60.0])
    key = "nonlinearity" if cls in (LNPReadout, SeparableLNPReadout) else "nonlinearity_function"
    readout = make(cls, mean_activity=rates, **{key: nonlinearity})
    y = readout(torch.zeros(1, *SHAPE))
    torch.testing.assert_close(y, rates.expand_as(y), rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("cls", CLASSES)
def test_mean_rates_and_their_defects(cls: type[Readout]):
    rates = torch.tensor([0.0, 0.01, 0.3, 1.0, 5.0, 60.0])
    assert torch.isfinite(make(cls, mean_activity=rates).bias).all()
    if cls not in (SeparableLNPReadout, SplineMaskReadout):  # never published, or published without a bias
        torch.testing.assert_close(make(cls, mean_activity=rates, published_behaviour=True).bias.detach(), rates)
    bias = "readout_bias" if cls is FactorizedReadout else "bias"
    without = make(cls, mean_activity=rates, **{bias: False})
    assert without.bias is None or (without.bias == 0).all()
    assert not any("bias" in name for name, _ in without.named_parameters())
    with pytest.raises(ValueError, match="5 neurons for a readout of 6"):
        make(cls, mean_activity=rates[:5])


@pytest.mark.parametrize("cls", CLASSES)
def test_evaluation_is_deterministic_and_leaves_parameters_alone(cls: type[Readout]):
    readout = make(cls)
    with torch.no_grad():
        for parameter in readout.parameters():
            parameter.sub_(0.3)
    before = copy.deepcopy(readout.state_dict())
    x = torch.randn(2, *SHAPE)
    readout(x)
    readout.eval()
    assert torch.equal(readout(x), readout(x))
    assert readout(x).shape == (2, 12 - readout.lag, 6)
    for name, value in readout.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ("cls", "kwargs"),
    [
        (GaussianMaskReadout, {"mask_l1_reg": 1.0, "feature_weights_l1_reg": 0.0}),
        (GaussianMaskReadout, {"mask_l1_reg": 0.0, "feature_weights_l1_reg": 1.0}),
        (GaussianMaskReadout, {"mask_l1_reg": 0.0, "feature_weights_l1_reg": 1.0, "positive": True}),
        *[(FactorizedReadout, {**dict.fromkeys(PENALTIES, 0.0), name: 1.0}) for name in PENALTIES],
        (FactorizedReadout, {"mask_constraint": "abs", "weights_constraint": "absnorm"}),
        (PointGaussianReadout, {"gamma_readout": 1.0}),
        (LNPReadout, {"smooth_weight": 1.0}),
        (LNPReadout, {"temporal_smooth_weight": 1.0}),
        (LNPReadout, {"sparse_weight": 1.0}),
        (SeparableLNPReadout, {"smooth_weight_spat": 1.0}),
        (SeparableLNPReadout, {"smooth_weight_temp": 1.0}),
        (SeparableLNPReadout, {"sparse_weight": 1.0}),
        # filters of length 1 cannot become shorter, but sparser
        (SeparableLNPReadout, {"sparse_weight": 1.0, "normalize_weights": True}),
    ],
)
def test_every_penalty_has_a_gradient(cls: type[Readout], kwargs: dict[str, Any]):
    readout = make(cls, **kwargs)
    penalty = readout.regularizer()
    torch.testing.assert_close(penalty, torch.stack(list(readout.penalties().values())).sum())
    penalty.backward()
    assert penalty > 0
    assert sum(p.grad.abs().sum() for p in readout.parameters() if p.grad is not None) > 0


def test_projected_clamp_lets_values_return():
    x = torch.tensor([-2.0, -2.0, 0.5, 2.0, 2.0], requires_grad=True)
    y = projected_clamp(x, -1, 1)
    assert y.tolist() == [-1, -1, 0.5, 1, 1]
    y.backward(torch.tensor([1.0, -1.0, 3.0, 1.0, -1.0]))
    # descent moves against the gradient: outward moves are dropped
    assert x.grad is not None
    assert x.grad.tolist() == [0, -1, 3, 1, 0]


def test_gaussian_mask_is_a_weighted_average_over_space():
    readout = make(GaussianMaskReadout, scale=True)
    with torch.no_grad():
        readout.mask_mean.uniform_(-0.1, 0.1)
    x = torch.randn(2, *SHAPE)
    mean = torch.einsum("bcthw,nhw->bctn", x, readout.get_mask())
    expected = F.softplus(torch.einsum("bctn,cn->btn", mean, readout.features[0, :, 0]) * readout.scale_param)
    torch.testing.assert_close(readout(x), expected)


def test_masks_of_patches_and_free_masks_lie_where_they_are_used():
    free = make(FactorizedReadout, mask_constraint="abs")
    torch.testing.assert_close(free.masks[2, 3], free.mask_weights[2 * 11 + 3].abs())
    readout = SeparableLNPReadout(SHAPE, 2, spat_kernel_size=(3, 5), temporal_kernel_size=1, nonlinearity="identity")
    readout.initialize_positions(positions_of(torch.tensor([[0, 10], [3, 4]]), 7, 11))
    with torch.no_grad():
        readout.time_weights.fill_(1.0)
    x = torch.randn(1, 1, 1, 7, 11).expand(-1, 3, -1, -1, -1)
    expected = torch.einsum("hw,hwn->n", x[0, 0, 0], readout.masks)
    torch.testing.assert_close(readout(x)[0, 0], expected, rtol=1e-4, atol=1e-5)


def test_negative_features_are_clipped_when_positive():
    readout = make(GaussianMaskReadout, positive=True)
    with torch.no_grad():
        readout.features.fill_(-1)
    torch.testing.assert_close(readout(torch.randn(1, *SHAPE)), torch.full((1, 12, 6), 0.693147))


def test_published_grid_is_saved_and_checked():
    readout = make(GaussianMaskReadout)
    state = readout.state_dict()
    assert state["grid"].shape == (6, 7, 11, 2)
    assert state["grid"].untyped_storage().nbytes() == 7 * 11 * 2 * 4  # one copy for all neurons
    make(GaussianMaskReadout).load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"grid is \(6, 7, 11, 2\)"):
        make(GaussianMaskReadout, in_shape=(3, 12, 7, 9)).load_state_dict(state)


@pytest.mark.parametrize("constraint", ["abs", "norm", "absnorm"])
def test_factorised_constraints(constraint: str):
    weights = make(FactorizedReadout, weights_constraint=constraint).constrained_weights
    if "abs" in constraint:
        assert (weights >= 0).all()
    if "norm" in constraint:
        torch.testing.assert_close(weights.square().sum(0), torch.ones(6), rtol=1e-3, atol=1e-3)


def test_factorised_starts_from_given_masks():
    masks = torch.randn(6, 1, 9, 13)
    readout = make(FactorizedReadout, init_mask=masks)
    torch.testing.assert_close(readout.mask_weights.T.reshape(6, 7, 11), masks[:, 0, 1:8, 1:12])
    with pytest.raises(ValueError, match=r"\(6, 1, 5, 5\)"):
        make(FactorizedReadout, init_mask=torch.randn(6, 1, 5, 5))
    with pytest.raises(ValueError, match="mask_size"):
        make(FactorizedReadout, mask_size=5)


@pytest.mark.parametrize("gauss_type", ["full", "uncorrelated", "isotropic"])
def test_jitter_is_shared_over_time_unless_published(gauss_type: str):
    x = torch.randn(2, 3, 1, 7, 11).expand(-1, -1, 12, -1, -1)  # the same frame twelve times
    shared = make(PointGaussianReadout, gauss_type=gauss_type)
    y = shared(x)
    torch.testing.assert_close(y, y[:, :1].expand_as(y))
    assert not torch.allclose(shared(x), y)
    per_frame = make(PointGaussianReadout, gauss_type=gauss_type, published_behaviour=True)(x)
    assert not torch.allclose(per_frame, per_frame[:, :1].expand_as(per_frame))


def test_jitter_of_a_batch():
    x = torch.randn(1, *SHAPE).expand(4, -1, -1, -1, -1)
    together = make(PointGaussianReadout, batch_sample=False)(x)
    torch.testing.assert_close(together, together[:1].expand_as(together))
    apart = make(PointGaussianReadout)(x)
    assert not torch.allclose(apart, apart[:1].expand_as(apart))


def test_jitter_has_the_learned_covariance():
    readout = make(PointGaussianReadout, outdims=1)
    root = torch.tensor([[0.05, 0.02], [-0.03, 0.1]])
    with torch.no_grad():
        readout.sigma.copy_(root[None, None])
    points = readout.sample_grid(20000, sample=True)[:, 0, 0].detach()
    torch.testing.assert_close(torch.cov(points.T), root @ root.T, rtol=0.1, atol=3e-4)


def test_given_points_hold():
    grid = torch.rand(6, 2) - 0.5
    torch.testing.assert_close(make(PointGaussianReadout, init_grid=grid).mu[0, :, 0].detach(), grid)


def test_points_predicted_from_tissue_positions():
    source = torch.rand(6, 3)
    predictor = {"hidden_layers": 1, "hidden_features": 5, "final_tanh": True}
    readout = make(PointGaussianReadout, grid_mean_predictor=predictor, source_grid=source)
    readout(torch.randn(1, *SHAPE)).sum().backward()
    assert readout.mu_transform[0].weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="cannot be set"):
        readout.initialize_positions(torch.zeros(6, 2))
    with pytest.raises(ValueError, match="source_grid"):
        make(PointGaussianReadout, grid_mean_predictor=predictor)


@pytest.mark.parametrize("cls", CLASSES)
def test_other_shapes_are_errors(cls: type[Readout]):
    with pytest.raises(ValueError, match=r"made for|needs"):
        make(cls)(torch.randn(1, 3, 12, 8, 11))
    with pytest.raises(ValueError, match="in_shape"):
        make(cls, in_shape=(3, 7, 11))


def test_nonlinearities_invert():
    rates = torch.tensor([1e-5, 0.2, 1.0, 3.0, 200.0])
    for nonlinearity in NONLINEARITIES.values():
        torch.testing.assert_close(nonlinearity(nonlinearity.inverse(rates)), rates, rtol=1e-3, atol=1e-6)
    assert get_nonlinearity(F.softplus).name == "softplus"
    with pytest.raises(ValueError, match="'relu'"):
        get_nonlinearity("relu")


@pytest.mark.parametrize("cls", list(MULTI))
def test_sessions(cls: type[MultiReadoutBase]):
    rates = {"b": torch.rand(4) + 0.1, "a": torch.rand(2) + 0.1}
    readout = cls(in_shape=SHAPE, n_neurons_dict={"b": 4, "a": 2}, mean_activity_dict=rates, **MULTI[cls]).eval()
    x = torch.randn(2, *SHAPE)
    assert readout.readout_keys() == readout.sessions == ["a", "b"]
    assert readout["b"].outdims == 4
    assert readout(x, data_key="b").shape == (2, 12 - readout.lag, 4)
    torch.testing.assert_close(readout(x), torch.cat([readout(x, data_key="a"), readout(x, data_key="b")], dim=2))
    silence = readout(torch.zeros_like(x), data_key="a")
    torch.testing.assert_close(silence, rates["a"].expand_as(silence), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(readout.regularizer("a"), readout["a"].regularizer())
    with pytest.raises(KeyError, match=r"'c'.*\['a', 'b'\]"):
        readout(x, data_key="c")
    with pytest.raises(ValueError, match="data_key"):
        readout.regularizer()
    readout.add_sessions({"c": 5}, {"c": torch.ones(5)})
    assert readout(x, data_key="c").shape[2] == 5
    with pytest.raises(ValueError, match=r"\['a'\] already"):
        readout.add_sessions({"a": 1})
    with pytest.raises(ValueError, match=r"no mean activity for sessions \['d'\]"):
        readout.add_sessions({"d": 1}, {"e": torch.ones(1)})
    with pytest.raises(TypeError):
        cls(in_shape=SHAPE, n_neurons_dict={"a": 2}, **MULTI[cls], gama=1.0)


def test_penalty_is_averaged_on_demand_and_not_by_default():
    torch.manual_seed(0)
    summed = MultiGaussianMaskReadout(SHAPE, {"a": 8})
    torch.manual_seed(0)
    averaged = MultiGaussianMaskReadout(SHAPE, {"a": 8}, readout_reg_avg=True)
    torch.testing.assert_close(averaged.regularizer(), summed["a"].regularizer("mean"))
    assert summed.regularizer() > 5 * averaged.regularizer()


def test_documented_name():
    assert MultiGaussianReadoutWrapper is MultiGaussianMaskReadout


@pytest.mark.parametrize("cls", list(MULTI))
def test_copies_and_pickles(cls: type[MultiReadoutBase]):
    readout = cls(in_shape=SHAPE, n_neurons_dict={"a": 2}, **MULTI[cls]).eval()
    x = torch.randn(1, *SHAPE)
    receiver, sender = Pipe(duplex=False)  # as other processes get it
    with receiver, sender:
        sender.send(readout)
        sent = receiver.recv()
    for copied in (copy.deepcopy(readout), sent):
        assert torch.equal(copied(x), readout(x))


def test_roughness_of_free_masks_is_each_neurons_own() -> None:
    readout = FactorizedReadout((3, 20, 8, 8), 2, 0.0, 0.0, 1.0)
    with torch.no_grad():
        readout.mask_weights.zero_()
        readout.mask_weights[8 * 3 + 4, 0] = 1.0
        readout.mask_weights[8 * 3 + 5, 1] = 1.0  # neighbours, if neurons were mixed up
    assert readout.regularizer().item() == pytest.approx(20.0, abs=1e-3)
