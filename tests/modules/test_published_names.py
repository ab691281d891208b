"""Published names and places of arguments that are not ours by themselves: each does what it says."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from coread.modules.core.base_core import Core3d, SimpleCoreWrapper
from coread.modules.core.gru_core import ConvGRUCore
from coread.modules.layers import convolutions, regularizers
from coread.modules.layers.gru import ConvGRUCell, GRU_Module
from coread.modules.layers.regularizers import GaussianLaplaceL2, Laplace
from coread.modules.layers.scaling import Scale2DLayer
from coread.modules.nonlinearities import ParametrizedELU, ParametrizedSoftplus
from coread.modules.readout import (
    FactorizedReadout,
    GaussianMaskReadout,
    LNPReadout,
    MultiFactorizedReadout,
    MultiLNPReadout,
    PointGaussianReadout,
    base,
    cloned,
)

SHAPE = (3, 20, 7, 11)


def test_lnp_takes_the_published_places():
    readout = LNPReadout(SHAPE, 4, torch.full((4,), 2.0), 0.5, 0.25, "LaplaceL2norm", 0, "exp", True)
    assert (readout.smooth_weight, readout.sparse_weight, readout.nonlinearity.name) == (0.5, 0.25, "exp")
    torch.testing.assert_close(readout.bias.detach(), torch.full((4,), math.log(2.0)))
    expected = 0.5 * readout.laplace() + 0.25 * readout.weights_l1()
    torch.testing.assert_close(readout.regularizer(), expected)
    torch.testing.assert_close(readout.weights_l1(average=False), readout.spatial_weights.abs().sum())
    assert readout.laplace() > 0
    x = torch.randn(2, 3, 30, 7, 11)
    assert torch.equal(readout(x, data_key="any"), readout(x))
    several = MultiLNPReadout(SHAPE, {"a": 2}, 0.5, 0.25, "LaplaceL2norm", temporal_kernel_size=1)
    assert several["a"].sparse_weight == 0.25
    with pytest.raises(ValueError, match="smooth_regularizer must be 'LaplaceL2norm', got 'GaussianLaplaceL2'"):
        LNPReadout(SHAPE, 4, smooth_regularizer="GaussianLaplaceL2")


def test_what_readouts_share():
    assert base.ClonedReadout is cloned.ClonedReadout
    with pytest.raises(AttributeError, match="MissingReadout"):
        base.MissingReadout  # noqa: B018
    readout = GaussianMaskReadout(SHAPE, 4)
    x = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    assert [float(readout.apply_reduction(x, each)) for each in ("mean", "sum")] == [1.5, 6.0]
    assert float(readout.apply_reduction(x)) == 1.5
    assert readout.apply_reduction(x, None) is x
    with pytest.raises(ValueError, match="'max'"):
        readout.apply_reduction(x, "max")
    assert torch.equal(readout.regularizer(average=True), readout.regularizer("mean"))
    assert torch.equal(readout.regularizer("mean", average=False), readout.regularizer("sum"))
    assert not torch.equal(readout.regularizer("mean"), readout.regularizer("sum"))


def test_mask_grid_and_point_dispersion():
    readout = GaussianMaskReadout((2, 5, 4, 6), 3)
    grid = GaussianMaskReadout.make_mask_grid(3, 4, 6)
    assert torch.equal(grid, readout.grid)
    assert grid[1, 0, 0].tolist() == pytest.approx([-2 / 3, -1.0])
    assert grid[2, 3, 5].tolist() == pytest.approx([2 / 3, 1.0])
    points = PointGaussianReadout((2, 5, 4, 6), 5)
    with torch.no_grad():
        points._mu.copy_(torch.arange(10.0).view(1, 5, 1, 2) ** 1.5 / 40)
    assert points.mu_dispersion.item() == pytest.approx(0.4896, abs=1e-4)  # openretina 1.1.1


@pytest.mark.parametrize("constraint", ["abs", "norm", "absnorm", None])
def test_applied_constraints_leave_the_responses(constraint):
    torch.manual_seed(0)
    readout = FactorizedReadout(SHAPE, 4, 0.0, 0.0, 0.0, weights_constraint=constraint, mask_constraint="abs")
    x = torch.randn(2, *SHAPE)
    before = readout(x).detach()
    readout.apply_constraints()
    assert (readout.mask_weights >= 0).all()
    if constraint in ("norm", "absnorm"):
        torch.testing.assert_close(readout.feature_weights.norm(dim=0), torch.ones(4), rtol=1e-3, atol=0)
    torch.testing.assert_close(readout(x, data_key="any"), before, rtol=1e-3, atol=1e-4)
    assert not isinstance(MultiFactorizedReadout(SHAPE, {"a": 2}, 0.0, 0.0, 0.0)["a"].bias, torch.nn.Parameter)


@pytest.mark.parametrize("size", [3, 5, 7])
def test_laplacians_of_every_size(size):
    laplace = Laplace(filter_size=size)
    assert float(laplace.filter.sum()) == 0
    assert laplace.filter.shape == (1, 1, size, size)
    assert torch.equal(laplace.filter, laplace.filter.transpose(2, 3))
    assert laplace(torch.zeros(2, 1, 9, 8)).shape == (2, 1, 9, 8)
    plane = torch.arange(12.0)[:, None] + 2 * torch.arange(12.0)
    torch.testing.assert_close(Laplace(0, size)(plane[None, None]), torch.zeros(1, 1, 13 - size, 13 - size))
    with pytest.raises(ValueError, match=r"one of \[3, 5, 7\], got 4"):
        Laplace(filter_size=4)


def test_gaussian_laplace_spares_the_centre():
    penalty = GaussianLaplaceL2(9)
    centre, border = torch.zeros(2, 1, 1, 9, 9).unbind(0)
    centre[..., 4, 4], border[..., 1, 1] = 1, 1
    assert float(penalty(border)) > 15
    assert float(penalty(centre)) < 1
    assert float(penalty(torch.cat([border, border]), avg=True)) == pytest.approx(float(penalty(border)), rel=1e-4)
    bump = regularizers.centred_bump(4, 6, 1.0)  # the published values
    assert bump[1].tolist() == pytest.approx([0.03206, 0.35609, 1, 1, 0.35609, 0.03206], abs=1e-5)
    x = torch.sin(torch.arange(126.0)).view(1, 2, 7, 9)  # the numbers are those of openretina 1.1.1
    assert float(GaussianLaplaceL2((7, 9))(x)) == pytest.approx(12.706149, rel=1e-5)
    found = [float(Laplace(filter_size=size)(x.view(2, 1, 7, 9))[1, 0, 3, 4]) for size in (3, 5, 7)]
    assert found == pytest.approx([-1.1629006, 4.6509871, 2.2560515], rel=1e-4)
    with pytest.raises(ValueError, match=r"masks must be \(9, 9\)"):
        penalty(torch.zeros(1, 1, 9, 8))


def test_scale_and_shaped_nonlinearities():
    layer = Scale2DLayer(3, 2.0)
    with torch.no_grad():
        layer.scale[0, 1] = 5.0
    assert layer(torch.ones(2, 3, 4, 5)).sum((0, 2, 3)).tolist() == [80.0, 200.0, 80.0]
    x = torch.tensor([-3.0, -0.5, 0.0, 0.5, 200.0], requires_grad=True)
    elu = ParametrizedELU(2.0, 3.0, 0.5)
    y = elu(x)
    assert y[:4].tolist() == pytest.approx([-1.26424, -0.30704, 0.0, 0.25], abs=1e-5)
    y.sum().backward()
    assert all(torch.isfinite(each.grad).all() for each in (x, elu.a, elu.b, elu.c))
    softplus = ParametrizedSoftplus(1.3, 0.2, 0.7)
    torch.testing.assert_close(softplus(x), 0.7 * F.softplus(1.3 * x + 0.2))
    assert sorted(dict(softplus.named_parameters())) == sorted(softplus.state_dict()) == ["b", "w"]
    assert sorted(dict(ParametrizedSoftplus(learn_a=True).named_parameters())) == ["a", "b", "w"]


def test_convolutions_take_the_published_arguments():
    for name in ("TorchFullConv3D", "TorchSTSeparableConv3D", "TimeIndependentConv3D", "STSeparableBatchConv3d"):
        cls = getattr(convolutions, name)
        conv = cls(2, 3, {}, 7, 5, None, 1, (0, 2, 2), num_scans=1)  # stride before padding
        assert conv(torch.zeros(1, 2, 12, 8, 9)).shape == (1, 3, 12 - conv.lag, 8, 9)
        for wrong in ({"stride": 2}, {"num_scans": 2}):
            with pytest.raises(ValueError, match=f"{next(iter(wrong))}=2"):
                cls(2, 3, {}, 7, 5, **wrong)
    conv = convolutions.STSeparableBatchConv3d(2, 3, {}, 7, 3, subsampling_factor=2)
    assert conv.sin_weights.shape == (3, 2, 3)
    sines, cosines = conv.temporal_basis(torch.ones(1), 7, 2)
    assert sines[1].tolist() == pytest.approx([0, 0.39092, 0.71273, 0.38216, -0.41331, -0.95739, -0.7766], abs=1e-5)
    assert cosines.shape == (3, 7)
    kernel = convolutions.compute_temporal_kernel(torch.zeros(1), conv.sin_weights, conv.cos_weights, 7, 2)
    torch.testing.assert_close(kernel[..., 0, 0], conv.sin_weights @ sines + conv.cos_weights @ cosines)
    with pytest.raises(ValueError, match="subsampling_factor=3"):
        convolutions.compute_temporal_kernel(torch.zeros(1), conv.sin_weights, conv.cos_weights, 7, 3)
    assert convolutions.temporal_smoothing is regularizers.temporal_smoothing
    ones = torch.ones(16, 2, 7)
    assert float(convolutions.temporal_smoothing(sin=ones, cos=ones)) == pytest.approx(8.991111, abs=1e-5)


def test_core_methods_by_their_published_names():
    arguments = {"channels": [2, 3, 4], "temporal_kernel_sizes": [7, 3], "spatial_kernel_sizes": [5, 3]}
    core = SimpleCoreWrapper(**arguments, gamma_in_sparse=1.0).eval()
    x = torch.randn(1, 2, 12, 9, 8)
    assert torch.equal(core(input_=x), core(x))
    torch.testing.assert_close(core.group_sparsity_0(), core.regularizer())
    assert core.group_sparsity_0() > core.group_sparsity()
    with pytest.raises(TypeError, match="temporal_smoothness"):
        core.temporal_laplace()
    free = SimpleCoreWrapper(**arguments, convolution_type="separable", gamma_temporal=2.0)
    torch.testing.assert_close(2 * free.temporal_laplace(), free.regularizer())


def test_a_gru_takes_one_stimulus_without_a_batch():
    torch.manual_seed(0)
    module, x = GRU_Module(2, 4, 3, 3), torch.randn(2, 2, 5, 6, 7)
    torch.testing.assert_close(module(x[1]), module(x)[1])
    with pytest.raises(ValueError, match="got \\(5, 6, 7\\)"):
        module(x[0, 0])


def test_recurrent_cell_by_its_published_parts():
    cell = ConvGRUCell(2, 4, 4, 3, gamma_rec=0.5, pad_input=False)
    gates = (cell.reset_gate_hidden, cell.update_gate_hidden, cell.out_gate_hidden)
    with torch.no_grad():
        for value, gate in enumerate(gates, start=1):
            gate.weight.fill_(-value)
            gate.bias.fill_(-10.0 * value)
    assert (cell.penalty().item(), cell.regularizer().item()) == (2.0, 1.0)
    assert cell.bias_l1().item() == 20.0
    x = torch.randn(3, 2, 6, 7)
    assert torch.equal(cell.init_state(x), torch.zeros(3, 4, 3, 4))
    assert torch.equal(cell(x, cell.init_state(x)), cell(x))


def test_cores_draw_their_convolutions_anew():
    class OwnCore(Core3d):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.mix = nn.Conv3d(2, 64, (3, 5, 5)), nn.Conv2d(2, 2, 1)

    core = OwnCore()
    before = core.mix.weight.clone()
    core.initialize()
    assert core.conv.weight.std().item() == pytest.approx((2 / ((2 + 64) * 75)) ** 0.5, rel=0.05)
    assert not core.conv.bias.any()
    assert torch.equal(core.mix.weight, before), "nothing else is touched"
    gru = ConvGRUCore((2, 8), temporal_kernel_sizes=3, spatial_kernel_sizes=5, convolution_type="full")
    before = gru.convolutions[0].filters().clone()
    torch.manual_seed(0)
    gru.initialize()
    assert not torch.equal(gru.convolutions[0].filters(), before)
