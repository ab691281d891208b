"""A step computed for several members in one call against the steps of each: losses, gradients, statistics, draws."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from coread.data_io.dataloader import DataPoint
from coread.models import BaseCoreReadout
from coread.packing.packed_step import Computed, SharedDrawError, Step, compute_alike, compute_together
from coread.packing.random_state import RandomState
from tests.test_shipped_configs import MODELS, batch_of, make_model

N_MEMBERS = 3


def members_of(experiment: str) -> list[Step]:
    """Return members that differ in weights, running statistics and batches, in float64."""
    generator = torch.Generator().manual_seed(5)
    steps = []
    for _ in range(N_MEMBERS):
        model = make_model(experiment, narrow=True).double().train()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * parameter.std(correction=0) * torch.randn(parameter.shape, generator=generator)
            for name, buffer in model.named_buffers():
                if name.endswith("running_var"):
                    buffer += torch.rand(buffer.shape, generator=generator)
        session, point = batch_of(model)
        inputs = (point.inputs + 0.1 * torch.randn(point.inputs.shape, generator=generator)).double()
        mask = torch.rand(point.mask.shape, generator=generator) < 0.9
        mask[:, -1:] = True
        context = {name: x.double() if x.is_floating_point() else x for name, x in point.context.items()}
        steps.append(Step(model, session, DataPoint(inputs, point.targets.double(), mask, context)))
    return steps


def seeded_states() -> list[RandomState]:
    states = []
    for seed in range(N_MEMBERS):
        torch.manual_seed(seed)
        states.append(RandomState.now())
    return states


@pytest.mark.parametrize("experiment", ["simulated_retina", "gru_core_readout", "sensorium_2022_model4"])
def test_steps_in_mixed_precision_are_those_of_each(experiment: str) -> None:
    experiment = experiment if experiment in MODELS else MODELS[0]
    ours, theirs = members_of(experiment), members_of(experiment)
    for step in [*ours, *theirs]:
        step.model.float()
    ours, theirs = ([step._replace(point=in_single(step.point)) for step in steps] for steps in (ours, theirs))
    together = compute_together(ours, seeded_states(), torch.autocast("cpu", torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        expected = apart(theirs, seeded_states())
    for one, all_ in zip(expected, together, strict=True):
        torch.testing.assert_close(all_.loss, one.loss, rtol=0.02, atol=1e-3)


def in_single(point: DataPoint) -> DataPoint:
    context = {name: x.float() if x.is_floating_point() else x for name, x in point.context.items()}
    return DataPoint(point.inputs.float(), point.targets.float(), point.mask, context)


def gradients_of(model: BaseCoreReadout, computed: Computed) -> dict[str, Tensor | None]:
    model.zero_grad()
    (computed.loss + sum(computed.penalties.values())).backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def apart(steps: list[Step], states: list[RandomState]) -> list[Computed]:
    results = []
    for step, state in zip(steps, states, strict=True):
        state.restore_torch()
        results.append(Computed(*step.model.loss_and_penalties(step.session, step.point)))
        state.keep_torch()
    return results


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("experiment", MODELS)
def test_a_step_of_several_is_the_step_of_each(experiment: str) -> None:
    ours, theirs = members_of(experiment), members_of(experiment)
    assert compute_alike(ours[0].model, ours[1].model)
    states, expected_states = seeded_states(), seeded_states()
    together, expected = compute_together(ours, states), apart(theirs, expected_states)
    for step, other, one, all_ in zip(ours, theirs, expected, together, strict=True):
        close(all_.loss, one.loss)
        assert all_.penalties.keys() == one.penalties.keys()
        gradients, expected_gradients = gradients_of(step.model, all_), gradients_of(other.model, one)
        for name, gradient in expected_gradients.items():
            found = gradients[name]
            assert (gradient is None) == (found is None), name
            if gradient is not None and found is not None:
                close(found, gradient)
        for (name, buffer), (_, expected_buffer) in zip(
            step.model.named_buffers(), other.model.named_buffers(), strict=True
        ):
            assert torch.allclose(buffer.double(), expected_buffer.double(), rtol=1e-6, atol=1e-8), name
    for state, expected_state in zip(states, expected_states, strict=True):
        assert torch.equal(state.torch, expected_state.torch)
    assert not torch.equal(together[0].loss, together[1].loss)


# ------------------------------------------------------------------------------------------------ draws, one by one


class _Toy(nn.Module):
    """What compute_together asks of a model, around one part that draws."""

    def __init__(self, part: nn.Module, start: int) -> None:
        super().__init__()
        torch.manual_seed(start)
        self.part, self.weight = part, nn.Parameter(torch.randn(1, 4, 1, 1, 1))
        self.device = torch.device("cpu")

    def loss_and_penalties(self, session: str, point: DataPoint) -> tuple[Tensor, dict[str, Tensor]]:
        output = self.part(point.inputs * self.weight)
        return (output * point.inputs).square().mean(), {"size": self.weight.abs().sum()}


def toy_steps(make_part: Callable[[], nn.Module]) -> list[Step]:
    steps = []
    for number in range(N_MEMBERS):
        model: Any = _Toy(make_part(), number).train()
        inputs = torch.randn(5, 4, 3, 2, 2)
        steps.append(Step(model, "a", DataPoint(inputs, inputs, torch.ones(5, 3, dtype=torch.bool))))
    return steps


class _Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn(x.shape) * x.detach().std()


class _SharedNoise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


@pytest.mark.parametrize(
    "make_part",
    [
        lambda: nn.Dropout(0.3),
        lambda: nn.Sequential(nn.Flatten(2), nn.Dropout1d(0.3), nn.Unflatten(2, (3, 2, 2))),
        lambda: nn.Sequential(nn.Flatten(2, 3), nn.Dropout2d(0.3, inplace=True), nn.Unflatten(2, (3, 2))),
        lambda: nn.Dropout3d(0.3),
        lambda: nn.Sequential(nn.Dropout3d(0.3), nn.BatchNorm3d(4), _Noise(), nn.Dropout(0.1)),
    ],
)
def test_every_member_draws_and_remembers_what_it_would_alone(make_part: Callable[[], nn.Module]) -> None:
    ours, theirs = toy_steps(make_part), toy_steps(make_part)
    states, expected_states = seeded_states(), seeded_states()
    for _ in range(2):  # the second step goes on from the states of the first
        together, expected = compute_together(ours, states), apart(theirs, expected_states)
        for step, other, one, all_ in zip(ours, theirs, expected, together, strict=True):
            torch.testing.assert_close(all_.loss, one.loss)
            gradients, expected_gradients = gradients_of(step.model, all_), gradients_of(other.model, one)
            torch.testing.assert_close(gradients, expected_gradients)
            torch.testing.assert_close(dict(step.model.named_buffers()), dict(other.model.named_buffers()))
    assert [bool(torch.equal(s.torch, e.torch)) for s, e in zip(states, expected_states, strict=True)] == [True] * 3


@pytest.mark.parametrize(
    "make_part",
    [
        _SharedNoise,
        lambda: nn.Sequential(_SharedNoise(), nn.Dropout3d(0.3)),
        lambda: nn.Sequential(_Noise(), _SharedNoise()),
    ],
)
def test_draws_that_all_members_would_share_are_refused(make_part: Callable[[], nn.Module]) -> None:
    steps, states = toy_steps(make_part), seeded_states()
    before = [state.torch.clone() for state in states]
    with pytest.raises(SharedDrawError, match="all members would share"):
        compute_together(steps, states)
    assert all(torch.equal(state.torch, kept) for state, kept in zip(states, before, strict=True))


# ------------------------------------------------------------------------------------------------------ who is alike


@pytest.mark.parametrize("values", [{"gain": 2.0}, np.arange(3), [np.arange(2), {1}], (torch.ones(2),)])
def test_a_value_of_whatever_kind_makes_models_differ(values: Any) -> None:
    one, other = (make_model(MODELS[0], narrow=True) for _ in range(2))
    one.core.weights_of_folds, other.core.weights_of_folds = values, copy.deepcopy(values)  # type: ignore[assignment]
    assert compute_alike(one, other)
    other.core.weights_of_folds = {"gain": 3.0}  # type: ignore[assignment]
    assert not compute_alike(one, other)


def test_models_that_differ_in_more_than_weights_are_not_alike() -> None:
    experiment = next(name for name in MODELS if name.startswith("sensorium"))
    one, other = make_model(experiment, narrow=True), make_model(experiment, narrow=True)
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    assert compute_alike(one, other)
    next(m for m in other.modules() if isinstance(m, nn.BatchNorm2d)).momentum = 0.5
    assert not compute_alike(one, other)
    assert not compute_alike(one, make_model(MODELS[0], narrow=True))
