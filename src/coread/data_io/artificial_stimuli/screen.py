"""The screen that stimuli are made for: its pixels and frames, and parameters that are given once or per stimulus."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

RATE_HZ = 30.0  # frames per second where nothing else is said
AXES = ("batch", "channel", "time", "height", "width")

Values: TypeAlias = float | Sequence[float] | np.ndarray | Tensor


class Place(NamedTuple):
    """Where pixels are in pixel widths from the middle of the screen: y upwards, x to the right."""

    y: Float[Tensor, "height 1"]
    x: Float[Tensor, "1 width"]


@dataclass(frozen=True)
class Screen:
    """Shape of a batch of stimuli, frames per second, and width of a pixel in the unit of all lengths."""

    batch: int
    channels: int
    time: int
    height: int
    width: int
    rate_hz: float
    pixel_size: float

    @property
    def diagonal_px(self) -> float:
        """Distance between opposite corners."""
        return float(np.hypot(self.height, self.width))

    def places(self) -> Place:
        """Return where the centres of the pixels are."""
        y = (self.height - 1) / 2 - torch.arange(self.height, dtype=torch.float64)
        x = torch.arange(self.width, dtype=torch.float64) - (self.width - 1) / 2
        return Place(y[:, None], x[None, :])

    def seconds(self) -> Float[Tensor, " time"]:
        """Return when each frame appears."""
        return torch.arange(self.time, dtype=torch.float64) / self.rate_hz

    def pixels(self, length: Values) -> Float[Tensor, " value"]:
        """Return a length in pixel widths."""
        return as_values(length) / self.pixel_size

    def sized(self, *parameters: Tensor) -> "Screen":
        """Return the screen with the batch that parameters of several values need.

        Raises ValueError where they are neither one nor as many as the batch.
        """
        counts = {len(values) for values in parameters} - {1}
        wanted = counts if self.batch == 1 else counts | {self.batch}
        if len(wanted) > 1:
            raise ValueError(
                f"parameters need one value each or as many as the batch, found {sorted(counts)} values for a batch of "
                f"{self.batch}"
            )
        batch = next(iter(wanted), self.batch)
        return Screen(batch, self.channels, self.time, self.height, self.width, self.rate_hz, self.pixel_size)

    def stretched(self, values: Float[Tensor, " value"]) -> Float[Tensor, " batch"]:
        """Return one value per item of the batch."""
        return values.expand(self.batch)

    def stimulus(
        self, image: Float[Tensor, "batch #time height width"], contrast: Float[Tensor, "#batch #channel"]
    ) -> Float[Tensor, "batch channel time height width"]:
        """Return what is the same in all channels but for the contrast."""
        shown = image[:, None] * contrast[:, :, None, None, None]
        return shown.float().expand(self.batch, self.channels, self.time, self.height, self.width).contiguous()


def as_screen(shape: Sequence[int], rate_hz: float, pixel_size: float) -> Screen:
    """Return the screen of a stimulus of the given shape; raises ValueError that says what a shape is."""
    sizes = tuple(int(size) for size in shape)
    if len(sizes) != len(AXES) or min(sizes) < 1:
        raise ValueError(f"a stimulus has the shape {AXES}, all at least 1, found {tuple(shape)}")
    if not rate_hz > 0 or not np.isfinite(rate_hz):
        raise ValueError(f"rate_hz is frames per second and above 0, found {rate_hz}")
    if not pixel_size > 0:
        raise ValueError(f"pixel_size is the width of a pixel and above 0, found {pixel_size}")
    batch, channels, time, height, width = sizes
    return Screen(batch, channels, time, height, width, float(rate_hz), float(pixel_size))


def as_values(values: Values) -> Float[Tensor, " value"]:
    """Return one or more numbers as a tensor of one axis; raises ValueError for more axes or none that is finite."""
    tensor = torch.as_tensor(values, dtype=torch.float64)
    if tensor.ndim > 1 or tensor.numel() == 0 or not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"a parameter is a finite number or a list of them, found {values!r}")
    return tensor.reshape(-1)


def as_contrast(contrast: Values, screen: Screen) -> Float[Tensor, "value #channel"]:
    """Return contrasts as (value, channel): from a number, one per stimulus, or (stimulus, channel).

    Raises ValueError beyond -1..1 or for another number of channels.
    """
    tensor = torch.as_tensor(contrast, dtype=torch.float64)
    tensor = tensor.reshape(-1, 1) if tensor.ndim < 2 else tensor
    if tensor.ndim != 2 or tensor.shape[1] not in (1, screen.channels):
        raise ValueError(
            f"contrasts are (stimulus,) or (stimulus, channel) with {screen.channels} channels, found "
            f"{tuple(tensor.shape)}"
        )
    if not bool((tensor.abs() <= 1).all()):
        raise ValueError(f"contrasts are -1 (black) to 1 (white), found {tensor.abs().max().item():g}")
    return tensor


def as_centers(center: Values | None, screen: Screen) -> tuple[Float[Tensor, " value"], Float[Tensor, " value"]]:
    """Return y and x in pixel widths of one place or of one per stimulus; None is the middle of the screen."""
    tensor = torch.as_tensor((0.0, 0.0) if center is None else center, dtype=torch.float64)
    if tensor.ndim not in (1, 2) or tensor.shape[-1] != 2:
        raise ValueError(f"a center is (y, x), or one such pair per stimulus, found the shape {tuple(tensor.shape)}")
    y, x = (tensor.reshape(-1, 2) / screen.pixel_size).T
    return y, x


def check_below_nyquist(frequency: Float[Tensor, " value"], limit: float, what: str) -> None:
    """Raise ValueError for frequencies that are negative or not below half of the sampling rate."""
    wrong = frequency[(frequency < 0) | (frequency >= limit)]
    if len(wrong):
        raise ValueError(f"{what} must be at least 0 and below {limit:g}, found {wrong[0].item():g}")


def check_positive(values: Float[Tensor, " value"], what: str) -> None:
    """Raise ValueError for values that are not above 0."""
    if not bool((values > 0).all()):
        raise ValueError(f"{what} must be above 0, found {values.min().item():g}")


def shown_frames(screen: Screen, onset_s: float, duration_s: float | None, what: str) -> Float[Tensor, " time"]:
    """Return 1 for frames of a presentation and 0 before and after; a duration of None lasts to the end.

    Raises ValueError where no frame is left.
    """
    first = round(onset_s * screen.rate_hz)
    last = screen.time if duration_s is None else first + round(duration_s * screen.rate_hz)
    if not 0 <= first < last <= screen.time:
        raise ValueError(
            f"{what} from {onset_s:g} s, {'to the end' if duration_s is None else f'{duration_s:g} s long'}, is not "
            f"inside the {screen.time} frames at {screen.rate_hz:g} Hz of the stimulus"
        )
    frames = torch.arange(screen.time)
    return ((frames >= first) & (frames < last)).double()


def disc(
    screen: Screen, diameter: Values, center: Values | None, what: str = "diameter"
) -> tuple[Screen, Float[Tensor, "batch height width"]]:
    """Return how much of each pixel a disc covers, and the screen with the batch it needs.

    The edge is one pixel wide: coverage falls linearly with the distance. Raises ValueError for one below a pixel.
    """
    size = screen.pixels(diameter)
    if not bool((size >= 1).all()):
        raise ValueError(
            f"{what} must be at least a pixel ({screen.pixel_size:g}), found {size.min().item() * screen.pixel_size:g}"
        )
    y, x = as_centers(center, screen)
    sized = screen.sized(size, y)
    place = screen.places()
    from_y = place.y - sized.stretched(y)[:, None, None]
    from_x = place.x - sized.stretched(x)[:, None, None]
    radius = sized.stretched(size)[:, None, None] / 2
    return sized, (radius - torch.hypot(from_y, from_x) + 0.5).clamp(0, 1)


def parameter_grid(**values: Values) -> dict[str, Float[np.ndarray, " stimulus"]]:
    """Return every combination of the values of several parameters, the last one varying fastest."""
    rows = np.array(list(product(*(as_values(value).tolist() for value in values.values()))))
    return dict(zip(values, rows.T, strict=True))
