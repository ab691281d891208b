"""The figures and movies of one in-silico analysis as files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from coread.plotting.movies import MAX_CHANNELS, Format, Movie, available_formats, mosaic, save_movie
from coread.plotting.style import save_drawing
from coread.provenance import write_text

if TYPE_CHECKING:
    from coread.insilico.experiment import ExperimentResult, InsilicoExperiment

INDEX = "figures.csv"
STIMULUS = "stimulus"  # an array of this name over neurons or clusters, with these axes, is shown as a movie
AXES = ("channel", "time", "height", "width")
MAX_SHOWN = 24
BRIGHTEST = 0.999  # quantile of the absolute contrast that is shown as white


def write_analysis_figures(
    out_dir: Path,
    experiment: "InsilicoExperiment",
    results: Mapping[str, "ExperimentResult"],
    formats: Sequence[Format] | None = None,
) -> list[Path]:
    """Write the figures as PNG and PDF, movies as GIF and MP4, each with its caption as TXT; return the former.

    Movies are what the experiment returns from `animate`, or else the stimuli that it has found (`stimulus_movies`).
    `figures.csv` lists all in their order. Without `formats` movies are GIF files, and MP4 files too where ffmpeg is
    installed. Raises ValueError for a figure and a movie of one name.
    """
    drawings = experiment.draw(results)
    animate = getattr(experiment, "animate", stimulus_movies)
    movies: Mapping[str, Movie] = animate(results)
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


def stimulus_movies(results: Mapping[str, "ExperimentResult"]) -> dict[str, Movie]:
    """Return one movie of the stimuli that an experiment has found, side by side: at most MAX_SHOWN, evenly chosen.

    They are its arrays `stimulus (neuron or cluster, channel, time, height, width)` of contrasts; none where it has no
    such arrays, where they have one frame, and of more channels than a screen has.
    """
    found = {session: result.arrays[STIMULUS] for session, result in results.items() if STIMULUS in result.arrays}
    found = {session: array for session, array in found.items() if array.dims[1:] == AXES and len(array.data)}
    shapes = {array.data.shape[1:] for array in found.values()}
    if len(shapes) != 1 or not (shape := shapes.pop())[0] <= MAX_CHANNELS or shape[1] < 2:
        return {}
    stimuli = np.concatenate([array.data for array in found.values()])
    labels = [label for session in found for label in _labels(results[session], session, len(results) > 1)]
    chosen = np.unique(np.linspace(0, len(stimuli) - 1, min(MAX_SHOWN, len(stimuli))).round().astype(int))
    limit = float(np.nanquantile(np.abs(stimuli[chosen]), BRIGHTEST)) or 1.0
    time = next(iter(results.values())).axes["time"]
    rate_hz = 1 / float(np.diff(time.data).mean()) if time.unit == "s" else np.nan
    kind = next(iter(found.values())).dims[0]
    selection = "all" if len(chosen) == len(stimuli) else f"{len(chosen)} evenly chosen of"
    caption = (
        f"Stimuli of {selection} {len(stimuli)} {kind}{'' if len(stimuli) == 1 else 's'}, row by row: "
        f"{', '.join(labels[index] for index in chosen)}."
    )
    return {"stimuli": Movie(mosaic(stimuli[chosen], limit=limit), rate_hz, caption, limit)}


def _labels(result: "ExperimentResult", session: str, several: bool) -> list[str]:
    """Return what the stimuli of a session are called: units, or the clusters that they are for."""
    kind = result.arrays[STIMULUS].dims[0]
    if kind == "neuron":
        names = list(result.table.get("unit_id", result.table["neuron"]))
    else:
        names = list(result.axes[kind].data if kind in result.axes else range(len(result.arrays[STIMULUS].data)))
    return [f"{session} {name}" if several else str(name) for name in names]
