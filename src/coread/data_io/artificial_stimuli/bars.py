"""Bars that move across the screen."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from coread.data_io.artificial_stimuli.screen import (
    RATE_HZ,
    Values,
    as_centers,
    as_contrast,
    as_screen,
    as_values,
    check_positive,
)

DEFAULT_WIDTH_SHARE = 0.2  # of a bar, of the shorter side of the screen


def generate_moving_bar(
    shape: Sequence[int],
    direction: Values = 0.0,
    speed: Values | None = None,
    width: Values | None = None,
    length: Values | None = None,
    contrast: Values = 1.0,
    *,
    center: Values | None = None,
    rate_hz: float = RATE_HZ,
    pixel_size: float = 1.0,
) -> Float[Tensor, "batch channel time height width"]:
    """Return bars on grey that move at a constant speed and are at `center` half-way through the stimulus.

    Pixels that a bar covers in part have a part of its contrast.

    Args:
        shape: `(batch, channel, time, height, width)`.
        direction: of motion, degrees counter-clockwise from rightwards; a bar's long side is at right angles to it.
        speed: lengths per second; None takes what moves the bar from outside the screen across it in the given time.
        width: of the bar along its motion; None is a fifth of the shorter side of the screen.
        length: of the bar across its motion; None reaches over the whole screen.
        contrast: of all channels or `(stimulus, channel)`; below 0 the bar is dark.
        center: `(y, x)` from the middle of the screen that the bar's middle crosses.
        rate_hz: frames per second.
        pixel_size: width of a pixel in the unit of lengths.

    Raises ValueError for a bar wider than the screen's diagonal, or one that jumps over pixels from frame to frame.

    """
    screen = as_screen(shape, rate_hz, pixel_size)
    angle, amplitude = as_values(direction).deg2rad(), as_contrast(contrast, screen)
    wide = (
        as_values(max(1.0, DEFAULT_WIDTH_SHARE * min(screen.height, screen.width)))
        if width is None
        else screen.pixels(width)
    )
    long = as_values(4 * screen.diagonal_px) if length is None else screen.pixels(length)
    y, x = as_centers(center, screen)
    check_positive(wide, "width of a bar")
    check_positive(long, "length of a bar")
    if not bool((wide <= screen.diagonal_px).all()):
        raise ValueError(
            f"a bar cannot be wider than the screen's diagonal of {screen.diagonal_px * pixel_size:g}, found "
            f"{wide.max().item() * pixel_size:g}"
        )
    per_frame = (
        (screen.diagonal_px + wide) / max(screen.time - 1, 1) if speed is None else screen.pixels(speed) / rate_hz
    )
    check_positive(per_frame, "speed of a bar")
    screen = screen.sized(angle, amplitude, wide, long, y, per_frame)
    angle, wide, long, y, x, per_frame = (
        screen.stretched(values)[:, None, None] for values in (angle, wide, long, y, x, per_frame)
    )
    if speed is not None and bool((per_frame > wide.clamp_min(1.0)).any()):
        raise ValueError(
            f"a bar of width {wide.min().item() * pixel_size:g} jumps over pixels at a speed of "
            f"{per_frame.max().item() * rate_hz * pixel_size:g} per second and {rate_hz:g} frames per second"
        )
    place = screen.places()
    from_y, from_x = place.y - y, place.x - x
    along = from_x * angle.cos() + from_y * angle.sin()
    across = from_y * angle.cos() - from_x * angle.sin()
    frames = torch.arange(screen.time, dtype=torch.float64)[:, None, None]
    travelled = per_frame[:, None] * (frames - (screen.time - 1) / 2)
    covered = _covered(along[:, None] - travelled, wide[:, None]) * _covered(across, long)[:, None]
    return screen.stimulus(covered, amplitude)


def _covered(distance: Float[Tensor, "*shape"], extent: Float[Tensor, "*#shape"]) -> Float[Tensor, "*shape"]:
    """Return the share of a pixel at a distance from the middle of a strip that the strip covers."""
    high = torch.minimum(distance + 0.5, extent / 2)
    low = torch.maximum(distance - 0.5, -extent / 2)
    return (high - low).clamp_min(0)
