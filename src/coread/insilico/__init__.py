"""In-silico experiments on trained models."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coread.insilico.visualization import visualize_receptive_fields

__all__ = ["visualize_receptive_fields"]


def __getattr__(name: str) -> Any:
    """Import a function when it is asked for (PEP 562): fits of Gaussians alone need no models."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(__import__("coread.insilico.visualization", fromlist=[name]), name)
