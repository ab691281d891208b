"""Whole models: a shared core and one readout per session."""

import importlib
from typing import Any

from coread.models.causality import is_model_causal
from coread.models.core_readout import BaseCoreReadout, ExampleCoreReadout, UnifiedCoreReadout
from coread.models.member import Member, load_member

# imported when asked for: the code behind a training must not depend on what reads files of others
_HOMES = {
    "EnsembleModel": "coread.models.ensemble",
    "ImageCoreReadout": "coread.models.image_core_readout",
    "add_sessions": "coread.models.extension",
    "load_core_readout_from_remote": "coread.models.pretrained",
    "load_core_readout_model": "coread.models.pretrained",
    "load_ensemble": "coread.models.pretrained",
    "load_sensorium_checkpoint": "coread.models.sensorium_checkpoint",
}

__all__ = [
    "BaseCoreReadout",
    "EnsembleModel",
    "ExampleCoreReadout",
    "ImageCoreReadout",
    "Member",
    "UnifiedCoreReadout",
    "add_sessions",
    "is_model_causal",
    "load_core_readout_from_remote",
    "load_core_readout_model",
    "load_ensemble",
    "load_member",
    "load_sensorium_checkpoint",
]


def __getattr__(name: str) -> Any:
    """Import a function from where it stands (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
