"""Natural images of the simulated cortex, and what an eye sees of them that does not look straight ahead."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8
from scipy import ndimage

from coread.data_io.simulate.movies import GREY, load_photograph, quantise

SCREEN_PER_PIXEL = 4  # screen pixels per pixel of the images that models see, per axis
IMAGES_AT_A_TIME = 64
FLATTEST = 1e-3  # smallest deviation that a patch is divided by, of photographs with unit deviation


@dataclass(frozen=True)
class Photographs:
    """Where images come from; training (and validation) and test images share no photograph."""

    train_photographs: Sequence[str]
    test_photographs: Sequence[str]
    photograph_px: int  # shorter side of a photograph after it is made smaller
    zoom: tuple[float, float]  # least and most photograph pixels per screen pixel
    contrast: float  # RMS of every image
    screen_px: tuple[int, int] = (144, 256)  # pixels of an image, height and width; as published

    def __post_init__(self) -> None:
        if min(self.screen_px) < SCREEN_PER_PIXEL or any(size % SCREEN_PER_PIXEL for size in self.screen_px):
            raise ValueError(
                f"data_io.images.screen_px: expected two multiples of {SCREEN_PER_PIXEL}, found {list(self.screen_px)}"
            )
        if shared := set(self.train_photographs) & set(self.test_photographs):
            raise ValueError(f"data_io.images: photographs {sorted(shared)} are in both training and test images")
        if not 0 < self.zoom[0] <= self.zoom[1]:
            raise ValueError(f"data_io.images.zoom: expected two rising numbers above 0, found {list(self.zoom)}")

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of the images that models see."""
        return image_shape(self.screen_px)


def image_shape(screen_px: Sequence[int]) -> tuple[int, int]:
    """Return height and width of what models see of a screen."""
    return screen_px[0] // SCREEN_PER_PIXEL, screen_px[1] // SCREEN_PER_PIXEL


def natural_images(
    names: Sequence[str], n_images: int, photographs: Photographs, rng: np.random.Generator
) -> UInt8[np.ndarray, "image screen_y screen_x"]:
    """Return patches of photographs at random places, angles and zooms, mirrored or not, of equal mean and contrast.

    Beyond its border a photograph goes on as its mirror image. Interpolation is bilinear.
    """
    photograph = rng.integers(0, len(names), n_images)
    place = rng.random((n_images, 2))
    angle = rng.uniform(0, 2 * np.pi, n_images)
    mirrored = np.where(rng.random(n_images) < 0.5, -1.0, 1.0)
    least, most = np.log(photographs.zoom)
    zoom = np.exp(rng.uniform(least, most, n_images))
    turn = zoom[:, None, None] * np.stack(
        [np.stack([np.cos(angle), -np.sin(angle)], 1), np.stack([np.sin(angle), np.cos(angle)], 1)], 1
    )
    turn[:, :, 1] *= mirrored[:, None]
    grid = np.stack(np.meshgrid(*(np.arange(size) - (size - 1) / 2 for size in photographs.screen_px), indexing="ij"))
    grid = grid.reshape(2, -1)
    images = np.empty((n_images, *photographs.screen_px), np.uint8)
    for number, name in enumerate(names):
        source = load_photograph(name, photographs.photograph_px).astype(np.float32)
        shown = np.flatnonzero(photograph == number)
        for chunk in _chunks(shown):
            where = turn[chunk] @ grid + (place[chunk] * source.shape)[:, :, None]
            patches = ndimage.map_coordinates(source, where.swapaxes(0, 1), order=1, mode="mirror")
            patches = patches.reshape(-1, *photographs.screen_px)
            patches -= patches.mean((1, 2), keepdims=True)
            patches /= np.maximum(patches.std((1, 2), keepdims=True), FLATTEST)
            images[chunk] = quantise(photographs.contrast * patches)
    return images


def seen_images(
    images: UInt8[np.ndarray, "image screen_y screen_x"],
    image: Int[np.ndarray, "trial"],
    eye_px: Float[np.ndarray, "trial 2"],
) -> Float32[np.ndarray, "trial height width"]:
    """Return the contrast that an eye sees: pixel (y, x) of trial t is the screen at (y, x) + `eye_px`[t].

    A pixel is the mean of the central 2 x 2 of 4 x 4 screen pixels, as in the published rescale, which is what is seen
    with `eye_px` 0. Displacements are in pixels of the rescaled images (y, x); screen pixels are interpolated
    bilinearly, and beyond the screen its border goes on.
    """
    height, width = images.shape[1:]
    rows, row_weights = _taps(eye_px[:, 0], height)
    columns, column_weights = _taps(eye_px[:, 1], width)
    across = np.zeros((len(image), height // SCREEN_PER_PIXEL, width), np.float32)
    for taps, weights in zip(rows, row_weights, strict=True):
        across += weights[:, None, None] * images[image[:, None], taps]
    seen = np.zeros((len(image), *image_shape((height, width))), np.float32)
    for taps, weights in zip(columns, column_weights, strict=True):
        seen += weights[:, None, None] * np.take_along_axis(across, taps[:, None, :], axis=2)
    return seen / np.float32(GREY) - np.float32(1)


def _taps(
    shift_px: Float[np.ndarray, "trial"], screen_px: int
) -> tuple[Int[np.ndarray, "tap trial pixel"], Float32[np.ndarray, "tap trial"]]:
    """Return the screen pixels behind every pixel of an axis and their weights: the mean of two neighbours, shifted."""
    whole = np.floor(shift_px * SCREEN_PER_PIXEL)
    fraction = shift_px * SCREEN_PER_PIXEL - whole
    first = SCREEN_PER_PIXEL * np.arange(screen_px // SCREEN_PER_PIXEL) + SCREEN_PER_PIXEL // 2 - 1
    taps = first + whole.astype(int)[:, None] + np.arange(3)[:, None, None]
    weights = np.stack([(1 - fraction) / 2, np.full(len(shift_px), 0.5), fraction / 2])
    return np.clip(taps, 0, screen_px - 1), weights.astype(np.float32)


def _chunks(rows: Int[np.ndarray, "row"]) -> list[Int[np.ndarray, "row"]]:
    return [rows[start : start + IMAGES_AT_A_TIME] for start in range(0, len(rows), IMAGES_AT_A_TIME)]
