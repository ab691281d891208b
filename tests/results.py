"""Small made-up results of one experiment, for the tests of figures and of the report."""

import numpy as np
import pandas as pd

from coread.data_io.splits import TEST, TRAIN, UNUSED, VALIDATION
from coread.eval.predictions import MemberPredictions, SessionPrediction
from coread.eval.scores import score_experiment
from coread.insilico.receptive_fields import ReceptiveFields
from coread.recording import Recording, Stimulus

N_NEURONS, N_REPEATS, LAG, RATE_HZ = 8, 5, 3, 30.0
CONFIG = {"explainable_variance_threshold": 0.15, "bootstrap": {"n": 50, "level": 0.95, "seed": 0}}


def _rates() -> np.ndarray:
    """Rates (frame, neuron) to 60 training and 40 test frames; the last two neurons do not follow the stimulus."""
    rates = np.random.default_rng(0).gamma(1.0, 2.0, (100, N_NEURONS))
    rates[:, -2:] = 1.0
    return rates


def make_recording(session: str = "a") -> Recording:
    """One training trial and five repeats of a test movie."""
    rng = np.random.default_rng(1)
    frames = [np.arange(60), *[np.arange(40)] * N_REPEATS]
    shown = np.concatenate([frames[0], *[60 + frame for frame in frames[1:]]])
    trials = pd.DataFrame(
        {
            "stimulus": ["movie"] + ["probe"] * N_REPEATS,
            "tier": ["train"] + ["test"] * N_REPEATS,
            "repeat": [0, *range(N_REPEATS)],
            "time_order": range(N_REPEATS + 1),
            "withheld": False,
        }
    )
    pixels = rng.integers(0, 256, (60, 1, 6, 8)).astype(np.uint8)
    return Recording(
        dataset="toy",
        session=session,
        stimuli={"movie": Stimulus(pixels, RATE_HZ), "probe": Stimulus(pixels[:40], RATE_HZ)},
        trials=trials,
        trial=np.repeat(np.arange(len(frames)), [len(frame) for frame in frames]).astype(np.int32),
        frame=np.concatenate(frames).astype(np.int32),
        responses=rng.poisson(_rates()[shown]).astype(np.float32),
        valid=np.ones(len(shown), bool),
        rate_hz=RATE_HZ,
        unit="spike count",
        neurons=pd.DataFrame(
            {"unit_id": [f"unit_{i}" for i in range(N_NEURONS)], "cell_type": ["on", "off"] * (N_NEURONS // 2)}
        ),
        species="axolotl",
    )


def make_predictions(experiment: str = "toy_experiment") -> list[MemberPredictions]:
    """Two members that know the rates but for noise of their own."""
    recording = make_recording()
    label = np.where(recording.bin_column("tier") == "test", TEST, TRAIN).astype(np.int8)
    label[20:60] = VALIDATION
    label[recording.bin_in_trial() < LAG] = UNUSED
    shown = recording.frame + 60 * (recording.trial > 0)
    members = []
    for seed in (0, 1):
        noise = np.random.default_rng(10 + seed).normal(0, np.linspace(0.2, 2.0, N_NEURONS), (100, N_NEURONS))
        prediction = np.maximum(_rates() + noise, 0.01)[shown]
        prediction[~np.isin(label, (VALIDATION, TEST))] = np.nan
        session = SessionPrediction(prediction.astype(np.float32), label)
        members.append(MemberPredictions(experiment, 0, seed, LAG, {"a": session}))
    return members


def make_scores(experiment: str = "toy_experiment") -> pd.DataFrame:
    """Scores of the two members and their ensemble."""
    return score_experiment([make_recording()], make_predictions(experiment), CONFIG)


def make_histories() -> dict[str, pd.DataFrame]:
    """Learning curves of the two members."""
    epoch = np.arange(6)
    curve = pd.DataFrame(
        {
            "epoch": epoch,
            "train_loss": np.exp(-epoch / 3),
            "val_loss": np.exp(-epoch / 4),
            "val_correlation": 0.6 - 0.05 * (epoch - 3) ** 2,
            "learning_rate": 0.01 * np.cos(epoch / 4),
            "seconds": 1.5,
        }
    )
    return {"fold0_seed0": curve, "fold0_seed1": curve.assign(val_loss=curve["val_loss"] * 1.1)}


def make_fields() -> dict[str, ReceptiveFields]:
    """Gaussian receptive fields with a known truth."""
    y, x = np.mgrid[:6, :8]
    spatial = np.stack([np.exp(-((y - 3) ** 2 + (x - i) ** 2) / 2) for i in range(N_NEURONS)])[:, None]
    polarity = np.where(np.arange(N_NEURONS) % 2 == 0, 1, -1)
    course = np.array([0.2, 1.0, -0.4, 0.0])[None, None] * polarity[:, None, None]
    table = pd.DataFrame(
        {
            "dataset": "toy",
            "session": "a",
            "neuron": range(N_NEURONS),
            "unit_id": [f"unit_{i}" for i in range(N_NEURONS)],
            "cell_type": ["on", "off"] * (N_NEURONS // 2),
            "channel": 0,
            "polarity": polarity,
            "center_y_px": 3.0,
            "center_x_px": np.arange(N_NEURONS, dtype=float),
            "sigma_major_px": 1.2,
            "sigma_minor_px": 0.9,
            "angle_rad": 0.3,
            "diameter_px": 3.1,
            "diameter_um": 310.0,
            "gaussian_converged": True,
            "latency_s": 0.04,
            "biphasic_index": 0.4,
            "member_consistency": 0.95,
            "truth_cosine": np.linspace(0.7, 0.99, N_NEURONS),
            "truth_distance_px": 0.1,
        }
    )
    full = np.einsum("ncl,nchw->nlchw", course, spatial)
    kind = np.float32
    return {
        "a": ReceptiveFields(
            full.astype(kind),
            spatial.astype(kind),
            course.astype(kind),
            np.zeros(N_NEURONS, int),
            table,
            1 / RATE_HZ,
            75.0,
        )
    }
