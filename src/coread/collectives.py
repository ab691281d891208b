"""What ranks tell each other beside gradients; in a single process each function returns what it was given."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed
from jaxtyping import Float
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase


def is_shared() -> bool:
    """Return whether this process is one of several ranks."""
    return torch.distributed.is_initialized()


def gather(values: Float[Tensor, "value"]) -> list[Float[Tensor, "value"]]:
    """Return the values of every rank, in the order of the ranks; all ranks must call it."""
    if not is_shared():
        return [values]
    gathered = [torch.empty_like(values) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(gathered, values.contiguous())
    return gathered


def gather_scalars(first: Tensor, *others: Tensor | float) -> list[tuple[Tensor | float, ...]]:
    """Return some numbers of every rank, exactly, in the order of the ranks; all ranks must call it."""
    if not is_shared():
        return [(first, *others)]
    numbers = [number.item() if isinstance(number, Tensor) else number for number in (first, *others)]
    values = torch.tensor(numbers, dtype=torch.float64, device=first.device)
    return [tuple(of_rank.tolist()) for of_rank in gather(values)]


def gather_objects(value: Any) -> list[Any]:
    """Return a picklable value of every rank, in the order of the ranks; all ranks must call it."""
    if not is_shared():
        return [value]
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, value)
    return gathered


class RunningStatistics:
    """Running means and variances of the normalisation layers of a model, kept as one process would have them.

    Every rank updates them with its own batch only, all ranks from the same start. An update is s + f (x - s) with x
    the statistics of the batch and f the layer's momentum, so the x of a rank follows from its s: they are applied in
    the order of the ranks.
    """

    def __init__(self, modules: Iterable[torch.nn.Module]) -> None:
        self.layers = [m for m in modules if isinstance(m, _NormBase) and m.running_mean is not None]
        self.before = self._read()

    def combine(self, *, counts: bool) -> None:
        """Replace every rank's statistics by those of one process that saw the batches of all ranks, one by one.

        `counts` is false where this rank's batch has weight zero, for which its update is forgotten.
        """
        if not self.layers:
            return
        own = self._read() if counts else self.before
        every_rank = [values.split(self._sizes()) for values in gather(own)]
        for index, (layer, start) in enumerate(zip(self.layers, self.before.split(self._sizes()), strict=True)):
            state = start.clone()
            for update in (values[index] for values in every_rank):
                if update[0] > start[0]:  # this rank's batch went through this layer
                    batch = start[1:] + (update[1:] - start[1:]) / _factor(layer, float(start[0]))
                    state[1:] += _factor(layer, float(state[0])) * (batch - state[1:])
                    state[0] += 1
            _write(layer, state)
        self.before = self._read()

    def _sizes(self) -> list[int]:
        return [1 + 2 * layer.num_features for layer in self.layers]

    def _read(self) -> Float[Tensor, "value"]:
        """Return (number of batches, means, variances) of all layers, in float64."""
        parts = [
            part.reshape(-1).double()
            for layer in self.layers
            for part in (layer.num_batches_tracked, layer.running_mean, layer.running_var)
            if part is not None
        ]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)


def _factor(layer: _NormBase, n_batches: float) -> float:
    """Return the weight of one more batch; without a momentum the statistics are plain means over all batches."""
    return 1 / (n_batches + 1) if layer.momentum is None else layer.momentum


def _write(layer: _NormBase, state: Float[Tensor, "value"]) -> None:
    mean, variance = state[1:].split(layer.num_features)
    layer.num_batches_tracked.fill_(int(state[0]))  # type: ignore[union-attr]
    layer.running_mean.copy_(mean)  # type: ignore[union-attr]
    layer.running_var.copy_(variance)  # type: ignore[union-attr]
