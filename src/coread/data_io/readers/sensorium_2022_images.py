"""The images of a session in the SENSORIUM layout: rescaled once, image by image, and each distinct one kept once."""

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int32, Num, Shaped

from coread.data_io.readers.sensorium_2022_files import SessionFiles
from coread.recording import RecordingError, Stimulus, smallest_exact

BLOCK_IMAGES = 64  # rescaled together


def rescale_factor(scale: float) -> int:
    """Return the side of the block of pixels that becomes one; raises ValueError unless `scale` is 1, 1/2, 1/3, ..."""
    factor = round(1 / scale) if scale > 0 else 0
    if factor < 1 or abs(factor * scale - 1) > 1e-6:
        raise ValueError(f"data_io.scale is 1 or one divided by a whole number (0.5, 0.25), found {scale}")
    return factor


def rescale(
    images: Num[np.ndarray, "image channel height width"], factor: int
) -> Num[np.ndarray, "image channel height/factor width/factor"]:
    """Return images as the published rescale makes them: bilinear at the centre of every block, without smoothing.

    `skimage.transform.rescale(order=1, anti_aliasing=False)`: the mean of the central 2 x 2 pixels of blocks with an
    even side (the published 4 x 4), the central pixel of blocks with an odd one. Means are float32, exact for integers.
    """
    if factor % 2:
        return images[..., factor // 2 :: factor, factor // 2 :: factor]
    wide = np.float32 if images.dtype.kind in "ui" and images.dtype.itemsize <= 2 else np.float64
    side = (factor // 2 - 1, factor // 2)
    corners = [images[..., row::factor, column::factor].astype(wide) for row in side for column in side]
    return np.stack(corners).mean(axis=0, dtype=wide).astype(np.float32)


def read_images(
    files: SessionFiles, names: Sequence[str], factor: int, image_s: float, pixel_deg: float | None
) -> tuple[Stimulus, Int32[np.ndarray, "trial"]]:
    """Return the distinct images in the order they first come in, and which of them every trial shows.

    Images are equal if all their pixels are. Raises RecordingError naming the file: another shape or type than the
    first one's, sides that are no multiple of the factor, or values that are not finite.
    """
    rows: dict[bytes, int] = {}
    shown = np.empty(len(names), np.int32)
    blocks: list[Shaped[np.ndarray, "image channel height width"]] = []
    waiting: list[np.ndarray] = []
    expected: np.ndarray | None = None
    for trial, name in enumerate(names):
        image = files.array(name)
        expected = _checked_first(image, factor, files.where(name)) if expected is None else expected
        if image.shape != expected.shape or image.dtype != expected.dtype:
            raise RecordingError(
                f"{files.where(name)} must be {expected.dtype} of shape {expected.shape} as {names[0]}, "
                f"found {image.dtype} of shape {image.shape}"
            )
        digest = hashlib.sha256(image.tobytes()).digest()
        if digest not in rows:
            rows[digest] = len(rows)
            waiting.append(image)
        shown[trial] = rows[digest]
        if len(waiting) == BLOCK_IMAGES:
            blocks.append(_compact(rescale(np.stack(waiting), factor)))
            waiting.clear()
    if waiting:
        blocks.append(_compact(rescale(np.stack(waiting), factor)))
    try:
        frames, scale, offset = smallest_exact(np.concatenate(blocks))
    except RecordingError as error:
        raise RecordingError(f"{files.where('data/images')}: {error}") from error
    return Stimulus(frames, 1 / image_s, scale, offset, pixel_deg=pixel_deg), shown


def _checked_first(image: np.ndarray, factor: int, where: str) -> np.ndarray:
    if image.ndim != 3 or image.dtype.kind not in "uif" or 0 in image.shape:
        raise RecordingError(
            f"{where} must be numbers (channel, height, width), found {image.dtype} of shape {image.shape}"
        )
    if image.shape[1] % factor or image.shape[2] % factor:
        raise RecordingError(
            f"{where} has {image.shape[1]} x {image.shape[2]} pixels, which blocks of {factor} x {factor} do not fill; "
            f"data_io.scale {1 / factor:g} cannot be used"
        )
    return image


def _compact(
    images: Num[np.ndarray, "image channel height width"],
) -> Shaped[np.ndarray, "image channel height width"]:
    """Return the images as bytes where nothing is lost, else as float32: full resolution in float64 would be 1.8 GB."""
    with np.errstate(invalid="ignore"):
        as_bytes = images.astype(np.uint8)
    values: Float32[np.ndarray, "image channel height width"] = images.astype(np.float32, copy=False)
    return as_bytes if np.array_equal(as_bytes, values) else values
