"""Gradient ascent on stimuli: one in place, or a batch whose items end one by one."""

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from coread.insilico.frozen_model import frozen
from coread.insilico.stimulus_optimization.optimization_stopper import OptimizationStopper
from coread.insilico.stimulus_optimization.regularizer import StimulusPostprocessor, StimulusRegularizationLoss

T = TypeVar("T")
OptimizerInit = Callable[[list[Tensor]], torch.optim.Optimizer]


def optimize_stimulus(
    stimulus: Float[Tensor, "item channel time height width"],
    optimizer_init_fn: OptimizerInit,
    objective_object: Any,
    optimization_stopper: OptimizationStopper,
    stimulus_regularization_loss: list[StimulusRegularizationLoss] | StimulusRegularizationLoss | None = None,
    stimulus_postprocessor: list[StimulusPostprocessor] | StimulusPostprocessor | None = None,
    stimulus_gradient_processor: list[StimulusPostprocessor] | StimulusPostprocessor | None = None,
) -> None:
    """Change a stimulus in place so that the objective rises and the penalties fall.

    Every iteration is a step of the optimiser on penalties minus objective, then the postprocessors. The items of a
    batch are optimised at once and end one by one, each by a copy of the stopper, if the objective gives one value per
    item. `stimulus_gradient_processor` changes the gradient before the step. The model is used in eval mode, its
    weights get no gradients, and it is left as it was.
    """
    model = getattr(objective_object, "model", None)
    rules = Rules(
        optimizer_init_fn,
        optimization_stopper,
        convert_to_list(stimulus_regularization_loss),
        convert_to_list(stimulus_postprocessor),
        convert_to_list(stimulus_gradient_processor),
    )
    with frozen(model) if isinstance(model, nn.Module) else nullcontext():
        ascent = ascend(_Same(objective_object), stimulus.detach().clone(), rules)
    stimulus.detach_()
    stimulus.copy_(ascent.stimuli)


def convert_to_list(x: list[T] | T | None) -> list[T]:
    """Return a list of what is one, several or none."""
    if x is None:
        return []
    return list(x) if isinstance(x, list | tuple) else [x]


class Rules(NamedTuple):
    """How stimuli change: optimiser, end, penalties, and processors of stimulus and gradient."""

    make_optimizer: OptimizerInit
    stopper: OptimizationStopper
    penalties: Sequence[StimulusRegularizationLoss] = ()
    postprocessors: Sequence[StimulusPostprocessor] = ()
    gradient_processors: Sequence[StimulusPostprocessor] = ()


class ItemObjective(Protocol):
    """An objective of a batch that items can leave."""

    def __call__(self, stimuli: Float[Tensor, "item channel time height width"], /) -> Float[Tensor, "*item"]:
        """Return one value per item."""
        ...

    def select(self, kept: Int[Tensor, " kept"]) -> "ItemObjective":
        """Return the objective of some items."""
        ...


class Ascent(NamedTuple):
    """Optimised stimuli, the value of each before its last step, and how many steps it took."""

    stimuli: Float[Tensor, "item channel time height width"]
    values: Float[Tensor, "item"]
    n_iterations: Int[Tensor, "item"]


class _Same:
    """A published objective, which is the same for all items."""

    def __init__(self, objective: Any):
        self._objective = objective

    def __call__(self, stimuli: Float[Tensor, "item channel time height width"]) -> Float[Tensor, "*item"]:
        return self._objective.forward(stimuli)

    def select(self, kept: Int[Tensor, " kept"]) -> "_Same":
        return self


def ascend(objective: ItemObjective, start: Float[Tensor, "item channel time height width"], rules: Rules) -> Ascent:
    """Return the stimuli to which the rules lead; an item that has ended leaves the batch.

    An objective that gives one value for a batch of several items ends for all of them at once. The models behind the
    objective are to be `frozen`.
    """
    results = Ascent(
        start.clone(),
        start.new_zeros(len(start)),
        torch.zeros(len(start), dtype=torch.long, device=start.device),
    )
    active = torch.arange(len(start), device=start.device)
    stimuli = start.clone().requires_grad_()
    optimizer = rules.make_optimizer([stimuli])
    stoppers: list[OptimizationStopper] = []
    for _ in range(rules.stopper.max_iterations):
        values, losses = _step(objective, stimuli, optimizer, rules)
        stoppers = stoppers or [copy.deepcopy(rules.stopper) for _ in losses]
        results.values[active] = values
        results.n_iterations[active] += 1
        ended = [stopper.early_stop(loss) for stopper, loss in zip(stoppers, losses.tolist(), strict=True)]
        if not any(ended):
            continue
        results.stimuli[active] = stimuli.detach()
        if all(ended):
            return results
        kept = torch.tensor([i for i, end in enumerate(ended) if not end], device=start.device)
        stoppers = [stoppers[i] for i in kept.tolist()]
        active, objective = active[kept], objective.select(kept)
        stimuli = _leave(optimizer, stimuli, kept)
    results.stimuli[active] = stimuli.detach()
    return results


def _step(
    objective: ItemObjective, stimuli: Tensor, optimizer: torch.optim.Optimizer, rules: Rules
) -> tuple[Tensor, Tensor]:
    """Change the stimuli by one step and return values of the objective and losses before it."""
    with torch.enable_grad():
        values = objective(stimuli)
        losses = -values.reshape(-1)
        penalties = [penalty.per_item(stimuli) for penalty in rules.penalties]
        if penalties:
            total = torch.stack(penalties).sum(dim=0)
            losses = losses + (total if len(losses) == len(stimuli) else total.sum())
        (gradient,) = torch.autograd.grad(losses.sum(), stimuli)
    with torch.no_grad():
        for processor in rules.gradient_processors:
            gradient = processor.process(gradient)
    stimuli.grad = gradient
    optimizer.step()
    with torch.no_grad():
        for processor in rules.postprocessors:
            stimuli.data = processor.process(stimuli.data)
    return values.detach(), losses.detach()


def _leave(optimizer: torch.optim.Optimizer, stimuli: Tensor, kept: Int[Tensor, " kept"]) -> Tensor:
    """Return the stimuli that are kept, in the optimiser too, which remembers what it knows of them."""
    remaining = stimuli.detach()[kept].requires_grad_()
    state = optimizer.state.pop(stimuli, {})
    optimizer.state[remaining] = {
        name: value[kept] if isinstance(value, Tensor) and value.shape == stimuli.shape else value
        for name, value in state.items()
    }
    optimizer.param_groups[0]["params"] = [remaining]
    return remaining
