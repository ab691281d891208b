"""Experiment: how the locally linear receptive fields of every neuron vary over natural images."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int

from coread.insilico.consistency import member_columns
from coread.insilico.experiment import ExperimentResult, Quantity
from coread.insilico.flashed_images import ImageSettings, flash_natural_images
from coread.insilico.local_gradient import member_gradients, neuron_blocks
from coread.insilico.population import Population
from coread.insilico.vector_field_analysis.vector_field_analysis import AVERAGES, principal_components
from coread.plotting.style import Drawing
from coread.plotting.vector_field import draw_lsta_variation, draw_vector_fields

MEASURES = ("lsta_cosine", "lsta_varying_share", "lsta_reversed_share", "lsta_pc1_share", "lsta_pc2_share")


class VectorField:
    """LSTAs over natural images and the vector field along their first two principal components.

    An LSTA is the gradient of the response summed over the window after the onset of an image, averaged over the frames
    that `average` names ("window" or "all", `compute_lsta_library`). A linear neuron has one LSTA for all images; an LN
    neuron's differ in size only (`lsta_cosine` 1); nonlinear subunits change their shape, an ON-OFF neuron's reverse
    (Goldin et al. 2022, Nature Communications 13:5556; Liu et al. 2017, Nature Communications 8:149).

    Args:
        images: arguments of `ImageSettings`.
        average: frames that a gradient is averaged over.
        certain_cosine: mean cosine between members' LSTAs below which a neuron's are marked uncertain.
        n_bins: bins of the drawn vector fields along each component.
        n_drawn: vector fields drawn.

    """

    def __init__(
        self, images: Mapping[str, Any], average: str, certain_cosine: float, n_bins: int, n_drawn: int
    ) -> None:
        if average not in AVERAGES:
            raise ValueError(f"average {average!r} is unknown, expected one of {list(AVERAGES)}")
        self.images = ImageSettings(**images)
        if self.images.n_images < 3:
            raise ValueError(f"two principal components need at least 3 images, got {self.images.n_images}")
        self.average, self.certain_cosine = average, certain_cosine
        self.n_bins, self.n_drawn = n_bins, n_drawn

    def run(self, population: Population, neurons: Int[np.ndarray, "neuron"]) -> ExperimentResult:
        """Return the measures of every neuron's LSTAs, their components, and images and LSTAs along these."""
        shown = flash_natural_images(population, self.images)
        images, lag = shown.images.numpy(), population.lag
        frames = slice(shown.window.start + lag, shown.window.stop + lag)
        averaged = frames if self.average == "window" else slice(0, shown.stimuli.shape[2])
        parts = []
        for block in neuron_blocks(neurons, images.size * population.n_members):
            gradients, responses = member_gradients(population, shown.stimuli, block, shown.window, averaged)
            gradients /= averaged.stop - averaged.start
            parts.append(_describe(gradients, responses[:, :, shown.window].mean(axis=2), images))
        return self._result(population, neurons, parts)

    def _result(
        self, population: Population, neurons: Int[np.ndarray, "neuron"], parts: list[dict[str, np.ndarray]]
    ) -> ExperimentResult:
        found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        table = population.neurons.iloc[neurons].reset_index(drop=True)
        unit = population.unit
        arrays = {
            "component": Quantity(found["component"], ("neuron", "component", "channel", "y_px", "x_px")),
            "coordinate": Quantity(found["coordinate"], ("neuron", "image", "component"), "contrast"),
            "arrow": Quantity(found["arrow"], ("neuron", "image", "component"), f"{unit} / contrast"),
            "response": Quantity(found["response"], ("neuron", "image"), unit),
        }
        for name in MEASURES:
            columns, kept = member_columns(name, found[name], found[f"{name}_members"])
            table, arrays = table.assign(**columns), arrays | kept
        table["lsta_member_cosine"] = found["lsta_member_cosine"]
        table["lsta_uncertain"] = found["lsta_member_cosine"] < self.certain_cosine
        return ExperimentResult(table, arrays)

    def draw(self, results: Mapping[str, ExperimentResult]) -> Mapping[str, Drawing]:
        """Return the vector fields of some neurons, and how much the LSTAs of all vary."""
        return {
            "vector_field": draw_vector_fields(results, self.n_drawn, self.n_bins),
            "lsta_variation": draw_lsta_variation(results),
        }


