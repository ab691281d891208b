"""Cyclers: every batch of every session, in the promised number."""

from collections.abc import Iterator

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from coread.data_io.cyclers import LongCycler, SharedCycler, ShortCycler

LOADERS = {"a": list(range(1)), "b": list(range(20)), "c": list(range(5))}


def test_the_short_cycler_yields_every_batch_once():
    cycler = ShortCycler(LOADERS)
    assert list(cycler) == [(session, batch) for session, batches in LOADERS.items() for batch in batches]
    assert len(list(cycler)) == len(cycler) == 26


def test_the_long_cycler_visits_sessions_in_turn_until_the_longest_is_through():
    cycler = LongCycler(LOADERS, shuffle=False)
    batches = list(cycler)
    assert len(batches) == len(cycler) == 60
    assert [session for session, _ in batches[:4]] == ["a", "b", "c", "a"]
    for session, loader in LOADERS.items():
        assert {batch for key, batch in batches if key == session} == set(loader)


class Redrawn(list):
    """Batches that tell of which pass they are."""

    def again(self, number: int) -> list[tuple[int, int]]:
        return [(number, batch) for batch in self]


def test_later_passes_over_a_short_session_are_drawn_anew():
    cycler = LongCycler({"long": list(range(5)), "short": Redrawn([0, 1])}, shuffle=False)
    short = [batch for session, batch in cycler if session == "short"]
    assert short == [0, 1, (1, 0), (1, 1), (2, 0)]
    shared = SharedCycler(cycler, 0, 1)
    assert [batch for session, batch, _ in shared if session == "short"] == short


@pytest.mark.parametrize("cycler", [LongCycler(LOADERS, shuffle=False), ShortCycler(LOADERS)])
def test_a_cycler_can_be_iterated_again(cycler):
    assert list(cycler) == list(cycler)


# ----------------------------------------------------------------------------------------- as data sets of a DataLoader


class Numbers(IterableDataset):
    """Elements 0, 1, ... of a named data set."""

    def __init__(self, name: str, n_elements: int) -> None:
        self.name, self.n_elements = name, n_elements

    def __iter__(self) -> Iterator[str]:
        return (f"{self.name}_{index}" for index in range(self.n_elements))

    def __len__(self) -> int:
        return self.n_elements


def data_loaders(*sizes: int) -> tuple[dict[str, DataLoader], list[str]]:
    sets = {f"set{index}": Numbers(f"set{index}", size) for index, size in enumerate(sizes)}
    return {name: DataLoader(each) for name, each in sets.items()}, [text for each in sets.values() for text in each]


@pytest.mark.parametrize("num_workers", [0, 1, 3, 4])
def test_workers_of_a_short_cycler_yield_every_element_once(num_workers: int) -> None:
    loaders, elements = data_loaders(1, 20, 5, 10)
    visits = list(DataLoader(ShortCycler(loaders), num_workers=num_workers, batch_size=None))
    assert sorted(batch[0] for _, batch in visits) == sorted(elements)
    assert all(batch[0].startswith(session) for session, batch in visits)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_workers_of_a_long_cycler_yield_sessions_times_the_longest(num_workers: int, shuffle: bool) -> None:
    loaders, elements = data_loaders(1, 20, 5, 1)
    visits = list(DataLoader(LongCycler(loaders, shuffle=shuffle), num_workers=num_workers, batch_size=None))
    assert len(visits) == 4 * 20
    assert {batch[0] for _, batch in visits} == set(elements)
    assert {session: [key for key, _ in visits].count(session) for session in loaders} == dict.fromkeys(loaders, 20)


def test_a_shuffled_cycler_draws_an_order_of_sessions_in_every_pass() -> None:
    cycler = LongCycler({f"s{index}": [index] for index in range(8)})
    first, second = list(cycler), list(cycler)
    assert sorted(first) == sorted(second)
    assert first != second
    torch.manual_seed(3)
    one = list(cycler)
    torch.manual_seed(3)
    assert list(cycler) == one
    torch.manual_seed(3)
    assert [(session, cycler.batch(session, turn)) for session, turn in cycler.order()] == one


def test_ranks_cannot_share_a_cycler_that_shuffles() -> None:
    with pytest.raises(ValueError, match="give it shuffle=False"):
        SharedCycler(LongCycler(LOADERS), 0, 2)
