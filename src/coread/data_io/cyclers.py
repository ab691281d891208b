"""Orders in which the batches of several sessions are visited."""

from collections.abc import Iterator, Mapping, Sized
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
