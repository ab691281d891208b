"""Which trials train and validate, and in which order their samples are visited."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import yaml
from torch.utils.data import Sampler

from coread.config import config_directory
from coread.data_io.splits import published_trials

Trials = tuple[list[int], list[int]]


class SampledTrials(Protocol):
    """Trials that fall into the same number of samples each."""

    samples_per_trial: int

    def __len__(self) -> int:
        """Return the number of samples."""
        ...


class ChunkedSampler(Sampler[int]):
    """All samples of one trial in random order, then those of another, so that a trial's file is read once per pass.

    Both orders change in every pass; pass k is drawn from (seed, k) alone.
    """

    def __init__(self, dataset: SampledTrials, seed: int = 42) -> None:
        self.dataset, self.seed, self.n_passes = dataset, seed, 0

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.n_passes])
        self.n_passes += 1
        samples = np.arange(len(self.dataset)).reshape(-1, self.dataset.samples_per_trial)
        return iter(rng.permuted(samples, axis=1)[rng.permutation(len(samples))].reshape(-1).tolist())


def split_trials(
    n_trials: int,
    train_frac: float,
    seed: int | None = None,
    final_training: bool = False,
    hard_coded: Sequence[Sequence[int]] | None = None,
    num_of_trials_to_use: int | None = None,
    start_using_trial: int = 0,
) -> Trials:
    """Return the numbers of training and of validation trials, each in order.

    They are the published draw of `train_frac` from `seed` (None: 1000), in which trials that share frames stay
    together, or `hard_coded`; of them those from `start_using_trial` on, as many as said. `final_training` trains with
    the validation trials too. Raises SplitError for a draw that is impossible, ValueError for trials there are not.
    """
    if hard_coded is not None:
        train, validation = ([int(trial) for trial in trials] for trials in hard_coded)
    else:
        path = Path(config_directory(), "splits", "published_trials.yaml")
        shipped = yaml.safe_load(path.read_text(encoding="utf-8"))
        drawn = shipped | {"train_fraction": train_frac} | ({} if seed is None else {"seed": seed})
        held_out = published_trials(n_trials, drawn)
        train, validation = np.flatnonzero(~held_out).tolist(), np.flatnonzero(held_out).tolist()
        train = sorted([*train, *validation]) if final_training else train
    if outside := sorted(trial for trial in {*train, *validation} if not 0 <= trial < n_trials):
        raise ValueError(f"trials {outside} are none of the {n_trials} training trials")
    stop = n_trials if num_of_trials_to_use is None else start_using_trial + num_of_trials_to_use
    used = range(start_using_trial, stop)
    return [trial for trial in train if trial in used], [trial for trial in validation if trial in used]
