"""Weight files of the published SENSORIUM models: what is read from names and shapes, and what is refused."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from coread.models import ImageCoreReadout, load_sensorium_checkpoint
from coread.models.pretrained import CheckpointError

CORE = {
    "_target_": "coread.modules.core.stacked_core.Stacked2dCore",
    "hidden_channels": 6,
    "input_kern": 9,
    "hidden_kern": 7,
    "layers": 4,
    "stack": -1,
    "depth_separable": True,
}
PREDICTOR = {"hidden_layers": 1, "hidden_features": 30, "final_tanh": True}
READOUT = {
    "_target_": "coread.modules.readout.multi_readout.MultiSampledGaussianReadout",
    "grid_mean_predictor": PREDICTOR,
    "source_columns": ["x", "y"],
}
SHIFTER = {"_target_": "coread.modules.shifter.MLPShifter", "published_behaviour": True}
MODULATOR = {"_target_": "coread.modules.modulator.HistoryStateGainModulator", "published_behaviour": True}
MODEL_4 = {
    "core": CORE | {"hidden_kern": 10},
    "readout": READOUT
    | {"grid_mean_predictor": PREDICTOR | {"hidden_layers": 4, "hidden_features": 20, "nonlinearity": "ReLU"}},
    "shifter": SHIFTER,
    "modulator": MODULATOR,
    "behaviour_channels": 3,
}
SESSIONS = {"21067-10-18": 4, "22846-10-16": 3}


def make(**settings: Any) -> ImageCoreReadout:
    torch.manual_seed(1)
    info = {
        "neurons_dict": {
            key: {"x": torch.randn(n).tolist(), "y": torch.randn(n).tolist()} for key, n in SESSIONS.items()
        },
        "n_trials_dict": {key: 40 + n for key, n in SESSIONS.items()},
    }
    model = ImageCoreReadout(
        (1, 1, 36, 64), SESSIONS, **{"core": CORE, "readout": READOUT, "data_info": info} | settings
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.eval()


def inputs_of(model: ImageCoreReadout, key: str) -> dict[str, Tensor]:
    everything = {
        "behaviour": torch.randn(2, 3),
        "pupil_center": torch.randn(2, 2),
        "history": torch.rand(2, SESSIONS[key], 5),
        "state": torch.rand(2, 10),
        "time_order": torch.tensor([3, 30]),
    }
    return {name: everything[name] for name in model.context_names}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"shifter": SHIFTER, "behaviour_channels": 3},
        {"core": CORE | {"layers": 3, "linear": True}},
        MODEL_4,
        MODEL_4 | {"modulator": MODULATOR | {"include_gain": False}},
        MODEL_4 | {"modulator": MODULATOR | {"per_neuron_gain_adjust": False}},
        MODEL_4 | {"modulator": MODULATOR | {"include_history": False}},
        MODEL_4 | {"modulator": MODULATOR | {"include_state": False}},
        {"shifter": {"_target_": "coread.modules.shifter.AffineShifter", "init_std": 0.1}},
        {"shifter": SHIFTER | {"hidden_channels": 3, "shift_layers": 2, "bias": False}},
        {"core": CORE | {"stack": -2, "hidden_kern": [7, 5, 3], "hidden_channels": [4, 6, 8, 6]}},
        {"core": CORE | {"stack": None, "bias": True}},
        {"core": CORE | {"depth_separable": False, "batch_norm": False, "bias": True}},
        {"core": CORE | {"skip": 2}},
        {"readout": {"_target_": READOUT["_target_"], "gauss_type": "isotropic", "bias": False}},
        {"readout": READOUT | {"gauss_type": "uncorrelated"}},
    ],
)
def test_a_state_dict_gives_the_model_that_it_came_from(settings: dict[str, Any], tmp_path: Path) -> None:
    model = make(**settings)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    loaded = load_sensorium_checkpoint(tmp_path / "weights.pth")
    assert not loaded.training
    assert loaded.readout.readout_keys() == sorted(SESSIONS)
    assert loaded.context_names == model.context_names
    images = torch.randn(2, 1, 36, 64)
    for key in SESSIONS:
        context = inputs_of(model, key)
        with torch.no_grad():
            torch.testing.assert_close(loaded(images, key, **context), model(images, key, **context))
    assert list(loaded.state_dict()) == list(model.state_dict())


def test_what_shapes_do_not_tell_can_be_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "weights.pth"
    predictor = PREDICTOR | {"nonlinearity": "ReLU", "final_tanh": False}
    model = make(core=CORE | {"layers": 3}, readout=READOUT | {"grid_mean_predictor": predictor})
    torch.save(model.state_dict(), file)
    images, key = torch.randn(2, 1, 36, 64), "22846-10-16"
    said = load_sensorium_checkpoint(file, linear=False, grid_nonlinearity="ReLU", final_tanh=False)
    with torch.no_grad():
        assert not caplog.records
        torch.testing.assert_close(said(images, key), model(images, key))
        with caplog.at_level(logging.WARNING):
            guessed = load_sensorium_checkpoint(file)
        assert "a core of 3 layers is taken for the linear-nonlinear baseline" in caplog.text
        assert not torch.allclose(guessed(images, key), model(images, key))


def test_parts_that_were_off_can_be_named(tmp_path: Path) -> None:
    model = make(**MODEL_4)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    loaded = load_sensorium_checkpoint(tmp_path / "weights.pth", modulator={"include_history": False})
    assert "history" not in loaded.context_names


def test_penalties_have_the_published_weights(tmp_path: Path) -> None:
    for settings, gamma_input, gamma_readout in (({}, 6.3831, 0.0076), (MODEL_4, 9.8, 0.48)):
        model = make(**settings)
        torch.save(model.state_dict(), tmp_path / "weights.pth")
        loaded = load_sensorium_checkpoint(tmp_path / "weights.pth")
        key = "21067-10-18"
        torch.testing.assert_close(loaded.core.regularizer(), gamma_input * model.core.laplace())
        torch.testing.assert_close(
            loaded.readout.regularizer(key), gamma_readout * model.readout[key]._features.abs().sum()
        )


def test_pupil_is_asked_for_where_there_are_shifters(tmp_path: Path) -> None:
    torch.save(make(shifter=SHIFTER).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"pupil_center \(batch, 2\) is needed"):
        load_sensorium_checkpoint(tmp_path / "weights.pth")(torch.randn(1, 1, 36, 64), "21067-10-18")


def without(state: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (lambda state: {"model": state}, r"expected a state dict of tensors by name, found \['model'\]"),
        (lambda state: {"weight": torch.zeros(2)}, "not a SENSORIUM model"),
        (lambda state: without(state, "readout.22846-10-16.sigma"), r"readout.22846-10-16.sigma is missing"),
        (lambda state: without(state, "core.features.layer2.norm.weight"), r"core.features.layer2.norm.weight"),
        (
            lambda state: state | {"readout.21067-10-18._features": torch.zeros(1, 5, 1, 4)},
            r"the readout has 5 features, which no last layers of \[6, 6, 6, 6\] channels give",
        ),
        (lambda state: state | {"readout.21067-10-18.sigma": torch.zeros(4)}, "sigma should have 4 axes"),
        (lambda state: state | {"core.features.layer0.conv.weight": torch.zeros(6, 1, 9, 7)}, "filters must be square"),
        (lambda state: without(state, "readout.22846-10-16.bias"), "the sessions differ in their parts"),
    ],
)
def test_another_file_is_refused_by_name(alter: Any, message: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save(alter(dict(make().state_dict())), file)
    with pytest.raises(CheckpointError, match=f"{file}: .*{message}"):
        load_sensorium_checkpoint(file)


def test_missing_truncated_and_unsafe_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such file"):
        load_sensorium_checkpoint(tmp_path / "none.pth")
    whole, cut, program = tmp_path / "whole.pth", tmp_path / "cut.pth", tmp_path / "program.pth"
    torch.save(make().state_dict(), whole)
    cut.write_bytes(whole.read_bytes()[:2000])
    torch.save({"core": print}, program)
    for file in (cut, program):
        with pytest.raises(CheckpointError, match="not a readable weight file"):
            load_sensorium_checkpoint(file)
