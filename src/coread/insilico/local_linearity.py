"""Experiment: how far around natural images the gradient predicts responses."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from scipy.ndimage import gaussian_filter

from coread.insilico.consistency import member_columns
from coread.insilico.experiment import ExperimentResult, Quantity
from coread.insilico.flashed_images import FlashedImages, ImageSettings, flash_natural_images
from coread.insilico.local_gradient import member_gradients, neuron_blocks
from coread.insilico.population import Population
from coread.plotting.local_linearity import draw_local_linearity
from coread.plotting.style import Drawing


class LocalLinearity:
    """Actual against linearly predicted changes of the response to small changes of natural images.

    Images are perturbed by smooth noise of several root mean square contrasts. The gradient at the image predicts the
    change of the summed response; `linear_r2` is the share of the actual changes' power that it gets right, over all
    images and perturbations of one contrast: 1 for a linear neuron at all contrasts, near 1 for any smooth neuron at a
    small one. It is not fitted and can be negative.

    Args:
        images: arguments of `ImageSettings`.
        n_perturbations: of every image.
        perturbation_contrasts: root mean square contrasts of the perturbations, from small to large.
        perturbation_sigma_px: standard deviation of the Gaussian that smooths the noise.
        perturbation_seed: of the noise.
        sufficient_r2: `linear_range_contrast` is the largest contrast up to which `linear_r2` is at least this.

    """

    def __init__(
        self,
        images: Mapping[str, Any],
        n_perturbations: int,
        perturbation_contrasts: Sequence[float],
        perturbation_sigma_px: float,
        perturbation_seed: int,
        sufficient_r2: float,
    ) -> None:
        self.images = ImageSettings(**images)
        self.n_perturbations = n_perturbations
        self.contrasts = np.asarray(perturbation_contrasts, dtype=float)
        if not len(self.contrasts) or (self.contrasts <= 0).any() or (np.diff(self.contrasts) <= 0).any():
            raise ValueError(f"perturbation_contrasts must be positive and rising, got {list(perturbation_contrasts)}")
        self.sigma_px, self.seed, self.sufficient_r2 = perturbation_sigma_px, perturbation_seed, sufficient_r2

    def run(self, population: Population, neurons: Int[np.ndarray, "neuron"]) -> ExperimentResult:
        """Return how well gradients predict changes of every neuron's response, by contrast of the perturbation."""
        shown = flash_natural_images(population, self.images)
        size = (self.images.n_images, self.n_perturbations, *population.frame_shape)
        noise = smooth_noise(size, self.sigma_px, self.seed)
        actual = self._actual_changes(population, shown, noise, neurons)
        predicted = self._predicted_changes(population, shown, noise, neurons)
        # the ensemble's responses and gradients are the means of its members'
        ensemble = linear_r2(actual.mean(axis=0), predicted.mean(axis=0))
        members = np.stack([linear_r2(*of_member) for of_member in zip(actual, predicted, strict=True)], axis=1)
        table = population.neurons.iloc[neurons].reset_index(drop=True)
        arrays = {
            "linear_r2": Quantity(ensemble, ("neuron", "perturbation_contrast")),
            "linear_r2_members": Quantity(members, ("neuron", "member", "perturbation_contrast")),
        }
        for name, value, of_members in (
            ("linear_r2_smallest", ensemble[:, 0], members[..., 0]),
            ("linear_r2_largest", ensemble[:, -1], members[..., -1]),
            ("linear_range_contrast", self._linear_range(ensemble), self._linear_range(members)),
        ):
            columns, kept = member_columns(name, value, of_members)
            table, arrays = table.assign(**columns), arrays | kept
        axes = {"perturbation_contrast": Quantity(self.contrasts, ("perturbation_contrast",), "contrast")}
        return ExperimentResult(table, arrays, axes)

    def _actual_changes(
        self,
        population: Population,
        shown: FlashedImages,
        noise: Float32[np.ndarray, "image perturbation channel height width"],
        neurons: Int[np.ndarray, "neuron"],
    ) -> Float[np.ndarray, "member contrast image perturbation neuron"]:
        at_image = self._summed(population, shown.stimuli, shown, neurons)
        changes = []
        for contrast in self.contrasts:
            added = torch.as_tensor(contrast * noise, dtype=torch.float32)
            stimuli = shown.stimuli[:, None].repeat(1, self.n_perturbations, 1, 1, 1, 1)
            stimuli[:, :, :, shown.image_frames] += added[:, :, :, None]
            summed = self._summed(population, stimuli.flatten(0, 1), shown, neurons)
            changes.append(summed.reshape(len(summed), *noise.shape[:2], -1) - at_image[:, :, None])
        return np.stack(changes, axis=1)

    @staticmethod
    def _summed(
        population: Population, stimuli: torch.Tensor, shown: FlashedImages, neurons: Int[np.ndarray, "neuron"]
    ) -> Float[np.ndarray, "member stimulus neuron"]:
        responses = population.respond(stimuli)[:, :, shown.window][..., torch.as_tensor(neurons)]
        return responses.sum(dim=2, dtype=torch.float64).cpu().numpy()

    def _predicted_changes(
        self,
        population: Population,
        shown: FlashedImages,
        noise: Float32[np.ndarray, "image perturbation channel height width"],
        neurons: Int[np.ndarray, "neuron"],
    ) -> Float[np.ndarray, "member contrast image perturbation neuron"]:
        parts = []
        for block in neuron_blocks(neurons, shown.images.numel() * population.n_members):
            gradients, _ = member_gradients(population, shown.stimuli, block, shown.window, shown.image_frames)
            flat = gradients.reshape(*gradients.shape[:3], -1)
            parts.append(np.einsum("mnif,ipf->mipn", flat, noise.reshape(*noise.shape[:2], -1)))
        return np.concatenate(parts, axis=-1)[:, None] * self.contrasts[:, None, None, None]

    def _linear_range(self, r2: Float[np.ndarray, "*some contrast"]) -> Float[np.ndarray, "*some"]:
        """Return the largest contrast before `linear_r2` first falls below what is sufficient; 0 if it never is."""
        holds = np.cumprod(r2 >= self.sufficient_r2, axis=-1).sum(axis=-1)
        reached = np.concatenate([[0.0], self.contrasts])[holds]
        return np.where(np.isfinite(r2).any(axis=-1), reached, np.nan)

    def draw(self, results: Mapping[str, ExperimentResult]) -> Mapping[str, Drawing]:
        """Return how the share that gradients predict falls with the contrast of the perturbation."""
        return {"local_linearity": draw_local_linearity(results, self.sufficient_r2)}


def smooth_noise(
    size: tuple[int, int, int, int, int], sigma_px: float, seed: int
) -> Float32[np.ndarray, "image perturbation channel height width"]:
    """Return Gaussian noise smoothed in space, every image of root mean square 1."""
    noise = np.random.default_rng(seed).standard_normal(size)
    smooth = gaussian_filter(noise, sigma=(0, 0, 0, sigma_px, sigma_px), mode="wrap")
    return (smooth / np.sqrt(np.square(smooth).mean(axis=(2, 3, 4), keepdims=True))).astype(np.float32)


def linear_r2(
    actual: Float[np.ndarray, "contrast image perturbation neuron"],
    predicted: Float[np.ndarray, "contrast image perturbation neuron"],
) -> Float[np.ndarray, "neuron contrast"]:
    """Return 1 - power of the error / power of the actual changes; NaN where nothing changed."""
    power = np.square(actual).sum(axis=(1, 2))
    error = np.square(actual - predicted).sum(axis=(1, 2))
    missed = np.divide(error, power, out=np.full(power.shape, np.nan), where=power > 0)
    return 1 - missed.T
