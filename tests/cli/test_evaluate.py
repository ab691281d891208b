"""Which members `coread evaluate` scores together."""

from pathlib import Path
from typing import Any

import pytest
import torch

from coread.cli.evaluate import _check_same_settings
from coread.models.member import Member


def members(*configs: dict[str, Any]) -> dict[Path, Member]:
    """Return members of one fold by the files that a run leaves."""
    return {
        Path(f"results/x/fold0/seed{seed}/model.ckpt"): Member(torch.nn.Identity(), config, 0, seed, {})  # type: ignore[arg-type]
        for seed, config in enumerate(configs)
    }


def test_members_that_differ_by_seed_only_are_scored_together() -> None:
    settings = {"optimizer": {"lr": 0.1, "betas": [0.9, 0.99]}}
    _check_same_settings(members(settings))
    _check_same_settings(members(settings, {"optimizer": {"betas": [0.9, 0.99], "lr": 0.1}, "regressors": None}))


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"model": {"core": {"layers": 2}}, "loss": {}}, "loss.name is 'poisson' and None"),
        ({"model": {"core": {"layers": 3}}, "loss": {}}, "loss.name is 'poisson' and None"),
        ({"model": {"core": {"layers": 3}}, "loss": {"name": "poisson"}}, "model.core.layers is 2 and 3"),
        ({"model": None, "loss": {"name": "poisson"}}, "model is {'core': {'layers': 2}} and None"),
    ],
)
def test_members_of_other_settings_are_named_with_the_first_difference(other: dict[str, Any], difference: str) -> None:
    settings = {"model": {"core": {"layers": 2}}, "loss": {"name": "poisson"}}
    with pytest.raises(ValueError, match="different settings") as refused:
        _check_same_settings(members(settings, settings, other))
    said = str(refused.value)
    assert said.startswith("results/x/fold0/seed0/model.ckpt and results/x/fold0/seed2/model.ckpt were trained with")
    assert f": {difference}; " in said
