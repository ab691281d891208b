"""Responses of Goldin et al. 2022 to flashed images."""

import os

from coread.data_io.base import ResponsesTrainTestSplit
from coread.data_io.documented_datasets import check_stimulus, load_responses, of_species


def load_all_responses(
    base_data_path: str | os.PathLike[str],
    response_type: str = "binned",
    stim_type: str = "naturalscene",
    specie: str = "mouse",
    fr_normalization: float = 0.3,
) -> dict[str, ResponsesTrainTestSplit]:
    """Return the responses (neuron, image) of every session of a species, divided by `fr_normalization`.

    Raises ValueError for an unknown stimulus or species, FileNotFoundError where there are no sessions.
    """
    check_stimulus(stim_type, "naturalscene")
    dataset = of_species("goldin_2022", specie, ("mouse", "axolotl"))
    changes = {"response_type": response_type, "fr_normalization": fr_normalization}
    return load_responses(dataset, base_data_path, stim_type, changes)
