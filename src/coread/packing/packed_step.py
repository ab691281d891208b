"""One training step of several members in one call: `torch.vmap` over their stacked weights."""

import logging
from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from coread.data_io.dataloader import DataPoint
from coread.models.core_readout import BaseCoreReadout
from coread.modules.vmapped import several_models
from coread.packing.each_member import EachMember
from coread.packing.random_state import RandomState

log = logging.getLogger(__name__)

COMPARED = int | float | str | tuple | list | set | dict | np.ndarray | Tensor  # what a computation may depend on
# the books of PyTorch and Lightning, parameters and buffers among them; and what was fitted, which enters no step
NOT_COMPARED = frozenset(vars(LightningModule())) | {"data_info"}


class Step(NamedTuple):
    """What a member is about to compute."""

    model: BaseCoreReadout
    session: str
    point: DataPoint


class Computed(NamedTuple):
    """The loss of a member's step and its penalties, which carry the gradients of their sum to the weights."""

    loss: Tensor
    penalties: dict[str, Tensor]


class SharedDrawError(RuntimeError):
    """A model draws random numbers in a way that gives all members the same."""


class PackedSteps:
    """Computes steps that are alike in one call: of the same session, with batches and models of the same shapes.

    Steps without another alike, and kinds of steps that cannot be vectorised, are left to their members; so are, unless
    `vectorize` says otherwise, all steps on a CPU, which one member keeps busy and whose caches hold the maps of one.
    """

    def __init__(self, vectorize: bool | None = None) -> None:
        self._vectorize = vectorize
        self._apart: set[Hashable] = set()
        self._alike = AlikeModels()

    def answer_all(self, steps: Sequence[Step], states: Sequence[RandomState]) -> list[Computed | None]:
        """Return what is computed of every step, None for those that their members shall compute on their own."""
        answers: list[Computed | None] = [None] * len(steps)
        on_cpu = all(step.point.inputs.device.type == "cpu" for step in steps)
        if len(steps) == 1 or not (not on_cpu if self._vectorize is None else self._vectorize):
            return answers
        for kind, positions in self._kinds(steps).items():
            if len(positions) == 1 or kind in self._apart:
                continue
            try:
                precision = steps[positions[0]].model.trainer.precision_plugin.forward_context()
                computed = compute_together([steps[i] for i in positions], [states[i] for i in positions], precision)
            except Exception as error:  # what vmap cannot do; what is wrong with the data is met again apart
                self._apart.add(kind)
                reason = str(error).strip().split("\n")[0]
                log.warning("steps like those of %s are computed one by one: %s", steps[positions[0]].session, reason)
                continue
            for position, answer in zip(positions, computed, strict=True):
                answers[position] = answer
        return answers

    def _kinds(self, steps: Sequence[Step]) -> dict[Hashable, list[int]]:
        kinds: dict[Hashable, list[int]] = {}
        for position, step in enumerate(steps):
            shapes = tree_map(lambda x: (tuple(x.shape), x.dtype, x.device), tuple(step.point[:3]))
            context = tuple(sorted((name, tuple(x.shape)) for name, x in step.point.context.items()))
            kind = (self._alike.kind(step.model), step.session, shapes, context, step.model.trainer.precision)
            kinds.setdefault(kind, []).append(position)
        return kinds


class AlikeModels:
    """Sorts models by what they compute: those of a kind differ in nothing but parameters and buffers.

    They are compared when they first step: what differs between models must not change after that.
    """

    def __init__(self) -> None:
        self._kinds: dict[int, int] = {}
        self._examples: list[BaseCoreReadout] = []

    def kind(self, model: BaseCoreReadout) -> Hashable:
        """Return the kind of a model, its parts' training modes and which parameters learn included."""
        if id(model) not in self._kinds:
            found = (i for i, known in enumerate(self._examples) if compute_alike(known, model))
            number = next(found, len(self._examples))
            if number == len(self._examples):
                self._examples.append(model)
                if number > 0:
                    log.warning("members differ in more than weights, so not all steps are computed in one call")
            self._kinds[id(model)] = number
        modes = tuple(module.training for module in model.modules())
        return self._kinds[id(model)], modes, tuple(p.requires_grad for p in model.parameters())


def compute_alike(one: nn.Module, other: nn.Module) -> bool:
    """Return whether two models have the same parts with the same values beside parameters and buffers.

    Values that cannot be compared count as different; `data_info` holds what was fitted and enters no step.
    """
    parts, others = dict(one.named_modules()), dict(other.named_modules())
    if [*parts] != [*others] or _shapes(one) != _shapes(other):
        return False
    return all(type(part) is type(others[name]) and _same_values(part, others[name]) for name, part in parts.items())


