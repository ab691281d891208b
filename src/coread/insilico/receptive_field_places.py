"""Where neurons look: centre and width of the sensitivity of every neuron, whatever its sign."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from coread.insilico.gaussian_fit import fit_gaussians
from coread.insilico.noise_sta import NoiseStream, sensitivity_maps
from coread.insilico.population import Population


class FieldPlaces(NamedTuple):
    """Centres `(y, x)` in pixels and widths, the geometric mean of both standard deviations of a fitted Gaussian.

    `found` is false where no Gaussian could be fitted: the most sensitive pixel stands in for the centre.
    """

    center_px: Float[np.ndarray, "neuron 2"]
    sigma_px: Float[np.ndarray, "neuron"]
    found: Bool[np.ndarray, "neuron"]


def locate_receptive_fields(
    population: Population, neurons: Int[np.ndarray, "neuron"], n_samples: int, contrast: float, seed: int
) -> FieldPlaces:
    """Return where the ensemble's neurons are sensitive, by the root mean square gradient over noise.

    Squares also find cells that respond to both signs, whose gradients cancel in an average.
    """
    stream = NoiseStream(n_bins=1, contrast=contrast, seed=seed)
    sensitivity = sensitivity_maps(stream, population, neurons, n_samples).cpu().numpy()
    largest = sensitivity.reshape(len(neurons), -1).argmax(axis=1)
    peak = np.stack(np.unravel_index(largest, sensitivity.shape[1:]), axis=1).astype(float)
    fit = fit_gaussians(sensitivity, peak)
    return FieldPlaces(fit.center_px, np.sqrt(fit.sigma_px.prod(axis=1)), fit.converged)
