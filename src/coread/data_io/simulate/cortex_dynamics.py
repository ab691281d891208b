"""What changes between trials of the simulated cortex beside the image: gaze, behaviour, state, gain and history.

Every effect has a switch and a strength. Time courses are drawn in any case, each from a random stream of its own, so
that switching one effect off changes no other truth.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int
from scipy import ndimage, signal

from coread.data_io.readers.parameters import parse_parameters

SHARPNESS = 4.0  # of the rectification
HISTORY_LIMIT = 1.0  # mean responses by which history moves the drive at most, so that no response runs away
TRIALS_AT_A_TIME = 256
PUPIL_PX = (30.0, 6.0)  # mean and deviation of the pupil's dilation, before the units of a session
RUNNING_CM_S = 6.0  # of one deviation of the running process above its threshold
RUNNING_THRESHOLD = 0.5
WHEEL_NOISE_CM_S = 0.05
BEHAVIOUR_WEIGHTS = (0.6, 0.3, 0.7)  # of dilation, its derivative and running in what scales responses


@dataclass(frozen=True)
class Eye:
    """Gaze that wanders between trials and the camera that sees the pupil."""

    enabled: bool  # whether receptive fields move with the eye; the pupil moves in any case
    sd_px: float  # of the rescaled images, per axis
    correlation_trials: float
    camera_gain: tuple[float, float]  # range of a session's camera units per pixel, drawn per axis
    camera_offset: tuple[float, float]  # range of its camera units for straight gaze


@dataclass(frozen=True)
class Units:
    """How a session's rig writes behaviour down: factor * value + offset, for dilation, derivative and running."""

    factor: Sequence[float] = (1.0, 1.0, 1.0)
    offset: Sequence[float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if len(self.factor) != 3 or len(self.offset) != 3 or 0 in self.factor:
            found = f"{list(self.factor)} and {list(self.offset)}"
            raise ValueError(f"data_io.behaviour.units: expected 3 factors (none 0) and 3 offsets, found {found}")


@dataclass(frozen=True)
class Behaviour:
    """Pupil dilation, its derivative and running, which scale responses."""

    enabled: bool
    strength: float  # log of a typical cell's scale factor at one deviation of the behaviour
    coupling_spread: float  # standard deviation of the cells' couplings, whose mean is 1
    correlation_trials: float
    units: Mapping[str, Units] = field(default_factory=dict)  # of sessions whose units are not the usual ones

    def __post_init__(self) -> None:
        units = {
            name: node if isinstance(node, Units) else parse_parameters(Units, node, f"data_io.behaviour.units.{name}")
            for name, node in dict[str, Any](self.units).items()
        }
        object.__setattr__(self, "units", units)


@dataclass(frozen=True)
class State:
    """Slow latent states with a mean of 1 that raise the drive of the cells that load on them."""

    enabled: bool
    strength: float  # mean loading of a loaded cell, in mean responses
    components: int
    share: float  # of cells that load on a component
    spread: float  # standard deviation of a state's logarithm
    correlation_trials: float


@dataclass(frozen=True)
class History:
    """Drive by a cell's own past responses: per lag, the mean of its last `lag` responses relative to the usual.

    Their weighted sum is limited to `HISTORY_LIMIT`.
    """

    enabled: bool
    strength: float  # times the weights
    lags: Sequence[int]
    weights: Sequence[float]  # mean over cells, one per lag
    spread: float  # standard deviation over cells, relative to the mean weight

    def __post_init__(self) -> None:
        if len(self.lags) != len(self.weights) or min(self.lags, default=0) < 1:
            raise ValueError(
                "data_io.history: expected one weight for every lag of 1 or more trials, "
                f"found lags {list(self.lags)} and weights {list(self.weights)}"
            )


@dataclass(frozen=True)
class Gain:
    """Drift of the whole population's responsiveness."""

    enabled: bool
    strength: float  # standard deviation of its logarithm
    smoothing_trials: float  # standard deviation of the Gaussian that white noise is smoothed with
    coupling_spread: float  # standard deviation of the cells' couplings (exponents), whose mean is 1


@dataclass(frozen=True)
class Noise:
    """Compound Poisson noise: responses are sums of a Poisson number of events with Gamma-distributed sizes."""

    events: float  # expected events in a mean response
    size_shape: float  # of the Gamma distribution of event sizes; the larger, the more alike events are


@dataclass(frozen=True)
class TimeCourses:
    """What holds for all cells of a session, by trial in time order."""

    eye_px: Float[np.ndarray, "trial 2"]  # (y, x) by which gaze, and with it every receptive field, is displaced
    behaviour: Float[np.ndarray, "trial 3"]  # dilation, derivative and running in the usual units
    behaviour_drive: Float[np.ndarray, "trial"]  # standardised sum of the three that scales responses
    state: Float[np.ndarray, "trial component"]
    gain: Float[np.ndarray, "trial"]

    def taken(self, order: Int[np.ndarray, "trial"]) -> "TimeCourses":
        """Return the time courses in another order of trials."""
        return TimeCourses(**{name: values[order] for name, values in vars(self).items()})


@dataclass(frozen=True)
class Couplings:
    """How strongly each effect reaches each cell; 0 for an effect that is switched off."""

    behaviour: Float[np.ndarray, "neuron"]
    state: Float[np.ndarray, "neuron component"]
    history: Float[np.ndarray, "neuron lag"]
    gain: Float[np.ndarray, "neuron"]


def slow_process(
    n_trials: int, n_processes: int, correlation_trials: float, rng: np.random.Generator
) -> Float[np.ndarray, "trial process"]:
    """Return stationary autoregressive processes of order 1 with unit variance; correlation 1/e at the given lag."""
    memory = np.exp(-1 / correlation_trials)
    noise = rng.standard_normal((n_trials, n_processes))
    noise[1:] *= np.sqrt(1 - memory**2)
    return signal.lfilter([1.0], [1.0, -memory], noise, axis=0)


def draw_time_courses(
    n_trials: int, eye: Eye, behaviour: Behaviour, state: State, gain: Gain, rngs: Sequence[np.random.Generator]
) -> TimeCourses:
    """Return a session's time courses; the four generators are for eye, behaviour, state and gain."""
    gaze = eye.sd_px * slow_process(n_trials, 2, eye.correlation_trials, rngs[0])
    values = _behaviour(n_trials, behaviour.correlation_trials, rngs[1])
    drive = _standardised(_standardised(values) @ np.array(BEHAVIOUR_WEIGHTS))
    logarithm = state.spread * slow_process(n_trials, state.components, state.correlation_trials, rngs[2])
    drift = ndimage.gaussian_filter1d(rngs[3].standard_normal(n_trials), gain.smoothing_trials, mode="reflect")
    course = np.exp((gain.strength if gain.enabled else 0.0) * _standardised(drift))
    return TimeCourses(gaze, values, drive, np.exp(logarithm - state.spread**2 / 2), course / course.mean())


def draw_couplings(
    n_neurons: int,
    behaviour: Behaviour,
    state: State,
    history: History,
    gain: Gain,
    rngs: Sequence[np.random.Generator],
) -> Couplings:
    """Return the cells' couplings; the four generators are for behaviour, state, history and gain.

    Raises ValueError where history would feed back without bound in a cell.
    """
    loaded = rngs[1].random((n_neurons, state.components)) < state.share
    loadings = loaded * rngs[1].gamma(4.0, 0.25, (n_neurons, state.components))
    weights = np.array(history.weights) * (1 + history.spread * rngs[2].standard_normal((n_neurons, len(history.lags))))
    weights *= history.strength if history.enabled else 0.0
    if (largest := weights.clip(0).sum(1).max(initial=0.0)) >= 1:
        raise ValueError(
            f"data_io.history: the weights of a cell add up to {largest:.2f}, expected less than 1 in every cell; "
            "lower strength, weights or spread"
        )
    return Couplings(
        behaviour=(behaviour.strength if behaviour.enabled else 0.0)
        * _positive(n_neurons, behaviour.coupling_spread, rngs[0]),
        state=(state.strength if state.enabled else 0.0) * loadings,
        history=weights,
        gain=_positive(n_neurons, gain.coupling_spread, rngs[3]),
    )


def rectify(drive: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Return softplus(drive) with a sharp bend: above 0, nearly the drive itself where that is 0.5 or more."""
    return np.logaddexp(0, SHARPNESS * drive) / SHARPNESS


def limit_history(drive: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Return the drive by history as far as it reaches, in mean responses."""
    return np.clip(drive, -HISTORY_LIMIT, HISTORY_LIMIT)


def respond(
    drive: Float32[np.ndarray, "trial neuron"],
    order: Int[np.ndarray, "trial"],
    courses: TimeCourses,
    couplings: Couplings,
    lags: Sequence[int],
    noise: Noise,
    rng: np.random.Generator,
) -> tuple[Float32[np.ndarray, "trial neuron"], Float32[np.ndarray, "trial neuron"], Float[np.ndarray, "neuron"]]:
    """Return responses and their conditional means, both in mean responses, and what history calls the usual response.

    All by trial in the order of `drive` and `courses`; `order` lists these trials in time. The mean of a trial given
    all before it is scale * rectify(drive + state + limited history); the usual response is the mean of
    scale * rectify(drive + state), so that history averages out.
    """
    reach = np.stack([couplings.behaviour, couplings.gain])
    exponent = np.column_stack([courses.behaviour_drive, np.log(courses.gain)])
    state = courses.state - 1
    usual = np.zeros(drive.shape[1])
    for start in range(0, len(drive), TRIALS_AT_A_TIME):
        chosen = slice(start, start + TRIALS_AT_A_TIME)
        rates = rectify(drive[chosen] + state[chosen] @ couplings.state.T) * np.exp(exponent[chosen] @ reach)
        usual += rates.sum(0) / len(drive)
    responses, means = np.empty_like(drive), np.empty_like(drive)
    recent = np.zeros((len(lags), drive.shape[1]))
    weights = couplings.history.T / np.array(lags)[:, None]
    for place, trial in enumerate(order):
        total = drive[trial] + couplings.state @ state[trial] + limit_history((weights * recent).sum(0))
        means[trial] = rectify(total) * np.exp(exponent[trial] @ reach)
        events = rng.poisson(noise.events * means[trial])
        responses[trial] = rng.standard_gamma(noise.size_shape * events) / (noise.size_shape * noise.events)
        recent += responses[trial] - usual
        for row, lag in enumerate(lags):
            if place >= lag:
                recent[row] -= responses[order[place - lag]] - usual
    return responses, means, usual


def _behaviour(n_trials: int, correlation_trials: float, rng: np.random.Generator) -> Float[np.ndarray, "trial 3"]:
    """Return dilation (px), its derivative (px per trial, during the trial) and running (cm/s, never quite still)."""
    arousal, legs = slow_process(n_trials, 2, correlation_trials, rng).T
    dilation = PUPIL_PX[0] + PUPIL_PX[1] * arousal
    derivative = np.gradient(dilation) if n_trials > 1 else np.zeros(n_trials)
    derivative = derivative + PUPIL_PX[1] / correlation_trials * rng.standard_normal(n_trials)
    moving = (0.5 * arousal + legs) / np.hypot(0.5, 1)
    running = RUNNING_CM_S * np.maximum(moving - RUNNING_THRESHOLD, 0)
    return np.column_stack([dilation, derivative, running + WHEEL_NOISE_CM_S * rng.standard_normal(n_trials)])


def _standardised(values: Float[np.ndarray, "trial *column"]) -> Float[np.ndarray, "trial *column"]:
    return (values - values.mean(0)) / values.std(0)


def _positive(n_neurons: int, spread: float, rng: np.random.Generator) -> Float[np.ndarray, "neuron"]:
    """Return Gamma-distributed values with mean 1 and the given standard deviation."""
    if spread == 0:
        return np.ones(n_neurons)
    return rng.gamma(1 / spread**2, spread**2, n_neurons)
