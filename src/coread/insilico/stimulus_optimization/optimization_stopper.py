"""When an optimisation ends."""

import sys


class OptimizationStopper:
    """Ends after `max_iterations` (None: never) or, with `patience`, when the loss no longer falls.

    It no longer falls if it was not below its minimum by more than `min_delta`, plus `min_share` of the minimum's
    absolute value, for `patience` iterations. One stopper can serve many optimisations: each uses a copy.
    """

    def __init__(
        self,
        max_iterations: int | None,
        patience: int | None = None,
        min_delta: float = 0.0,
        min_share: float = 0.0,
    ):
        if patience is not None and patience < 1:
            raise ValueError(f"patience must be at least 1 iteration, got {patience}")
        self.max_iterations = sys.maxsize if max_iterations is None else max_iterations
        self._patience, self._min_delta, self._min_share = patience, min_delta, min_share
        self._counter = 0
        self._min_loss = float("inf")

    def early_stop(self, loss: float) -> bool:
        """Take the loss of an iteration and return whether it was the last one."""
        if self._patience is None:
            return False
        needed = 0.0 if self._min_loss == float("inf") else self._min_delta + self._min_share * abs(self._min_loss)
        if loss < self._min_loss - needed:
            self._min_loss, self._counter = loss, 0
        else:
            self._counter += 1
        return self._counter >= self._patience


class EarlyStopper(OptimizationStopper):
    """The published rule: only iterations above the minimum by more than `min_delta` count, so a plateau goes on."""

    def __init__(self, max_iterations: int | None = None, patience: int = 1, min_delta: float = 0.0):
        super().__init__(max_iterations, patience, min_delta)

    def early_stop(self, loss: float) -> bool:
        """Take the loss of an iteration and return whether it was the last one."""
        if loss < self._min_loss:
            self._min_loss, self._counter = loss, 0
        elif loss > self._min_loss + self._min_delta:
            self._counter += 1
            return self._counter >= (self._patience or 1)
        return False
