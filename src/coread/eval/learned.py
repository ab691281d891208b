"""What models of single images have learned of a session beside filters: gain, history, state, eye and retinotopy.

Where the recording was simulated, the same quantities of the simulation, in the same units, to compare with.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int

from coread.data_io.context import bind_context
from coread.recording import Recording

if TYPE_CHECKING:
    from coread.models.member import Member

CHUNK_TRIALS = 256  # gathered at a time: the history of 8000 neurons with 5 lags takes 160 kB a trial
TRUTH = "truth_"  # prefix of what a simulation leaves in `session_info`


@dataclass(frozen=True)
class Learned:
    """What was learned of a session, or true of a simulated one; None for parts that a model or simulation lacks.

    `gain` is the factor on the population, its mean over neurons, of every trial in the order of the recording.
    `history_weights` are in responses per response, each in its own unit, of the mean over the last `history_lags`
    trials. `state_loadings` are in responses (standard deviations) per unit of a component; components have no order
    that models share. `shift_px` and `position_px` are (x, y) in pixels of the stimulus from its first pixel's centre.
    """

    gain: Float[np.ndarray, "trial"] | None = None
    history_weights: Float[np.ndarray, "neuron lag"] | None = None
    history_lags: Int[np.ndarray, "lag"] | None = None
    state_loadings: Float[np.ndarray, "neuron component"] | None = None
    shift_px: Float[np.ndarray, "trial 2"] | None = None
    position_px: Float[np.ndarray, "neuron 2"] | None = None


def has_learned_parts(model: torch.nn.Module) -> bool:
    """Return whether a model has parts that `learned_of_session` tells of."""
    return hasattr(model, "modulator") and hasattr(model, "shifter")


@torch.inference_mode()
def learned_of_session(member: "Member", recording: Recording) -> Learned:
    """Return what a member has learned of one of its sessions; the recording must be the one it was trained on.

    Raises ContextError where a gain or shift needs regressors that the member does not keep.
    """
    model: Any = member.model.eval()
    session = recording.session
    parts: dict[str, Any] = {}
    readout = model.readout[session]
    if hasattr(readout, "mu"):
        parts["position_px"] = _in_pixels(_array(readout.mu).reshape(-1, 2), model, session, are_places=True)
    if session in model.shifter:
        pupil = bind_context(recording, member.data_info).at(
            np.arange(recording.n_bins)[:, None], ["pupil_center"], model.device
        )
        shift = _array(model.shifter[session](pupil["pupil_center"][:, 0]))
        parts["shift_px"] = _in_pixels(shift, model, session, are_places=False)
    if session in model.modulator:
        modulator = model.modulator[session]
        if modulator.has_smoother or modulator.has_causal_gain:
            parts["gain"] = _gain(modulator, member, recording)
        if modulator.include_history:
            parts["history_weights"] = _array(modulator.history_weights)
            parts["history_lags"] = np.asarray(member.data_info["regressors"][session]["history"]["lags"])
        if modulator.include_state:
            parts["state_loadings"] = _array(modulator.state_encoder.weight)
    return Learned(**parts)


def true_of_session(recording: Recording) -> Learned | None:
    """Return the same of the simulation behind a recording; None for a recording without a truth."""
    truth = {
        name.removeprefix(TRUTH): np.asarray(values, np.float64)
        for name, values in recording.session_info.items()
        if name.startswith(TRUTH) and np.asarray(values).dtype.kind in "fiu"
    }
    if not truth:
        return None
    parts: dict[str, Any] = {}
    if "gain" in truth:
        coupling = truth.get("gain_coupling", np.ones(1))
        parts["gain"] = _mean_power(truth["gain"], coupling)
    if "history_weights" in truth:
        parts |= {"history_weights": truth["history_weights"], "history_lags": truth["history_lags"].astype(int)}
    if "eye_shift_px" in truth:
        parts["shift_px"] = truth["eye_shift_px"][:, ::-1]
    if "center_px" in truth:
        parts["position_px"] = truth["center_px"][:, ::-1]
    return Learned(**parts)


def mean_over_members(members: Mapping[str, Learned]) -> Learned:
    """Return the mean of every part over members; the state of the first one, because components have no order."""
    each = list(members.values())
    first = each[0]

    def mean(name: str) -> Any:
        values = [getattr(one, name) for one in each]
        return None if any(value is None for value in values) else np.mean(values, axis=0)

    names = ("gain", "history_weights", "shift_px", "position_px")
    means = {name: mean(name) for name in names}
    return Learned(**means, history_lags=first.history_lags, state_loadings=first.state_loadings)


def _gain(modulator: Any, member: "Member", recording: Recording) -> Float[np.ndarray, "trial"]:
    """Return the gain of every trial, the mean over neurons of what it does to them."""
    names = ["time_order"] if modulator.has_smoother else ["history"]
    context = bind_context(recording, member.data_info)
    gain = np.empty(recording.n_bins)
    for start in range(0, recording.n_bins, CHUNK_TRIALS):
        trials = np.arange(start, min(start + CHUNK_TRIALS, recording.n_bins))
        known = context.at(trials[:, None], names, member.model.device)[names[0]][:, 0]
        shared = modulator.gain_of_ranks(known) if modulator.has_smoother else modulator.causal_gain(known)
        gain[trials] = _array(modulator.coupled(shared).mean(dim=1))
    return gain


def _mean_power(gain: Float[np.ndarray, "trial"], exponent: Float[np.ndarray, "neuron"]) -> Float[np.ndarray, "trial"]:
    """Return the mean over neurons of gain ** exponent, in chunks of trials."""
    starts = range(0, len(gain), CHUNK_TRIALS)
    return np.concatenate([(gain[i : i + CHUNK_TRIALS, None] ** exponent).mean(axis=1) for i in starts])


def _in_pixels(
    points: Float[np.ndarray, "point 2"], model: Any, session: str, *, are_places: bool
) -> Float[np.ndarray, "point 2"]:
    """Return (x, y) in pixels of the stimulus of places or distances from -1 to 1 over the core's output."""
    readout = model.readout[session]
    size = np.array(readout.in_shape[:1:-1], float)  # width, height of the core's output
    half = (size - 1 if readout.align_corners else size) / 2
    stride, offset = (np.array(values[::-1]) for values in (model.core.spatial_stride, model.core.spatial_offset))
    distances = stride * half * points
    return offset + stride * (size - 1) / 2 + distances if are_places else distances


def _array(values: torch.Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()
