"""Movies of Karamanlis et al. 2024: natural images that follow a gaze."""

import os

from coread.data_io.base import MoviesTrainTestSplit
from coread.data_io.documented_datasets import load_movies, of_species


def load_all_stimuli(
    base_data_path: str | os.PathLike[str],
    stim_type: str = "fixationmovie",
    normalize_stimuli: bool = True,
    specie: str = "mouse",
    downsampled_size: tuple[int, int] = (60, 80),
) -> dict[str, MoviesTrainTestSplit]:
    """Return the movies (1, time, height, width) of every session of a species below a folder or at an address.

    `downsampled_size` is (height, width). With `normalize_stimuli` they are z-scores of the session's training movie.
    Raises ValueError for an unknown stimulus or species, FileNotFoundError where there are no sessions.
    """
    dataset = of_species("karamanlis_2024", specie, ("mouse", "marmoset"))
    height, width = downsampled_size
    changes = {"stimulus_type": stim_type, "video_height": height, "video_width": width}
    return load_movies(dataset, base_data_path, stim_type, normalize_stimuli, changes)
