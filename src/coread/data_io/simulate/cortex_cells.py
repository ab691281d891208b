"""Simple and complex cells of the simulated visual cortex, on a smooth retinotopic map.

A simple cell half-wave rectifies the output of one Gabor filter; a complex cell takes the amplitude of two in
quadrature (the energy model of Adelson & Bergen 1985, Journal of the Optical Society of America A 2:284, with a square
root).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from coread.data_io.simulate.cortex_images import image_shape, seen_images

TRIALS_AT_A_TIME = 256
NEURONS_AT_A_TIME = 512


@dataclass(frozen=True)
class Cells:
    """What cells prefer and how strongly images drive them."""

    simple_share: float  # of all cells; the others are complex
    orientations: int  # number of preferred orientations, evenly spaced
    phases: int  # number of phases of simple cells, evenly spaced
    wavelengths_px: Sequence[float]  # of the Gabor filters, in pixels of the rescaled images
    width: float  # standard deviation of the Gabor's envelope, in wavelengths
    tuning: tuple[float, float]  # standard deviation of the drive by images, in mean responses
    mean_response: tuple[float, float]

    def __post_init__(self) -> None:
        if not 0 <= self.simple_share <= 1:
            raise ValueError(f"data_io.cells.simple_share: expected a share of 0..1, found {self.simple_share}")
        if self.orientations < 1 or self.phases < 1 or not self.wavelengths_px:
            raise ValueError("data_io.cells: orientations, phases and wavelengths_px need at least one value each")


@dataclass(frozen=True)
class Retinotopy:
    """Where cells lie in the cortex and how that decides where their receptive fields lie."""

    field_um: tuple[float, float]  # extent of the recorded field (x, y)
    depths_um: Sequence[float]  # imaged planes
    center_px: tuple[float, float]  # where in the image (y, x) the receptive fields of the recorded field lie
    extent_px: tuple[float, float]  # over how much of it they spread (height, width), without the jitter
    curvature: float  # how far the map bends: 0 is linear
    jitter_px: float  # standard deviation of receptive fields around the map, per axis

    def check_fits(self, shape: tuple[int, int]) -> None:
        """Raise ValueError if the map leaves images of this height and width."""
        corners = [np.array(self.center_px) + sign * np.array(self.extent_px) / 2 for sign in (-1, 1)]
        if min(self.extent_px) <= 0 or (corners[0] < 0).any() or (corners[1] > np.array(shape) - 1).any():
            raise ValueError(
                f"data_io.retinotopy: receptive fields around {list(self.center_px)} with the extent "
                f"{list(self.extent_px)} are not all in images of {shape}"
            )


@dataclass(frozen=True)
class Population:
    """The cells of one session; receptive fields are (y, x) in pixels of the rescaled images."""

    position_um: Float[np.ndarray, "neuron 3"]
    center_px: Float[np.ndarray, "neuron 2"]
    is_simple: Bool[np.ndarray, "neuron"]
    orientation: Float[np.ndarray, "neuron"]  # radians, clockwise from horizontal, of preferred bars
    phase: Float[np.ndarray, "neuron"]  # radians
    wavelength_px: Float[np.ndarray, "neuron"]
    envelope_px: Float[np.ndarray, "neuron"]  # standard deviation of the filter's Gaussian
    tuning: Float[np.ndarray, "neuron"]
    mean_response: Float[np.ndarray, "neuron"]


def draw_population(n_neurons: int, cells: Cells, retinotopy: Retinotopy, rng: np.random.Generator) -> Population:
    """Return cells at random places of the recorded field with random preferences."""
    position = rng.random((n_neurons, 2)) * retinotopy.field_um
    center = retinotopic_map(position, retinotopy)
    wavelength = rng.choice(np.array(cells.wavelengths_px, float), n_neurons)
    return Population(
        position_um=np.column_stack([position, rng.choice(np.array(retinotopy.depths_um, float), n_neurons)]),
        center_px=center + retinotopy.jitter_px * rng.standard_normal((n_neurons, 2)),
        is_simple=rng.random(n_neurons) < cells.simple_share,
        orientation=np.pi * rng.integers(0, cells.orientations, n_neurons) / cells.orientations,
        phase=2 * np.pi * rng.integers(0, cells.phases, n_neurons) / cells.phases,
        wavelength_px=wavelength,
        envelope_px=cells.width * wavelength,
        tuning=rng.uniform(*cells.tuning, n_neurons),
        mean_response=rng.uniform(*cells.mean_response, n_neurons),
    )


def retinotopic_map(
    position_um: Float[np.ndarray, "neuron 2"], retinotopy: Retinotopy
) -> Float[np.ndarray, "neuron 2"]:
    """Return where in the image (y, x) the map puts the receptive field of a place (x, y) in the cortex.

    A bent version of the recorded field, no wider than `extent_px`.
    """
    x, y = 2 * (position_um / retinotopy.field_um).T - 1
    bend = retinotopy.curvature
    unit = np.stack([y + bend * x * y, x + bend * (y**2 - 1 / 3)], axis=1) / (1 + abs(bend))
    return retinotopy.center_px + np.array(retinotopy.extent_px) / 2 * unit


def gabor_filters(
    population: Population, shape: tuple[int, int], quarter_turns: int
) -> Float32[np.ndarray, "neuron pixel"]:
    """Return every cell's Gabor filter of unit norm and zero mean, with a phase later by quarters of a cycle."""
    y, x = np.meshgrid(*(np.arange(size, dtype=np.float32) for size in shape), indexing="ij")
    filters = np.empty((len(population.phase), y.size), np.float32)
    for start in range(0, len(filters), NEURONS_AT_A_TIME):
        chosen = slice(start, start + NEURONS_AT_A_TIME)
        center, angle, wavelength, envelope_px, phase = (
            getattr(population, name)[chosen].astype(np.float32)
            for name in ("center_px", "orientation", "wavelength_px", "envelope_px", "phase")
        )
        down, right = y.reshape(-1) - center[:, :1], x.reshape(-1) - center[:, 1:]
        envelope = np.exp(-(down**2 + right**2) / (2 * envelope_px[:, None] ** 2))
        across = np.cos(angle)[:, None] * down - np.sin(angle)[:, None] * right
        carrier = np.cos(2 * np.pi * across / wavelength[:, None] + phase[:, None] + quarter_turns * np.pi / 2)
        values = envelope * carrier
        values -= envelope * (values.sum(1) / envelope.sum(1))[:, None]  # blind to the mean grey level
        filters[chosen] = values / np.linalg.norm(values, axis=1, keepdims=True)
    return filters


