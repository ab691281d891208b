"""Spike-triggered covariance of model neurons: directions of a stimulus whose variance changes a response.

The covariance of the stimuli before a response, less that of all stimuli, has an eigenvector per direction that the
response depends on beside the spike-triggered average: positive eigenvalues where variance excites, negative ones where
it suppresses (Schwartz, Pillow, Rust & Simoncelli 2006, Journal of Vision 6:484). The matrix is never formed: its
eigenvectors with the largest absolute eigenvalues come from subspace iterations, each a pass over the noise. Noise that
found nothing tests what was found, against the same with responses shifted in time.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from coread.insilico.noise_sta import FRESH, GRADIENTS, NoiseStream, lagged
from coread.insilico.population import Population
from coread.insilico.receptive_fields import own_gradients

RANDOM_SHARE = 0.1  # length of the random part of a start, relative to that of the gradient


class Windows(NamedTuple):
    """The square part of the frame that each unit is analysed in: its first row and column, and the side in pixels."""

    origin: Int[Tensor, "unit 2"]
    side: tuple[int, int]

    def pixels(self, width: int) -> Int[Tensor, "unit pixel"]:
        """Return the numbers of the pixels in frames of a width."""
        rows, columns = (
            self.origin[:, axis, None] + torch.arange(self.side[axis], device=self.origin.device) for axis in (0, 1)
        )
        return (rows[:, :, None] * width + columns[:, None, :]).flatten(1)

    def cut(self, stimulus: Float[Tensor, "channel time height width"]) -> Float[Tensor, "unit place time"]:
        """Return what each unit sees; places are channels times pixels."""
        flat = stimulus.flatten(2)[:, :, self.pixels(stimulus.shape[-1])]
        return flat.permute(2, 0, 3, 1).flatten(1, 2)

    def cut_filters(
        self, filters: Float[Tensor, "unit lag_bin channel height width"]
    ) -> Float[Tensor, "unit lag_bin place"]:
        """Return the part of a filter per unit that lies in its window."""
        pixels = self.pixels(filters.shape[-1])[:, None, None].expand(-1, *filters.shape[1:3], -1)
        return filters.flatten(3).gather(3, pixels).flatten(2)


def windows_around(maps: Float[Tensor, "unit height width"], side_px: int) -> Windows:
    """Return windows of at most `side_px` around the centre of gravity of the squared maps, inside the frame."""
    size = maps.shape[1:]
    weight = maps.double().square()
    total = weight.sum(dim=(1, 2)).clamp_min(torch.finfo(torch.float64).tiny)
    axes = [
        (weight.sum(dim=2 - axis) * torch.arange(size[axis], device=maps.device)).sum(dim=1) / total for axis in (0, 1)
    ]
    side = (min(side_px, size[0]), min(side_px, size[1]))
    first = [
        (center - (side[axis] - 1) / 2).round().long().clamp(0, size[axis] - side[axis])
        for axis, center in enumerate(axes)
    ]
    return Windows(torch.stack(first, dim=1), side)


class Axes(NamedTuple):
    """Directions in the windows, largest absolute eigenvalue first; 1 doubles the variance of the noise along it."""

    direction: Float[Tensor, "unit axis lag_bin place"]
    eigenvalue: Float[Tensor, "unit axis"]


def covariance_axes(
    stream: NoiseStream,
    population: Population,
    weights: Float[Tensor, "unit piece bin"],
    windows: Windows,
    removed: Float[Tensor, "unit lag_bin place"],
    start: Float[Tensor, "unit axis lag_bin place"],
    n_passes: int,
) -> Axes:
    """Return as many main axes of the change in covariance as there are in `start`, where the iterations begin.

    Axes are at right angles to `removed`, which is of unit length, or zero to remove nothing.
    """
    found = _orthonormal(_without(start, removed))
    for turn in range(n_passes):
        product = _without(_covariance_times(stream, population, weights, windows, found), removed)
        if turn < n_passes - 1:
            found = _orthonormal(product)
    small = torch.einsum("uklp,ujlp->ukj", found, product)
    values, vectors = torch.linalg.eigh((small + small.mT) / 2)
    order = values.abs().argsort(dim=1, descending=True)
    vectors = vectors.gather(2, order[:, None].expand_as(vectors))
    # of the product, which is one iteration further
    return Axes(_orthonormal(torch.einsum("uklp,ukj->ujlp", product, vectors)), values.gather(1, order))


def gradient_starts(
    stream: NoiseStream,
    population: Population,
    neurons: Int[np.ndarray, "neuron"],
    windows: Windows,
    n_axes: int,
) -> Float[Tensor, "neuron axis lag_bin place"]:
    """Return gradients of the responses at different noise: near the axes, so that few iterations reach them.

    The gradients of a response that depends on some directions only lie in what these span. The random part gives a
    response of fewer directions as many starts, which rounding would choose otherwise.
    """
    pieces = [stream.piece(population, GRADIENTS - 1 - axis)[:, : population.lag + 1] for axis in range(n_axes)]
    references = population.normalised(torch.stack(pieces))
    pixels = windows.pixels(references.shape[-1])
    starts = []
    for place, gradient in own_gradients(population.model, population.session, references, neurons):
        seen = gradient.flip(2).movedim(1, 2).flatten(3)  # pair, lag_bin, channel, pixel
        own = pixels[place][:, None, None].expand(-1, *seen.shape[1:3], -1)
        starts.append(seen.gather(3, own).flatten(2))
    gradients = _unit(torch.cat(starts).unflatten(0, (len(neurons), n_axes)))
    random = torch.randn(gradients.shape[1:], generator=torch.Generator().manual_seed(stream.seed))
    return gradients + RANDOM_SHARE * _unit(random.to(gradients.device))


def _covariance_times(
    stream: NoiseStream,
    population: Population,
    weights: Float[Tensor, "unit piece bin"],
    windows: Windows,
    direction: Float[Tensor, "unit axis lag_bin place"],
) -> Float[Tensor, "unit axis lag_bin place"]:
    """Return the change in covariance, in units of the noise's variance, times some directions."""
    n_pieces, n_bins = weights.shape[1:]
    total = torch.zeros_like(direction)
    for number in range(n_pieces):
        seen = windows.cut(stream.piece(population, number)) / stream.contrast
        projected = _projections(seen, direction, n_bins) * weights[:, None, number]
        for lag_bin in range(direction.shape[2]):
            total[:, :, lag_bin] += projected @ lagged(seen, lag_bin, n_bins).mT
    return total / (n_pieces * n_bins)


