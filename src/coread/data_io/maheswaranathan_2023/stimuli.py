"""Movies of Maheswaranathan et al. 2023."""

import os

from coread.data_io.base import MoviesTrainTestSplit
from coread.data_io.documented_datasets import load_movies


def load_all_stimuli(
    base_data_path: str | os.PathLike[str], stim_type: str = "naturalscene", normalize_stimuli: bool = True
) -> dict[str, MoviesTrainTestSplit]:
    """Return the movies (1, time, height, width) of every session below a folder or at an address.

    `stim_type` is naturalscene or whitenoise. With `normalize_stimuli` they are z-scores of the session's training
    movie. Raises FileNotFoundError where there are no sessions.
    """
    return load_movies("maheswaranathan_2023", base_data_path, stim_type, normalize_stimuli, {"stimulus": stim_type})
