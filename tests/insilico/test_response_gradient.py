import numpy as np
import pytest
import torch
from torch import Tensor, nn

from coread.insilico.stimulus_optimization.objective import IncreaseObjective, MeanReducer
from coread.insilico.tuning_analyses.response_gradient import equalize_channels, get_gradient_grid
from tests.insilico.subunit_models import SESSION, SubunitCells, softplus

LAG, HEIGHT, WIDTH = 2, 4, 5


def cells(n_channels: int = 2) -> SubunitCells:
    rng = np.random.default_rng(0)
    return SubunitCells(0.2 * rng.standard_normal((3, 1, LAG + 1, n_channels, HEIGHT, WIDTH)), softplus)


def stimulus(n_channels: int = 2) -> Tensor:
    return torch.randn(1, n_channels, 6, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))


def loop_over_points(
    stim: Tensor, objective: IncreaseObjective, contrasts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return response and gradient as they are defined: one contrast of two channels after the other."""
    responses, gradients = [], []
    for first in contrasts:
        for second in contrasts:
            contrast = torch.tensor([first, second], dtype=torch.float32, requires_grad=True)
            value = objective.forward(stim * contrast[None, :, None, None, None])
            value.backward()
            responses.append(value.item())
            gradients.append(contrast.grad.numpy())
    n = len(contrasts)
    return np.reshape(responses, (n, n)), np.moveaxis(np.reshape(gradients, (n, n, 2)), 2, 0)


def test_grid_is_that_of_a_loop_over_its_points_in_the_asked_range() -> None:
    model = cells().train()
    objective = IncreaseObjective(model, 1, SESSION, MeanReducer())
    grid, response, norm, first, second = get_gradient_grid(
        stimulus(), objective, 2, start=-0.5, stop=2.0, step_size=0.5
    )
    np.testing.assert_allclose(first, [-0.5, 0, 0.5, 1, 1.5, 2], atol=1e-12)
    np.testing.assert_array_equal(second, first)
    expected_response, expected_gradient = loop_over_points(stimulus(), objective, first)
    np.testing.assert_allclose(response, expected_response, rtol=1e-5)
    np.testing.assert_allclose(grid, expected_gradient, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norm, np.hypot(*grid), rtol=1e-6)
    assert model.training
    assert model.filters.grad is None, "weights get no gradients"


def test_default_range_and_steps_that_floats_cannot_divide() -> None:
    objective = IncreaseObjective(cells(), [0, 2], SESSION, MeanReducer())
    grid, response, _, contrasts, _ = get_gradient_grid(stimulus(), objective)
    assert grid.shape == (2, 21, 21)
    assert response.shape == (21, 21)
    np.testing.assert_allclose(contrasts[[0, 10, 20]], [-1, 0, 1], atol=1e-9)
    assert len(get_gradient_grid(stimulus(), objective, start=0.0, stop=0.3, step_size=0.1)[3]) == 4


@pytest.mark.parametrize("n_channels", [1, 3])
def test_any_number_of_channels(n_channels: int) -> None:
    objective = IncreaseObjective(cells(n_channels), 0, SESSION, MeanReducer())
    grid, response, norm, *contrasts = get_gradient_grid(stimulus(n_channels), objective, n_channels, step_size=1.0)
    assert grid.shape == (n_channels, *[3] * n_channels)
    assert response.shape == norm.shape == (3,) * n_channels
    assert len(contrasts) == n_channels


def test_what_answers_one_stimulus_at_a_time_is_asked_point_by_point() -> None:
    weight = torch.tensor([1.0, -2.0])

    def mean_over_everything(x: Tensor) -> Tensor:
        return (x.mean(dim=(0, 2, 3, 4)) * weight).sum() ** 2

    stim = torch.ones(1, 2, 3, 2, 2)
    grid, response, _, contrasts, _ = get_gradient_grid(stim, mean_over_everything, step_size=0.5)
    drive = contrasts[:, None] - 2 * contrasts
    np.testing.assert_allclose(response, drive**2, atol=1e-6)
    np.testing.assert_allclose(grid, [2 * drive, -4 * drive], atol=1e-6)


def test_a_model_inside_an_objective_is_in_eval_mode_meanwhile() -> None:
    class Plain:
        def __init__(self) -> None:
            self.model = nn.Dropout(0.5).train()

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x).mean(dim=(1, 2, 3, 4))

    objective = Plain()
    _, response, _, contrasts, _ = get_gradient_grid(torch.ones(1, 2, 3, 2, 2), objective, step_size=1.0)
    np.testing.assert_allclose(response, (contrasts[:, None] + contrasts) / 2, atol=1e-6)
    assert objective.model.training


def test_wrong_stimuli_and_ranges_are_errors() -> None:
    objective = IncreaseObjective(cells(), 0, SESSION, MeanReducer())
    with pytest.raises(ValueError, match=r"stim must be \(1, 3, time"):
        get_gradient_grid(stimulus(), objective, 3)
    with pytest.raises(ValueError, match="start <= stop and step_size > 0"):
        get_gradient_grid(stimulus(), objective, start=1.0, stop=-1.0)


@pytest.mark.parametrize("n_channels", [2, 3])
def test_equalized_channels_have_one_norm_and_keep_the_whole(n_channels: int) -> None:
    stim = (
        torch.cat([stimulus(n_channels), 3 * stimulus(n_channels)])
        * torch.arange(1.0, n_channels + 1)[:, None, None, None]
    )
    equal = equalize_channels(stim)
    norms = equal.flatten(2).norm(dim=2)
    torch.testing.assert_close(norms, norms[:, :1].expand_as(norms))
    torch.testing.assert_close(equal.flatten(1).norm(dim=1), stim.flatten(1).norm(dim=1))
    flipped = equalize_channels(stim, flip_green=True)
    torch.testing.assert_close(flipped[:, 0], -equal[:, 0])
    torch.testing.assert_close(flipped[:, 1:], equal[:, 1:])
    with pytest.raises(ValueError, match="zero everywhere"):
        equalize_channels(torch.zeros(1, 2, 3, 2, 2))
