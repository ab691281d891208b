"""CutMix: patches of another trial, responses and context mixed by the area that is really left."""

import numpy as np
import pytest
import torch

from coread.data_io.cutmix import CutMix
from coread.data_io.dataloader import DataPoint

N, HEIGHT, WIDTH = 64, 6, 10


def point_of(mask: torch.Tensor | None = None, time: int = 1) -> DataPoint:
    """Every trial is told by its number in every pixel, response and variable."""
    number = torch.arange(N, dtype=torch.float32)
    inputs = number[:, None, None, None, None].expand(N, 2, time, HEIGHT, WIDTH).clone()
    context = {"behaviour": number[:, None, None].expand(N, time, 3), "time_order": torch.arange(N)[:, None]}
    counted = torch.ones(N, time, dtype=torch.bool) if mask is None else mask
    return DataPoint(inputs, number[:, None, None].expand(N, time, 4).clone(), counted, context)


def test_responses_are_mixed_by_the_share_of_pixels() -> None:
    mixed = CutMix(alpha=1.0, probability=1.0).mix(point_of(time=2), np.random.default_rng(0))
    # a pixel says whose it is, so the mean over pixels is the mixture by area
    expected = mixed.inputs.mean(dim=(1, 3, 4))
    torch.testing.assert_close(mixed.targets[..., 0], expected)
    torch.testing.assert_close(mixed.context["behaviour"][..., 1], expected)
    assert (mixed.inputs[:, :, 0] == mixed.inputs[:, :, 1]).all(), "a patch stays where it is from frame to frame"
    owners = [set(trial.flatten().tolist()) for trial in mixed.inputs]
    assert all(len(owner) <= 2 for owner in owners)
    assert sum(len(owner) == 2 for owner in owners) > N // 2
    for own, trial, order in zip(range(N), mixed.inputs, mixed.context["time_order"][:, 0].tolist(), strict=True):
        shares = {int(owner): float((trial == owner).float().mean()) for owner in trial.unique()}
        assert shares[order] == max(shares.values())
        assert own in shares or max(shares.values()) == 1.0


def test_the_share_of_mixed_trials_is_the_probability() -> None:
    rng = np.random.default_rng(1)
    patched = [CutMix(1.0, 0.3).draw_patches(rng, 500, 36, 64).any(axis=(1, 2)).mean() for _ in range(4)]
    assert np.mean(patched) == pytest.approx(0.3, abs=0.03)  # less the patches that are too small for a pixel
    unchanged = CutMix(1.0, 0.0).mix(point_of(), np.random.default_rng(0))
    assert torch.equal(unchanged.inputs, point_of().inputs)
    assert torch.equal(unchanged.targets, point_of().targets)


def test_the_mean_area_of_a_patch_follows_from_alpha() -> None:
    rng = np.random.default_rng(2)
    for alpha in (0.2, 1.0, 5.0):
        sides = CutMix(alpha, 1.0).draw_patches(rng, 3000, 200, 200)
        # uncut at the border, the mean of 1 - Beta is one half; the spread falls with alpha
        largest = np.sqrt(1 - rng.beta(alpha, alpha, 3000)).mean()
        assert sides.any(axis=2).mean(axis=1).max() <= 1
        assert 0.5 * largest < np.sqrt(sides.mean(axis=(1, 2))).mean() < largest


def test_a_bin_counts_if_it_counts_in_both_trials() -> None:
    mask = torch.ones(N, 1, dtype=torch.bool)
    mask[::4] = False
    point = point_of(mask)
    point.targets[~mask] = 0
    mixed = CutMix(1.0, 1.0).mix(point, np.random.default_rng(3))
    for trial, counts in zip(mixed.inputs, mixed.mask[:, 0], strict=True):
        assert bool(counts) == all(bool(mask[int(owner)]) for owner in trial.unique())


def test_the_same_generator_gives_the_same_batch() -> None:
    one, again, other = (CutMix().mix(point_of(), np.random.default_rng(seed)) for seed in (4, 4, 5))
    assert torch.equal(one.inputs, again.inputs)
    assert torch.equal(one.targets, again.targets)
    assert not torch.equal(one.inputs, other.inputs)


@pytest.mark.parametrize("wrong", [{"alpha": 0.0}, {"probability": 1.5}])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"dataloader\.cutmix needs alpha > 0"):
        CutMix(**wrong)
