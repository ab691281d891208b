"""Whole trainings together against trainings apart: other folds, seeds and lengths, a kill, a failure, a fallback."""

import copy
import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from coread.models.core_readout import StepTogether
from coread.models.member import Member
from coread.packing import packed_step
from coread.packing.packed_step import compute_together
from coread.packing.packed_training import train_together
from coread.training import train
from tests.test_training import SETTINGS, sessions

MEMBERS = ((0, 1), (1, 1), (1, 3))  # the last one trains longest


def settings() -> dict[str, Any]:
    """Return settings by which members end in different epochs."""
    plain: dict[str, Any] = copy.deepcopy(SETTINGS)
    stopping = {"_target_": "pytorch_lightning.callbacks.EarlyStopping", "monitor": "val_correlation", "mode": "max"}
    plain["training_callbacks"] = {"early_stopping": stopping | {"patience": 1}}
    plain["lr_scheduler"] = None
    plain["trainer"] = {"max_epochs": 12}
    return plain


def fit_apart(fold: int, seed: int, folder: Path, together: StepTogether | None = None, **changes: Any) -> Member:
    return train(settings() | changes, sessions(), fold, seed, work_dir=folder / f"{fold}-{seed}", together=together)


def fit_together(folder: Path, vectorize: bool | None = True, **changes: Any) -> dict[str, Member | Exception]:
    return train_together(
        {f"{fold}-{seed}": partial(fit_one, fold, seed, folder, changes) for fold, seed in MEMBERS}, vectorize
    )


def fit_one(fold: int, seed: int, folder: Path, changes: dict[str, Any], together: StepTogether) -> Member:
    return fit_apart(fold, seed, folder, together, **changes)


def check_alike(one: Member, other: Member | Exception) -> None:
    assert isinstance(other, Member), other
    assert len(other.history) == len(one.history)
    for column in ("train_loss", "train_penalty", "val_loss", "val_correlation", "learning_rate"):
        assert other.history[column].tolist() == pytest.approx(one.history[column].tolist(), rel=1e-3, abs=1e-4), column
    torch.testing.assert_close(other.model.state_dict(), one.model.state_dict(), rtol=1e-2, atol=1e-3)


def test_members_end_where_they_would_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def counted(steps: Any, *others: Any) -> Any:
        sizes.append(len(steps))
        return compute_together(steps, *others)

    monkeypatch.setattr(packed_step, "compute_together", counted)
    with caplog.at_level(logging.WARNING):
        together = fit_together(tmp_path / "together")
    assert "one by one" not in caplog.text
    assert "differ" not in caplog.text
    assert set(sizes) == {3, 2} or set(sizes) == {3}, "steps of all members at first, then of those that go on"
    assert len(sizes) > 10
    for fold, seed in MEMBERS:
        check_alike(fit_apart(fold, seed, tmp_path / "apart"), together[f"{fold}-{seed}"])
    lengths = {len(member.history) for member in together.values() if isinstance(member, Member)}
    assert len(lengths) > 1, "choose settings by which members end in different epochs"


def test_on_a_cpu_members_take_turns_with_the_very_results_of_single_trainings(tmp_path: Path) -> None:
    together = fit_together(tmp_path / "together", vectorize=None)
    for fold, seed in MEMBERS:
        alone, beside = fit_apart(fold, seed, tmp_path / "apart"), together[f"{fold}-{seed}"]
        assert isinstance(beside, Member)
        for name, value in alone.model.state_dict().items():
            assert torch.equal(beside.model.state_dict()[name], value), name


def test_a_member_that_fails_stops_no_other_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit_together(tmp_path / "whole")
    original = StopsOnce.install(monkeypatch)
    broken = fit_together(tmp_path / "broken")
    assert isinstance(broken["1-3"], RuntimeError)
    assert isinstance(broken["0-1"], Member)
    original.has_stopped = True
    again = fit_together(tmp_path / "broken")
    for name, member in whole.items():
        assert isinstance(member, Member)
        check_alike(member, again[name])


class StopsOnce:
    """Makes the training of member (1, 3) fail at the start of its third epoch."""

    has_stopped = False

    @classmethod
    def install(cls, monkeypatch: pytest.MonkeyPatch) -> type["StopsOnce"]:
        import coread.callbacks as callbacks

        before = callbacks.SeedEpochs.on_train_epoch_start
        cls.has_stopped = False

        def start(self: Any, trainer: Any, pl_module: Any) -> None:
            if not cls.has_stopped and trainer.current_epoch == 2 and trainer.default_root_dir.endswith("1-3"):
                raise RuntimeError("the node is gone")
            before(self, trainer, pl_module)

        monkeypatch.setattr(callbacks.SeedEpochs, "on_train_epoch_start", start)
        return cls


class RefusesVmap(nn.Module):
    """A loss that looks at its values, which cannot be vectorised."""

    def forward(self, output: Any, target: Any, mask: Any) -> Any:
        lag = target.shape[1] - output.shape[1]
        error = (output - target[:, lag:]).square().mean()
        return error if float(error.detach()) > 0 else error * 0


def test_what_cannot_be_vectorised_is_computed_apart_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loss = {"loss": {"_target_": f"{__name__}.RefusesVmap"}}
    with caplog.at_level(logging.WARNING):
        together = fit_together(tmp_path / "together", **loss)
    assert "computed one by one" in caplog.text
    for fold, seed in MEMBERS:
        alone, beside = fit_apart(fold, seed, tmp_path / "apart", **loss), together[f"{fold}-{seed}"]
        assert isinstance(beside, Member)
        for name, value in alone.model.state_dict().items():
            assert torch.equal(beside.model.state_dict()[name], value)
