"""The best prediction of a simulated cortex that knows the truth, and what it would be without knowing one effect."""

from collections.abc import Collection

import numpy as np
from jaxtyping import Float

from coread.data_io.simulate.cortex_cells import CellBank, Population
from coread.data_io.simulate.cortex_dynamics import limit_history, rectify
from coread.data_io.simulate.movies import GREY
from coread.eval.metrics import correlation_numpy
from coread.recording import Recording

PREFIX = "truth_"
EFFECTS = ("eye", "behaviour", "state", "history", "gain")


def best_possible_prediction(recording: Recording, without: Collection[str] = ()) -> Float[np.ndarray, "bin neuron"]:
    """Return the conditional mean of every response: no prediction has a smaller expected squared error.

    It knows the cells and their couplings, the image, the true eye position, behaviour, latent state and gain of the
    trial, and all earlier responses of the cell itself, those to test images included. It does not know the noise. No
    fitted model can know all that: the state shows only in noisy responses, and responses to test images are never
    available; so models stay below. Effects named in `without` (eye, behaviour, state, history, gain) are held at their
    mean instead. Raises ValueError for unknown effects, for a recording without truth, and with `without` where
    responses are withheld, because the history of the trials after them is then not there.
    """
    truth = _truth(recording)
    if unknown := sorted(set(without) - set(EFFECTS)):
        raise ValueError(f"unknown effects {unknown}; the simulated cortex has {list(EFFECTS)}")
    if not without:
        return truth["rate"].astype(np.float64)
    drive = (_still_drive(recording, truth) if "eye" in without else truth["image_drive"]).astype(np.float64)
    if "state" not in without:
        drive += (truth["state"] - 1.0) @ truth["state_loadings"].T
    if "history" not in without:
        drive += _history_drive(recording, truth)
    exponent = np.zeros_like(drive)
    if "behaviour" not in without:
        exponent += np.outer(truth["behaviour_drive"], truth["behaviour_coupling"])
    if "gain" not in without:
        exponent += np.outer(np.log(truth["gain"]), truth["gain_coupling"])
    return truth["mean_response"] * rectify(drive) * np.exp(exponent)


def best_possible_correlation(
    recording: Recording, tier: str = "test", without: Collection[str] = ()
) -> Float[np.ndarray, "neuron"]:
    """Return the single-trial correlation of `best_possible_prediction` with the responses of a tier.

    Raises ValueError where the tier has no valid trial.
    """
    chosen = (recording.bin_column("tier") == tier) & recording.valid
    if not chosen.any():
        raise ValueError(f"session {recording.session!r} has no valid responses in tier {tier!r}")
    prediction = best_possible_prediction(recording, without)[chosen]
    return correlation_numpy(recording.responses[chosen], prediction, axis=0)


def _truth(recording: Recording) -> dict[str, np.ndarray]:
    """Return what the simulation left in a recording, without the prefix of its names."""
    prefix = "truth_"
    truth = {
        name.removeprefix(prefix): values for name, values in recording.session_info.items() if name.startswith(prefix)
    }
    if "image_drive" not in truth:
        raise ValueError(f"session {recording.session!r} ({recording.dataset}) is no simulated cortex: it has no truth")
    return truth


def _still_drive(recording: Recording, truth: dict[str, np.ndarray]) -> Float[np.ndarray, "bin neuron"]:
    """Return the drive by the images as an eye that looks straight ahead sees them."""
    names = Population.__dataclass_fields__.keys() - {"position_um"}
    positions = np.full((recording.n_neurons, 3), np.nan)  # not what decides a response
    images = recording.stimuli["images"]
    population = Population(position_um=positions, **{name: truth[name] for name in names})
    bank = CellBank(population, images.frames.shape[2:])
    contrast = (np.asarray(images.frames)[:, 0] * images.scale + images.offset) / GREY - 1
    offset, factor = truth["drive_scaling"]
    return (offset + factor * bank(contrast.astype(np.float32)))[recording.frame]


def _history_drive(recording: Recording, truth: dict[str, np.ndarray]) -> Float[np.ndarray, "bin neuron"]:
    if not recording.valid.all():
        hidden = int((~recording.valid).sum())
        raise ValueError(
            f"session {recording.session!r}: the responses of {hidden} trials are withheld, so the history of later "
            "trials is not known; only the prediction with all effects is kept"
        )
    order = np.argsort(truth["time_order"])
    deviation = (recording.responses / truth["mean_response"] - truth["usual_response"])[order].astype(np.float64)
    total = np.concatenate([np.zeros((1, recording.n_neurons)), np.cumsum(deviation, axis=0)])
    now = np.arange(recording.n_bins)
    drive = np.zeros_like(deviation)
    for lag, weights in zip(truth["history_lags"], truth["history_weights"].T, strict=True):
        drive[order] += weights / lag * (total[now] - total[np.maximum(now - lag, 0)])
    return limit_history(drive)
