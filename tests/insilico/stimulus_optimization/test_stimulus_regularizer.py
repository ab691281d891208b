"""Penalties and processors of stimuli."""

from pathlib import Path

import numpy as np
import pytest
import torch

from coread.insilico.stimulus_optimization.regularizer import (
    ChangeNorm,
    ChangeNormJointlyClipRangeSeparately,
    ClipStimulus,
    L2Regularizer,
    NormRegularizer,
    RangeRegularizationLoss,
    SpatialGaussianBlur,
    StimulusPostprocessor,
    StimulusRegularizationLoss,
    TemporalGaussianLowPassFilterProcessor,
    TotalVariationRegularizer,
)

PENALTIES: list[StimulusRegularizationLoss] = [
    RangeRegularizationLoss([(-0.5, 0.6), (None, 0.7)], max_norm=3.0, factor=0.1),
    TotalVariationRegularizer(weight=0.5, temporal_weight=0.2),
    L2Regularizer(0.3),
    NormRegularizer(2.0, max_norm=1.0),
    StimulusRegularizationLoss(),
]
PROCESSORS: list[StimulusPostprocessor] = [
    ClipStimulus(0.0, 1.0),
    ChangeNorm(2.0),
    ChangeNormJointlyClipRangeSeparately([(-0.1, 0.2), (None, 0.1)], norm=5.0),
    TemporalGaussianLowPassFilterProcessor(0.5, 5),
    SpatialGaussianBlur(0.8),
    StimulusPostprocessor(),
]


def batch() -> torch.Tensor:
    scale = torch.tensor([0.5, 1.0, 2.0]).reshape(3, 1, 1, 1, 1)
    return scale * torch.randn(3, 2, 7, 5, 6, generator=torch.Generator().manual_seed(1))


def kind(thing: object) -> str:
    return type(thing).__name__


def test_published_case(reference_data: Path) -> None:
    with np.load(reference_data / "parity" / "stimulus.npz", allow_pickle=False) as case:
        stimulus = torch.from_numpy(case["stimulus"])
        expected = {name: torch.from_numpy(case[name]) for name in ("clipped", "lowpassed", "range_loss")}
    bounds = [(-0.5, 0.6), (-0.4, 0.7)]
    found = {
        "clipped": ChangeNormJointlyClipRangeSeparately(bounds, norm=5.0).process(stimulus),
        "lowpassed": TemporalGaussianLowPassFilterProcessor(0.5, 5).process(stimulus),
        "range_loss": RangeRegularizationLoss(bounds, max_norm=5.0, factor=0.1).forward(stimulus),
    }
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5, msg=name)


def test_low_pass_filter_has_the_published_taps() -> None:
    impulse = torch.zeros(1, 1, 9, 1, 1)
    impulse[0, 0, 4] = 1
    taps = TemporalGaussianLowPassFilterProcessor(sigma=0.5, kernel_size=5).process(impulse)[0, 0, 2:7, 0, 0]
    expected = torch.tensor([0.000264, 0.106451, 0.786571, 0.106451, 0.000264])
    torch.testing.assert_close(taps, expected, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="odd"):
        TemporalGaussianLowPassFilterProcessor(0.5, 4)


@pytest.mark.parametrize("penalty", PENALTIES, ids=kind)
def test_penalties_are_of_single_items(penalty: StimulusRegularizationLoss) -> None:
    stimulus = batch()
    alone = torch.stack([penalty.forward(item[None]) for item in stimulus])
    torch.testing.assert_close(penalty.per_item(stimulus), alone)
    torch.testing.assert_close(penalty.forward(stimulus), alone.sum())


@pytest.mark.parametrize("processor", PROCESSORS, ids=kind)
def test_processors_treat_items_one_by_one(processor: StimulusPostprocessor) -> None:
    stimulus = batch()
    alone = torch.cat([processor.process(item[None]) for item in stimulus])
    torch.testing.assert_close(processor.process(stimulus), alone)


def test_penalty_with_only_a_published_forward() -> None:
    class Squares(StimulusRegularizationLoss):
        def forward(self, stimulus: torch.Tensor) -> torch.Tensor:
            return stimulus.square().sum()

    stimulus = batch()
    torch.testing.assert_close(Squares().per_item(stimulus), stimulus.square().flatten(1).sum(1))


def test_total_variation_is_the_mean_step_between_neighbours() -> None:
    stimulus = torch.zeros(1, 1, 1, 2, 3)
    stimulus[..., 1, :] = 3.0  # 3 of 3 steps along y, none of 4 along x
    assert float(TotalVariationRegularizer(weight=2.0).forward(stimulus)) == pytest.approx(6.0)
    assert float(TotalVariationRegularizer(weight=0.0, temporal_weight=1.0).forward(stimulus)) == 0.0


def test_norms_and_bounds() -> None:
    stimulus = batch()
    stimulus[1] = 0.0
    norms = ChangeNorm(2.0).process(stimulus).flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.tensor([2.0, 0.0, 2.0]))
    clipped = ClipStimulus(0.0, 1.0).process(batch())
    assert clipped.min() == 0.0
    assert clipped.max() == 1.0
    assert torch.equal(ClipStimulus(None, None).process(stimulus), stimulus)
    with pytest.raises(ValueError, match="1 ranges of channels"):
        ChangeNormJointlyClipRangeSeparately([(-1.0, 1.0)], 2.0).process(stimulus)


def test_blur_keeps_the_mean_inside_and_lowers_fine_detail() -> None:
    checks = torch.ones(1, 1, 1, 13, 13)
    checks[..., ::2, 1::2] = checks[..., 1::2, ::2] = -1.0
    assert SpatialGaussianBlur(1.0).process(checks)[..., 4:9, 4:9].abs().max() < 0.1
    flat = SpatialGaussianBlur(1.0).process(torch.ones(1, 1, 1, 13, 13))
    torch.testing.assert_close(flat[..., 4:9, 4:9], torch.ones(1, 1, 1, 5, 5))
