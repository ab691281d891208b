"""Stimuli of the simulated retina: photographs seen through simulated fixational eye movements, and white noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage
from jaxtyping import Float, UInt8
from scipy import ndimage
from skimage import color, io, transform

GREY = 127.5  # mean grey level; a contrast of -1..1 spans the 8-bit range around it
MAX_CONTRAST = 1.0


@dataclass(frozen=True)
class EyeMovements:
    """Statistics of gaze: saccades end fixations, drift and microsaccades move the image within one.

    Drift is a random walk (Engbert & Kliegl 2004), microsaccades are Poisson events with Gaussian amplitude, and a
    saccade lands at a random place of a random photograph.
    """

    fixation_s: tuple[float, float]  # shortest and longest fixation, uniform in between
    drift_px: float  # standard deviation of one frame's step, per axis
    microsaccade_hz: float
    microsaccade_px: float  # standard deviation of a microsaccade, per axis


def photograph_files() -> dict[str, Path]:
    """Return the pictures inside the installed scikit-image wheel by name; nothing is ever downloaded."""
    folder = Path(skimage.__file__).parent / "data"
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix in (".png", ".jpg")}


def load_photograph(name: str, short_side_px: int) -> Float[np.ndarray, "height width"]:
    """Return a photograph with zero mean and unit deviation; raises ValueError that lists those there are."""
    files = photograph_files()
    if name not in files:
        raise ValueError(f"photograph {name!r} is not in the installed scikit-image, which has {sorted(files)}")
    image = io.imread(files[name])
    grey = color.rgb2gray(image[..., :3]) if image.ndim == 3 else image / 255.0
    return scaled_photograph(grey, short_side_px)


def scaled_photograph(
    grey: Float[np.ndarray, "height width"], short_side_px: int
) -> Float[np.ndarray, "small_height small_width"]:
    """Return an image made smaller, with zero mean and unit deviation."""
    factor = short_side_px / min(grey.shape)
    small = transform.resize(grey, tuple(round(factor * size) for size in grey.shape), anti_aliasing=True)
    return (small - small.mean()) / small.std()


def fixational_movie(
    photographs: Sequence[Float[np.ndarray, "_ _"]],
    eye: EyeMovements,
    n_frames: int,
    frame_rate_hz: float,
    frame_shape: tuple[int, int],
    contrast: float,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "frame 1 height width"]:
    """Return what a patch of retina sees while gaze wanders over photographs; `contrast` is their RMS contrast.

    Every fixation sees its photograph in one of the eight orientations of a square. Interpolation is bilinear.
    """
    photo, orientation, fixation = _fixations(len(photographs), eye, n_frames, frame_rate_hz, rng)
    path = _gaze_within_fixations(eye, fixation, frame_rate_hz, rng)
    landing = rng.random((fixation[-1] + 1, 2))[fixation]
    height, width = frame_shape
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1)
    movie = np.empty((n_frames, 1, height, width), np.uint8)
    for choice in np.unique(np.stack([photo, orientation], axis=1), axis=0):
        shown = (photo == choice[0]) & (orientation == choice[1])
        image = _oriented(photographs[choice[0]], int(choice[1]))
        room = np.array(image.shape) - frame_shape - 1
        if (room <= 0).any():
            raise ValueError(f"a photograph of {image.shape} pixels is too small for frames of {frame_shape} pixels")
        corner = _reflected(landing[shown] * room + path[shown], room)
        where = (corner[:, None, None, :] + grid).transpose(3, 0, 1, 2)
        seen = ndimage.map_coordinates(image, where, order=1, prefilter=False)
        movie[shown, 0] = quantise(seen * contrast)
    return movie


def white_noise(
    n_frames: int,
    frame_shape: tuple[int, int],
    distribution: str,
    check_px: int,
    contrast: float,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "frame 1 height width"]:
    """Return white noise in checks of `check_px` pixels, binary or gaussian, of a given RMS contrast."""
    height, width = frame_shape
    shape = (n_frames, -(-height // check_px), -(-width // check_px))
    if distribution == "binary":
        checks = np.float32(2) * rng.integers(0, 2, shape, np.int8) - np.float32(1)
    elif distribution == "gaussian":
        checks = rng.standard_normal(shape, np.float32)
    else:
        raise ValueError(f"white noise is 'binary' or 'gaussian', found {distribution!r}")
    pixels = quantise(checks * contrast).repeat(check_px, axis=1).repeat(check_px, axis=2)
    return pixels[:, None, :height, :width]


def quantise(contrast: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Return the 8-bit grey levels shown for a contrast of -1..1; beyond, the screen saturates."""
    return np.rint(GREY + GREY * np.clip(contrast, -MAX_CONTRAST, MAX_CONTRAST)).astype(np.uint8)


def contrast_of(frames: UInt8[np.ndarray, "frame channel height width"]) -> Float[np.ndarray, "frame pixel"]:
    """Return the contrast of shown frames relative to mean grey."""
    return frames.reshape(len(frames), -1) / GREY - 1.0


def _fixations(
    n_photographs: int, eye: EyeMovements, n_frames: int, frame_rate_hz: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return photograph, orientation and rank of the fixation of every frame."""
    shortest, longest = (max(1.0, seconds * frame_rate_hz) for seconds in eye.fixation_s)
    most = int(np.ceil(n_frames / shortest)) + 1
    durations = np.rint(rng.uniform(shortest, longest, most)).astype(int)
    fixation = np.repeat(np.arange(most), durations)[:n_frames]
    photo = rng.integers(0, n_photographs, most)
    return photo[fixation], rng.integers(0, 8, most)[fixation], fixation


def _gaze_within_fixations(
    eye: EyeMovements, fixation: np.ndarray, frame_rate_hz: float, rng: np.random.Generator
) -> Float[np.ndarray, "frame 2"]:
    """Return the displacement since the fixation began."""
    n_frames = len(fixation)
    steps = eye.drift_px * rng.standard_normal((n_frames, 2))
    jumps = rng.random(n_frames) < eye.microsaccade_hz / frame_rate_hz
    steps += jumps[:, None] * eye.microsaccade_px * rng.standard_normal((n_frames, 2))
    walk = np.cumsum(steps, axis=0)
    first = np.searchsorted(fixation, fixation)
    return walk - walk[first]


def _oriented(image: np.ndarray, orientation: int) -> np.ndarray:
    turned = np.rot90(image, orientation % 4)
    return np.ascontiguousarray(turned[:, ::-1] if orientation >= 4 else turned)


def _reflected(position: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Return positions folded back at the photograph's borders."""
    folded = np.mod(position, 2 * room)
    return np.minimum(folded, 2 * room - folded)
