"""Network state: what the responses of one trial say of the next one, in a few non-negative components.

As in the Model-4 entry to SENSORIUM 2022: the square roots of the responses of a trial are projected to principal
components, a reduced-rank regression maps them to those of the following trial, and the predicted responses are
factorised into non-negative components. The state of a trial is what the last available responses before it predict.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Float, Float32, Float64, Int8, Int64

from coread.data_io.regressors.nonnegative import RectifiedMap, factorise, non_negative_weights
from coread.data_io.regressors.trial_order import (
    AVAILABLE,
    RegressorError,
    available_bins,
    bins_in_time,
    scaled_responses,
)
from coread.recording import Recording

STATE_SETTINGS = (
    *("rank", "components", "factors", "seed", "max_iterations"),
    *("available", "fit_on", "pairs", "transform"),
)
PAIRS = ("both_ends", "first_end")
TRANSFORMS = ("fit_and_apply", "fit_only")
FLOOR = 1e-6  # added below the square root, as published
EXACT_BELOW = 500  # decompose exactly up to this size; as scikit-learn's PCA chooses
OVERSAMPLING = 10
POWER_ITERATIONS = 4
CHUNK_ROWS = 512


@dataclass(frozen=True, eq=False)
class StateMap:
    """The fitted map from scaled responses to the state after them.

    The principal components are folded into both ends of the regression: latent = (root - mean) @ encode, predicted
    root = max(0, mean + latent @ decode), predicted root ~ state @ factors. `square_root` says whether responses are
    transformed as in the fit (the published code left that out).
    """

    mean: Float32[np.ndarray, "neuron"]
    encode: Float32[np.ndarray, "neuron rank"]
    decode: Float32[np.ndarray, "rank neuron"]
    factors: Float32[np.ndarray, "component neuron"]
    square_root: bool
    available: str

    def after_each(self, responses: Float32[np.ndarray, "row neuron"]) -> Float32[np.ndarray, "row_and_one component"]:
        """Return the state after no response at all (zeros, as published) and after each row of responses.

        Every row is solved on its own: the state after a response does not depend on what else is asked for.
        """
        factors = self.factors.astype(np.float64)
        cross = np.empty((len(responses) + 1, len(self.factors)))
        cross[0] = self._cross(np.zeros((1, responses.shape[1]), np.float32))
        for start in range(0, len(responses), CHUNK_ROWS):
            chunk = responses[start : start + CHUNK_ROWS]
            cross[start + 1 : start + 1 + len(chunk)] = self._cross(chunk)
        return non_negative_weights(factors @ factors.T, cross).astype(np.float32)

    def predicted(self, responses: Float32[np.ndarray, "row neuron"]) -> Float32[np.ndarray, "row neuron"]:
        """Return the predicted square roots of the next responses."""
        root = square_root(responses) if self.square_root else responses
        return np.maximum(self.mean + ((root - self.mean) @ self.encode) @ self.decode, 0)

    def _cross(self, responses: Float32[np.ndarray, "row neuron"]) -> Float64[np.ndarray, "row component"]:
        return (self.predicted(responses) @ self.factors.T).astype(np.float64)

    def to_plain(self) -> dict[str, Any]:
        """Return tensors and plain values."""
        return {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in ((part.name, getattr(self, part.name)) for part in fields(self))
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "StateMap":
        """Return what `to_plain` wrote."""
        return cls(**{name: value.cpu().numpy() if hasattr(value, "cpu") else value for name, value in plain.items()})


def fit_state(
    recording: Recording,
    labels: Int8[np.ndarray, "bin"],
    response_scale: Float32[np.ndarray, "neuron"],
    settings: Mapping[str, Any],
) -> StateMap:
    """Fit the map on pairs of bins that follow each other in time.

    Both ends of a pair are bins that `fit_on` names; with `pairs: first_end`, as published by mistake, only the first
    is looked at, so that test responses and withheld ones (as zeros) become targets. `components` and `rank` beyond
    what the data have are no constraint. Raises RegressorError if there are fewer than two pairs.
    """
    now, following = consecutive_pairs(recording, labels, settings["fit_on"], settings["pairs"])
    if len(now) < 2:
        raise RegressorError(
            f"session {recording.session!r}: the network state needs pairs of consecutive bins of "
            f"{settings['fit_on']}, found {len(now)}"
        )
    seed = int(settings["seed"])
    root = square_root(scaled_responses(recording, now, response_scale))
    mean = root.mean(axis=0, dtype=np.float64).astype(np.float32)
    root -= mean
    axes = principal_axes(root, int(settings["components"]), seed)
    x = root @ axes
    del root  # one array of this size at a time
    following_root = square_root(scaled_responses(recording, following, response_scale, withheld_as_zero=True))
    following_root -= mean
    left, right = reduced_rank_regression(x, following_root @ axes, int(settings["rank"]))
    del following_root
    decode = left.T @ axes.T
    predicted = RectifiedMap.of(x @ right.T, decode, mean)
    factors = factorise(predicted, int(settings["factors"]), seed, int(settings["max_iterations"]))
    return StateMap(
        mean=mean,
        encode=(axes @ right.T).astype(np.float32),
        decode=decode.astype(np.float32),
        factors=factors.astype(np.float32),
        square_root=settings["transform"] == "fit_and_apply",
        available=settings["available"],
    )


def consecutive_pairs(
    recording: Recording, labels: Int8[np.ndarray, "bin"], fit_on: str, pairs: str
) -> tuple[Int64[np.ndarray, "pair"], Int64[np.ndarray, "pair"]]:
    """Return bins and the bins right after them in time, with nothing between them, not even a test trial."""
    in_time = bins_in_time(recording)
    usable = available_bins(labels, fit_on)[in_time]
    chosen = usable[:-1] & usable[1:] if pairs == "both_ends" else usable[:-1]
    return in_time[:-1][chosen], in_time[1:][chosen]


def square_root(responses: Float32[np.ndarray, "row neuron"]) -> Float32[np.ndarray, "row neuron"]:
    """Return sqrt(responses + 1e-6); negative responses, which deconvolution does not give, count as none."""
    root = np.maximum(responses, 0)
    root += FLOOR
    return np.sqrt(root, out=root)


def principal_axes(
    centred: Float32[np.ndarray, "row neuron"], n_components: int, seed: int
) -> Float32[np.ndarray, "neuron component"]:
    """Return the leading principal axes, seeded: exact for small matrices, else by the randomised method.

    Halko, Martinsson & Tropp (2011), with the oversampling and the number of power iterations that scikit-learn's PCA
    has for 500 components of up to 5,000 trials.
    """
    n = min(n_components, *centred.shape)
    if max(centred.shape) <= EXACT_BELOW or n + OVERSAMPLING >= 0.8 * min(centred.shape):
        return scipy.linalg.svd(centred, full_matrices=False)[2][:n].T
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _, _, axes = torch.svd_lowrank(torch.from_numpy(centred), n + OVERSAMPLING, POWER_ITERATIONS)
    return axes[:, :n].numpy()


def reduced_rank_regression(
    x: Float[np.ndarray, "sample feature"], z: Float[np.ndarray, "sample target"], rank: int
) -> tuple[Float64[np.ndarray, "target rank"], Float64[np.ndarray, "rank feature"]]:
    """Return the factors of the matrix M = left @ right of this rank that minimises |z - x M'|, in closed form.

    M = U U' B, with B the unconstrained solution and U the leading left singular vectors of its fit (Izenman 1975).
    """
    x, z = x.astype(np.float64), z.astype(np.float64)
    unconstrained = scipy.linalg.lstsq(x, z)[0]
    fit = np.linalg.qr(x @ unconstrained, mode="r")  # its right singular vectors, without those of all samples
    left = np.linalg.svd(fit)[2][:rank].T
    return left, (unconstrained @ left).T


def check_state_settings(settings: Mapping[str, Any]) -> None:
    """Raise RegressorError for values that cannot be; that the keys are there is checked before."""
    for name, choices in (("pairs", PAIRS), ("transform", TRANSFORMS), ("fit_on", AVAILABLE), ("available", AVAILABLE)):
        if settings[name] not in choices:
            raise RegressorError(f"regressors.state.{name} must be one of {list(choices)}, found {settings[name]!r}")
    for name in ("rank", "components", "factors", "max_iterations"):
        if int(settings[name]) != settings[name] or settings[name] < 1:
            raise RegressorError(f"regressors.state.{name} must be a whole number of 1 or more, found {settings[name]}")
