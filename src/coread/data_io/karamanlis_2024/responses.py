"""Responses of Karamanlis et al. 2024 to gaze movies."""

import os

from coread.data_io.base import ResponsesTrainTestSplit
from coread.data_io.documented_datasets import load_responses, of_species


def load_all_responses(
    base_data_path: str | os.PathLike[str],
    stim_type: str = "fixationmovie",
    specie: str = "mouse",
    fr_normalization: float = 1.0,
) -> dict[str, ResponsesTrainTestSplit]:
    """Return the responses (neuron, time) of every session of a species, divided by `fr_normalization`.

    Raises ValueError for an unknown stimulus or species, FileNotFoundError where there are no sessions.
    """
    dataset = of_species("karamanlis_2024", specie, ("mouse", "marmoset"))
    changes = {"stimulus_type": stim_type, "fr_normalization": fr_normalization}
    return load_responses(dataset, base_data_path, stim_type, changes)
