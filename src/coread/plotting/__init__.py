"""Figures: legible on a printed page, in colours that colour-blind readers can tell apart."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coread.plotting.fields import draw_receptive_fields, draw_truth_cosine
    from coread.plotting.figures import write_figures
    from coread.plotting.images import draw_image_responses
    from coread.plotting.scores import draw_learning_curves, draw_score_distribution
    from coread.plotting.style import Drawing, paper_style, save_drawing
    from coread.plotting.traces import draw_traces

__all__ = [
    "Drawing",
    "draw_image_responses",
    "draw_learning_curves",
    "draw_receptive_fields",
    "draw_score_distribution",
    "draw_traces",
    "draw_truth_cosine",
    "paper_style",
    "save_drawing",
    "write_figures",
]
_HOMES = {
    "Drawing": "style",
    "draw_image_responses": "images",
    "draw_learning_curves": "scores",
    "draw_receptive_fields": "fields",
    "draw_score_distribution": "scores",
    "draw_traces": "traces",
    "draw_truth_cosine": "fields",
    "paper_style": "style",
    "save_drawing": "style",
    "write_figures": "figures",
}


def __getattr__(name: str) -> Any:
    """Import a function from where it stands (PEP 562): a figure of one kind needs no code of the others."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # not importlib, whose imports are missing in Python's import log
    return getattr(__import__(f"coread.plotting.{_HOMES[name]}", fromlist=[name]), name)