class CellBank:
    """The filters of a population, kept to be applied to image after image."""

    def __init__(self, population: Population, shape: tuple[int, int]) -> None:
        self.complex = ~population.is_simple
        self.filters = gabor_filters(population, shape, 0).T.copy()
        self.quadrature = gabor_filters(_subset(population, self.complex), shape, 1).T.copy()

    def __call__(self, seen: Float32[np.ndarray, "trial height width"]) -> Float32[np.ndarray, "trial neuron"]:
        """Return what simple and complex cells answer to a contrast."""
        flat = seen.reshape(len(seen), -1)
        linear = flat @ self.filters
        answers = np.maximum(linear, 0)
        answers[:, self.complex] = np.hypot(linear[:, self.complex], flat @ self.quadrature)
        return answers


def image_drive(
    population: Population,
    images: UInt8[np.ndarray, "image screen_y screen_x"],
    image: Int[np.ndarray, "trial"],
    eye_px: Float[np.ndarray, "trial 2"],
    training: Bool[np.ndarray, "trial"],
) -> tuple[Float32[np.ndarray, "trial neuron"], Float32[np.ndarray, "2 neuron"]]:
    """Return the drive by the images as seen, and its offset and factor to the cells' answers.

    In training trials the mean of the drive is 1 and its deviation the cell's tuning.
    """
    bank = CellBank(population, image_shape(images.shape[1:]))
    drive = np.empty((len(image), len(population.phase)), np.float32)
    for start in range(0, len(image), TRIALS_AT_A_TIME):
        chosen = slice(start, start + TRIALS_AT_A_TIME)
        drive[chosen] = bank(seen_images(images, image[chosen], eye_px[chosen]))
    mean, deviation = _moments(drive, training)
    factor = population.tuning.astype(np.float32) / deviation
    offset = 1 - mean * factor
    drive *= factor
    drive += offset
    return drive, np.stack([offset, factor])


def _subset(population: Population, chosen: Bool[np.ndarray, "neuron"]) -> Population:
    return Population(**{name: values[chosen] for name, values in vars(population).items()})


def _moments(
    drive: Float32[np.ndarray, "trial neuron"], training: Bool[np.ndarray, "trial"]
) -> tuple[Float32[np.ndarray, "neuron"], Float32[np.ndarray, "neuron"]]:
    """Return mean and deviation over training trials, by blocks of trials so that the drive is not copied."""
    total, squares = np.zeros(drive.shape[1]), np.zeros(drive.shape[1])
    for start in range(0, len(drive), TRIALS_AT_A_TIME):
        chosen = slice(start, start + TRIALS_AT_A_TIME)
        block = drive[chosen][training[chosen]].astype(np.float64)
        total += block.sum(0)
        squares += np.square(block).sum(0)
    mean = total / training.sum()
    return mean.astype(np.float32), np.sqrt(squares / training.sum() - mean**2).astype(np.float32)
