"""Orders in which the batches of several sessions are visited, by one process or by several that share them."""

from collections.abc import Iterator, Mapping, Sequence, Sized
from itertools import islice
from typing import Any, Protocol


class Batches(Sized, Protocol):
    """Anything that knows its number of batches and can be iterated again and again."""

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches of one pass."""
        ...


class LongCycler:
    """Visit sessions in turn until the longest is through; shorter sessions start again: n_sessions x max(len) batches.

    Yields (session, batch).
    """

    def __init__(self, loaders: Mapping[str, Batches]) -> None:
        self.loaders = dict(loaders)

    def __len__(self) -> int:
        return len(self.loaders) * max(len(loader) for loader in self.loaders.values())

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        running = {session: iter(loader) for session, loader in self.loaders.items()}
        for _ in range(max(len(loader) for loader in self.loaders.values())):
            for session, loader in self.loaders.items():
                try:
                    batch = next(running[session])
                except StopIteration:
                    running[session] = iter(loader)
                    batch = next(running[session])
                yield session, batch

    def order(self) -> Iterator[tuple[str, int]]:
        """Yield (session, index of a batch in its loader) in the order of the visits, without making the batches."""
        for turn in range(max(len(loader) for loader in self.loaders.values())):
            for session, loader in self.loaders.items():
                yield session, turn % len(loader)


class ShortCycler:
    """Visit every batch of every session exactly once, session after session; yields (session, batch)."""

    def __init__(self, loaders: Mapping[str, Batches]) -> None:
        self.loaders = dict(loaders)

    def __len__(self) -> int:
        return sum(len(loader) for loader in self.loaders.values())

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        for session, loader in self.loaders.items():
            for batch in loader:
                yield session, batch

    def order(self) -> Iterator[tuple[str, int]]:
        """Yield (session, index of a batch in its loader) in the order of the visits, without making the batches."""
        for session, loader in self.loaders.items():
            for index in range(len(loader)):
                yield session, index


class SharedCycler:
    """One rank's share of a cycler's order: in step k rank r visits batch k x size + r, and only those are made.

    Yields (session, batch, weight). The weight is 1; in an incomplete last step the ranks that have no batch left get
    the step's first one with weight 0, so that all take part in it and use no parameter that nobody else uses. The
    loaders' batches must be sequences.
    """

    def __init__(self, cycler: LongCycler | ShortCycler, rank: int, size: int) -> None:
        self.cycler, self.rank, self.size = cycler, rank, size

    def __len__(self) -> int:
        return -(-len(self.cycler) // self.size)

    def __iter__(self) -> Iterator[tuple[str, Any, float]]:
        loaders: Mapping[str, Sequence[Any]] = self.cycler.loaders  # type: ignore[assignment]
        order = self.cycler.order()
        while step := list(islice(order, self.size)):
            has_one = self.rank < len(step)
            session, index = step[self.rank if has_one else 0]
            yield session, loaders[session][index], float(has_one)
