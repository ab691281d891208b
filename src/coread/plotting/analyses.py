"""The figures and movies of one in-silico analysis as files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from coread.plotting.movies import Format, available_formats, save_movie
from coread.plotting.style import save_drawing
from coread.provenance import write_text

if TYPE_CHECKING:
    from coread.insilico.experiment import ExperimentResult, InsilicoExperiment

INDEX = "figures.csv"


def write_analysis_figures(
    out_dir: Path,
    experiment: "InsilicoExperiment",
    results: Mapping[str, "ExperimentResult"],
    formats: Sequence[Format] | None = None,
) -> list[Path]:
    """Write the figures as PNG and PDF, movies as GIF and MP4, each with its caption as TXT; return the former.

    `figures.csv` lists them in their order. Without `formats` movies are GIF files, and MP4 files too where ffmpeg is
    installed. Raises ValueError for a figure and a movie of one name.
    """
    drawings = experiment.draw(results)
    animate = getattr(experiment, "animate", None)
    movies = {} if animate is None else animate(results)
    if twice := drawings.keys() & movies.keys():
        raise ValueError(f"a figure and a movie are both called {min(twice)!r}")
    written = []
    for name, drawing in drawings.items():
        written += save_drawing(drawing, out_dir / name)
    for name, movie in movies.items():
        written += save_movie(movie, out_dir / name, available_formats() if formats is None else formats)
    index = [{"name": name, "kind": "figure"} for name in drawings] + [{"name": n, "kind": "movie"} for n in movies]
    listed = pd.DataFrame(index, columns=["name", "kind"])
    write_text(out_dir / INDEX, listed.to_csv(index=False, lineterminator="\n"))
    return written
