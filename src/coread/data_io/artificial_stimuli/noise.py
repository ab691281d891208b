"""White noise in checks: dense or sparse, new in every frame, or in space or in time alone."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from coread.data_io.artificial_stimuli.screen import RATE_HZ, Screen, as_contrast, as_screen

KINDS = ("dense", "sparse", "spatial", "temporal")
DISTRIBUTIONS = ("binary", "gaussian")


def generate_noise_stimulus(
    shape: Sequence[int],
    kind: str = "dense",
    distribution: str = "binary",
    contrast: float = 1.0,
    *,
    check_size: float | None = None,
    update_hz: float | None = None,
    density: float = 0.05,
    independent_channels: bool = True,
    seed: int = 0,
    rate_hz: float = RATE_HZ,
    pixel_size: float = 1.0,
) -> Float[Tensor, "batch channel time height width"]:
    """Return white noise, another one for every item of the batch; the same seed gives the same noise.

    Args:
        shape: `(batch, channel, time, height, width)`.
        kind: dense (all checks in all updates) | sparse (few checks at a time, the others grey) | spatial (one image
            all the time) | temporal (the whole screen flickers).
        distribution: binary (+contrast or -contrast) | gaussian (standard deviation `contrast`, clipped at -1 and 1).
        contrast: RMS contrast of the checks that are not grey.
        check_size: side of a check, a whole number of pixels; None is one pixel.
        update_hz: new checks per second, a whole fraction of the frame rate; None is every frame.
        density: share of checks that sparse noise shows at a time.
        independent_channels: whether channels have noise of their own or all the same.
        seed: of the random numbers.
        rate_hz: frames per second.
        pixel_size: width of a pixel in the unit of lengths.

    Raises ValueError for checks or updates that do not fit pixels and frames, or unknown names.

    """
    for name, value, known in (("kind", kind, KINDS), ("distribution", distribution, DISTRIBUTIONS)):
        if value not in known:
            raise ValueError(f"{name} is one of {known}, found {value!r}")
    if not 0 < density <= 1:
        raise ValueError(f"density is a share above 0 and at most 1, found {density}")
    screen = as_screen(shape, rate_hz, pixel_size)
    amplitude = as_contrast(contrast, screen)
    check_px = 1 if check_size is None else _whole(check_size / pixel_size, "check_size, in pixels,")
    hold = 1 if update_hz is None else _whole(rate_hz / update_hz, "the frame rate divided by update_hz")
    generator = torch.Generator().manual_seed(seed)
    size = _checks(screen, kind, check_px, hold, screen.channels if independent_channels else 1)
    if distribution == "binary":
        values = 2.0 * torch.randint(0, 2, size, generator=generator) - 1.0
    else:
        values = torch.randn(size, generator=generator)
    if kind == "sparse":
        values = values * (torch.rand(size, generator=generator) < density)
    if kind != "spatial":
        values = values.repeat_interleave(hold, dim=2)[:, :, : screen.time]
    if kind != "temporal":
        values = values.repeat_interleave(check_px, dim=3).repeat_interleave(check_px, dim=4)
        values = values[..., : screen.height, : screen.width]
    shown = (values * amplitude.float()[:, :, None, None, None]).clamp(-1, 1)
    return shown.expand(screen.batch, screen.channels, screen.time, screen.height, screen.width).contiguous()


def _checks(screen: Screen, kind: str, check_px: int, hold: int, channels: int) -> tuple[int, int, int, int, int]:
    """Return how many checks are drawn along every axis."""
    time = 1 if kind == "spatial" else -(-screen.time // hold)
    if kind == "temporal":
        return screen.batch, channels, time, 1, 1
    return screen.batch, channels, time, -(-screen.height // check_px), -(-screen.width // check_px)


def _whole(value: float, what: str) -> int:
    if value < 1 - 1e-6 or abs(value - round(value)) > 1e-3:
        raise ValueError(f"{what} must be a whole number, found {value:g}")
    return round(value)
