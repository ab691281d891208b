"""Tuning analyses: gratings, size, flashes, chirp, moving bars, noise and channel contrasts, as experiments."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coread.insilico.tuning_analyses.channel_contrast import ChannelContrastTuning
    from coread.insilico.tuning_analyses.chirp import ChirpResponses
    from coread.insilico.tuning_analyses.flashes import FlashResponses
    from coread.insilico.tuning_analyses.grating_grid import GratingGrid
    from coread.insilico.tuning_analyses.gratings import GratingTuning
    from coread.insilico.tuning_analyses.moving_bars import MovingBarTuning
    from coread.insilico.tuning_analyses.noise import NoiseTuning
    from coread.insilico.tuning_analyses.size import SizeTuning

MODULES = {
    "ChannelContrastTuning": "channel_contrast",
    "ChirpResponses": "chirp",
    "FlashResponses": "flashes",
    "GratingGrid": "grating_grid",
    "GratingTuning": "gratings",
    "MovingBarTuning": "moving_bars",
    "NoiseTuning": "noise",
    "SizeTuning": "size",
}

__all__ = [
    "ChannelContrastTuning",
    "ChirpResponses",
    "FlashResponses",
    "GratingGrid",
    "GratingTuning",
    "MovingBarTuning",
    "NoiseTuning",
    "SizeTuning",
]


def __getattr__(name: str) -> Any:
    """Import an experiment when it is asked for (PEP 562)."""
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
