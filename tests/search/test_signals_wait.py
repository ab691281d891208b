"""Signals that would end a trial while it writes into the study."""

import signal
import threading
from collections.abc import Iterator

import pytest

from coread.search.trial import signals_wait


@pytest.fixture
def ending() -> Iterator[list[str]]:
    """What happens, in order; SIGUSR2 ends the process as submitit does."""
    events: list[str] = []

    def end(_number: int, _frame: object) -> None:
        events.append("ended")
        raise SystemExit(144)

    before = signal.signal(signal.SIGUSR2, end)
    yield events
    signal.signal(signal.SIGUSR2, before)


def test_a_signal_ends_the_trial_after_the_study_is_written(ending: list[str]) -> None:
    def write() -> None:
        with signals_wait():
            signal.raise_signal(signal.SIGUSR2)
            ending.append("written")

    with pytest.raises(SystemExit) as raised:
        write()
    assert raised.value.code == 144
    assert ending == ["written", "ended"]
    with pytest.raises(SystemExit):
        signal.raise_signal(signal.SIGUSR2)


def test_an_error_does_not_lose_the_signal(ending: list[str]) -> None:
    def fail() -> None:
        with signals_wait():
            signal.raise_signal(signal.SIGUSR2)
            raise OSError("the disk is full")

    with pytest.raises(SystemExit):
        fail()
    assert ending == ["ended"]


def test_other_threads_are_left_alone(ending: list[str]) -> None:
    def write() -> None:
        with signals_wait():
            ending.append("written")

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    assert ending == ["written"]
