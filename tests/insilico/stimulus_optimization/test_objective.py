"""Objectives and reducers, in their published and their documented form."""

import warnings

import pytest
import torch

from coread.insilico.stimulus_optimization.objective import (
    AbstractObjective,
    ContrastiveNeuronObjective,
    IncreaseObjective,
    InnerNeuronVisualizationObjective,
    MeanReducer,
    ResponseReducer,
    SliceMeanReducer,
)
from tests.insilico.stimulus_optimization.small_models import SESSION, core_model


def stimuli(n_items: int, n_frames: int = 12) -> torch.Tensor:
    return torch.randn(core_model().stimulus_shape(n_frames, n_items), generator=torch.Generator().manual_seed(3))


def eval_responses(model: torch.nn.Module, stimulus: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(stimulus, SESSION)


def test_published_reducers() -> None:
    trace = torch.arange(12.0).reshape(4, 3)
    torch.testing.assert_close(MeanReducer().forward(trace), trace.mean(0))
    torch.testing.assert_close(MeanReducer(axis=1).forward(trace), trace.mean(1))
    torch.testing.assert_close(SliceMeanReducer(axis=0, start=1, length=2).forward(trace), trace[1:3].mean(0))
    torch.testing.assert_close(SliceMeanReducer(0, 3, 10).forward(trace), trace[3])
    with pytest.warns(UserWarning, match="none from bin 7 on"):
        torch.testing.assert_close(SliceMeanReducer(0, 7, 2).forward(trace), trace[:2].mean(0))


@pytest.mark.parametrize("reducer", [MeanReducer(), MeanReducer(-2), SliceMeanReducer(0, 1, 2)])
def test_items_of_a_batch_are_reduced_one_by_one(reducer: ResponseReducer) -> None:
    batch = torch.randn(5, 4, 3)
    expected = torch.stack([reducer.forward(item) for item in batch])
    torch.testing.assert_close(reducer.reduce_items(batch), expected)


def test_documented_reducer_chooses_neurons_of_time_by_neuron() -> None:
    item = torch.randn(4, 7)
    assert MeanReducer(neuron_dim=1, indices=5).forward(item) == pytest.approx(float(item[:, 5].mean()))
    chosen = MeanReducer(neuron_dim=1, indices=[0, -1])
    torch.testing.assert_close(chosen.reduce_items(item[None]), item[:, [0, 6]].mean()[None])
    with pytest.raises(IndexError, match="no neuron 7"):
        MeanReducer(neuron_dim=1, indices=7).forward(item)
    with pytest.raises(ValueError, match="need neuron_dim"):
        MeanReducer(indices=3)


def test_increase_objective_in_both_forms() -> None:
    model, batch = core_model(), stimuli(3)
    published = IncreaseObjective(model, [1, 4], SESSION, SliceMeanReducer(0, 1, 2)).forward(batch)
    documented = IncreaseObjective(model=model, reducer=MeanReducer(neuron_dim=1, indices=5)).forward(batch)
    expected = eval_responses(model, batch)
    torch.testing.assert_close(published.detach(), expected[:, 1:3, [1, 4]].mean((1, 2)))
    torch.testing.assert_close(documented.detach(), expected[:, :, 5].mean(1))
    single = IncreaseObjective(model, 2, SESSION, MeanReducer()).forward(batch[:1])
    assert single.shape == ()
    with pytest.raises(TypeError, match="exactly one"):
        IncreaseObjective(model, 2, SESSION)


def test_a_model_in_training_is_asked_in_eval_mode_and_left_as_it_was() -> None:
    model, batch = core_model(), stimuli(2)
    model.core.features[0].eval()
    next(model.parameters()).requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    asked = [parameter.requires_grad for parameter in model.parameters()]
    batch.requires_grad_()
    values = IncreaseObjective(model, 0, SESSION, MeanReducer()).forward(batch)
    values.sum().backward()
    assert batch.grad is not None
    assert batch.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == asked
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_contrast_has_the_published_value() -> None:
    value = ContrastiveNeuronObjective.contrastive_objective(torch.tensor(1.0), torch.tensor([1.0, 0.0, 0.5]), 1.6)
    assert float(value) == pytest.approx(0.280209, abs=1e-6)


def test_contrastive_objective_of_a_batch() -> None:
    model, batch = core_model(), stimuli(2)
    objective = ContrastiveNeuronObjective(model, [0, 2], [[1], [3, 4, 5]], SESSION, SliceMeanReducer(0, 2, 3))
    scores = eval_responses(model, batch)[:, 2:5].mean(1)
    clusters = torch.stack([scores[:, [0, 2]].mean(1), scores[:, 1], scores[:, 3:].mean(1)], dim=1) / 1.6
    expected = clusters[:, 0] - torch.logsumexp(clusters, 1) + torch.log(torch.tensor(3.0))
    torch.testing.assert_close(objective.forward(batch).detach(), expected)
    torch.testing.assert_close(objective.forward(batch[1:]).detach(), expected[1])


def test_inner_unit_is_the_central_pixel_of_a_channel_and_leaves_no_hook() -> None:
    model, batch = core_model(), stimuli(3)
    objective = InnerNeuronVisualizationObjective(model, SESSION, MeanReducer())
    with pytest.raises(ValueError, match="set_layer_channel"):
        objective.forward(batch)
    with pytest.raises(ValueError, match="none of"):
        objective.set_layer_channel("core_features_layer9", 0)
    objective.set_layer_channel("core_features_layer0_norm", 2)
    values = objective.forward(batch)
    layer = model.eval().core.features[0]
    maps = layer.norm(layer.conv(batch))
    y, x = maps.shape[3] // 2, maps.shape[4] // 2
    torch.testing.assert_close(values, maps[:, 2, :, y, x].mean(1))
    assert objective.get_output_shape_for_layer("core_features_layer0_norm", tuple(batch.shape)) == tuple(maps.shape)
    assert objective.get_output_shape_for_layer("nothing", tuple(batch.shape)) is None
    assert not any(module._forward_hooks for module in model.modules())
    objective.set_layer_channel("core_features_layer0_norm", 2, (1, 0))
    torch.testing.assert_close(objective.forward(batch), maps[:, 2, :, 1, 0].mean(1))
    objective.set_layer_channel("core_features_layer0_norm", 99)
    with pytest.raises(ValueError, match="4 channels"):
        objective.forward(batch)


def test_a_short_stimulus_is_preceded_by_mean_grey_with_one_warning() -> None:
    model = core_model()
    short = stimuli(2, model.lag)
    objective = IncreaseObjective(model, 1, SESSION, MeanReducer())
    with pytest.warns(UserWarning, match="preceded by 5 frames of mean grey"):
        values = objective.forward(short)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective.forward(short)
    led = torch.cat([torch.zeros(2, 2, model.lag, *short.shape[3:]), short], dim=2)
    expected = eval_responses(model, led)
    assert expected.shape[1] == short.shape[2]  # one bin per frame of the stimulus
    torch.testing.assert_close(values.detach(), expected[:, :, 1].mean(1))


def test_published_subclasses_see_one_item_without_its_axis() -> None:
    class Peak(AbstractObjective):
        def forward(self, stimulus: torch.Tensor) -> torch.Tensor:
            return self.model_forward(stimulus)[:, 3].max()

    model, batch = core_model(), stimuli(1)
    assert float(Peak(model, SESSION).forward(batch)) == pytest.approx(
        float(eval_responses(model, batch)[0, :, 3].max())
    )