def _describe(
    gradients: Float32[np.ndarray, "member neuron image channel height width"],
    responses: Float32[np.ndarray, "member image neuron"],
    images: Float32[np.ndarray, "image channel height width"],
) -> dict[str, np.ndarray]:
    flat = gradients.reshape(*gradients.shape[:3], -1)
    ensemble = flat.mean(axis=0)
    components, _ = principal_components(ensemble)
    of_members = [_measures(member) for member in flat]
    return {
        **_measures(ensemble),
        **{f"{name}_members": np.stack([measures[name] for measures in of_members], axis=1) for name in MEASURES},
        "lsta_member_cosine": member_cosine(flat),
        "component": components.reshape(len(ensemble), 2, *images.shape[1:]).astype(np.float32),
        "coordinate": np.einsum("nkf,if->nik", components, images.reshape(len(images), -1)).astype(np.float32),
        "arrow": np.einsum("nkf,nif->nik", components, ensemble).astype(np.float32),
        "response": responses.mean(axis=0).T,
    }


def _measures(lstas: Float[np.ndarray, "neuron image feature"]) -> dict[str, Float[np.ndarray, "neuron"]]:
    _, shares = principal_components(lstas)
    return {
        "lsta_cosine": pairwise_cosine(lstas),
        "lsta_varying_share": varying_share(lstas),
        "lsta_reversed_share": reversed_share(lstas),
        "lsta_pc1_share": shares[:, 0],
        "lsta_pc2_share": shares[:, 1],
    }


def pairwise_cosine(lstas: Float[np.ndarray, "neuron image feature"]) -> Float[np.ndarray, "neuron"]:
    """Return the mean cosine between the LSTAs of two different images: 1 where all have one shape and sign.

    Images at which a neuron's gradient is empty count for nothing; NaN with fewer than two others.
    """
    norm = np.linalg.norm(lstas, axis=2)
    unit = lstas / np.where(norm > 0, norm, 1.0)[..., None]
    n_shown = (norm > 0).sum(axis=1)
    pairs = n_shown * (n_shown - 1)
    total = np.square(unit.sum(axis=1, dtype=np.float64)).sum(axis=1) - n_shown
    return np.divide(total, pairs, out=np.full(len(lstas), np.nan), where=pairs > 0)


def varying_share(lstas: Float[np.ndarray, "neuron image feature"]) -> Float[np.ndarray, "neuron"]:
    """Return the share of the LSTAs' power that is not in their mean: 0 for a linear neuron; NaN for an empty one."""
    power = np.square(lstas, dtype=np.float64).sum(axis=2).mean(axis=1)
    of_mean = np.square(lstas.mean(axis=1, dtype=np.float64)).sum(axis=1)
    return np.divide(power - of_mean, power, out=np.full(len(lstas), np.nan), where=power > 0).clip(0.0)


def reversed_share(lstas: Float[np.ndarray, "neuron image feature"]) -> Float[np.ndarray, "neuron"]:
    """Return the share of images whose LSTA has the rarer sign along the LSTAs' main axis: up to 1/2, 0 for LN neurons.

    The main axis is the first singular vector, not centred. Empty LSTAs count for nothing; NaN if all are empty.
    """
    left, strength, _ = np.linalg.svd(lstas.astype(np.float64), full_matrices=False)
    along = left[..., 0] * strength[:, :1]
    threshold = 1e-6 * np.abs(along).max(axis=1, keepdims=True)
    positive, negative = (along > threshold).sum(axis=1), (along < -threshold).sum(axis=1)
    n_shown = positive + negative
    rarer = np.minimum(positive, negative)
    return np.divide(rarer, n_shown, out=np.full(len(lstas), np.nan), where=n_shown > 0)


def member_cosine(lstas: Float[np.ndarray, "member neuron image feature"]) -> Float[np.ndarray, "neuron"]:
    """Return the mean cosine between the LSTAs of two members at the same image; NaN for one member."""
    norm = np.linalg.norm(lstas, axis=3)
    unit = lstas / np.where(norm > 0, norm, 1.0)[..., None]
    n_shown = (norm > 0).sum(axis=0)
    pairs = (n_shown * (n_shown - 1)).sum(axis=1)
    total = (np.square(unit.sum(axis=0, dtype=np.float64)).sum(axis=2) - n_shown).sum(axis=1)
    return np.divide(total, pairs, out=np.full(lstas.shape[1], np.nan), where=pairs > 0)
