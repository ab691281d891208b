"""Full-field flashes, of one contrast for all channels or one for each."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from coread.data_io.artificial_stimuli.screen import RATE_HZ, Values, as_contrast, as_screen, as_values, shown_frames


def generate_flashes(
    shape: Sequence[int],
    contrast: Values = 1.0,
    *,
    onset_s: float = 0.0,
    duration_s: float | None = None,
    rate_hz: float = RATE_HZ,
) -> Float[Tensor, "batch channel time height width"]:
    """Return steps of the whole screen from grey to a contrast and back.

    `contrast` is one number, one per stimulus, or `(stimulus, channel)`; a `duration_s` of None lasts to the end.
    Raises ValueError for contrasts beyond -1..1 or a flash outside the stimulus.
    """
    screen = as_screen(shape, rate_hz, 1.0)
    amplitude = as_contrast(contrast, screen)
    frames = shown_frames(screen, onset_s, duration_s, "a flash")
    screen = screen.sized(amplitude)
    return screen.stimulus(frames[None, :, None, None].expand(screen.batch, -1, 1, 1), amplitude)


def channel_contrast_grid(first: Values, second: Values) -> Float[Tensor, "stimulus 2"]:
    """Return every pair of a contrast of the first and one of the second channel, the second varying fastest."""
    return torch.cartesian_prod(as_values(first), as_values(second))
