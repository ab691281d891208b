"""Core, shifter, readout, modulator and loss of the SENSORIUM systems compute what the published ones do."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from coread.models import load_sensorium_checkpoint
from coread.modules.losses import PoissonLoss
from coread.modules.modulator import HistoryStateGainModulator

Matches = Callable[[Tensor, Tensor], None]


def test_official_baseline_matches(reference_data: Path, load_case: Callable, assert_matches: Matches) -> None:
    kwargs, _, case = load_case("official_sensorium_p_sota_model")
    model = load_sensorium_checkpoint(reference_data / "parity" / kwargs["checkpoint"])
    key = kwargs["data_key"]
    assert not model.training
    assert model.readout.readout_keys() == [key]
    with torch.no_grad():
        assert_matches(model.core(case["images"]), case["features"])
        assert_matches(model.shifter[key](case["pupil_center"]), case["shift"])
        assert_matches(model(case["images"], key, pupil_center=case["pupil_center"]), case["y"])
    assert_matches(model.core.regularizer(), case["core_regularizer"])


def test_modulator_matches(load_case: Callable, assert_matches: Matches) -> None:
    kwargs, _, case = load_case("modulator")
    modulator = HistoryStateGainModulator(**kwargs, published_behaviour=True)
    state = {name.removeprefix("state_dict/"): case[name] for name in case if name.startswith("state_dict/")}
    assert set(modulator.state_dict()) == set(state)
    modulator.load_state_dict(state)
    assert_matches(modulator(case["x"], case["history"], case["state"], case["rank"]), case["y"])
    assert_matches(modulator.regularizer(), case["regularizer"])


def test_poisson_loss_matches(load_case: Callable, assert_matches: Matches) -> None:
    kwargs, _, case = load_case("poisson2d")
    assert_matches(PoissonLoss(**kwargs)(case["prediction"], case["target"]), case["loss"])
