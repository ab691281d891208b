"""All figures of one experiment as files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from coread.eval.predictions import MemberPredictions
from coread.insilico.receptive_fields import ReceptiveFields
from coread.plotting.fields import draw_receptive_fields, draw_truth_cosine
from coread.plotting.images import draw_image_responses, shows_images
from coread.plotting.scores import draw_learning_curves, draw_score_distribution
from coread.plotting.style import Drawing, save_drawing
from coread.plotting.traces import draw_traces
from coread.recording import Recording


def write_figures(
    out_dir: Path,
    *,
    scores: pd.DataFrame,
    histories: Mapping[str, pd.DataFrame],
    recordings: Sequence[Recording],
    predictions: Sequence[MemberPredictions],
    fields: Mapping[str, ReceptiveFields] | None,
    learned: Mapping[str, Drawing | None] | None = None,
) -> list[Path]:
    """Draw all figures that the results allow, each as PNG and PDF with its caption as TXT; return PNGs and PDFs.

    score_distribution, learning_curves; traces of movies, image_responses of images; receptive_fields where there are
    any; truth_cosine where they have a known truth; and `learned`, the figures of `draw_learned`.
    """
    images = shows_images(recordings)
    drawings = {
        "score_distribution": draw_score_distribution(scores),
        "learning_curves": draw_learning_curves(histories),
        "traces": None if images else draw_traces(recordings, predictions, scores),
        "image_responses": draw_image_responses(recordings, predictions, scores) if images else None,
        "receptive_fields": draw_receptive_fields(fields) if fields else None,
        "truth_cosine": draw_truth_cosine(fields) if fields else None,
    }
    drawings |= learned or {}
    written = []
    for name, drawing in drawings.items():
        if drawing is not None:
            written += save_drawing(drawing, out_dir / name)
    return written
