"""What models are told beside the stimulus: fitted with a member's fold, kept with the member, bound to a recording."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int8

from coread.data_io.regressors.session import SessionContext, SessionMaps, fit_session
from coread.data_io.splits import TRAIN
from coread.data_io.statistics import Statistics
from coread.models.typical_context import mean_context
from coread.recording import Recording

Labels = Mapping[str, Int8[np.ndarray, "bin"]]


class ContextError(ValueError):
    """A member cannot tell what a model wants beside the stimulus; the message names the session."""


def fit_contexts(
    recordings: Sequence[Recording],
    labels: Labels,
    statistics: Statistics,
    settings: Mapping[str, Any],
    names: Sequence[str],
) -> tuple[dict[str, SessionContext], dict[str, Any]]:
    """Fit the regressors of every session on a fold; return them bound, and what the member keeps in `data_info`.

    The member keeps the maps (`regressors`), the means over its training bins of the variables `names`
    (`typical_context`) and the labels of its bins (`labels`), which say what a history may look back on.
    """
    contexts: dict[str, SessionContext] = {}
    kept: dict[str, dict[str, Any]] = {"regressors": {}, "typical_context": {}, "labels": {}}
    for recording in recordings:
        session, label = recording.session, labels[recording.session]
        scale = statistics.response_scale[session]
        maps = fit_session(recording, label, scale, settings)
        contexts[session] = maps.bind(recording, label, scale)
        kept["regressors"][session] = maps.to_plain()
        kept["typical_context"][session] = mean_context(contexts[session], np.flatnonzero(label == TRAIN), names)
        kept["labels"][session] = torch.from_numpy(label)
    return contexts, kept


def bind_context(
    recording: Recording, data_info: Mapping[str, Any], labels: Int8[np.ndarray, "bin"] | None = None
) -> SessionContext:
    """Return what a member knows of a recording beside its stimuli; `labels` are by default those of its training.

    Raises ContextError if the member has no maps of the session, or was trained on another number of bins.
    """
    session = recording.session
    if session not in data_info.get("regressors", {}):
        known = sorted(data_info.get("regressors", {}))
        raise ContextError(f"session {session!r}: the member keeps regressors of {known} only")
    if labels is None:
        labels = data_info["labels"][session].cpu().numpy()
    if len(labels) != recording.n_bins:
        raise ContextError(
            f"session {session!r}: the member was trained on {len(labels)} bins, the recording has {recording.n_bins}: "
            "give the labels of its bins"
        )
    maps = SessionMaps.from_plain(_in_main_memory(data_info["regressors"][session]))
    return maps.bind(recording, labels, data_info["response_scale"][session].cpu())


def _in_main_memory(plain: Any) -> Any:
    """Return what a member keeps where maps are applied; a member may have been loaded to a GPU."""
    if isinstance(plain, Mapping):
        return {name: _in_main_memory(value) for name, value in plain.items()}
    return plain.cpu() if isinstance(plain, torch.Tensor) else plain
