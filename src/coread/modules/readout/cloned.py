"""Readout of neurons that another session recorded too."""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coread.modules.nonlinearities import RATE_FLOOR
from coread.modules.readout.base import Readout, Reduction, projected_clamp

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ClonedReadout(Readout):
    """Factor and offset per neuron on the responses of another readout, for neurons matched across sessions.

    Where, with which features and with which nonlinearity a neuron reads is learned by all sessions together. Rates
    stay positive: unless the source's nonlinearity is the identity, factor and offset are used clipped at 0.

    Args:
        original_readout: readout of the session that was there first.
        mean_activity: mean response `(neuron,)`, from which the factor starts.
        n_neurons: number of neurons, to be checked against the source's.
        session: name for messages.
        published_behaviour: neither clipped nor started at the mean rate, as openretina 1.1.1.

    Raises ValueError for another number of neurons.

    """

    bias = None

    def __init__(
        self,
        original_readout: Readout,
        mean_activity: Float[Tensor, " neuron"] | None = None,
        n_neurons: int | None = None,
        session: str = "",
        published_behaviour: bool | None = None,
    ):
        published = original_readout.published_behaviour if published_behaviour is None else published_behaviour
        outdims = original_readout.number_of_neurons()
        super().__init__(original_readout.in_shape, outdims, original_readout.nonlinearity, published)
        if n_neurons is not None and n_neurons != outdims:
            raise ValueError(f"session {session!r} has {n_neurons} neurons, the readout that it clones has {outdims}")
        self._source = original_readout
        self.lag = original_readout.lag
        self.alpha = nn.Parameter(torch.ones(outdims))
        self.beta = nn.Parameter(torch.zeros(outdims))
        self.initialize(mean_activity)

    def forward(
        self, x: Float[Tensor, "batch channel time height width"], **kwargs: Any
    ) -> Float[Tensor, "batch time neuron"]:
        """Return the scaled responses of the source; `kwargs` go to it."""
        y = self._source(x, **kwargs)
        if self.published_behaviour or self.nonlinearity.name == "identity":
            return y * self.alpha + self.beta
        return y * projected_clamp(self.alpha, 0.0) + projected_clamp(self.beta, 0.0)

    def plot_weight_for_neuron(self, neuron_id: int, *arguments: Any, **keywords: Any) -> "Figure":
        """Return the figure of the same neuron of the source, with which it reads."""
        return self._source.plot_weight_for_neuron(neuron_id, *arguments, **keywords)

    def feature_l1(self, average: bool = True) -> Float[Tensor, ""]:
        """Return the mean (or sum) of the absolute feature weights times the factors.

        Raises TypeError if the source has no feature weights with the neurons last.
        """
        features = getattr(self._source, "features", None)
        if features is None or features.shape[-1] != self.outdims:
            raise TypeError(f"{type(self._source).__name__} has no feature weights (..., neuron)")
        weights = (features * self.alpha).abs()
        return weights.mean() if average else weights.sum()

    def penalties(self, reduction: Reduction = "sum") -> dict[str, Float[Tensor, ""]]:
        """Return those of the source: what all sessions teach is penalised at every session's steps."""
        return self._source.penalties(reduction)

    @torch.no_grad()
    def initialize(self, mean_activity: Float[Tensor, " neuron"] | None = None) -> None:
        """Set factors to 1 and offsets to 0; with mean rates the factors lead from the source's start to these."""
        self.alpha.fill_(1.0)
        self.beta.zero_()
        if mean_activity is None or self.published_behaviour or self._source.bias is None:
            return
        rate = torch.as_tensor(mean_activity, dtype=torch.float32).flatten()
        if rate.numel() != self.outdims:
            raise ValueError(f"mean activity of {rate.numel()} neurons for a readout of {self.outdims}")
        start = self.nonlinearity(self._source.bias)
        self.alpha.copy_(torch.where(start.abs() > RATE_FLOOR, rate / start, 1.0))
