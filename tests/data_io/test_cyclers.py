"""Cyclers: every batch of every session, in the promised number."""

import pytest

from coread.data_io.cyclers import LongCycler, ShortCycler

LOADERS = {"a": list(range(1)), "b": list(range(20)), "c": list(range(5))}


def test_the_short_cycler_yields_every_batch_once():
    cycler = ShortCycler(LOADERS)
    assert list(cycler) == [(session, batch) for session, batches in LOADERS.items() for batch in batches]
    assert len(list(cycler)) == len(cycler) == 26


def test_the_long_cycler_visits_sessions_in_turn_until_the_longest_is_through():
    cycler = LongCycler(LOADERS)
    batches = list(cycler)
    assert len(batches) == len(cycler) == 60
    assert [session for session, _ in batches[:4]] == ["a", "b", "c", "a"]
    for session, loader in LOADERS.items():
        assert {batch for key, batch in batches if key == session} == set(loader)


@pytest.mark.parametrize("cycler", [LongCycler, ShortCycler])
def test_a_cycler_can_be_iterated_again(cycler):
    assert list(cycler(LOADERS)) == list(cycler(LOADERS))
