import pytest
import torch
import torch.nn.functional as F

from coread.modules.readout import LNPReadout

SHAPE = (2, 30, 5, 6)


def make(rank: int = 2, **kwargs) -> LNPReadout:
    return LNPReadout(SHAPE, 4, temporal_kernel_size=7, rank=rank, **kwargs)


def test_is_the_convolution_with_its_filters():
    readout = make(mean_activity=torch.rand(4))
    x = torch.randn(3, *SHAPE)
    kernels = readout.filters.flip(1).transpose(1, 2)  # (neuron, channel, time, height, width), current frame last
    expected = F.softplus(F.conv3d(x, kernels, readout.bias)[..., 0, 0].transpose(1, 2))
    assert readout.lag == 6
    torch.testing.assert_close(readout(x), expected, rtol=1e-4, atol=1e-5)


def test_current_frame_is_lag_zero():
    readout = make(nonlinearity="identity", bias=False)
    x = torch.zeros(1, *SHAPE)
    x[0, 1, 20, 3, 4] = 1  # one pixel flashes in frame 20
    y = readout(x)[0]
    for lag in range(7):
        torch.testing.assert_close(y[20 + lag - readout.lag], readout.filters[:, lag, 1, 3, 4])
    assert (y[: 20 - readout.lag] == 0).all()


@pytest.mark.parametrize("rank", [1, 3])
def test_starts_from_the_spike_triggered_average(rank: int):
    truth = torch.einsum("nkt,nkchw->ntchw", torch.randn(4, rank, 7), torch.randn(4, rank, 2, 5, 6))
    readout = make(rank)
    readout.initialize_filters(truth)
    cosine = F.cosine_similarity(readout.filters.flatten(1), truth.flatten(1))
    torch.testing.assert_close(cosine, torch.ones(4))


def test_recovers_the_best_rank_one_part():
    sta = torch.randn(4, 7, 2, 5, 6)
    readout = make(1)
    readout.initialize_filters(sta)
    first = torch.linalg.svdvals(sta.flatten(2))[:, 0] / sta.flatten(1).norm(dim=1)
    torch.testing.assert_close(F.cosine_similarity(readout.filters.flatten(1), sta.flatten(1)), first)


def test_neurons_without_average_keep_their_filters():
    readout = make()
    before = readout.filters.detach().clone()
    sta = torch.randn(4, 7, 2, 5, 6)
    sta[1] = 0
    sta[2, 0, 0, 0, 0] = torch.nan
    readout.initialize_filters(sta)
    torch.testing.assert_close(readout.filters[1:3], before[1:3])
    assert not torch.allclose(readout.filters[0], before[0])
    with pytest.raises(ValueError, match=r"\(4, 7, 2, 5, 6\)"):
        readout.initialize_filters(sta[:, :5])


def test_penalties_do_not_depend_on_the_population():
    readout = make(smooth_weight=1.0, temporal_smooth_weight=2.0, sparse_weight=3.0)
    twice = LNPReadout(SHAPE, 8, None, 1.0, 3.0, temporal_kernel_size=7, rank=2, temporal_smooth_weight=2.0)
    with torch.no_grad():
        twice.spatial_weights.copy_(readout.spatial_weights.repeat(2, 1, 1, 1, 1))
        twice.temporal_weights.copy_(readout.temporal_weights.repeat(2, 1, 1))
    torch.testing.assert_close(readout.regularizer(), twice.regularizer())


def test_smooth_filters_cost_less():
    readout = make(1, smooth_weight=1.0, temporal_smooth_weight=1.0)
    rough = readout.regularizer().item()
    with torch.no_grad():
        readout.spatial_weights.fill_(1)
        readout.temporal_weights.fill_(1)
    assert readout.regularizer().item() < rough / 2


def test_learns_a_linear_nonlinear_neuron():
    torch.manual_seed(1)
    x = torch.randn(1, 2, 1500, 5, 6)
    truth = LNPReadout((2, 1500, 5, 6), 1, temporal_kernel_size=4)
    counts = torch.poisson(truth(x)).detach()
    readout = LNPReadout((2, 1500, 5, 6), 1, temporal_kernel_size=4)
    with torch.no_grad():
        windows = x[0].unfold(1, 4, 1).flip(-1)  # (channel, bin, height, width, lag)
        sta = torch.einsum("cbhwl,bn->nlchw", windows, counts[0] - counts.mean())
    readout.initialize_filters(sta)
    optimizer = torch.optim.Adam(readout.parameters(), lr=0.03)
    for _ in range(60):
        optimizer.zero_grad()
        F.poisson_nll_loss(readout(x), counts, log_input=False).backward()
        optimizer.step()
    assert F.cosine_similarity(readout.filters.flatten(), truth.filters.flatten(), dim=0) > 0.9


def test_impossible_rank_is_an_error():
    with pytest.raises(ValueError, match="rank"):
        make(rank=8)
