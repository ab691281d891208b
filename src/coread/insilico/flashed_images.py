"""Images on the pixels of a model, flashed after grey."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from coread.data_io.artificial_stimuli import generate_natural_patches
from coread.insilico.local_gradient import bins_of
from coread.insilico.population import Population


@dataclass(frozen=True)
class ImageSettings:
    """Which patches of photographs are flashed, and how."""

    n_images: int
    contrast: float  # root mean square
    photograph_px: int  # shorter side of a photograph: the larger, the closer the look
    seed: int  # of the choice of photographs and places
    grey_s: float  # before an image, beyond the lag of the model
    image_s: float  # how long an image is shown
    window_s: Sequence[float]  # start and end of the responses that are summed, from the onset of the image


@dataclass(frozen=True)
class FlashedImages:
    """Movies of images that appear after grey: `image_frames` are those with the image, `window` bins of output."""

    stimuli: Float[Tensor, "image channel time height width"]
    image_frames: slice
    window: slice

    @property
    def images(self) -> Float[Tensor, "image channel height width"]:
        """The images without their time."""
        return self.stimuli[:, :, self.image_frames.start]


def natural_images(population: Population, settings: ImageSettings) -> Float[Tensor, "image channel height width"]:
    """Return patches of photographs on the pixels of a population's models, as contrasts."""
    channels, height, width = population.frame_shape
    shape = (settings.n_images, channels, 1, height, width)
    patches = generate_natural_patches(
        shape, settings.contrast, photograph_px=settings.photograph_px, seed=settings.seed
    )
    return patches[:, :, 0]


def flash(
    population: Population,
    images: Float[Tensor, "image channel height width"],
    grey_s: float,
    image_s: float,
    window_s: Sequence[float],
) -> FlashedImages:
    """Return movies of grey for the lag of the model and `grey_s`, then an image for `image_s`.

    A model of single images, which has no lag, sees the image alone and has one bin of output. Raises ValueError for a
    window outside the movie.
    """
    if population.lag == 0:
        return FlashedImages(images[:, :, None], slice(0, 1), slice(0, 1))
    n_grey = population.lag + (bins_of(population, grey_s) if grey_s > 0 else 0)
    n_shown = bins_of(population, image_s)
    stimuli = images[:, :, None].repeat(1, 1, n_grey + n_shown, 1, 1)
    stimuli[:, :, :n_grey] = 0.0
    return FlashedImages(stimuli, slice(n_grey, n_grey + n_shown), _window(population, n_grey, n_shown, window_s))


def flash_natural_images(population: Population, settings: ImageSettings) -> FlashedImages:
    """Return movies of the patches of photographs that settings name."""
    images = natural_images(population, settings)
    return flash(population, images, settings.grey_s, settings.image_s, settings.window_s)


def _window(population: Population, n_grey: int, n_shown: int, window_s: Sequence[float]) -> slice:
    """Return the bins of the output between two times from the onset of the image."""
    onset, n_out = n_grey - population.lag, n_grey + n_shown - population.lag
    start, stop = (onset + round(time * population.rate_hz) for time in window_s)
    if not 0 <= start < stop <= n_out:
        raise ValueError(
            f"window_s {list(window_s)} is empty or outside the movie, which runs from "
            f"{-onset / population.rate_hz:g} to {n_shown / population.rate_hz:g} s after the onset of an image"
        )
    return slice(start, stop)
