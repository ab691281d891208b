"""Which classes the settings of a model file may name: parts of models, nothing else.

Hydra imports and calls whatever `_target_` names, so a model file from elsewhere could name any program.
"""

import importlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

OPTIMIZER_PACKAGES = ("torch.optim",)
MODULE_PACKAGES = ("coread.modules", "coread.models")
SCHEDULE_MODULE = "coread.lr_schedules"
INSTANTIATED = ("model", "loss", "optimizer", "lr_scheduler")


def refused_setting(settings: Mapping[str, Any]) -> str | None:
    """Return what a train slice asks for beyond the building of a model, with the reason; None for a harmless slice.

    That is the first `_target_` that is no module, optimiser or schedule, or a reference that must be resolved.
    """
    for key, value in entries({name: settings.get(name) for name in INSTANTIATED}):
        if key == "_target_" and not _is_model_part(_find(str(value))):
            return f"{value}, which is refused: no part of a model"
        if key != "_target_" and isinstance(value, str) and "${" in value:
            return f"{value}, which is refused"
    return None


def entries(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every key with its value, at any depth."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield str(name), value
            yield from entries(value, str(name))
    elif isinstance(node, list | tuple):
        for value in node:
            yield key, value
            yield from entries(value, key)


def _find(target: str) -> Any:
    """Return what a dotted name of a package with parts of models means; None for any other, which is not imported."""
    module, _, name = target.rpartition(".")
    packages = (*MODULE_PACKAGES, *OPTIMIZER_PACKAGES, SCHEDULE_MODULE)
    if not any(module == package or module.startswith(f"{package}.") for package in packages):
        return None
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


def _is_model_part(found: Any) -> bool:
    parts = (nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)
    if inspect.isclass(found):
        return issubclass(found, parts)
    return inspect.isfunction(found) and found.__module__ == SCHEDULE_MODULE
