"""Spots and annuli, flashed or shown all the time."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from coread.data_io.artificial_stimuli.screen import (
    RATE_HZ,
    Values,
    as_contrast,
    as_screen,
    disc,
    shown_frames,
)


def generate_spots(
    shape: Sequence[int],
    diameter: Values,
    center: Values | None = None,
    contrast: Values = 1.0,
    *,
    onset_s: float = 0.0,
    duration_s: float | None = None,
    rate_hz: float = RATE_HZ,
    pixel_size: float = 1.0,
) -> Float[Tensor, "batch channel time height width"]:
    """Return spots of a contrast on grey, with an edge of one pixel.

    Args:
        shape: `(batch, channel, time, height, width)`.
        diameter: in the unit of `pixel_size`.
        center: `(y, x)` from the middle of the screen, one or `(stimulus, 2)`.
        contrast: of all channels or `(stimulus, channel)`.
        onset_s: of the spot, after the first frame.
        duration_s: of the spot; None lasts to the end.
        rate_hz: frames per second.
        pixel_size: width of a pixel in the unit of lengths.

    Raises ValueError for a diameter below one pixel or a presentation outside the stimulus.

    """
    screen = as_screen(shape, rate_hz, pixel_size)
    amplitude = as_contrast(contrast, screen)
    frames = shown_frames(screen, onset_s, duration_s, "a spot")
    screen, covered = disc(screen.sized(amplitude), diameter, center)
    return screen.stimulus(covered[:, None] * frames[:, None, None], amplitude)


def generate_annuli(
    shape: Sequence[int],
    inner_diameter: Values,
    outer_diameter: Values,
    center: Values | None = None,
    contrast: Values = 1.0,
    *,
    onset_s: float = 0.0,
    duration_s: float | None = None,
    rate_hz: float = RATE_HZ,
    pixel_size: float = 1.0,
) -> Float[Tensor, "batch channel time height width"]:
    """Return rings of a contrast on grey; arguments as of `generate_spots`.

    Raises ValueError also where a ring has no width.
    """
    screen = as_screen(shape, rate_hz, pixel_size)
    amplitude = as_contrast(contrast, screen)
    inside, outside = screen.pixels(inner_diameter), screen.pixels(outer_diameter)
    frames = shown_frames(screen, onset_s, duration_s, "an annulus")
    screen = screen.sized(amplitude, inside, outside)
    if not bool((screen.stretched(outside) > screen.stretched(inside)).all()):
        raise ValueError("outer_diameter of an annulus must be above inner_diameter")
    screen, outer = disc(screen, outer_diameter, center, "outer_diameter")
    _, inner = disc(screen, inner_diameter, center, "inner_diameter")
    return screen.stimulus((outer - inner)[:, None] * frames[:, None, None], amplitude)
