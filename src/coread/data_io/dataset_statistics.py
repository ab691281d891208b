"""How many different frames the loaders of a split show: what a model can have learned from, and is tested with."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from jaxtyping import Float, UInt64
from torch import Tensor

from coread.data_io.base import DatasetStatistics
from coread.data_io.points import DataPoint

Fingerprints = UInt64[np.ndarray, " different"]
ODD_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # makes the fingerprint of a pair depend on its order


def compute_dataloader_statistics(dataloaders: Mapping[str, Mapping[str, Iterable[DataPoint]]]) -> DatasetStatistics:
    """Return what one pass over the documented loaders {"train" | "validation" | <test>: {session: loader}} shows.

    Frames are the same if all their pixels are, as models see them, and a transition is a pair of frames that follow
    each other within a sample. They are compared by 64-bit fingerprints: of a million frames two that differ are taken
    for one with a probability below 1e-6.
    """
    shown = {split: _shown(by_session.values()) for split, by_session in dataloaders.items()}
    train, validation = (shown.pop(split, _shown([])) for split in ("train", "validation"))
    return DatasetStatistics(
        unique_train_frames=len(train[0]),
        unique_val_frames=len(validation[0]),
        unique_train_val_frames=len(np.union1d(train[0], validation[0])),
        unique_test_frames={name: len(frames) for name, (frames, _) in shown.items()},
        unique_train_transitions=len(train[1]),
        unique_val_transitions=len(validation[1]),
        unique_test_transitions={name: len(transitions) for name, (_, transitions) in shown.items()},
        n_sessions=len({session for by_session in dataloaders.values() for session in by_session}),
    )


def _shown(loaders: Iterable[Iterable[DataPoint]]) -> tuple[Fingerprints, Fingerprints]:
    """Return the fingerprints of all different frames, and of all different transitions."""
    frames, transitions = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    for loader in loaders:
        for point in loader:
            prints = fingerprints(point.inputs)
            frames.append(np.unique(prints))
            transitions.append(np.unique(prints[:, :-1] * ODD_FACTOR + prints[:, 1:]))
    return np.unique(np.concatenate(frames)), np.unique(np.concatenate(transitions))


def fingerprints(inputs: Float[Tensor, "batch channel time height width"]) -> UInt64[np.ndarray, "batch time"]:
    """Return a number per frame: the sum modulo 2^64 of its pixels' bits times fixed random numbers, one per pixel."""
    # + 0 because zero has two signs
    pixels = (inputs.transpose(1, 2).flatten(2).to(torch.float32) + 0.0).contiguous().cpu().numpy()
    weights = np.random.default_rng(0).integers(0, 2**64, pixels.shape[2], np.uint64)
    return (pixels.view(np.uint32) * weights).sum(axis=2, dtype=np.uint64)
