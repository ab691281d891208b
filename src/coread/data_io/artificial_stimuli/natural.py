"""Patches of natural scenes: cut out of the photographs that scikit-image ships, so nothing is downloaded."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from coread.data_io.artificial_stimuli.screen import as_screen
from coread.data_io.simulate.movies import load_photograph

PHOTOGRAPHS = ("astronaut", "brick", "camera", "chelsea", "coffee", "grass", "gravel", "rocket")
PHOTOGRAPH_PX = 256  # shorter side of a photograph


def generate_natural_patches(
    shape: Sequence[int],
    contrast: float = 0.4,
    *,
    photographs: Sequence[str] = PHOTOGRAPHS,
    photograph_px: int = PHOTOGRAPH_PX,
    seed: int = 0,
) -> Float[Tensor, "batch channel time height width"]:
    """Return grey photographs' patches, still and the same in all channels, with mean grey and an RMS contrast.

    Args:
        shape: `(batch, channel, time, height, width)`; every item of the batch is another random patch.
        contrast: RMS contrast of every patch before the screen saturates at -1 and 1.
        photographs: names of pictures in the installed scikit-image (`photograph_files` lists them).
        photograph_px: shorter side that photographs are scaled to: the larger, the closer the look.
        seed: of the choice of photographs and places.

    Raises ValueError for unknown photographs, or such that are smaller than the screen.

    """
    screen = as_screen(shape, 1.0, 1.0)
    if photograph_px < max(screen.height, screen.width):
        raise ValueError(
            f"photograph_px must be at least the screen's {screen.height} x {screen.width}, found {photograph_px}"
        )
    images = [load_photograph(name, photograph_px) for name in photographs]
    rng = np.random.default_rng(seed)
    patches = np.empty((screen.batch, screen.height, screen.width))
    for item, chosen in enumerate(rng.integers(0, len(images), screen.batch)):
        top, left = (
            int(rng.integers(0, size - wanted + 1))
            for size, wanted in zip(images[chosen].shape, (screen.height, screen.width), strict=True)
        )
        patches[item] = images[chosen][top : top + screen.height, left : left + screen.width]
    patches -= patches.mean(axis=(1, 2), keepdims=True)
    spread = patches.std(axis=(1, 2), keepdims=True)
    patches *= np.divide(contrast, spread, out=np.zeros_like(spread), where=spread > 1e-6)
    shown = torch.from_numpy(patches.clip(-1, 1))[:, None]
    return screen.stimulus(shown, torch.ones(1, 1, dtype=torch.float64))
