"""Images of Goldin et al. 2022, one frame per flash."""

import os

from coread.data_io.base import MoviesTrainTestSplit
from coread.data_io.documented_datasets import check_stimulus, load_movies, of_species


def load_all_stimuli(
    base_data_path: str | os.PathLike[str],
    stim_type: str = "naturalscene",
    specie: str = "mouse",
    normalize_stimuli: bool = True,
) -> dict[str, MoviesTrainTestSplit]:
    """Return the images of every session of a species below a folder or at an address, (1, image, height, width).

    With `normalize_stimuli` as z-scores of the session's training images. Raises ValueError for an unknown stimulus or
    species, FileNotFoundError where there are no sessions.
    """
    check_stimulus(stim_type, "naturalscene")
    dataset = of_species("goldin_2022", specie, ("mouse", "axolotl"))
    return load_movies(dataset, base_data_path, stim_type, normalize_stimuli, {})
