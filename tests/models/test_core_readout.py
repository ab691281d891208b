"""Core + readout models: documented constructors, what they predict, how training and validation add up."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf

from coread.callbacks import KeepBest
from coread.data_io.dataloader import DataPoint
from coread.models import BaseCoreReadout, ExampleCoreReadout, UnifiedCoreReadout, is_model_causal
from coread.modules.core.base_core import SimpleCoreWrapper
from coread.modules.losses import CorrelationLoss3d, MSE3d, PoissonLoss3d
from coread.modules.readout.multi_readout import MultiGaussianMaskReadout

SIZES = {"a": 3, "b": 5}


def make_core(**arguments: Any) -> SimpleCoreWrapper:
    return SimpleCoreWrapper(
        **{"channels": (2, 4), "temporal_kernel_sizes": (5,), "spatial_kernel_sizes": (3,), **arguments}
    )


def make_model(core: SimpleCoreWrapper | None = None, **arguments: Any) -> BaseCoreReadout:
    readout = MultiGaussianMaskReadout((4, 1, 6, 7), SIZES, mask_l1_reg=0.1, feature_weights_l1_reg=0.2)
    arguments = {"data_info": {"input_shape": (2, 8, 9)}, **arguments}
    return BaseCoreReadout(make_core() if core is None else core, readout, **arguments)


def validation_points(n_windows: int = 6, window: int = 20) -> dict[str, DataPoint]:
    """Return windows of two sessions, of which different bins count."""
    points = {}
    for session, n_neurons in SIZES.items():
        mask = torch.rand(n_windows, window) > 0.4
        targets = torch.randn(n_windows, window, n_neurons).exp()
        points[session] = DataPoint(torch.randn(n_windows, 2, window, 8, 9), targets, mask)
    return points


def cut(point: DataPoint, sizes: list[int]) -> list[DataPoint]:
    return [DataPoint(*parts) for parts in zip(*(torch.split(values, sizes) for values in point[:3]), strict=True)]


def validate(model: BaseCoreReadout, batches: list[tuple[str, DataPoint]]) -> dict[str, float]:
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    (metrics,) = trainer.validate(model, torch.utils.data.DataLoader(batches, batch_size=None), verbose=False)
    return metrics


# ------------------------------------------------------------------------------------------------ documented arguments


def test_documented_arguments_of_the_base_class() -> None:
    loss, score = MSE3d(), CorrelationLoss3d(negate=False)
    core = make_core()
    model = BaseCoreReadout(core, make_model().readout, 0.02, loss, score)
    assert model.core is core
    assert (model.learning_rate, model.loss, model.correlation_loss) == (0.02, loss, score)
    assert make_model(evaluation_loss=score).correlation_loss is score
    assert isinstance(make_model().loss, PoissonLoss3d)
    with pytest.raises(TypeError, match="name the same thing"):
        make_model(correlation_loss=score, evaluation_loss=score)
    with pytest.raises(TypeError, match="learning_rat"):
        make_model(learning_rat=1.0)


def test_adam_with_the_learning_rate_is_the_default() -> None:
    optimizer = make_model(learning_rate=0.02).configure_optimizers()
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.param_groups[0]["lr"] == 0.02


def test_the_documented_example() -> None:
    data_info = {"n_neurons_dict": SIZES, "input_shape": (1, 50, 50)}
    model = ExampleCoreReadout(
        in_shape=(1, 100, 50, 50),
        hidden_channels=(16, 32),
        temporal_kernel_sizes=(11, 5),
        spatial_kernel_sizes=(15, 11),
        n_neurons_dict=data_info["n_neurons_dict"],
        data_info=data_info,
    )
    assert model.lag == 10 + 4
    assert model(torch.randn(2, 1, 20, 50, 50), "b").shape == (2, 6, 5)
    assert model(torch.randn(1, 1, 16, 50, 50)).shape == (1, 2, 8)  # all sessions, any number of frames
    assert model.data_info["n_neurons_dict"] == SIZES
    assert is_model_causal(model)


@pytest.mark.parametrize("container", [dict, OmegaConf.create])
def test_unified_core_readout_fills_in_channels_and_keeps_its_config(container: Any) -> None:
    core = {
        "_target_": "coread.modules.core.base_core.SimpleCoreWrapper",
        "temporal_kernel_sizes": [5, 3],
        "spatial_kernel_sizes": [3, 3],
    }
    readout = {"_target_": "coread.modules.readout.multi_readout.MultiGaussianReadoutWrapper", "bias": False}
    model = UnifiedCoreReadout(
        in_shape=(2, 20, 8, 9),
        n_neurons_dict=SIZES,
        core=container(core),
        readout=container(readout),
        hidden_channels=[4, 6],
        data_info={"input_shape": (2, 8, 9)},
    )
    assert [conv.in_channels for conv in model.core.convolutions] == [2, 4]
    assert model.core.convolutions[-1].out_channels == 6
    assert model.data_info["model_config"] == {"hidden_channels": [4, 6], "core": core, "readout": readout}
    assert type(model.data_info["model_config"]["core"]) is dict
    assert model(torch.randn(1, 2, 20, 8, 9), "a").shape == (1, 14, 3)
    with pytest.raises(ValueError, match=r"cannot take an input of \(channel, time, height, width\) \(2, 20, 2, 9\)"):
        UnifiedCoreReadout((2, 20, 2, 9), SIZES, core, readout, [4, 6])


# --------------------------------------------------------------------------------------------------------- predictions


def test_published_padding_in_time_sees_the_future() -> None:
    core = make_core(input_padding="same", published_behaviour=True)
    readout = MultiGaussianMaskReadout((4, 1, 8, 9), SIZES)
    model = BaseCoreReadout(core, readout, data_info={"input_shape": (2, 8, 9)})
    assert model(torch.randn(1, 2, 20, 8, 9), "a").shape[1] == 20
    assert not is_model_causal(model)
    assert is_model_causal(make_model())


def test_a_model_that_hardly_depends_on_its_stimulus_is_not_taken_for_causal() -> None:
    for padding, is_causal in (([0, 0, 0], True), ([1, 0, 0], False)):
        model = make_model(make_core(input_padding=padding))
        with torch.no_grad():
            for readout in model.readout.values():
                readout.features.mul_(1e-9)
        output = model.eval()(torch.randn(2, 2, 20, 8, 9), "a")
        torch.testing.assert_close(output[0], output[1])
        assert is_model_causal(model) is is_causal


class Thresholds(SimpleCoreWrapper):
    """Tells only how many pixels are bright, which has no slope."""

    def forward(self, input_: torch.Tensor, data_key: str | None = None) -> torch.Tensor:
        return super().forward((input_ > 0).to(input_.dtype), data_key)


class SinglePrecision(SimpleCoreWrapper):
    """Multiplies with a matrix that knows nothing of the type of the weights."""

    def forward(self, input_: torch.Tensor, data_key: str | None = None) -> torch.Tensor:
        return super().forward(input_ @ torch.eye(9), data_key)


@pytest.mark.parametrize("cls", [Thresholds, SinglePrecision])
def test_causality_of_cores_without_slope_or_double_precision(cls: type[SimpleCoreWrapper]) -> None:
    for padding, is_causal in (([0, 0, 0], True), ([1, 0, 0], False)):
        core = cls((2, 4), (5,), (3,), input_padding=padding)
        assert is_model_causal(make_model(core)) is is_causal


def test_a_model_that_does_not_depend_on_its_stimulus_proves_nothing() -> None:
    model = make_model()
    with torch.no_grad():
        model.readout["a"].features.zero_()
    assert is_model_causal(model)  # by the other session
    with torch.no_grad():
        model.readout["b"].features.zero_()
    assert not is_model_causal(model)


def test_asking_for_causality_leaves_the_model_as_it_was() -> None:
    model = make_model().train()
    model.core.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    is_model_causal(model)
    assert model.training
    assert torch.equal(torch.get_rng_state(), random_state)
    for name, value in model.state_dict().items():
        assert (value.dtype, torch.equal(value, before[name])) == (before[name].dtype, True), name
    assert not any(parameter.requires_grad for parameter in model.core.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


# ---------------------------------------------------------------------------------------------- training and validation


def test_penalties_of_core_and_session_are_added_once_per_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(make_core(gamma_input=0.3, gamma_temporal=0.2)).eval()
    monkeypatch.setattr(model, "log", lambda *_, **__: None)
    for session, point in validation_points().items():
        loss = model.loss(model(point.inputs, session), point.targets, point.mask)
        penalty = model.core.regularizer() + model.readout[session].regularizer()
        assert penalty > 0
        torch.testing.assert_close(model.training_step((session, point), 0), loss + penalty)


def test_validation_scores_do_not_depend_on_how_bins_fall_into_batches() -> None:
    model, points = make_model(), validation_points()
    whole = validate(model, list(points.items()))
    pieces = [("a", part) for part in cut(points["a"], [1, 3, 2])] + [
        ("b", part) for part in cut(points["b"], [4, 1, 1])
    ]
    parts = validate(model, pieces)
    assert whole.keys() == parts.keys() == {"val_loss", "val_correlation"}
    for name in whole:
        assert parts[name] == pytest.approx(whole[name], rel=1e-5)


def test_validation_scores_are_what_the_docstring_says() -> None:
    model, points = make_model(), validation_points()
    found = validate(model, list(points.items()))
    model.eval()
    losses, correlations = [], []
    for session, point in points.items():
        counted = point.mask[:, model.lag :].numpy()
        output = model(point.inputs, session).detach().numpy()[counted].astype(np.float64)
        target = point.targets[:, model.lag :].numpy()[counted]
        losses.append((output - target * np.log(output + 1e-16)).mean(axis=1))
        correlations += [np.corrcoef(output[:, n], target[:, n])[0, 1] for n in range(SIZES[session])]
    assert found["val_loss"] == pytest.approx(np.concatenate(losses).mean(), rel=1e-5)
    assert found["val_correlation"] == pytest.approx(np.mean(correlations), rel=1e-5)


def test_the_optional_score_is_logged_too() -> None:
    found = validate(make_model(evaluation_loss=CorrelationLoss3d(negate=False)), list(validation_points().items()))
    assert -1 <= found["val_correlation_loss"] <= 1


def test_the_best_weights_repeat_no_grid_for_every_neuron() -> None:
    model, keep_best = make_model(), KeepBest()
    trainer = SimpleNamespace(sanity_checking=False, current_epoch=0, callback_metrics={"val_correlation": 0.5})
    keep_best.on_validation_end(trainer, model)  # type: ignore[arg-type]
    stored = sum(value.untyped_storage().nbytes() for value in keep_best.best_weights.values())
    parameters = sum(value.numel() * 4 for value in [*model.parameters(), *model.buffers()])
    assert stored < parameters + 2 * 6 * 7 * 2 * 4 + 100
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.nn.init.zeros_(model.readout["a"].mask_mean)
    model.core.features[0].conv.weight_spatial.data += 1
    model.load_state_dict(keep_best.best_weights)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
