"""Ensembles: the mean prediction of several members."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coread.models.core_readout import BaseCoreReadout
from coread.modules.readout.multi_readout import MultiReadoutBase


class EnsembleModel(nn.Module):
    """The mean prediction of members with the same sessions, for stimuli and in units of the first member.

    Members of different folds were trained with stimulus means, stds and response scales of their own: a stimulus is
    brought from the first member's normalisation to theirs, predictions are brought back from their scale. Raises
    ValueError if there is no member, or if their sessions, stimulus sizes or lags differ.
    """

    def __init__(self, *members: BaseCoreReadout) -> None:
        super().__init__()
        if not members:
            raise ValueError("an ensemble needs a member")
        for name, found in (
            ("sessions and neurons", [dict(member.data_info["n_neurons_dict"]) for member in members]),
            ("(channel, height, width)", [list(member.data_info["input_shape"]) for member in members]),
            ("lag", [member.lag for member in members]),
        ):
            if different := [value for value in found if value != found[0]]:
                raise ValueError(f"the members of an ensemble share {name}, found {found[0]} and {different[0]}")
        self.members = nn.ModuleList(members)
        self._normalisations = [self._between(members[0], member) for member in members]

    @staticmethod
    def _between(first: BaseCoreReadout, member: BaseCoreReadout) -> tuple[float, float]:
        """Return factor and offset from the stimulus normalisation of one member to that of another."""
        (mean, std), (own_mean, own_std) = (
            (float(model.data_info.get("stim_mean", 0.0)), float(model.data_info.get("stim_std", 1.0)))
            for model in (first, member)
        )
        return std / own_std, (mean - own_mean) / own_std

    @property
    def _models(self) -> Sequence[BaseCoreReadout]:
        return list(self.members)  # type: ignore[arg-type]

    @property
    def data_info(self) -> dict[str, Any]:
        """What the first member was trained with."""
        return self._models[0].data_info

    @property
    def readout(self) -> MultiReadoutBase:
        """The readouts of the first member, which tell the sessions."""
        return self._models[0].readout

    @property
    def lag(self) -> int:
        """Bins that the output is shorter than the input."""
        return self._models[0].lag

    def stimulus_shape(self, time_steps: int, num_batches: int = 1) -> tuple[int, int, int, int, int]:
        """Return (batch, channel, time, height, width) of a stimulus for this ensemble."""
        return self._models[0].stimulus_shape(time_steps, num_batches)

    @property
    def context_names(self) -> tuple[str, ...]:
        """What the members take beside stimulus and session."""
        return self._models[0].context_names

    def forward(
        self,
        x: Float[Tensor, "batch channel time height width"],
        data_key: str | None = None,
        *,
        member_contexts: Sequence[Mapping[str, Tensor]] | None = None,
        **context: Tensor,
    ) -> Float[Tensor, "batch time_out neuron"]:
        """Return the mean prediction for a session, or for all sessions in sorted order if `data_key` is None.

        `context` goes to every member as it is, so it must be in units that the members share; `member_contexts` gives
        each member its own (`coread.models.typical_context.respond_typically`). Of a recording, whose context each
        member makes with maps of its own, use `coread.eval.predictions.predict`. Raises ValueError for a state of the
        network that all members are to share: its components have no order that they agree on.
        """
        if "state" in context and len(self.members) > 1:
            raise ValueError("the members of an ensemble have states of the network of their own: use member_contexts")
        contexts = [context] * len(self.members) if member_contexts is None else member_contexts
        sessions = self.readout.readout_keys() if data_key is None else [data_key]
        reference = self._scale(self._models[0], sessions, x)
        predictions = [
            model(x * factor + offset, data_key, **own) * (self._scale(model, sessions, x) / reference)
            for model, (factor, offset), own in zip(self._models, self._normalisations, contexts, strict=True)
        ]
        return torch.stack(predictions).mean(dim=0)

    @staticmethod
    def _scale(model: BaseCoreReadout, sessions: Sequence[str], like: Tensor) -> Float[Tensor, " neuron"]:
        scales, counts = model.data_info.get("response_scale", {}), model.data_info["n_neurons_dict"]
        parts = [torch.as_tensor(scales.get(session, torch.ones(counts[session]))) for session in sessions]
        return torch.cat(parts).to(like)
