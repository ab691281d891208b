"""Run an in-silico experiment: from its settings, on the neurons of a share, joined over shares."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import hydra.utils
import numpy as np
import pandas as pd
from jaxtyping import Int

from coread.insilico.experiment import ExperimentResult, InsilicoExperiment, join_results

if TYPE_CHECKING:
    import torch

    from coread.models.core_readout import BaseCoreReadout
    from coread.recording import Recording


def load_experiment(settings: Mapping[str, Any]) -> InsilicoExperiment:
    """Return the experiment that settings name as `_target_`; their other keys are the arguments of its constructor.

    Raises ValueError for settings that name no class, and for a class that is no experiment.
    """
    if "_target_" not in settings:
        raise ValueError(f"settings of an in-silico experiment name its class as _target_, found {sorted(settings)}")
    experiment = hydra.utils.instantiate(dict(settings), _convert_="all")
    if not isinstance(experiment, InsilicoExperiment):
        raise ValueError(
            f"{settings['_target_']} is no in-silico experiment: it needs run(population, neurons) and draw(results)"
        )
    return experiment


def run_experiment(
    experiment: InsilicoExperiment,
    models: Sequence["BaseCoreReadout"],
    *,
    shard: int = 0,
    n_shards: int = 1,
    neurons: Sequence[int] | None = None,
    recordings: Mapping[str, "Recording"] | None = None,
    device: "torch.device | str | None" = None,
) -> dict[str, ExperimentResult]:
    """Return the results of all sessions that the models know, for one share of their neurons.

    Of each session the share holds every `n_shards`-th neuron from number `shard` on, of all its neurons or of those
    that `neurons` lists; a session without any is left out. `recordings` are those of the sessions, where they are at
    hand. Raises ValueError for a share that does not exist, and for a result of other neurons than were asked for.
    """
    from coread.insilico.population import Population  # here: joining results needs no models

    if not 0 <= shard < n_shards:
        raise ValueError(f"there are shares 0 to {n_shards - 1} of the neurons, got {shard}")
    results = {}
    for session in models[0].data_info["n_neurons_dict"]:
        population = Population(models, session, device=device, recording=(recordings or {}).get(session))
        chosen = np.arange(population.n_neurons)
        chosen = (chosen if neurons is None else chosen[np.isin(chosen, neurons)])[shard::n_shards]
        if len(chosen):
            results[session] = experiment.run(population, chosen)
            _check_neurons(results[session].table, session, chosen)
    return results


def _check_neurons(table: pd.DataFrame, session: str, asked: Int[np.ndarray, "neuron"]) -> None:
    if set(table["session"]) != {session} or not np.array_equal(table["neuron"], asked):
        raise ValueError(
            "the table of an experiment has one row for every neuron that it was asked for, in their order: asked for "
            f"{asked.tolist()} of {session!r}, found {table['neuron'].tolist()} of {sorted(set(table['session']))}"
        )


def finish_experiment(
    experiment: InsilicoExperiment, shards: Sequence[Mapping[str, ExperimentResult]]
) -> dict[str, ExperimentResult]:
    """Return the results of all sessions, joined from their shares and summarised where the experiment does that.

    Raises ValueError for shares that do not fit together.
    """
    sessions = sorted({session for shard in shards for session in shard})
    results = {session: join_results([shard[session] for shard in shards if session in shard]) for session in sessions}
    summarise = getattr(experiment, "summarise", None)
    return results if summarise is None else dict(summarise(results))
