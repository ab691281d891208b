"""Drifting, static and counterphase gratings, sine or square, on the whole screen or in a round aperture."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from coread.data_io.artificial_stimuli.screen import (
    RATE_HZ,
    Screen,
    Values,
    as_contrast,
    as_screen,
    as_values,
    check_below_nyquist,
    disc,
)

DEFAULT_CYCLES = 2.0  # of a grating across the shorter side of the screen
MODES = ("drifting", "static", "counterphase")
WAVEFORMS = ("sine", "square")


def generate_gratings(
    shape: Sequence[int],
    temporal_frequency: Values = 1.0,
    spatial_frequency: Values | None = None,
    direction: Values = 0.0,
    contrast: Values = 1.0,
    phase: Values = 0.0,
    *,
    mode: str = "drifting",
    waveform: str = "sine",
    diameter: Values | None = None,
    center: Values | None = None,
    rate_hz: float = RATE_HZ,
    pixel_size: float = 1.0,
) -> Float[Tensor, "batch channel time height width"]:
    """Return gratings: contrast x cos(2 pi (spatial_frequency u - temporal_frequency t) + phase).

    u is the distance from the middle of the screen along `direction`, t the time since the first frame.

    Args:
        shape: `(batch, channel, time, height, width)`.
        temporal_frequency: Hz; a static grating takes no notice of it.
        spatial_frequency: cycles per unit of `pixel_size` (cycles per pixel by default); None shows 2 cycles across the
            shorter side of the screen.
        direction: of motion, degrees counter-clockwise from rightwards; the stripes are at right angles to it.
        contrast: Michelson contrast, of all channels or `(stimulus, channel)`.
        phase: degrees.
        mode: drifting | static | counterphase (a static grating times cos(2 pi temporal_frequency t)).
        waveform: sine | square; the steps of a square wave are averaged over the width of a pixel.
        diameter: of a round aperture with grey around it; None for the whole screen.
        center: `(y, x)` of the aperture from the middle of the screen.
        rate_hz: frames per second.
        pixel_size: width of a pixel in the unit of lengths.

    Raises ValueError for what cannot be shown, or an unknown mode or waveform.

    """
    for name, value, known in (("mode", mode, MODES), ("waveform", waveform, WAVEFORMS)):
        if value not in known:
            raise ValueError(f"{name} is one of {known}, found {value!r}")
    screen = as_screen(shape, rate_hz, pixel_size)
    hz = as_values(0.0 if mode == "static" else temporal_frequency)
    check_below_nyquist(hz, screen.rate_hz / 2, "temporal_frequency (Hz, half the frame rate)")
    cycles = _cycles_per_pixel(spatial_frequency, screen)
    angle, start, amplitude = as_values(direction).deg2rad(), as_values(phase).deg2rad(), as_contrast(contrast, screen)
    aperture = None
    if diameter is not None:
        screen, aperture = disc(screen, diameter, center)
    screen = screen.sized(hz, cycles, angle, start, amplitude)
    hz, cycles, angle, start = (screen.stretched(values) for values in (hz, cycles, angle, start))
    along = _distance_along(screen, angle) * cycles[:, None, None]  # in cycles
    turns = hz[:, None] * screen.seconds()
    offset = start[:, None, None] / (2 * torch.pi)
    width = cycles * (angle.cos().abs() + angle.sin().abs())  # of a pixel, in cycles
    if mode == "drifting":
        image = _wave(along[:, None] + offset[:, None] - turns[:, :, None, None], waveform, width)
    else:
        image = _wave((along + offset)[:, None], waveform, width) * _wave(turns, "sine", width)[:, :, None, None]
    if aperture is not None:
        image = image * aperture[:, None]
    return screen.stimulus(image, amplitude)


def _cycles_per_pixel(spatial_frequency: Values | None, screen: Screen) -> Float[Tensor, " value"]:
    if spatial_frequency is None:
        return as_values(DEFAULT_CYCLES / max(min(screen.height, screen.width), 2 * DEFAULT_CYCLES + 1))
    given = as_values(spatial_frequency)
    check_below_nyquist(given, 0.5 / screen.pixel_size, "spatial_frequency (half a cycle per pixel)")
    return given * screen.pixel_size


def _distance_along(screen: Screen, angle: Float[Tensor, " batch"]) -> Float[Tensor, "batch height width"]:
    """Return how far pixels lie along a direction from the middle of the screen, in pixel widths."""
    place = screen.places()
    return place.x * angle.cos()[:, None, None] + place.y * angle.sin()[:, None, None]


def _wave(
    cycles: Float[Tensor, "batch *shape"], waveform: str, width: Float[Tensor, " batch"]
) -> Float[Tensor, "batch *shape"]:
    """Return a cosine of a number of cycles, or the square wave of its sign averaged over a width in cycles."""
    if waveform == "sine":
        return torch.cos(2 * torch.pi * cycles)
    half = (width / 2).clamp_min(1e-9).reshape(-1, *[1] * (cycles.ndim - 1))
    return (_square_integral(cycles + half) - _square_integral(cycles - half)) / (2 * half)


def _square_integral(cycles: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the integral of the sign of cos(2 pi x): a triangle wave, zero at 0 and at most a quarter."""
    shifted = (cycles + 0.25) % 1.0
    return 0.25 - (shifted - 0.5).abs()
