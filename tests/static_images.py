"""A small recording of single images with known effects, and a member whose parts are planted, for tests."""

from typing import Any

import numpy as np
import pandas as pd
import torch

from coread.data_io.context import fit_contexts
from coread.data_io.splits import TEST, VALIDATION, label_bins
from coread.data_io.statistics import Statistics
from coread.eval.predictions import MemberPredictions, SessionPrediction
from coread.models.image_core_readout import ImageCoreReadout
from coread.models.member import Member, session_sizes
from coread.recording import Recording, Stimulus

N_NEURONS, N_IMAGES, N_TEST, N_REPEATS = 12, 90, 8, 6
SHAPE = (1, 12, 16)
LAGS = [1, 2, 5]
SPLITS: dict[str, Any] = {"method": "permuted_tiers", "n_folds": 3, "seed": 35382}
REGRESSORS = {
    "behaviour": {"scheme": "unit_range"},
    "pupil_center": True,
    "statistics_of": "train",
    "missing": "mean",
    "allow_absent": False,
    "history": {"lags": LAGS, "available": "train_and_validation"},
    "state": None,
}
STATE = {
    "rank": 3,
    "components": 10,
    "factors": 4,
    "seed": 674,
    "max_iterations": 200,
    "available": "train_and_validation",
    "fit_on": "train",
    "pairs": "both_ends",
    "transform": "fit_and_apply",
}
NODES: dict[str, dict[str, Any]] = {
    "core": {
        "_target_": "coread.modules.core.stacked_core.Stacked2dCore",
        "layers": 1,
        "hidden_channels": 3,
        "input_kern": 5,
        "hidden_kern": 3,
    },
    "readout": {
        "_target_": "coread.modules.readout.gaussian.MultiSampledGaussianReadout",
        "init_mu_range": 0.5,
    },
    "shifter": {"_target_": "coread.modules.shifter.MLPShifter"},
    "modulator": {
        "_target_": "coread.modules.modulator.HistoryStateGainModulator",
        "nr_history": len(LAGS),
        "nr_behav_state": 4,
        "per_neuron_gain_adjust": False,
    },
}


EVALUATION: dict[str, Any] = {
    "explainable_variance_threshold": 0.15,
    "thresholded_metrics": ["feve"],
    "bootstrap": {"n": 40, "level": 0.95, "seed": 0},
}


