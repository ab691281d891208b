"""A small recording of responses to single images, fabricated: one bin per trial, in an order that is not time."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from coread.data_io.regressors.session import STATE_SETTINGS
from coread.recording import Recording, Stimulus

SHAPE = (1, 12, 16)
TIERS = {"train": 48, "validation": 12, "test": 4, "final_test": 2}
REPEATS = 3  # of every image of a test tier


def fabricate_static_recording(session: str = "mouse-1-1", *, n_neurons: int = 5, seed: int = 0) -> Recording:
    """Neurons follow a pixel each, the response before and the pupil; the final test is withheld."""
    rng = np.random.default_rng(seed)
    rows = [
        (tier, image, repeat) for tier, n in TIERS.items() for image in range(n) for repeat in range(_repeats(tier))
    ]
    tier = np.array([row[0] for row in rows])
    first = dict(zip(TIERS, np.cumsum([0, *TIERS.values()])[:-1], strict=True))
    frame = np.array([first[name] + image for name, image, _ in rows])
    n_trials = len(rows)
    time_order = rng.permutation(n_trials)
    images = rng.integers(0, 256, (sum(TIERS.values()), *SHAPE), dtype=np.uint8)
    behaviour = rng.random((n_trials, 3)) * [50, 1, 20] + [20, -0.5, -5]
    drive = images.reshape(len(images), -1)[frame][:, rng.integers(0, np.prod(SHAPE), n_neurons)] / 255.0
    responses = np.zeros((n_trials, n_neurons))
    before = np.zeros(n_neurons)
    for trial in np.argsort(time_order):
        before = rng.gamma(3, (0.2 + drive[trial] + 0.4 * before + 0.01 * behaviour[trial, 0]) / 3)
        responses[trial] = before
    withheld = tier == "final_test"
    responses[withheld] = np.nan
    return Recording(
        dataset="fabricated_cortex",
        session=session,
        stimuli={"images": Stimulus(images, 2.0)},
        trials=pd.DataFrame(
            {
                "stimulus": "images",
                "tier": tier,
                "repeat": [row[2] for row in rows],
                "time_order": time_order,
                "withheld": withheld,
                "image_id": frame + 1000,
                "trial_id": time_order.astype(str),
            }
        ),
        trial=np.arange(n_trials, dtype=np.int32),
        frame=frame.astype(np.int32),
        responses=responses.astype(np.float32),
        valid=~withheld,
        rate_hz=2.0,
        unit="deconvolved activity (a.u.)",
        neurons=pd.DataFrame(
            {
                "unit_id": np.arange(n_neurons) + 1,
                "position_x_um": rng.uniform(0, 600, n_neurons),
                "position_y_um": rng.uniform(0, 600, n_neurons),
                "position_z_um": 200.0,
            }
        ),
        behaviour=behaviour.astype(np.float32),
        pupil_center=rng.normal(100, 5, (n_trials, 2)).astype(np.float32),
    )


def _repeats(tier: str) -> int:
    return REPEATS if tier.endswith("test") else 1


def with_other_responses(recording: Recording, tiers: tuple[str, ...], seed: int = 9) -> Recording:
    """Return the recording with every response of these tiers replaced, the withheld ones included."""
    chosen = np.isin(recording.bin_column("tier").astype(str), tiers)
    responses = recording.responses.copy()
    responses[chosen] = np.random.default_rng(seed).gamma(2, 10, responses[chosen].shape)
    return replace(recording, responses=responses)


def image_settings(**changes: Any) -> dict[str, Any]:
    """Return a train slice of a small model with everything that Model 4 has; `changes` replace whole groups."""
    settings: dict[str, Any] = {
        "splits": {"method": "permuted_tiers", "n_folds": 5, "seed": 35382},
        "dataloader": {
            "window_length": 1,
            "batch_size": 16,
            "normalize_stimulus": True,
            "response_scale": "std",
            "cutmix": None,
        },
        "regressors": regressor_settings(),
        "model": {
            "_target_": "coread.models.image_core_readout.ImageCoreReadout",
            "learning_rate": 0.01,
            "behaviour_channels": 3,
            "core": {
                "_target_": "coread.modules.core.stacked_core.Stacked2dCore",
                "hidden_channels": 3,
                "input_kern": 3,
                "hidden_kern": 3,
                "layers": 2,
                "gamma_input": 1.0,
            },
            "readout": {
                "_target_": "coread.modules.readout.multi_readout.MultiSampledGaussianReadout",
                "gamma": 0.01,
                "grid_mean_predictor": {"type": "cortex", "input_dimensions": 2, "final_tanh": True},
                "source_columns": ["position_x_um", "position_y_um"],
            },
            "shifter": {"_target_": "coread.modules.shifter.MLPShifter"},
            "modulator": {
                "_target_": "coread.modules.modulator.HistoryStateGainModulator",
                "nr_history": 3,
                "nr_behav_state": 2,
            },
        },
        "loss": {"_target_": "coread.modules.losses.poisson.PoissonLoss", "scale_by_trials": True},
        "initialization": {"method": "none"},
        "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True},
        "trainer": {"max_epochs": 3, "accumulate_grad_batches": "sessions"},
        "training_callbacks": {},
        "quality_checks": {"allow_constant_neurons": False},
    }
    return settings | changes


def regressor_settings(**changes: Any) -> dict[str, Any]:
    """Return all regressors, of sizes that fit a few dozen trials."""
    state = {
        "rank": 2,
        "components": 4,
        "factors": 2,
        "seed": 674,
        "max_iterations": 50,
        "available": "train_and_validation",
        "fit_on": "train",
        "pairs": "both_ends",
        "transform": "fit_and_apply",
    }
    assert set(state) == set(STATE_SETTINGS)
    return {
        "behaviour": {"scheme": "unit_range"},
        "pupil_center": True,
        "statistics_of": "train",
        "missing": "mean",
        "allow_absent": False,
        "history": {"lags": [1, 2, 5], "available": "train_and_validation"},
        "state": state,
    } | changes
