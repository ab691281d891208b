"""The experiments: stimuli to which a cluster of neurons responds most, alone or unlike the others."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from coread.insilico.experiment import ExperimentResult, Quantity
from coread.insilico.frozen_model import frozen
from coread.insilico.local_response import LocalPopulation
from coread.insilico.population import Population
from coread.insilico.stimulus_optimization import optima
from coread.insilico.stimulus_optimization.optimization_stopper import OptimizationStopper
from coread.insilico.stimulus_optimization.optimizer import OptimizerInit, Rules
from coread.insilico.stimulus_optimization.population_optimizer import optimize_targets
from coread.insilico.stimulus_optimization.regularizer import StimulusPostprocessor, StimulusRegularizationLoss
from coread.insilico.stimulus_optimization.stimulus_search import StimulusSearch
from coread.insilico.stimulus_optimization.targets import ClusterContrast
from coread.plotting.optimized import draw_cluster_stimuli, draw_discrimination
from coread.plotting.style import Drawing

UNLABELLED = ("", "nan", "None", "-1")  # of a neuron that belongs to no cluster


class ClusterStimulus:
    """Stimuli to which a cluster of neurons responds most, alone or unlike the others (Burg et al. 2024, ICLR).

    The stimuli are of clusters of all neurons of a session, so they do not depend on which neurons are asked for; the
    table tells how every neuron responds to the stimulus of its own cluster and to those of the others.

    Args:
        labels: column of the recording's table of neurons that names the clusters, or labels by session, one per neuron
            of the session. Neurons labelled "", nan or -1 belong to no cluster.
        min_neurons: neurons that a cluster needs.
        temperature: of the contrast, in units of the scale of each neuron's response in training; None for stimuli to
            which a cluster responds most, whatever the others do.
        window_s: bins over which the response is averaged, in seconds; 0 for a single bin.
        rms_sd: root mean square of a stimulus over whole frames, in standard deviations of the training stimulus.
        contrast_limit: largest absolute contrast.
        n_starts: number of starts from noise of the same root mean square.
        seed: of the noise.
        smoothing_px: applied only to find centre pixel and sign of the spatial part.
        optimizer: from a list of tensors to an optimiser; its learning rate is the length of a step over the norm.
        stopper: when a cluster's optimisation ends.
        regularizers: penalties, in units of the contrast of clusters, on stimuli in contrast.
        postprocessors: applied after every step, before norm and contrast are bounded.
        gradient_processors: applied to the gradient, before it is scaled.

    """

    def __init__(
        self,
        labels: str | Mapping[str, Sequence[object]],
        min_neurons: int,
        temperature: float | None,
        window_s: float,
        rms_sd: float,
        contrast_limit: float,
        n_starts: int,
        seed: int,
        smoothing_px: float,
        optimizer: OptimizerInit,
        stopper: OptimizationStopper,
        regularizers: Sequence[StimulusRegularizationLoss],
        postprocessors: Sequence[StimulusPostprocessor],
        gradient_processors: Sequence[StimulusPostprocessor],
    ):
        if temperature is not None and temperature <= 0:
            raise ValueError(f"need a temperature above 0, got {temperature}")
        self.labels, self.min_neurons, self.temperature = labels, min_neurons, temperature
        self.smoothing_px = smoothing_px
        rules = Rules(optimizer, stopper, list(regularizers), list(postprocessors), list(gradient_processors))
        self.search = StimulusSearch(rules, window_s, rms_sd, contrast_limit, n_starts, seed)

    def clusters(self, population: Population) -> dict[str, Int[np.ndarray, "neuron"]]:
        """Return the neurons of every cluster, in sorted order of the clusters' names.

        Raises ValueError for a session without labels or with less clusters that are large enough than a contrast (two)
        or a response (one) needs.
        """
        labels = self._labels(population)
        names = sorted(set(labels) - set(UNLABELLED))
        clusters = {name: np.flatnonzero(labels == name) for name in names}
        large = {name: neurons for name, neurons in clusters.items() if len(neurons) >= self.min_neurons}
        needed = 1 if self.temperature is None else 2
        if len(large) < needed:
            kind = (
                "most exciting stimuli need a cluster"
                if needed == 1
                else "most discriminative stimuli need two clusters"
            )
            raise ValueError(
                f"session {population.session!r}: {kind} of at least "
                f"{self.min_neurons} neurons, found { {name: len(neurons) for name, neurons in clusters.items()} }"
            )
        return large

    def _labels(self, population: Population) -> np.ndarray:
        if isinstance(self.labels, str):
            table = population.neurons
            if self.labels not in table:
                raise ValueError(
                    f"session {population.session!r}: the table of neurons has no column {self.labels!r}, only "
                    f"{[str(name) for name in table]}"
                )
            return table[self.labels].astype(str).to_numpy()
        if population.session not in self.labels:
            raise ValueError(f"there are no labels of session {population.session!r}, only of {sorted(self.labels)}")
        labels = np.array([str(label) for label in self.labels[population.session]])
        if len(labels) != population.n_neurons:
            raise ValueError(
                f"session {population.session!r} has {population.n_neurons} neurons, but {len(labels)} labels"
            )
        return labels

    def run(self, population: Population, neurons: Int[np.ndarray, "neuron"]) -> ExperimentResult:
        """Return the stimuli of all clusters, and how some neurons respond to them."""
        clusters = self.clusters(population)
        names = list(clusters)
        starts = self.search.starts(population)
        responses = LocalPopulation(population, starts.shape[2], tolerance=0.0)
        own = torch.arange(len(names), device=population.device)
        objective = ClusterContrast(
            responses,
            [indices.tolist() for indices in clusters.values()],
            own.repeat_interleave(len(starts)),
            self.temperature,
        )
        with frozen(*population.models):
            found = optimize_targets(objective, len(names), self.search.bounded_rules(population), starts)
            with torch.no_grad():
                confusion = objective.of_clusters(found.stimulus).cpu().numpy()
        stimulus = found.stimulus.cpu().numpy()
        parts = optima.describe(stimulus, 1 / population.rate_hz, self.smoothing_px)
        responded = population.respond(found.stimulus).mean(dim=2).cpu().numpy()  # (member, cluster, neuron)
        space = ("height", "width")
        arrays = {
            "stimulus": Quantity(stimulus, ("cluster", "channel", "time", *space), "contrast"),
            "spatial": Quantity(parts.spatial, ("cluster", "channel", *space)),
            "temporal": Quantity(parts.temporal[..., ::-1].copy(), ("cluster", "channel", "time"), "contrast"),
            "value" if self.temperature is None else "contrast": Quantity(found.value.cpu().numpy(), ("cluster",)),
            "start_cosine": Quantity(found.start_cosine.cpu().numpy(), ("cluster",)),
            "n_iterations": Quantity(found.n_iterations.cpu().numpy(), ("cluster",)),
            "cluster_response": Quantity(confusion.mean(axis=0), ("cluster", "responding_cluster"), "response scale"),
            "cluster_response_sd_members": Quantity(
                optima.spread_of_members(confusion), ("cluster", "responding_cluster"), "response scale"
            ),
            "pixel_size": optima.pixel_size(population),
            "response": Quantity(responded.mean(axis=0)[:, neurons].T.copy(), ("neuron", "cluster"), population.unit),
        }
        axes = optima.stimulus_axes(population, stimulus.shape[2])
        for axis in ("cluster", "responding_cluster"):
            axes[axis] = Quantity(np.array(names), (axis,))
        return ExperimentResult(self._table(population, neurons, clusters, responded), arrays, axes)

    def _table(
        self,
        population: Population,
        neurons: Int[np.ndarray, "neuron"],
        clusters: Mapping[str, Int[np.ndarray, "neuron"]],
        responded: Float[np.ndarray, "member cluster neuron"],
    ) -> pd.DataFrame:
        """Return cluster, response to its own stimulus, largest response to another one, and their contrast.

        The contrast is (own - other) / (own + other), in which negative responses count as zero.
        """
        number = np.full(population.n_neurons, -1)
        for row, indices in enumerate(clusters.values()):
            number[indices] = row
        names = np.array([*clusters, ""])
        mine = np.arange(len(clusters))[:, None] == number
        own = np.where(mine, responded, 0.0).sum(axis=1)
        other = np.where(mine, -np.inf, responded).max(axis=1)  # of a single cluster: -inf
        other[~np.isfinite(other)] = np.nan
        own[:, number < 0] = other[:, number < 0] = np.nan
        positive_own, positive_other = np.maximum(own, 0.0), np.maximum(other, 0.0)
        total = positive_own + positive_other
        index = np.divide(positive_own - positive_other, total, out=np.full_like(total, np.nan), where=total > 0)
        columns: dict[str, np.ndarray] = {"cluster": names[number]}
        for name, values in (("response_own", own), ("response_other", other), ("selectivity", index)):
            columns |= optima.over_members(name, values)
        table = pd.DataFrame(columns).iloc[neurons].reset_index(drop=True)
        return optima.beside_recorded(population, neurons, table)

    def draw(self, results: Mapping[str, ExperimentResult]) -> Mapping[str, Drawing]:
        """Return the clusters' stimuli, and how clusters respond to them."""
        if self.temperature is None:
            return {
                "group_stimuli": draw_cluster_stimuli(results, "Most exciting stimuli", "its mean response is largest"),
                "group_responses": draw_discrimination(results, "most exciting"),
            }
        meaning = "the cluster responds, the others do not"
        return {
            "most_discriminative_stimuli": draw_cluster_stimuli(results, "Most discriminative stimuli", meaning),
            "discrimination": draw_discrimination(results, "most discriminative"),
        }