def _projections(
    seen: Float[Tensor, "unit place time"], direction: Float[Tensor, "unit axis lag_bin place"], n_bins: int
) -> Float[Tensor, "unit axis bin"]:
    return sum(
        (direction[:, :, lag_bin] @ lagged(seen, lag_bin, n_bins) for lag_bin in range(direction.shape[2])),
        start=torch.zeros((), device=seen.device),
    )


class HeldOut(NamedTuple):
    """What noise that found nothing says of a direction: change in mean and in variance, and how likely by chance."""

    mean: Float[Tensor, "unit axis"]
    variance: Float[Tensor, "unit axis"]
    p_mean: Float[Tensor, "unit axis"]
    p_variance: Float[Tensor, "unit axis"]


def held_out_changes(
    stream: NoiseStream,
    population: Population,
    weights: Float[Tensor, "unit piece bin"],
    windows: Windows,
    direction: Float[Tensor, "unit axis lag_bin place"],
) -> HeldOut:
    """Return what responses to fresh pieces (`weights`) say of directions of unit length.

    The null distribution is that of responses shifted circularly within their pieces by more than the model's memory.
    """
    n_pieces, n_bins = weights.shape[1:]
    sums = torch.zeros(2, *direction.shape[:2], n_bins, device=weights.device)
    for place in range(n_pieces):
        seen = windows.cut(stream.piece(population, FRESH + place)) / stream.contrast
        projected = _projections(seen, direction, n_bins)
        for moment, values in enumerate((projected, projected.square())):
            centred = values - values.mean(dim=-1, keepdim=True)
            sums[moment] += _at_all_shifts(weights[:, None, place], centred)
    sums /= n_pieces * n_bins
    far = slice(direction.shape[2], n_bins - direction.shape[2] + 1)
    by_chance = sums[..., far].abs() >= sums[..., :1].abs()
    p = (1 + by_chance.sum(dim=-1)) / (1 + by_chance.shape[-1])
    return HeldOut(sums[0, ..., 0], sums[1, ..., 0], p[0], p[1])


