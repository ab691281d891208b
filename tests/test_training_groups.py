"""What the groups of callbacks, schedules and loggers do in a real training."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import hydra.utils
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf

import coread.loggers
from coread.callbacks import OptimizerResetCallback
from coread.config import config_directory
from coread.loggers import MissingLoggerError
from coread.models.member import Member
from coread.training import train
from tests.conftest import fabricate_recording
from tests.test_training import SETTINGS, assert_same_weights

PLATEAU = {
    "_target_": "coread.lr_schedules.reduce_lr_on_plateau",
    "_partial_": True,
    "patience": 0,
    "threshold": 2.0,  # no correlation improves by that much: the rate falls after every epoch but the first
    "factor": 0.5,
    "min_lr": 0.0,
}


def group(name: str) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.load(config_directory() / f"{name}.yaml"))  # type: ignore[return-value]


def settings_with(**changes: Any) -> dict[str, Any]:
    settings = deepcopy(SETTINGS) | {"lr_scheduler": PLATEAU}
    return settings | changes


def fit(settings: dict[str, Any], work_dir: Path, **arguments: Any) -> Member:
    recordings = [fabricate_recording("a", n_trials=3)]
    return train(settings, recordings, 0, 0, work_dir=work_dir, accelerator="cpu", **arguments)


class KilledError(Exception):
    pass


class Kill(pl.Callback):
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 3:
            raise KilledError


# ------------------------------------------------------------------------------------------------- schedules, callbacks


@pytest.mark.parametrize("schedule", ["plateau", "exponential_lr", "one_cycle_lr"])
def test_a_killed_training_resumes_on_every_kind_of_schedule(schedule: str, tmp_path: Path) -> None:
    scheduler = PLATEAU if schedule == "plateau" else group(f"lr_scheduler/{schedule}")
    if "max_lr" in scheduler:
        scheduler = scheduler | {"max_lr": 0.01}
    settings = settings_with(lr_scheduler=scheduler, training_callbacks=group("training_callbacks/optimizer_reset"))
    whole = fit(settings, tmp_path / "whole")
    with pytest.raises(KilledError):
        fit(settings, tmp_path / "killed", callbacks=[Kill()])
    resumed = fit(settings, tmp_path / "killed")
    assert_same_weights(whole, resumed)
    rates = whole.history["learning_rate"].to_numpy()
    np.testing.assert_array_equal(rates, resumed.history["learning_rate"])
    if schedule == "plateau":
        np.testing.assert_allclose(rates, [0.01, 0.01, 0.005, 0.0025, 0.00125])


def test_a_plateau_that_watches_what_is_not_logged_is_refused(tmp_path: Path) -> None:
    scheduler = PLATEAU | {"monitor": "val_evaluation_loss", "mode": "max"}
    with pytest.raises(ValueError, match=r"'val_evaluation_loss' is not logged, known: .*val_correlation"):
        fit(settings_with(lr_scheduler=scheduler), tmp_path)


def test_a_fall_of_the_learning_rate_resets_the_optimizer() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    trainer: Any = type("Trainer", (), {"optimizers": [optimizer]})()
    callback = OptimizerResetCallback()
    callback.on_train_epoch_start(trainer, None)  # type: ignore[arg-type]
    parameter.sum().backward()
    optimizer.step()
    callback.on_train_epoch_start(trainer, None)  # type: ignore[arg-type]
    assert optimizer.state
    optimizer.param_groups[0]["lr"] = 0.05
    callback.on_train_epoch_start(trainer, None)  # type: ignore[arg-type]
    assert not optimizer.state
    assert optimizer.param_groups[0]["lr"] == 0.05
    optimizer.step()  # it goes on from fresh moments
    assert optimizer.state[parameter]["step"] == 1


def test_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    settings = settings_with(lr_scheduler=group("lr_scheduler/constant_lr"))
    steps = {}
    for n in (1, 3):
        settings["trainer"] = {"max_epochs": 1, "gradient_clip_val": 1.0, "accumulate_grad_batches": n}

        class Count(pl.Callback):
            def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, n: int = n) -> None:
                steps[n] = (trainer.global_step, trainer.num_training_batches)

        fit(settings, tmp_path / str(n), callbacks=[Count()])
    assert steps[1][0] == steps[1][1]
    assert steps[3][0] == -(-steps[3][1] // 3)


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (config_directory() / "training_callbacks").glob("*.yaml"))
)
def test_every_group_of_callbacks_instantiates_by_a_key_of_its_own(name: str) -> None:
    nodes = group(f"training_callbacks/{name}")
    assert "_target_" not in nodes
    for node in nodes.values():
        assert isinstance(hydra.utils.instantiate(node), pl.Callback)


def test_callbacks_that_write_files_do_so_beside_the_logs(tmp_path: Path) -> None:
    callbacks = group("training_callbacks/weight_visualization") | group("training_callbacks/lr_monitor")
    callbacks |= group("training_callbacks/model_checkpoint")
    callbacks["weight_visualization"]["every_n_epochs"] = 2
    logger = hydra.utils.instantiate(group("logger/csv")["csv"], save_dir=str(tmp_path))
    settings = settings_with(training_callbacks=callbacks, trainer={"max_epochs": 2, "gradient_clip_val": 1.0})
    fit(settings, tmp_path / "work", loggers=[logger])
    folder = tmp_path / "logs" / "csv"
    assert {path.name for path in (folder / "weights").iterdir()} == {"start", "epoch002"}
    assert (folder / "weights" / "epoch002" / "core_layer0.png").stat().st_size > 0
    assert (folder / "weights" / "start" / "readout_a_0.pdf").stat().st_size > 0
    assert len(list((folder / "checkpoints").glob("epoch_*.ckpt"))) == 1
    assert "lr-SGD" in (text := (folder / "metrics.csv").read_text()) or "lr-AdamW" in text
    with pytest.raises(ValueError, match=r"weight_visualization.folder_path is needed"):
        fit(settings | {"training_callbacks": group("training_callbacks/weight_visualization")}, tmp_path / "other")


# ------------------------------------------------------------------------------------------------------ terms, loggers


def test_every_penalty_term_is_in_the_history(tmp_path: Path) -> None:
    history = fit(settings_with(trainer={"max_epochs": 2, "gradient_clip_val": 1.0}), tmp_path).history
    terms = [name for name in history if name.startswith("train_penalty_")]
    assert {"train_penalty_core_input", "train_penalty_core_temporal"} < set(terms)
    assert any(name.startswith("train_penalty_readout_") for name in terms)
    assert (history[terms] > 0).all(axis=None)
    np.testing.assert_allclose(history[terms].sum(axis=1), history["train_penalty"], rtol=1e-5)


@pytest.mark.parametrize("name", ["csv", "tensorboard", "csv_tensorboard", "none", "wandb", "mlflow"])
def test_every_logger_instantiates_and_logs_offline(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = {"wandb": "wandb", "mlflow": "mlflow"}.get(name)
    if package:
        pytest.importorskip(package, reason=f"the extra {package} is not installed")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    config = OmegaConf.create({"logger": group(f"logger/{name}"), "exp_name": "toy", "fold": 0, "seed": 1})
    for node in config.logger.values():
        logger = hydra.utils.instantiate(node, save_dir=str(tmp_path / "member"))
        logger.log_metrics({"train_loss": 0.5}, step=1)
        logger.save()
        logger.finalize("success")
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert bool(written) == (name != "none")


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_whose_package_is_missing_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coread.loggers, "find_spec", lambda package: None)
    node = OmegaConf.create({"logger": group(f"logger/{name}"), "exp_name": "toy", "fold": 0, "seed": 1}).logger[name]
    with pytest.raises(hydra.errors.InstantiationException) as raised:
        hydra.utils.instantiate(node, save_dir="unused")
    assert isinstance(raised.value.__cause__, MissingLoggerError)
    assert f"pip install 'coread[{name}]'" in str(raised.value.__cause__)
    assert not Path("unused").exists()