def _shapes(model: nn.Module) -> list[tuple[Any, ...]]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return [(name, tensor.shape, tensor.dtype, tensor.device) for name, tensor in tensors]


def _same_values(one: nn.Module, other: nn.Module) -> bool:
    here, there = (
        {key: value for key, value in vars(part).items() if isinstance(value, COMPARED) and key not in NOT_COMPARED}
        for part in (one, other)
    )
    try:
        return here.keys() == there.keys() and all(_equal(value, there[key]) for key, value in here.items())
    except Exception:  # an object of somebody's whose comparison fails
        return False


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return bool(np.array_equal(one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(_equal(a, b) for a, b in zip(one, other, strict=True))
    return one is other or bool(one == other)


def compute_together(
    steps: Sequence[Step], states: Sequence[RandomState], precision: AbstractContextManager[Any] | None = None
) -> list[Computed]:
    """Return loss, penalties and gradients of steps that are alike; running statistics and random states move on.

    `precision` is the context that a step of one model would be computed in (autocast).
    Raises what PyTorch raises where it cannot vectorise, and SharedDrawError; then nothing has moved.
    """
    models = [step.model for step in steps]
    parameters, buffers = _stacked(models, learned=True), _stacked(models, learned=False)
    draws = EachMember([_copy(state) for state in states])
    program = _Program(models[0], steps[0].session)

    def compute(parameters: Any, buffers: Any, point: DataPoint, member: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        draws.member = member
        with draws:
            result: tuple[Tensor, dict[str, Tensor]] = functional_call(program, (parameters, buffers), (point,))
        return result

    points = [_tensors(step.point) for step in steps]
    batch = tree_map(lambda *values: torch.stack(values), *points)
    member = torch.arange(len(steps), device=models[0].device)
    with several_models(), precision or nullcontext():
        losses, penalties = torch.vmap(compute, randomness="same")(parameters, buffers, batch, member)
    if draws.shared_draws():
        raise SharedDrawError("it draws random numbers that all members would share")
    wanted = {name: tensor for name, tensor in parameters.items() if tensor.requires_grad}
    total = torch.stack([losses, *penalties.values()]).sum()
    gradients = torch.autograd.grad(total, [*wanted.values()], allow_unused=True)
    found = {name: g for name, g in zip(wanted, gradients, strict=True) if g is not None}
    for state, drawn in zip(states, draws.states, strict=True):
        state.torch, state.gpus = drawn.torch, drawn.gpus
    return [
        _answer(model, i, losses.detach(), {name: term.detach() for name, term in penalties.items()}, found, buffers)
        for i, model in enumerate(models)
    ]


class _Program(nn.Module):
    """A model's step as a module of its own, so that `functional_call` can put weights into it."""

    def __init__(self, model: BaseCoreReadout, session: str) -> None:
        super().__init__()
        self.model, self.session = model, session

    def forward(self, point: DataPoint) -> tuple[Tensor, dict[str, Tensor]]:
        return self.model.loss_and_penalties(self.session, point)


class _Given(torch.autograd.Function):
    """A loss whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor], *weights: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(gradient * scale for gradient in ctx.gradients)


def _answer(
    model: BaseCoreReadout,
    i: int,
    losses: Tensor,
    penalties: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
) -> Computed:
    weights = {f"model.{name}": weight for name, weight in model.named_parameters()}
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if not _repeats_a_row(buffer):  # grids, which nothing moves
                buffer.copy_(buffers[f"model.{name}"][i])
    loss = _Given.apply(losses[i], [g[i] for g in gradients.values()], *(weights[name] for name in gradients))
    return Computed(loss, {name: term[i] for name, term in penalties.items()})


def _stacked(models: Sequence[BaseCoreReadout], learned: bool) -> dict[str, Tensor]:
    """Return parameters, or buffers, of all models on a new first axis, by their names in `_Program`."""
    tables = [dict(model.named_parameters() if learned else model.named_buffers()) for model in models]
    with torch.no_grad():
        stacked = {f"model.{name}": torch.stack([table[name] for table in tables]) for name in tables[0]}
    for name, tensor in stacked.items():
        tensor.requires_grad_(tables[0][name.removeprefix("model.")].requires_grad)
    return stacked


def _repeats_a_row(buffer: Tensor) -> bool:
    return any(stride == 0 and size > 1 for stride, size in zip(buffer.stride(), buffer.shape, strict=True))


def _tensors(point: DataPoint) -> DataPoint:
    return point._replace(context=dict(point.context))


def _copy(state: RandomState) -> RandomState:
    return RandomState(state.python, state.numpy, state.torch, state.gpus)
