"""From the response of an item to one number: which bins and neurons count."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


class ResponseReducer(ABC):
    """Reduces the response of one item, `(time,)` or `(time, neuron)`, along `axis`.

    Of a batch, `reduce_items` reduces every item on its own.
    """

    def __init__(self, axis: int = 0):
        self._axis = axis

    @abstractmethod
    def forward(self, responses: Float[Tensor, "time *neuron"]) -> Float[Tensor, "*reduced"]:
        """Return the reduced response of one item."""

    def reduce_items(self, responses: Float[Tensor, "item time *neuron"]) -> Float[Tensor, "item *reduced"]:
        """Return the reduced response of every item."""
        return torch.stack([self.forward(response) for response in responses])


class MeanReducer(ResponseReducer):
    """Mean along `axis`; with `neuron_dim`, mean response of some neurons over all bins.

    `neuron_dim` is the axis of the neurons in the response of one item, `(time, neuron)`, hence 1; the batch is no axis
    of it. `indices` are the neurons, one number or several; None means all. Raises ValueError for indices without
    `neuron_dim`, IndexError for an axis or a neuron that a response does not have.
    """

    def __init__(self, axis: int = 0, *, neuron_dim: int | None = None, indices: int | Sequence[int] | None = None):
        super().__init__(axis)
        if neuron_dim is None and indices is not None:
            raise ValueError("indices need neuron_dim, the axis of the neurons: 1 in the response (time, neuron)")
        self.neuron_dim = neuron_dim
        self.indices = [indices] if isinstance(indices, int) else None if indices is None else list(indices)

    def forward(self, responses: Float[Tensor, "time *neuron"]) -> Float[Tensor, "*reduced"]:
        """Return the mean along `axis`, or the mean response of the neurons."""
        if self.neuron_dim is None:
            return responses.mean(dim=self._axis)
        return self._chosen(responses, self.neuron_dim).mean()

    def reduce_items(self, responses: Float[Tensor, "item time *neuron"]) -> Float[Tensor, "item *reduced"]:
        """Return the same of every item."""
        if self.neuron_dim is None:
            return responses.mean(dim=_behind_items(self._axis))
        return self._chosen(responses, _behind_items(self.neuron_dim)).flatten(1).mean(dim=1)

    def _chosen(self, responses: Tensor, axis: int) -> Tensor:
        if not -responses.dim() <= axis < responses.dim():
            raise IndexError(f"neuron_dim {self.neuron_dim} is no axis of a response (time, neuron)")
        n_neurons = responses.shape[axis]
        if self.indices is None:
            return responses
        if wrong := [index for index in self.indices if not -n_neurons <= index < n_neurons]:
            raise IndexError(f"there is no neuron {wrong[0]}: axis {self.neuron_dim} has {n_neurons} neurons")
        chosen = torch.tensor([index % n_neurons for index in self.indices], device=responses.device)
        return responses.index_select(axis, chosen)

    def __repr__(self) -> str:
        return f"MeanReducer(axis={self._axis}, neuron_dim={self.neuron_dim}, indices={self.indices})"


class SliceMeanReducer(ResponseReducer):
    """Mean of `length` bins from `start` on, or of those that there are.

    Where the response ends before `start`, the bins are taken from its beginning, with a warning.
    """

    def __init__(self, axis: int, start: int, length: int):
        super().__init__(axis)
        self.start, self.length = start, length

    def window(self, n_bins: int) -> tuple[int, int]:
        """Return first bin and number of bins that are averaged of `n_bins`."""
        length = min(n_bins - self.start, self.length)
        if length > 0:
            return self.start, length
        length = min(self.length, n_bins)
        warnings.warn(
            f"the response has {n_bins} bins, none from bin {self.start} on: the first {length} are averaged instead",
            stacklevel=2,
        )
        return 0, length

    def forward(self, responses: Float[Tensor, "time *neuron"]) -> Float[Tensor, "*reduced"]:
        """Return the mean of the bins."""
        return self._mean(responses, self._axis)

    def reduce_items(self, responses: Float[Tensor, "item time *neuron"]) -> Float[Tensor, "item *reduced"]:
        """Return the same of every item."""
        return self._mean(responses, _behind_items(self._axis))

    def _mean(self, responses: Tensor, axis: int) -> Tensor:
        start, length = self.window(responses.shape[axis])
        return responses.narrow(axis, start, length).mean(dim=axis)

    def __repr__(self) -> str:
        return f"SliceMeanReducer(axis={self._axis}, start={self.start}, length={self.length})"


def _behind_items(axis: int) -> int:
    """Return the number of an item's axis in a batch."""
    return axis + 1 if axis >= 0 else axis
