"""What a model is told beside the stimulus where nothing was recorded: in-silico stimuli, a test of causality.

Every variable is held at its mean over the training bins, the order in time at the middle of the session.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

if TYPE_CHECKING:
    from coread.data_io.regressors.session import SessionContext
    from coread.models.core_readout import BaseCoreReadout

CHUNK_BINS = 256  # gathered at a time: the history of 8000 neurons with 5 lags takes 160 kB a bin


def mean_context(context: "SessionContext", bins: Int[np.ndarray, "bin"], names: Sequence[str]) -> dict[str, Tensor]:
    """Return the mean of every variable over some bins, without their axis; of time_order the median."""
    means: dict[str, Tensor] = {}
    if "time_order" in names:
        order = context.at(bins[:, None], ["time_order"], "cpu")["time_order"]
        means["time_order"] = order.flatten().median()
    averaged = [name for name in names if name != "time_order"]
    sums: dict[str, Tensor] = {}
    for start in range(0, len(bins) if averaged else 0, CHUNK_BINS):
        for name, values in context.at(bins[start : start + CHUNK_BINS, None], averaged, "cpu").items():
            sums[name] = sums.get(name, torch.zeros(())) + values[:, 0].double().sum(0)
    return means | {name: (total / len(bins)).float() for name, total in sums.items()}


def respond_typically(
    model: nn.Module, stimulus: Float[Tensor, "batch channel time height width"], session: str
) -> Float[Tensor, "batch time_out neuron"]:
    """Return a prediction with all else that the model wants held at its means in training.

    Each member of an ensemble gets means of its own: components of a state, say, have no order that members share.
    """
    batch, time = len(stimulus), stimulus.shape[2]
    members: Any = getattr(model, "members", None)
    if members is None:
        return model(stimulus, session, **typical_context(model, session, batch, time))
    contexts = [typical_context(member, session, batch, time) for member in members]
    return model(stimulus, session, member_contexts=contexts)


def typical_context(model: "BaseCoreReadout | nn.Module", session: str, batch: int, time: int) -> dict[str, Tensor]:
    """Return what a model wants beside the stimulus, as (batch, time, ...) of its session's means in training.

    Empty for a model that wants nothing; raises ValueError if the model does not know the means.
    """
    if not (names := getattr(model, "context_names", ())):
        return {}
    info: Any = model.data_info
    known: Mapping[str, Any] = info.get("typical_context", {}).get(session, {})
    if missing := [name for name in names if name not in known]:
        raise ValueError(
            f"session {session!r}: the model wants {missing}, of which it keeps no mean over training bins"
        )
    device = next(model.parameters()).device
    return {
        name: torch.as_tensor(known[name], device=device).expand(batch, time, *torch.as_tensor(known[name]).shape)
        for name in names
    }


def long_enough(
    stimulus: Float[Tensor, "batch channel time height width"], lag: int
) -> Float[Tensor, "batch channel longer height width"]:
    """Return a stimulus that a model with this lag has a response to.

    One that is no longer than the lag is preceded by `lag` frames of mean grey, with a warning.
    """
    if stimulus.shape[2] > lag:
        return stimulus
    warnings.warn(
        f"the stimulus has {stimulus.shape[2]} frames and the model looks back {lag}: it is preceded by {lag} frames "
        "of mean grey",
        stacklevel=2,
    )
    return torch.cat([stimulus.new_zeros(*stimulus.shape[:2], lag, *stimulus.shape[3:]), stimulus], dim=2)
