import pytest
import torch
from torch import nn

from coread.modules.losses import (
    CelltypeCorrelationLoss3d,
    CelltypePoissonLoss3d,
    CorrelationLoss3d,
    L1CorrelationLoss3d,
    L1PoissonLoss3d,
    MSE3d,
    PoissonLoss3d,
    ScaledCorrelationLoss3d,
)

LOSSES = [
    PoissonLoss3d(),
    L1PoissonLoss3d(),
    MSE3d(),
    CorrelationLoss3d(),
    ScaledCorrelationLoss3d(scale=5),
    L1CorrelationLoss3d(gamma_L1=0.1),
]
GOLDEN_RATE = torch.tensor([[[0.5, 1.0], [2.0, 0.25]]])
GOLDEN_COUNT = torch.tensor([[[9.0, 9.0], [1.0, 2.0], [0.0, 1.0]]])


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Rates of 20 bins and counts of 24."""
    return torch.rand(3, 20, 4) + 0.1, torch.poisson(torch.ones(3, 24, 4))


def test_golden_numbers():
    assert float(PoissonLoss3d(avg=False)(GOLDEN_RATE, GOLDEN_COUNT)) == pytest.approx(5.829442, abs=1e-5)
    assert float(PoissonLoss3d()(GOLDEN_RATE, GOLDEN_COUNT)) == pytest.approx(1.457360, abs=1e-5)
    per_neuron = PoissonLoss3d(per_neuron=True)(GOLDEN_RATE, GOLDEN_COUNT)
    torch.testing.assert_close(per_neuron, torch.tensor([1.596574, 1.318147]), rtol=0, atol=1e-5)
    l1 = L1PoissonLoss3d(gamma_l1=0.1)(GOLDEN_RATE, GOLDEN_COUNT)
    assert float(l1) == pytest.approx(1.457360 + 0.1 * 0.9375, abs=1e-5)
    assert float(MSE3d()(GOLDEN_RATE, GOLDEN_COUNT)) == pytest.approx((0.25 + 1 + 4 + 0.5625) / 4)


def test_correlation_is_the_mean_over_items_and_neurons(data):
    rate, count = data
    both = torch.stack([rate, count[:, 4:]])
    expected = [torch.corrcoef(both[:, b, :, n])[0, 1] for b in range(3) for n in range(4)]
    expected = torch.stack(expected)
    torch.testing.assert_close(CorrelationLoss3d()(rate, count), -expected.mean())
    torch.testing.assert_close(CorrelationLoss3d(negate=False)(rate, count), expected.mean())
    torch.testing.assert_close(CorrelationLoss3d(negate=False, avg=False)(rate, count), expected.sum())
    torch.testing.assert_close(
        CorrelationLoss3d(negate=False, per_neuron=True)(rate, count), expected.view(3, 4).mean(0)
    )


def test_scaled_correlation_ignores_slow_drift(data):
    rate, _ = data
    drifting = rate + torch.arange(4).repeat_interleave(5)[:, None] * 10
    assert float(ScaledCorrelationLoss3d(scale=5, negate=False)(rate, drifting)) == pytest.approx(1, abs=1e-4)
    assert float(CorrelationLoss3d(negate=False)(rate, drifting)) < 0.5


def test_a_sum_of_scaled_correlations_counts_every_item_and_neuron_once(data):
    """However many windows there are, of which only those with counted bins enter."""
    rate, count = data
    summed = ScaledCorrelationLoss3d(scale=5, avg=False)
    torch.testing.assert_close(
        summed(rate, count), 3 * 4 * ScaledCorrelationLoss3d(scale=5)(rate, count), rtol=1e-4, atol=1e-5
    )
    mask = torch.ones(count.shape[:2], dtype=torch.bool)
    mask[:, 4:9] = False
    torch.testing.assert_close(summed(rate, count, mask), summed(rate[:, 5:], count[:, 5:]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_does_not_depend_on_batch_time_or_population_size(loss: nn.Module, data):
    rate, count = data
    count = count[:, 4:]
    expected = loss(rate, count)
    for repeats in ((5, 1, 1), (1, 3, 1), (1, 1, 6)):
        torch.testing.assert_close(loss(rate.repeat(repeats), count.repeat(repeats)), expected)


@pytest.mark.parametrize("loss", LOSSES[:3], ids=lambda loss: type(loss).__name__)
def test_masked_bins_never_count(loss: nn.Module, data):
    rate, count = data
    mask = torch.rand(3, 24) > 0.4
    hidden = count.clone()
    hidden[~mask] = torch.nan
    rate.requires_grad_()
    value = loss(rate, hidden, mask)
    kept = mask[:, 4:]
    torch.testing.assert_close(value, loss(rate[kept][None], count[:, 4:][kept][None]))
    value.backward()
    assert torch.isfinite(rate.grad).all()
    assert (rate.grad[~kept] == 0).all()


def test_masked_bins_never_count_in_the_correlation(data):
    rate, count = data
    mask = torch.ones(3, 24, dtype=torch.bool)
    mask[:, 10:] = False
    mask[2, :] = False  # an item without any bin does not enter the mean
    hidden = count.clone()
    hidden[~mask] = torch.nan
    expected = CorrelationLoss3d()(rate[:2, :6], count[:2, 4:10])
    torch.testing.assert_close(CorrelationLoss3d()(rate, hidden, mask), expected)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_nothing_to_count_costs_nothing(loss: nn.Module, data):
    rate, count = data
    rate.requires_grad_()
    value = loss(rate, torch.full_like(count, torch.nan), torch.zeros(3, 24, dtype=torch.bool))
    assert value == 0
    value.backward()
    assert (rate.grad == 0).all()


def test_computed_in_float32_under_half_precision():
    rate, count = torch.full((2, 20, 3), 1e-7, dtype=torch.float16), torch.ones(2, 20, 3)
    with torch.autocast("cpu", torch.bfloat16):
        loss = PoissonLoss3d()(rate, count)
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


def test_wrong_shapes_are_named(data):
    rate, count = data
    with pytest.raises(ValueError, match=r"\(3, 20, 4\), \(3, 10, 4\)"):
        PoissonLoss3d()(rate, count[:, :10])
    with pytest.raises(ValueError, match=r"\(3, 20\)"):
        PoissonLoss3d()(rate, count, torch.ones(3, 20, dtype=torch.bool))


# ---------------------------------------------------------------------------------------------- cell types and sparsity


@pytest.mark.parametrize("loss", [CelltypePoissonLoss3d, CelltypeCorrelationLoss3d])
def test_every_cell_type_counts_alike(loss: type[nn.Module], data):
    rate, count = data
    kind, counts = torch.tensor([1, 1, 1, 2]), torch.tensor([3, 1])
    plain = loss.__mro__[1](per_neuron=True)(rate, count)
    expected = (plain[:3].mean() + plain[3]) / 2  # the mean over types of the mean over a type's neurons
    torch.testing.assert_close(loss()(rate, count, kind, counts), expected)
    for repeats in ((5, 1, 1), (1, 1, 6)):
        found = loss()(rate.repeat(repeats), count[:, 4:].repeat(repeats), kind.repeat(repeats[2]), counts * repeats[2])
        torch.testing.assert_close(found, expected)
    mask = torch.rand(3, 24) > 0.4
    hidden = count.masked_fill(~mask[..., None], torch.nan)
    assert torch.isfinite(loss()(rate, hidden, kind, counts, mask))
    torch.testing.assert_close(loss()(rate, count, kind.expand(3, -1), counts), expected)  # the published shape
    # a type of which there is no neuron changes nothing
    torch.testing.assert_close(loss()(rate, count, kind, torch.tensor([3, 1, 0])), expected)
    with pytest.raises(ValueError, match=r"1 \.\.\. 2 .* got 1 \.\.\. 3"):
        loss()(rate, count, torch.tensor([1, 1, 2, 3]), counts)


def test_the_activity_behind_the_output_can_be_the_sparse_one(data):
    rate, count = data
    activity = torch.rand(3, 20, 4)
    plain = CorrelationLoss3d()(rate, count)
    loss = L1CorrelationLoss3d(gamma_L1=0.5)
    torch.testing.assert_close(loss(rate, count), plain + 0.5 * rate.mean())
    torch.testing.assert_close(loss((rate, activity), count), plain + 0.5 * activity.mean())
    summed = L1CorrelationLoss3d(gamma_L1=0.5, avg=False)
    expected = CorrelationLoss3d(avg=False)(rate, count) + 0.5 * activity.sum()
    torch.testing.assert_close(summed((rate, activity), count), expected)
    per_neuron = L1CorrelationLoss3d(gamma_L1=0.5, per_neuron=True)((rate, activity), count)
    torch.testing.assert_close(per_neuron.mean(), loss((rate, activity), count))
