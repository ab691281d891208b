"""Which neurons share a parameter: those with the same match id."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


def match_indices(
    match_ids: Sequence[Any], ids: Sequence[Any] | None, n_neurons: int
) -> tuple[Int[Tensor, " neuron"], Any]:
    """Return for every neuron the row of its match id among the sorted ids, and these ids.

    Raises ValueError for match ids that are not among them.
    """
    wanted = np.asarray(match_ids)
    if wanted.shape != (n_neurons,):
        raise ValueError(f"need one match id for each of {n_neurons} neurons, got {wanted.shape}")
    known = np.unique(wanted if ids is None else np.asarray(ids))
    index = np.searchsorted(known, wanted).clip(max=len(known) - 1)
    if not (known[index] == wanted).all():
        raise ValueError(f"unknown match ids {sorted(set(wanted.tolist()) - set(known.tolist()))[:5]}")
    return torch.as_tensor(index), known
