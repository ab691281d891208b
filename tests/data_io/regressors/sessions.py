"""Small fabricated sessions of flashed images, with everything that regressors are made of."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from coread.data_io.splits import label_bins
from coread.recording import Recording, Stimulus

PUBLISHED = {"method": "published"}
SETTINGS: dict[str, Any] = {
    "behaviour": {"scheme": "unit_range"},
    "pupil_center": True,
    "statistics_of": "train",
    "missing": "mean",
    "allow_absent": False,
    "history": {"lags": [1, 2, 5], "available": "train_and_validation"},
    "state": {
        "rank": 3,
        "components": 6,
        "factors": 2,
        "seed": 674,
        "max_iterations": 40,
        "available": "train_and_validation",
        "fit_on": "train",
        "pairs": "both_ends",
        "transform": "fit_and_apply",
    },
}


def fabricate_session(n_trials: int = 80, n_neurons: int = 8, seed: int = 0) -> Recording:
    """Fabricate a session with all tiers in random order; the final test is withheld."""
    rng = np.random.default_rng(seed)
    tier = rng.choice(["train", "validation", "test", "final_test"], n_trials, p=[0.7, 0.1, 0.1, 0.1])
    withheld = tier == "final_test"
    responses = rng.gamma(1.0, 1.0, (n_trials, n_neurons)).astype(np.float32)
    responses[withheld] = np.nan
    trials = pd.DataFrame(
        {
            "stimulus": "images",
            "tier": tier,
            "repeat": 0,
            "time_order": rng.permutation(n_trials),
            "withheld": withheld,
        }
    )
    return Recording(
        dataset="fabricated",
        session="session_0",
        stimuli={"images": Stimulus(rng.integers(0, 256, (n_trials, 1, 4, 4), dtype=np.uint8), 2.0)},
        trials=trials,
        trial=np.arange(n_trials, dtype=np.int32),
        frame=np.arange(n_trials, dtype=np.int32),
        responses=responses,
        valid=~withheld,
        rate_hz=2.0,
        unit="deconvolved activity",
        neurons=pd.DataFrame({"unit_id": np.arange(n_neurons) + 1}),
        behaviour=rng.normal([30.0, 0.0, 1.0], [8.0, 0.4, 5.0], (n_trials, 3)).astype(np.float32),
        pupil_center=rng.normal(100.0, 5.0, (n_trials, 2)).astype(np.float32),
    )


def labels_of(recording: Recording) -> np.ndarray:
    """Return the labels of the published tiers."""
    return label_bins(recording, PUBLISHED, 0, 0)


def unit_scale(recording: Recording) -> torch.Tensor:
    """Return the response scale that changes nothing."""
    return torch.ones(recording.n_neurons)


def with_responses(recording: Recording, bins: np.ndarray, seed: int = 1) -> Recording:
    """Return the recording with other responses in some bins."""
    responses = recording.responses.copy()
    size = (np.count_nonzero(bins) if bins.dtype == bool else len(bins), recording.n_neurons)
    responses[bins] = np.random.default_rng(seed).gamma(2.0, 3.0, size)
    return replace(recording, responses=responses)


def in_other_file_order(recording: Recording, order: np.ndarray) -> Recording:
    """Return the same session with its trials stored in another order."""
    return replace(
        recording,
        trials=recording.trials.iloc[order].reset_index(drop=True),
        frame=recording.frame[order],
        responses=recording.responses[order],
        valid=recording.valid[order],
        behaviour=None if recording.behaviour is None else recording.behaviour[order],
        pupil_center=None if recording.pupil_center is None else recording.pupil_center[order],
    )
