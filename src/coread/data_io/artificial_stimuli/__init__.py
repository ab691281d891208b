"""Stimuli of the laboratory, made for a model: gratings, bars, spots, noise, flashes, the chirp, natural patches.

Every function takes the shape of a stimulus `(batch, channel, time, height, width)` and returns a float32 tensor of
that shape that a model takes. Values are contrasts, -1 (black) to 1 (white) around 0, the mean grey.

- Time is in seconds and Hz, given `rate_hz`, the frames per second (30 by default).
- Lengths are in the unit of `pixel_size`, the width of a pixel: 60.0 for pixels of 60 um and lengths in um, 0.5 for
  pixels of half a degree and lengths in degrees; 1 by default, so lengths are in pixels.
- Directions are degrees counter-clockwise from rightwards as seen on the screen: 90 moves up. A grating's or bar's
  orientation is that of its stripes: direction + 90, modulo 180.
- Places are `(y, x)` from the middle of the screen, x to the right and y upwards.
- A parameter may be one number or one per item of the batch, so that one call makes a whole grid. Where the shape says
  a batch of 1, the batch is as large as the parameters need.

What cannot be shown is a ValueError: frequencies that are not below half a cycle per pixel or frame, contrasts beyond
1, bars that jump over pixels.
"""

from coread.data_io.artificial_stimuli.bars import generate_moving_bar
from coread.data_io.artificial_stimuli.chirp import ChirpSegment, chirp_course, chirp_segments, generate_chirp
from coread.data_io.artificial_stimuli.flashes import channel_contrast_grid, generate_flashes
from coread.data_io.artificial_stimuli.gratings import generate_gratings
from coread.data_io.artificial_stimuli.natural import generate_natural_patches
from coread.data_io.artificial_stimuli.noise import generate_noise_stimulus
from coread.data_io.artificial_stimuli.screen import parameter_grid
from coread.data_io.artificial_stimuli.spots import generate_annuli, generate_spots

__all__ = [
    "ChirpSegment",
    "channel_contrast_grid",
    "chirp_course",
    "chirp_segments",
    "generate_annuli",
    "generate_chirp",
    "generate_flashes",
    "generate_gratings",
    "generate_moving_bar",
    "generate_natural_patches",
    "generate_noise_stimulus",
    "generate_spots",
    "parameter_grid",
]
