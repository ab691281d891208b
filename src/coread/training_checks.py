"""What is checked before a training: that sessions fit together, a model fits the split, and responses vary."""

from collections.abc import Mapping, Sequence
from typing import Any

import hydra.utils
import numpy as np
from jaxtyping import Float, Int8
from torch import nn

from coread.data_io.splits import TRAIN, VALIDATION
from coread.data_io.statistics import CHUNK_VALUES, QualityError, constant_neurons
from coread.models.causality import is_model_causal
from coread.models.core_readout import BaseCoreReadout
from coread.modules.losses.poisson import PoissonLoss3d
from coread.modules.readout.multi_readout import MultiReadoutBase
from coread.recording import Recording


def check_sessions(recordings: Sequence[Recording]) -> None:
    """Raise ValueError if the sessions cannot share a core, or if no part of a model can have the name of one."""
    if not recordings:
        raise ValueError("there is no recording to train on")
    for session in (recording.session for recording in recordings):
        if not session or "." in session or hasattr(MultiReadoutBase, session):
            raise ValueError(
                f"session {session!r}: weights cannot be named after it, expected a name without dots that means "
                "nothing else in Python's dictionaries; rename the session"
            )
    for attribute in ("rate_hz", "unit"):
        found = {recording.session: getattr(recording, attribute) for recording in recordings}
        if len(set(found.values())) > 1:
            raise ValueError(f"the sessions of one experiment must share {attribute}, found {found}")
    shapes = {
        f"{recording.session}/{name}": tuple(stimulus.frames.shape[1:])
        for recording in recordings
        for name, stimulus in recording.stimuli.items()
    }
    if len(set(shapes.values())) > 1:
        raise ValueError(f"all stimuli must share (channel, height, width), found {shapes}")


def make_callbacks(nodes: Mapping[str, Any]) -> list[Any]:
    """Return the callbacks of `training_callbacks`; raises ValueError for an entry that does not say what it is."""
    if nameless := [name for name, node in nodes.items() if "_target_" not in (node or {})]:
        raise ValueError(
            f"training_callbacks.{nameless[0]} has no _target_: its settings {nodes[nameless[0]]} belong to a callback "
            "that this experiment does not have"
        )
    return [hydra.utils.instantiate(node) for node in nodes.values()]


def check_causality(model: BaseCoreReadout, settings: Mapping[str, Any], recordings: Sequence[Recording]) -> None:
    """Refuse models that see the future where parts of a stimulus are held out: the gap before them is not behind them.

    Tiers as published are held out as they are, and in trials of one bin there is no later frame.
    """
    longer = any(recording.bin_in_trial().any() for recording in recordings)
    if longer and settings["splits"]["method"] != "published" and not is_model_causal(model):
        raise ValueError(
            "the model sees later frames than its own (padding in time), so training bins would see held-out frames: "
            "use causal padding, or splits=published with tiers that are far enough apart. (A model whose predictions "
            "do not depend on the stimulus at all is refused as well)"
        )


def check_quality(
    recordings: Sequence[Recording], labels: Mapping[str, Int8[np.ndarray, "bin"]], fold: int, allow_constant: bool
) -> None:
    """Raise QualityError for a session without training or validation bins, or with neurons that never change."""
    for recording in recordings:
        label = labels[recording.session]
        for wanted, name in ((TRAIN, "training"), (VALIDATION, "validation")):
            if not (label == wanted).any():
                raise QualityError(f"session {recording.session!r} has no {name} bins in fold {fold}")
        if len(constant := constant_neurons(recording, label)) and not allow_constant:
            raise QualityError(
                f"session {recording.session!r}: {len(constant)} of {recording.n_neurons} neurons never change in the "
                f"training bins of fold {fold} (zero variance), neuron rows {constant.tolist()}; "
                "remove them from the recording, or train beside them with quality_checks.allow_constant_neurons=true"
            )


def check_loss(
    recordings: Sequence[Recording], labels: Mapping[str, Int8[np.ndarray, "bin"]], fold: int, loss: nn.Module
) -> None:
    """Raise QualityError for negative training responses under a Poisson loss, which would rather have silent cells."""
    if not isinstance(loss, PoissonLoss3d):
        return
    for recording in recordings:
        lowest = lowest_responses(recording, labels[recording.session])
        if (lowest < 0).any():
            raise QualityError(
                f"session {recording.session!r}: {(lowest < 0).sum()} of {recording.n_neurons} neurons have negative "
                f"responses in the training bins of fold {fold}, down to {lowest.min():.4g}, where a Poisson loss "
                f"({type(loss).__name__}) wants counts or rates: use another loss, such as loss=mse with a readout "
                "without rectification, or responses that are not negative (hoefling_2024: data_io.trace_type=spikes)"
            )


def lowest_responses(recording: Recording, labels: Int8[np.ndarray, "bin"]) -> Float[np.ndarray, "neuron"]:
    """Return the lowest response of every neuron in the training bins, read in chunks."""
    train = labels == TRAIN
    lowest = np.full(recording.n_neurons, np.inf)
    step = max(1, CHUNK_VALUES // max(1, recording.n_neurons))
    for start in range(0, recording.n_bins, step):
        chunk = np.asarray(recording.responses[start : start + step])[train[start : start + step]]
        lowest = np.minimum(lowest, chunk.min(axis=0, initial=np.inf))
    return lowest
