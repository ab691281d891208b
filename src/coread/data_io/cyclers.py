"""Orders in which the batches of several sessions are visited, by one process or by several that share them."""

from collections.abc import Iterable, Iterator, Mapping, Sized
from itertools import islice
from typing import Any, Protocol, TypeVar

import torch
from torch.utils.data import IterableDataset, get_worker_info


class Batches(Sized, Protocol):
    """Anything that knows its number of batches and can be iterated again and again, such as a DataLoader."""

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches of one pass."""
        ...


Item = TypeVar("Item")


def cycle(iterable: Iterable[Item]) -> Iterator[Item]:
    """Yield the items again and again; each pass iterates anew, so that a DataLoader draws another order.

    Raises ValueError for a pass without items: an empty iterable, or an iterator that can be run through only once.
    """
    while True:
        empty = True
        for item in iterable:
            empty = False
            yield item
        if empty:
            raise ValueError(f"a pass over {type(iterable).__name__} gave no items, so it cannot be cycled")


class LongCycler(IterableDataset):
    """Visit sessions in turn until the longest is through; shorter sessions start again: n_sessions x max(len) batches.

    A loader with `again(number)` gives the batches of its later passes, others are iterated anew.

    Yields (session, batch), the sessions in the order given or, with `shuffle`, in an order that torch's global
    generator draws at the start of every pass. In a DataLoader (`batch_size=None`) workers share the sessions.
    """

    def __init__(self, loaders: Mapping[str, Batches], shuffle: bool = True) -> None:
        self.loaders = dict(loaders)
        self.shuffle = shuffle

    def __len__(self) -> int:
        return len(self.loaders) * self._n_turns()

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        sessions = self._visited()
        running = {session: iter(self.loaders[session]) for session in sessions}
        passes = dict.fromkeys(sessions, 0)
        for _ in range(self._n_turns()):
            for session in sessions:
                try:
                    batch = next(running[session])
                except StopIteration:
                    passes[session] += 1
                    running[session] = iter(_of_pass(self.loaders[session], passes[session]))
                    batch = next(running[session])
                yield session, batch

    def order(self) -> Iterator[tuple[str, int]]:
        """Yield (session, turn) in the order of the visits, without making the batches."""
        sessions = self._visited()
        for turn in range(self._n_turns()):
            for session in sessions:
                yield session, turn

    def batch(self, session: str, turn: int) -> Any:
        """Return a session's batch of one turn; its loader's batches must be a sequence."""
        loader: Any = self.loaders[session]
        number, index = divmod(turn, len(loader))
        return _of_pass(loader, number)[index]

    def _n_turns(self) -> int:
        return max((len(loader) for loader in self.loaders.values()), default=0)

    def _visited(self) -> list[str]:
        sessions = _of_this_worker(self.loaders)
        return [sessions[i] for i in torch.randperm(len(sessions)).tolist()] if self.shuffle else sessions


class ShortCycler(IterableDataset):
    """Visit every batch of every session exactly once, session after session; yields (session, batch).

    In a DataLoader (`batch_size=None`) workers share the sessions.
    """

    def __init__(self, loaders: Mapping[str, Batches]) -> None:
        self.loaders = dict(loaders)

    def __len__(self) -> int:
        return sum(len(loader) for loader in self.loaders.values())

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        for session in _of_this_worker(self.loaders):
            for batch in self.loaders[session]:
                yield session, batch

    def order(self) -> Iterator[tuple[str, int]]:
        """Yield (session, index of a batch in its loader) in the order of the visits, without making the batches."""
        for session in _of_this_worker(self.loaders):
            for index in range(len(self.loaders[session])):
                yield session, index

    def batch(self, session: str, index: int) -> Any:
        """Return one batch of a session, whose loader's batches must be a sequence."""
        loader: Any = self.loaders[session]
        return loader[index]


def _of_pass(loader: Any, number: int) -> Any:
    """Return what gives a session's batches in pass 0, 1, ... of an epoch."""
    return loader.again(number) if number and hasattr(loader, "again") else loader


def _of_this_worker(loaders: Mapping[str, Batches]) -> list[str]:
    """Return all sessions, or this worker's share of them inside a worker process of a DataLoader."""
    worker = get_worker_info()
    return list(loaders) if worker is None else list(loaders)[worker.id :: worker.num_workers]


class SharedCycler:
    """One rank's share of a cycler's order: in step k rank r visits batch k x size + r, and only those are made.

    Yields (session, batch, weight). The weight is 1; in an incomplete last step the ranks that have no batch left get
    the step's first one with weight 0, so that all take part in it and use no parameter that nobody else uses. The
    loaders' batches must be sequences. Raises ValueError for a cycler that shuffles: every rank would draw another
    order.
    """

    def __init__(self, cycler: LongCycler | ShortCycler, rank: int, size: int) -> None:
        if isinstance(cycler, LongCycler) and cycler.shuffle:
            raise ValueError("ranks cannot share a LongCycler that shuffles the sessions: give it shuffle=False")
        self.cycler, self.rank, self.size = cycler, rank, size

    def __len__(self) -> int:
        return -(-len(self.cycler) // self.size)

    def __iter__(self) -> Iterator[tuple[str, Any, float]]:
        order = self.cycler.order()
        while step := list(islice(order, self.size)):
            has_one = self.rank < len(step)
            session, index = step[self.rank if has_one else 0]
            yield session, self.cycler.batch(session, index), float(has_one)
