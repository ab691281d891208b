"""What a validation adds up, batch by batch and over the ranks that share the batches."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from coread.collectives import gather_objects, is_shared
from coread.modules.losses.running_correlation import RunningCorrelation


@dataclass
class ValidationSums:
    """Means over batches with the bins that each counts for, in the order of the batches, and each session's sums."""

    means: list[tuple[Mapping[str, Tensor | float], int]] = field(default_factory=list)
    correlations: dict[str, RunningCorrelation] = field(default_factory=dict)

    def add(
        self,
        session: str,
        output: Float[Tensor, "batch time_out neuron"],
        targets: Float[Tensor, "batch time neuron"],
        mask: Bool[Tensor, "batch time"],
        means: Mapping[str, Tensor | float],
    ) -> None:
        """Add a batch of one session with what the losses say of it."""
        # a batch counts by its valid bins, so that the mean does not depend on how bins fall into batches; a session
        # counts by its bins, whatever its number of neurons: the loss itself is a mean over neurons
        n_valid = int(mask[:, -output.shape[1] :].sum())
        self.means.append((means, max(n_valid, 1)))
        if session not in self.correlations:
            self.correlations[session] = RunningCorrelation(output.shape[-1], output.device)
        self.correlations[session].update(output, targets, mask)

    def of_all_ranks(self, sessions: Iterable[str]) -> "ValidationSums":
        """Return what one process that sees every batch would have added up; `sessions` is the order of the sessions.

        Rank r of N holds batches r, N + r, ... of the validation. All ranks must call it.
        """
        if not is_shared():
            return self
        means = [({name: float(value) for name, value in values.items()}, n_bins) for values, n_bins in self.means]
        sums = {session: correlation.sums.cpu() for session, correlation in self.correlations.items()}
        means_of_ranks, sums_of_ranks = zip(*gather_objects((means, sums)), strict=True)
        merged = ValidationSums()
        for step in zip_longest(*means_of_ranks):
            merged.means += [batch for batch in step if batch is not None]
        for session in sessions:
            parts = [of_rank[session] for of_rank in sums_of_ranks if session in of_rank]
            if parts:
                merged.correlations[session] = RunningCorrelation(parts[0].shape[1])
                merged.correlations[session].sums += torch.stack(parts).sum(dim=0)
        return merged

    def mean_correlation(self) -> Float[Tensor, ""]:
        """Return the mean over all neurons of their correlation over all bins; -1 if no neuron has one."""
        per_neuron = torch.cat([sums.compute() for sums in self.correlations.values()])
        # a neuron silent throughout the validation bins has no correlation; it must not hide the others
        return per_neuron.nanmean().nan_to_num(nan=-1.0)
