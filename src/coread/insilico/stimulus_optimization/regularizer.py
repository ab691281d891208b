"""What keeps optimised stimuli natural: penalties on them, and processors of a stimulus or of its gradient.

Every penalty and processor treats the items of a batch one by one. Units are those of the stimulus given.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Bounds = tuple[float | None, float | None]


class StimulusRegularizationLoss:
    """A penalty; subclasses have `per_item`, or like published ones `forward` of a whole batch."""

    def forward(self, stimulus: Float[Tensor, "item channel time height width"]) -> Float[Tensor, ""]:
        """Return the penalty, summed over items."""
        return self.per_item(stimulus).sum()

    def per_item(self, stimulus: Float[Tensor, "item channel time height width"]) -> Float[Tensor, "item"]:
        """Return the penalty of every item."""
        if type(self).forward is StimulusRegularizationLoss.forward:
            return stimulus.new_zeros(len(stimulus))
        return torch.stack([torch.as_tensor(self.forward(item[None])).reshape(()) for item in stimulus])


class RangeRegularizationLoss(StimulusRegularizationLoss):
    """How far values leave the range of their channel, summed, and how far the norm exceeds `max_norm`, by `factor`."""

    def __init__(self, min_max_values: Iterable[Bounds], max_norm: float | None, factor: float = 1.0):
        self._min_max_values = [tuple(bounds) for bounds in min_max_values]
        self._max_norm, self._factor = max_norm, factor

    def per_item(self, stimulus: Float[Tensor, "item channel time height width"]) -> Float[Tensor, "item"]:
        """Return the penalty of every item; raises ValueError for another number of channels."""
        low, high = _channel_bounds(self._min_max_values, stimulus)
        penalty = (torch.relu(low - stimulus) + torch.relu(stimulus - high)).flatten(1).sum(dim=1)
        if self._max_norm is not None:
            penalty = penalty + torch.relu(stimulus.flatten(1).norm(dim=1) - self._max_norm)
        return self._factor * penalty


class TotalVariationRegularizer(StimulusRegularizationLoss):
    """Mean absolute difference of neighbouring pixels (Rudin et al. 1992), by `weight`.

    `temporal_weight` weighs the same of successive frames. As a mean, it does not depend on the size of the stimulus.
    """

    def __init__(self, weight: float, temporal_weight: float = 0.0):
        self.weight, self.temporal_weight = weight, temporal_weight

    def per_item(self, stimulus: Float[Tensor, "item channel time height width"]) -> Float[Tensor, "item"]:
        """Return the penalty of every item."""
        weights = {2: self.temporal_weight, 3: self.weight, 4: self.weight}
        terms = [
            weight * stimulus.diff(dim=axis).abs().flatten(1).mean(dim=1)
            for axis, weight in weights.items()
            if weight and stimulus.shape[axis] > 1
        ]
        return torch.stack(terms).sum(dim=0) if terms else stimulus.new_zeros(len(stimulus))


class L2Regularizer(StimulusRegularizationLoss):
    """Mean squared value, by `weight`."""

    def __init__(self, weight: float):
        self.weight = weight

    def per_item(self, stimulus: Float[Tensor, "item channel time height width"]) -> Float[Tensor, "item"]:
        """Return the penalty of every item."""
        return self.weight * stimulus.square().flatten(1).mean(dim=1)


class NormRegularizer(StimulusRegularizationLoss):
    """How far the Euclidean norm exceeds `max_norm`, by `weight`."""

    def __init__(self, weight: float, max_norm: float):
        self.weight, self.max_norm = weight, max_norm

    def per_item(self, stimulus: Float[Tensor, "item channel time height width"]) -> Float[Tensor, "item"]:
        """Return the penalty of every item."""
        return self.weight * torch.relu(stimulus.flatten(1).norm(dim=1) - self.max_norm)


# ---------------------------------------------------------------------------------------------------------- processors


class StimulusPostprocessor:
    """Changes a stimulus after every step, or its gradient before; this one changes nothing."""

    def process(
        self, x: Float[Tensor, "item channel time height width"]
    ) -> Float[Tensor, "item channel time height width"]:
        """Return the processed batch."""
        return x


class ClipStimulus(StimulusPostprocessor):
    """Bounds all values, for example contrasts to -1 .. 1; None leaves a side open."""

    def __init__(self, min_value: float | None, max_value: float | None):
        self.min_value, self.max_value = min_value, max_value

    def process(
        self, x: Float[Tensor, "item channel time height width"]
    ) -> Float[Tensor, "item channel time height width"]:
        """Return the clipped batch."""
        if self.min_value is None and self.max_value is None:
            return x
        return x.clamp(self.min_value, self.max_value)


class ChangeNorm(StimulusPostprocessor):
    """Scales every item to the Euclidean norm `norm`; an item of zeros stays one."""

    def __init__(self, norm: float):
        self.norm = norm

    def process(
        self, x: Float[Tensor, "item channel time height width"]
    ) -> Float[Tensor, "item channel time height width"]:
        """Return the scaled batch."""
        found = x.flatten(1).norm(dim=1)
        factor = torch.where(found > 0, self.norm / found, 0.0)
        return x * factor[:, None, None, None, None]


class ChangeNormJointlyClipRangeSeparately(StimulusPostprocessor):
    """Scales every item to the Euclidean norm `norm` (None: not), then clips every channel to its range.

    In Höfling et al. (2024) the norm is 30 and the ranges are -0.654 to 6.269 (green) and -0.913 to 6.269 (UV), in
    standard deviations of the training stimulus.
    """

    def __init__(self, min_max_values: Iterable[Bounds], norm: float | None):
        self._min_max_values = [tuple(bounds) for bounds in min_max_values]
        self._norm = norm

    def process(
        self, x: Float[Tensor, "item channel time height width"]
    ) -> Float[Tensor, "item channel time height width"]:
        """Return the processed batch; raises ValueError for another number of channels."""
        low, high = _channel_bounds(self._min_max_values, x)
        scaled = x if self._norm is None else ChangeNorm(self._norm).process(x)
        return torch.minimum(torch.maximum(scaled, low), high)

    def __repr__(self) -> str:
        return f"ChangeNormJointlyClipRangeSeparately(norm={self._norm}, min_max_values={self._min_max_values})"


class TemporalGaussianLowPassFilterProcessor(StimulusPostprocessor):
    """Filters every pixel in time with a Gaussian of `sigma` frames on `kernel_size` frames, zeros beyond the ends.

    Raises ValueError for an even kernel, which would move the stimulus by half a frame.
    """

    def __init__(self, sigma: float, kernel_size: int, device: str | torch.device = "cpu"):
        self._kernel = gaussian_kernel(sigma, kernel_size).to(device)

    def process(
        self, x: Float[Tensor, "item channel time height width"]
    ) -> Float[Tensor, "item channel time height width"]:
        """Return the filtered batch."""
        return _filter_axes(x, self._kernel, (2,))


class SpatialGaussianBlur(StimulusPostprocessor):
    """Blurs every frame with a Gaussian of `sigma_px` pixels, zeros beyond the borders.

    Of a gradient, it favours low spatial frequencies, as in Walker et al. (2019, Nat. Neurosci. 22:2060).
    """

    def __init__(self, sigma_px: float):
        self._kernel = gaussian_kernel(sigma_px, 2 * max(1, round(3 * sigma_px)) + 1)

    def process(
        self, x: Float[Tensor, "item channel time height width"]
    ) -> Float[Tensor, "item channel time height width"]:
        """Return the blurred batch."""
        return _filter_axes(x, self._kernel, (3, 4))


def gaussian_kernel(sigma: float, kernel_size: int) -> Float[Tensor, " tap"]:
    """Return a Gaussian of sum 1 around the middle tap; raises ValueError for an even size or a sigma of 0."""
    if kernel_size < 1 or kernel_size % 2 == 0 or sigma <= 0:
        raise ValueError(f"need an odd kernel_size and a sigma above 0, got {kernel_size} and {sigma}")
    kernel = torch.exp(-(torch.arange(kernel_size) - kernel_size // 2).square() / (2 * sigma**2))
    return kernel / kernel.sum()


def _filter_axes(x: Tensor, kernel: Tensor, axes: Sequence[int]) -> Tensor:
    taps = kernel.to(x).reshape(1, 1, -1)
    for axis in axes:
        traces = x.movedim(axis, -1)
        filtered = F.conv1d(traces.reshape(-1, 1, traces.shape[-1]), taps, padding=len(kernel) // 2)
        x = filtered.reshape(traces.shape).movedim(-1, axis)
    return x


def _channel_bounds(bounds: Sequence[Sequence[float | None]], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return lowest and highest value by channel; raises ValueError for another number of channels."""
    if len(bounds) != x.shape[1]:
        raise ValueError(f"{len(bounds)} ranges of channels, but the stimulus has {x.shape[1]} channels")
    low = [-torch.inf if lowest is None else lowest for lowest, _ in bounds]
    high = [torch.inf if highest is None else highest for _, highest in bounds]
    shape = (1, -1, 1, 1, 1)
    return x.new_tensor(low).reshape(shape), x.new_tensor(high).reshape(shape)
