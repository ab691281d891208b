"""The full-field chirp of Baden et al. 2016 (Nature 529:345): a step, a frequency ramp and a contrast ramp.

Segments as in the authors' stimulus script: 2 s dark, 3 s bright, 3 s dark, 2 s grey, 8 s sine of full contrast whose
frequency rises from 0 to 8 Hz, 2 s grey, 8 s sine of 2 Hz whose contrast rises from 0 to 1, 2 s grey, 3 s dark.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from coread.data_io.artificial_stimuli.screen import RATE_HZ, Values, as_contrast, as_screen, check_below_nyquist

MAX_FREQUENCY_HZ = 8.0
CONTRAST_FREQUENCY_HZ = 2.0
RAMP_S = 8.0
STEPS = (("dark", 2.0), ("bright", 3.0), ("dark_after", 3.0), ("grey", 2.0), ("frequency", RAMP_S), ("grey_2", 2.0))
STEPS_AFTER = (("contrast", RAMP_S), ("grey_3", 2.0), ("dark_end", 3.0))
LEVELS = {"dark": -1.0, "bright": 1.0, "dark_after": -1.0, "dark_end": -1.0}


@dataclass(frozen=True)
class ChirpSegment:
    """A part of the chirp: its frames from `first` up to but without `stop`."""

    name: str
    first: int
    stop: int


def chirp_segments(rate_hz: float = RATE_HZ) -> tuple[ChirpSegment, ...]:
    """Return the parts of a chirp shown at a rate; they follow each other without gaps."""
    edges, seconds, parts = [0], 0.0, STEPS + STEPS_AFTER
    for _, duration_s in parts:
        seconds += duration_s
        edges.append(round(seconds * rate_hz))
    return tuple(
        ChirpSegment(name, first, stop) for (name, _), first, stop in zip(parts, edges[:-1], edges[1:], strict=True)
    )


def ramp_phase(name: str, seconds: Float[Tensor, " time"]) -> Float[Tensor, " time"]:
    """Return the phase in radians of the sine in the segment "frequency" or "contrast", after so many seconds of it."""
    if name == "frequency":
        return torch.pi * MAX_FREQUENCY_HZ / RAMP_S * seconds**2
    return 2 * torch.pi * CONTRAST_FREQUENCY_HZ * seconds


def chirp_course(rate_hz: float = RATE_HZ) -> Float[Tensor, " time"]:
    """Return the contrast of the screen in every frame of one chirp of 33 s.

    Raises ValueError where the frame rate cannot show its highest frequency.
    """
    check_below_nyquist(torch.tensor([MAX_FREQUENCY_HZ]), rate_hz / 2, "the chirp's highest frequency (half the rate)")
    parts = []
    for segment in chirp_segments(rate_hz):
        seconds = torch.arange(segment.stop - segment.first, dtype=torch.float64) / rate_hz
        if segment.name == "frequency":
            parts.append(ramp_phase("frequency", seconds).sin())
        elif segment.name == "contrast":
            parts.append(seconds / RAMP_S * ramp_phase("contrast", seconds).sin())
        else:
            parts.append(torch.full_like(seconds, LEVELS.get(segment.name, 0.0)))
    return torch.cat(parts)


def generate_chirp(
    shape: Sequence[int], contrast: Values = 1.0, *, rate_hz: float = RATE_HZ
) -> Float[Tensor, "batch channel time height width"]:
    """Return the chirp on the whole screen, its contrasts multiplied by `contrast`, one or `(stimulus, channel)`.

    Raises ValueError if the stimulus is not 33 s long or the frame rate is too low.
    """
    screen = as_screen(shape, rate_hz, 1.0)
    course = chirp_course(rate_hz)
    if screen.time != len(course):
        raise ValueError(f"a chirp at {rate_hz:g} Hz has {len(course)} frames, found a stimulus of {screen.time}")
    amplitude = as_contrast(contrast, screen)
    screen = screen.sized(amplitude)
    return screen.stimulus(course[None, :, None, None].expand(screen.batch, -1, 1, 1), amplitude)
