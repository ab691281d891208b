"""The model neurons of one session as an in-silico experiment sees them: physical stimuli in, recorded units out."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from coread.eval.predictions import evaluating
from coread.models.core_readout import BaseCoreReadout
from coread.models.ensemble import EnsembleModel
from coread.models.typical_context import respond_typically

if TYPE_CHECKING:
    from coread.recording import Recording

CONTRAST_STD = (
    2.0  # of a stimulus without a physical grey (a z-scored movie): contrast 1 is that many of its deviations
)
LIGHT_LEVELS = 0.5  # mean over deviation above which a stimulus is taken for light levels: 1 for black and white checks
BATCH_VALUES = 2**24  # stimulus values computed at once


class Population:
    """The neurons of `session` under one or more members of an ensemble.

    Stimuli are contrasts, -1 (black) to 1 (white) around the mean grey of the training stimulus, at `rate_hz` and on
    the model's pixels (`pixel_um` or `pixel_deg` wide, None where unknown). Where the recording stores light levels,
    which are never negative, contrast is relative to their mean; elsewhere contrast 1 is CONTRAST_STD standard
    deviations. What the models want beside the stimulus is held at its mean in training. `recording` is that of the
    session where it is at hand (in the workflow, frames not loaded), None from a checkpoint alone. Raises ValueError
    for a session that the models do not know, and for members that do not fit together.
    """

    def __init__(
        self,
        models: Sequence[BaseCoreReadout],
        session: str,
        *,
        device: torch.device | str | None = None,
        recording: "Recording | None" = None,
    ) -> None:
        known = dict(models[0].data_info["n_neurons_dict"]) if models else {}
        if session not in known:
            raise ValueError(f"session {session!r} is unknown to the model, which has {sorted(known)}")
        self.session = session
        self.recording = recording
        self.models = tuple(models if device is None else [model.to(device) for model in models])
        self.model: nn.Module = self.models[0] if len(self.models) == 1 else EnsembleModel(*self.models)
        self.n_neurons = int(known[session])

    @cached_property
    def data_info(self) -> dict[str, Any]:
        """What the first member was trained with."""
        return self.models[0].data_info

    @property
    def n_members(self) -> int:
        """How many members there are."""
        return len(self.models)

    @property
    def lag(self) -> int:
        """Bins that a response is shorter than its stimulus."""
        return int(self.models[0].lag)

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return next(self.models[0].parameters()).device

    @property
    def rate_hz(self) -> float:
        """Bins per second; NaN where the model does not know."""
        return float(self.data_info.get("rate_hz") or np.nan)

    @property
    def pixel_um(self) -> float | None:
        """Width of a pixel on the retina in micrometres."""
        return self.data_info.get("pixel_um")

    @property
    def pixel_deg(self) -> float | None:
        """Width of a pixel in degrees of visual angle."""
        return self.data_info.get("pixel_deg")

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Return (channel, height, width) of a frame."""
        channels, _, height, width = self.models[0].stimulus_shape(1)[1:]
        return channels, height, width

    @property
    def unit(self) -> str:
        """Unit of the responses."""
        return str(self.data_info.get("unit") or "arbitrary units")

    @property
    def neurons(self) -> pd.DataFrame:
        """One row per neuron: session, neuron and what the recording tells of it (unit_id, cell_type, ...)."""
        columns = dict(self.data_info.get("neurons_dict", {}).get(self.session, {}))
        return pd.DataFrame({"session": self.session, "neuron": range(self.n_neurons)} | columns)

    @cached_property
    def contrast_std(self) -> float:
        """Contrast 1 in standard deviations of the first member's training stimulus."""
        mean, std = _mean_std(self.models[0])
        return mean / std if mean > LIGHT_LEVELS * std else CONTRAST_STD

    def normalised(self, contrast: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return a stimulus as `model` takes it: the first member's normalisation."""
        return contrast.to(self.device) * self.contrast_std

    def contrast(self, normalised: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the contrast of a stimulus in the first member's normalisation."""
        return normalised / self.contrast_std

    def scales(self) -> Float[Tensor, "member neuron"]:
        """Return the recorded units of one unit of each member's response."""
        ones = torch.ones(self.n_neurons)
        scales = [model.data_info.get("response_scale", {}).get(self.session, ones) for model in self.models]
        return torch.stack([torch.as_tensor(scale, dtype=torch.float32) for scale in scales]).to(self.device)

    def respond(
        self, contrast: Float[Tensor, "stimulus channel time height width"], batch_size: int | None = None
    ) -> Float[Tensor, "member stimulus time_out neuron"]:
        """Return every member's response to every stimulus in recorded units, without gradients, in eval mode.

        time_out = time - `lag`: the first output belongs to the bin with index `lag`. Stimuli are computed
        `batch_size` at a time (None: as many as take little memory). Raises ValueError for one that is too short.
        """
        if contrast.shape[2] <= self.lag:
            raise ValueError(
                f"a stimulus needs more than {self.lag} bins (the lag of the model), got {contrast.shape[2]}"
            )
        size = batch_size or max(1, BATCH_VALUES // int(np.prod(contrast.shape[1:])))
        return (
            torch.stack([self._respond(model, contrast, size) for model in self.models]) * self.scales()[:, None, None]
        )

    def _respond(self, model: BaseCoreReadout, contrast: Tensor, size: int) -> Tensor:
        (mean, std), (own_mean, own_std) = _mean_std(self.models[0]), _mean_std(model)
        parts = []
        with evaluating(model), torch.no_grad():
            for start in range(0, len(contrast), size):
                shown = self.normalised(contrast[start : start + size])
                parts.append(respond_typically(model, (shown * std + mean - own_mean) / own_std, self.session))
        return torch.cat(parts)


def _mean_std(model: BaseCoreReadout) -> tuple[float, float]:
    """Return mean and standard deviation of the stimulus that a model was trained with."""
    info = model.data_info
    return float(info.get("stim_mean", 0.0)), float(info.get("stim_std", 1.0))
