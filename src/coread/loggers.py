"""Loggers behind packages that are not installed by default: what is missing is said in one sentence."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import MLFlowLogger, WandbLogger


class MissingLoggerError(ValueError):
    """The package of a chosen logger is not installed."""


def wandb_logger(
    save_dir: str,
    project: str,
    name: str | None = None,
    offline: bool = True,
    entity: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
) -> Any:
    """Return a logger to Weights & Biases, by default to files that `wandb sync` uploads.

    Raises MissingLoggerError without the package.
    """
    _require("wandb", "wandb")
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    return WandbLogger(
        name=name, save_dir=save_dir, project=project, offline=offline, entity=entity, group=group, tags=list(tags)
    )


def mlflow_logger(
    save_dir: str,
    experiment_name: str,
    run_name: str | None = None,
    tracking_uri: str | None = None,
    tags: dict[str, Any] | None = None,
) -> Any:
    """Return a logger to MLflow, by default to the database `<save_dir>/mlflow.db`.

    Raises MissingLoggerError without the package.
    """
    _require("mlflow", "mlflow")
    folder = Path(save_dir)
    folder.mkdir(parents=True, exist_ok=True)
    address = f"sqlite:///{folder.resolve() / 'mlflow.db'}" if tracking_uri is None else tracking_uri
    return MLFlowLogger(experiment_name, run_name, address, dict(tags or {}), save_dir=save_dir)


def _require(package: str, extra: str) -> None:
    if find_spec(package) is None:
        raise MissingLoggerError(
            f"logger={extra} needs the package {package}, which is not installed: pip install 'coread[{extra}]'"
        )