def make_recording(session: str = "a", seed: int = 0, final_test: bool = False) -> Recording:
    """Images shown once (train, validation), and repeated ones (test, and a final test), in random order of files."""
    rng = np.random.default_rng(seed)
    tiers = ["train"] * (N_IMAGES - 20) + ["validation"] * 20 + ["test"] * (N_TEST * N_REPEATS)
    image = np.concatenate([np.arange(N_IMAGES), N_IMAGES + np.repeat(np.arange(N_TEST), N_REPEATS)])
    repeat = np.concatenate([np.zeros(N_IMAGES, int), np.tile(np.arange(N_REPEATS), N_TEST)])
    if final_test:
        # images of the test are shown again in the final test: its scores must stay apart
        tiers += ["final_test"] * (N_TEST * N_REPEATS)
        image = np.concatenate([image, image[N_IMAGES:]])
        repeat = np.concatenate([repeat, repeat[N_IMAGES:]])
    n_trials = len(image)
    order = rng.permutation(n_trials)
    image, repeat, tier = image[order], repeat[order], np.array(tiers, object)[order]
    time_order = rng.permutation(n_trials)
    slow = np.interp(time_order, np.linspace(0, n_trials, 6), rng.normal(0, 0.6, 6))
    eye_px = rng.normal(0, 1.0, (n_trials, 2))
    drive = rng.gamma(2.0, 0.5, (N_IMAGES + N_TEST, N_NEURONS))
    rate = drive[image] * np.exp(slow)[:, None]
    center_px = np.column_stack([rng.uniform(3, SHAPE[1] - 3, N_NEURONS), rng.uniform(3, SHAPE[2] - 3, N_NEURONS)])
    return Recording(
        dataset="images",
        session=session,
        stimuli={"images": Stimulus(rng.integers(0, 256, (N_IMAGES + N_TEST, *SHAPE), dtype=np.uint8), 2.0)},
        trials=pd.DataFrame(
            {
                "stimulus": "images",
                "tier": tier,
                "repeat": repeat,
                "time_order": time_order,
                "withheld": False,
                "image_id": image,
                "trial_id": time_order.astype(str),
            }
        ),
        trial=np.arange(n_trials, dtype=np.int32),
        frame=image.astype(np.int32),
        responses=rng.gamma(4.0, rate / 4.0).astype(np.float32),
        valid=np.ones(n_trials, bool),
        rate_hz=2.0,
        unit="deconvolved activity (a.u.)",
        neurons=pd.DataFrame(
            {
                "unit_id": np.arange(N_NEURONS) + 1,
                "position_x_um": 10.0 * center_px[:, 1],
                "position_y_um": 10.0 * center_px[:, 0],
                "position_z_um": 200.0,
            }
        ),
        behaviour=np.column_stack([np.exp(slow), rng.normal(size=n_trials), rng.exponential(size=n_trials)]).astype(
            np.float32
        ),
        pupil_center=(120 + 4 * eye_px[:, ::-1]).astype(np.float32),
        session_info={
            "behaviour_names": np.array(["pupil_dilation", "d_pupil_dilation", "running"], object),
            "truth_gain": np.exp(slow),
            "truth_eye_shift_px": eye_px,
            "truth_center_px": center_px,
            "truth_history_weights": rng.normal(0.1, 0.05, (N_NEURONS, len(LAGS))),
            "truth_history_lags": np.array(LAGS),
        },
    )


def make_member(recordings: list[Recording], fold: int = 0, seed: int = 0, state: bool = True) -> Member:
    """An untrained model of the recordings with the regressors of its fold."""
    torch.manual_seed(seed)
    labels = {recording.session: label_bins(recording, SPLITS, fold, 0) for recording in recordings}
    scale = {r.session: torch.from_numpy(r.responses.std(axis=0)) for r in recordings}
    statistics = Statistics(128.0, 70.0, scale, {name: torch.ones(len(values)) for name, values in scale.items()})
    settings = REGRESSORS | ({"state": STATE} if state else {})
    names = ("behaviour", "pupil_center", "history", "time_order", *(("state",) if state else ()))
    _, kept = fit_contexts(recordings, labels, statistics, settings, names)
    info = session_sizes(recordings) | kept
    info |= {"stim_mean": 128.0, "stim_std": 70.0, "response_scale": scale}
    info["mean_activity_dict"] = statistics.mean_activity
    nodes = NODES | {"modulator": NODES["modulator"] | {"include_state": state}}
    model = ImageCoreReadout(
        (SHAPE[0], 1, *SHAPE[1:]), info["n_neurons_dict"], **nodes, behaviour_channels=3, data_info=info
    )
    return Member(model.eval(), {"splits": SPLITS}, fold, seed, model.data_info)


def _predict(recording: Recording, fold: int) -> SessionPrediction:
    """Predictions that know the image only in part and the gain of every trial, as a model with context does."""
    rng = np.random.default_rng(50 + fold)
    label = label_bins(recording, SPLITS, fold, 0)
    mean = pd.DataFrame(recording.responses).groupby(recording.frame).transform("mean").to_numpy()
    gain = recording.session_info["truth_gain"][:, None]
    prediction = gain * (0.3 + 0.2 * mean) + 0.3 * rng.random(recording.responses.shape)
    prediction[~np.isin(label, (VALIDATION, TEST))] = np.nan
    return SessionPrediction(prediction.astype(np.float32), label)


def make_predictions(recordings: list[Recording]) -> list[MemberPredictions]:
    """Three members with training labels of their own."""
    return [
        MemberPredictions("images", fold, 100 + fold, 0, {r.session: _predict(r, fold) for r in recordings})
        for fold in range(SPLITS["n_folds"])
    ]