def _at_all_shifts(
    weights: Float[Tensor, "unit 1 bin"], values: Float[Tensor, "unit axis bin"]
) -> Float[Tensor, "unit axis shift"]:
    """Return the sum over bins of weights, shifted circularly by every number of bins, times values."""
    spectrum = torch.fft.rfft(weights) * torch.fft.rfft(values).conj()
    return torch.fft.irfft(spectrum, n=values.shape[-1])


def significant(p: Float[Tensor, "unit axis"], alpha: float) -> Bool[Tensor, "unit axis"]:
    """Return which directions are significant among all of a unit's (Bonferroni)."""
    return p < alpha / p.shape[1]


def principal_angles(
    first: Float[np.ndarray, "unit axis feature"], second: Float[np.ndarray, "unit other_axis feature"]
) -> Float[np.ndarray, "unit angle"]:
    """Return the principal angles in degrees between what two sets of vectors span, the smallest first (Jordan 1875).

    A vector of zeros spans nothing; where one subspace has fewer dimensions, the missing angles are NaN.
    """
    (a, n_a), (b, n_b) = (_basis(np.asarray(vectors, float)) for vectors in (first, second))
    cosines = np.linalg.svd(np.einsum("uad,ubd->uab", a, b), compute_uv=False)
    angles = np.rad2deg(np.arccos(np.clip(cosines, 0.0, 1.0)))
    return np.where(np.arange(angles.shape[1]) < np.minimum(n_a, n_b)[:, None], angles, np.nan)


def _basis(
    vectors: Float[np.ndarray, "unit axis feature"],
) -> tuple[Float[np.ndarray, "unit axis feature"], Int[np.ndarray, "unit"]]:
    """Return orthonormal vectors that span the same, zeros for dimensions that are missing, and their number."""
    _, strength, basis = np.linalg.svd(vectors, full_matrices=False)
    kept = strength > 1e-6 * np.maximum(strength[:, :1], np.finfo(float).tiny)
    return np.where(kept[:, :, None], basis, 0.0), kept.sum(axis=1)


def _without(
    direction: Float[Tensor, "unit axis lag_bin place"], removed: Float[Tensor, "unit lag_bin place"]
) -> Float[Tensor, "unit axis lag_bin place"]:
    """Return directions without their part along another one, of unit length or zero."""
    along = torch.einsum("uklp,ulp->uk", direction, removed)
    return direction - along[:, :, None, None] * removed[:, None]


def _unit(direction: Float[Tensor, "*shape lag_bin place"]) -> Float[Tensor, "*shape lag_bin place"]:
    norm = direction.flatten(-2).norm(dim=-1).clamp_min(torch.finfo(direction.dtype).tiny)
    return direction / norm[..., None, None]


def _orthonormal(direction: Float[Tensor, "unit axis lag_bin place"]) -> Float[Tensor, "unit axis lag_bin place"]:
    # scaled, because gradients of a flat response are as small as they like; without scale, any basis will do
    scale = direction.flatten(1).abs().amax(dim=1).clamp_min(torch.finfo(direction.dtype).tiny)
    basis, _ = torch.linalg.qr((direction / scale[:, None, None, None]).flatten(2).mT)
    return basis.mT.reshape(direction.shape)
