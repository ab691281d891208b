"""Gradient ascent on stimuli, in place and in batches whose items end one by one."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from coread.insilico.stimulus_optimization.objective import AbstractObjective, IncreaseObjective, MeanReducer
from coread.insilico.stimulus_optimization.optimization_stopper import EarlyStopper, OptimizationStopper
from coread.insilico.stimulus_optimization.optimizer import Rules, ascend, optimize_stimulus
from coread.insilico.stimulus_optimization.regularizer import (
    ChangeNorm,
    ClipStimulus,
    SpatialGaussianBlur,
    TotalVariationRegularizer,
)
from coread.models import load_core_readout_from_remote
from coread.models.pretrained.released import released_models
from tests.insilico.stimulus_optimization.small_models import SESSION, core_model
from tests.models.published_checkpoint import published_content, trained_model, write_checkpoint


class Sum(AbstractObjective):
    """What the published tests maximise."""

    def __init__(self) -> None:
        super().__init__(None, None)

    def forward(self, stimulus: Tensor) -> Tensor:
        return stimulus.sum()


class Hills:
    """Every item climbs a hill of its own steepness, -steepness * (x - 1)^2; counts what it was asked for."""

    def __init__(self, steepness: Tensor, asked: list[int]) -> None:
        self.steepness, self.asked = steepness, asked

    def __call__(self, stimuli: Tensor) -> Tensor:
        self.asked.append(len(stimuli))
        return -self.steepness * (stimuli - 1).square().flatten(1).sum(1)

    def select(self, kept: Tensor) -> "Hills":
        return Hills(self.steepness[kept], self.asked)


@pytest.mark.parametrize("lr", [0.1, 10.0])
def test_the_published_example(lr: float) -> None:
    stimulus = torch.randn(1, 2, 3, 5, 7, requires_grad=True)
    before = stimulus.detach().clone()
    optimize_stimulus(stimulus, partial(torch.optim.SGD, lr=lr), Sum(), OptimizationStopper(max_iterations=10))
    torch.testing.assert_close(stimulus, before + 10 * lr)
    assert not stimulus.requires_grad


def test_published_loop_step_by_step() -> None:
    """Same numbers as the loop that optimises one stimulus with loss.backward() on the whole model."""
    model = core_model().eval()
    start = 0.1 * torch.randn(model.stimulus_shape(12))
    blur, clip, tv = SpatialGaussianBlur(0.7), ClipStimulus(-0.5, 0.5), TotalVariationRegularizer(0.1)
    expected = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([expected], lr=0.05)
    for _ in range(6):
        loss = -model(expected, SESSION)[0, :, 3].mean() + tv.forward(expected)
        optimizer.zero_grad()
        loss.backward()
        assert expected.grad is not None
        expected.grad = blur.process(expected.grad)
        optimizer.step()
        expected.data = clip.process(expected.data)
    found = start.clone().requires_grad_()
    optimize_stimulus(
        found,
        partial(torch.optim.Adam, lr=0.05),
        IncreaseObjective(model, 3, SESSION, MeanReducer()),
        OptimizationStopper(6),
        tv,
        [clip],
        blur,
    )
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-6)


def test_items_of_a_batch_are_optimised_as_if_alone() -> None:
    model = core_model()
    start = 0.3 * torch.randn(model.stimulus_shape(12, 4))
    objective = IncreaseObjective(model, 2, SESSION, MeanReducer())
    rules = (
        partial(torch.optim.Adam, lr=0.1),
        objective,
        EarlyStopper(max_iterations=25, patience=1),
        TotalVariationRegularizer(0.3),
        [ClipStimulus(-1.0, 1.0), ChangeNorm(4.0)],
    )
    together = start.clone().requires_grad_()
    optimize_stimulus(together, *rules)
    alone = [item[None].clone().requires_grad_() for item in start]
    for item in alone:
        optimize_stimulus(item, *rules)
    torch.testing.assert_close(together, torch.cat(alone).detach(), rtol=1e-4, atol=1e-5)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training


def test_items_that_have_ended_leave_the_batch_and_keep_their_stimulus() -> None:
    steepness = torch.tensor([0.4, 0.02, 0.1])
    start = torch.zeros(3, 1, 1, 2, 2)
    asked: list[int] = []
    rules = Rules(partial(torch.optim.SGD, lr=1.0, momentum=0.3), OptimizationStopper(400, patience=3, min_delta=1e-6))
    ascent = ascend(Hills(steepness, asked), start, rules)
    torch.testing.assert_close(ascent.stimuli, torch.ones_like(start), atol=0.02, rtol=0)
    assert sorted(ascent.n_iterations.tolist()) != [400] * 3
    assert ascent.n_iterations[1] > ascent.n_iterations[2] > ascent.n_iterations[0]
    assert sum(asked) == ascent.n_iterations.sum()
    for row in range(3):
        alone = ascend(Hills(steepness[row : row + 1], []), start[row : row + 1], rules)
        assert alone.n_iterations[0] == ascent.n_iterations[row]
        torch.testing.assert_close(alone.stimuli[0], ascent.stimuli[row])


def test_one_stopper_serves_many_optimisations() -> None:
    stopper = EarlyStopper(max_iterations=5, patience=1)
    for _ in range(2):
        stimulus = torch.zeros(1, 1, 1, 2, 2, requires_grad=True)
        optimize_stimulus(stimulus, partial(torch.optim.SGD, lr=1.0), Sum(), stopper)
        torch.testing.assert_close(stimulus, torch.full_like(stimulus, 5.0))


def test_documented_listing_on_the_released_architecture(tmp_path: Path) -> None:
    name = "hoefling_2024_base_low_res"
    write_checkpoint(tmp_path / released_models()[name]["path"], published_content(trained_model()))
    model = load_core_readout_from_remote(name, "cpu", tmp_path)
    stimulus = torch.randn(model.stimulus_shape(time_steps=30, num_batches=1), requires_grad=True)
    objective = IncreaseObjective(model=model, reducer=MeanReducer(neuron_dim=1, indices=4))
    start = ClipStimulus(0.0, 1.0).process(stimulus.detach())
    with pytest.warns(UserWarning, match="preceded by 30 frames of mean grey"):
        before = float(objective.forward(start))
    optimize_stimulus(
        stimulus=stimulus,
        optimizer_init_fn=lambda params: torch.optim.Adam(params, lr=0.05),
        objective_object=objective,
        optimization_stopper=OptimizationStopper(max_iterations=20, patience=20),
        stimulus_regularization_loss=TotalVariationRegularizer(weight=0.01),
        stimulus_postprocessor=ClipStimulus(0.0, 1.0),
    )
    assert stimulus.shape == (1, 2, 30, 18, 16)
    assert 0.0 <= float(stimulus.min()) <= float(stimulus.max()) <= 1.0
    assert float(objective.forward(stimulus)) > 1.2 * before
