"""Movies of Höfling et al. 2024 as they were published."""

import os

from coread.data_io.base import MoviesTrainTestSplit


def movies_from_pickle(file_path: str | os.PathLike[str]) -> MoviesTrainTestSplit:
    """Return the published training and test movie with the clip orders of the sessions; no code is unpickled.

    Raises ContainerError for another content, and the restricted unpickler's error, which names what it refused.
    """
    return MoviesTrainTestSplit.from_pickle(file_path)
