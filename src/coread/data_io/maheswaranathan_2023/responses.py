"""Responses of Maheswaranathan et al. 2023."""

import os

from coread.data_io.base import ResponsesTrainTestSplit
from coread.data_io.documented_datasets import load_responses


def load_all_responses(
    base_data_path: str | os.PathLike[str],
    response_type: str = "firing_rate_20ms",
    stim_type: str = "naturalscene",
    fr_normalization: float = 1,
) -> dict[str, ResponsesTrainTestSplit]:
    """Return the responses (neuron, time) of every session, divided by `fr_normalization`.

    `stim_type` is naturalscene or whitenoise. A surplus bin of the test responses is cut, so that they fit the movies.
    Raises FileNotFoundError where there are no sessions.
    """
    changes = {"stimulus": stim_type, "response_type": response_type, "fr_normalization": fr_normalization}
    return load_responses("maheswaranathan_2023", base_data_path, stim_type, changes)
