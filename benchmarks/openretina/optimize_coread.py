"""Optimise the stimuli of many neurons at once with coread, or judge given ones: python optimize_coread.py JOB.json."""

import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coread.insilico.local_response import LocalPopulation
from coread.insilico.population import Population
from coread.insilico.stimulus_optimization.optimization_stopper import OptimizationStopper
from coread.insilico.stimulus_optimization.optimizer import Rules
from coread.insilico.stimulus_optimization.population_optimizer import optimize_neurons
from coread.insilico.stimulus_optimization.regularizer import ChangeNormJointlyClipRangeSeparately
from coread.models import load_core_readout_model

TOLERANCE = 1e-3  # share of a mask that may lie outside of the patch that is computed


def main() -> None:
    """Do what the job asks for."""
    job = json.loads(Path(sys.argv[1]).read_text())
    population = Population([load_core_readout_model(job["checkpoint"], job["device"])], "session")
    if job["action"] == "judge":
        stimuli = torch.from_numpy(np.load(Path(job["checkpoint"]).with_name("stimuli.npy")))
        row: dict[str, Any] = {}
    else:
        optimize(job, population, 1)
        started, cpu = time.perf_counter(), time.process_time()
        stimuli = optimize(job, population, job["n_neurons"])
        row = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    first, length = job["window"]
    own = []
    for neuron, stimulus in enumerate(stimuli):
        responses = population.respond(population.contrast(stimulus[None]))[0, 0, first : first + length]
        own.append(float(responses[:, neuron].mean()))
    Path(job["output"]).write_text(json.dumps(row | {"response": float(np.mean(own))}))


def optimize(job: dict[str, Any], population: Population, n_neurons: int) -> torch.Tensor:
    """Return the stimuli (neuron, channel, time, height, width) in the model's normalisation.

    Steps, norm and limits are the published ones; the stimuli are contrasts, which are another unit of the same.
    """
    unit = population.contrast_std
    channels, height, width = population.frame_shape
    shape = (1, channels, job["n_frames"], height, width)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(job["seed"]))
    low, high = job["limits"]
    rules = Rules(
        partial(torch.optim.SGD, lr=job["lr"] / unit**2),
        OptimizationStopper(max_iterations=job["n_steps"]),
        postprocessors=[
            ChangeNormJointlyClipRangeSeparately([(low / unit, high / unit)] * channels, job["norm"] / unit)
        ],
    )
    responses = LocalPopulation(population, job["n_frames"], tolerance=TOLERANCE, window=tuple(job["window"]))
    neurons = torch.arange(n_neurons)[:, None]
    found = optimize_neurons(responses, population, neurons, rules, population.contrast(job["noise_std"] * noise))
    return population.normalised(found.stimulus).cpu()


if __name__ == "__main__":
    main()
