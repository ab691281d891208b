"""Programs that run side by side, one at a time, and stop at meeting points where something is done for all of them."""

import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from coread.packing.random_state import RandomState

Offer = TypeVar("Offer")
Answer = TypeVar("Answer")
Result = TypeVar("Result")


class Lockstep(Generic[Offer, Answer]):
    """Runs programs in threads of which one runs at a time, each with global random generators of its own.

    A program that calls `meet(offer)` waits until every other one has called it too or has ended. Then
    `answer_all(offers, states)`, called in the thread of `run`, answers all of them; it may move the random states on.
    """

    def __init__(self, answer_all: Callable[[Sequence[Offer], Sequence[RandomState]], Sequence[Answer]]) -> None:
        self._answer_all = answer_all
        self._running: _Program[Offer, Answer] | None = None

    def run(self, programs: dict[str, Callable[[], Result]]) -> dict[str, Result | Exception]:
        """Return what the programs returned or raised, by name; a program that fails does not stop the others."""
        results: dict[str, Result | Exception] = {}
        live = {name: _Program[Offer, Answer](RandomState.now()) for name in programs}
        ours = RandomState.now()
        for name, program in live.items():
            program.start(name, programs[name], results)
        try:
            while live:
                self._let_run(live)
                live = {name: program for name, program in live.items() if name not in results}
                waiting = list(live.values())
                answers = self._answer_all([p.offer for p in waiting], [p.state for p in waiting]) if waiting else []
                for program, answer in zip(waiting, answers, strict=True):
                    program.answer = answer
        finally:
            ours.restore()
        return results

    def meet(self, offer: Offer) -> Answer:
        """Stop here until all programs do; called by a program."""
        assert self._running is not None, "only a running program meets others"
        return self._running.wait_for_answer(offer)

    def _let_run(self, live: dict[str, "_Program[Offer, Answer]"]) -> None:
        for program in live.values():
            self._running = program
            program.let_run()
        self._running = None


@dataclass
class _Program(Generic[Offer, Answer]):
    """A thread that runs only while it is let."""

    state: RandomState
    offer: Offer = field(init=False)
    answer: Answer = field(init=False)
    _may_run: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _has_stopped: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def start(self, name: str, program: Callable[[], Result], results: dict[str, Result | Exception]) -> None:
        def body() -> None:
            self._may_run.acquire()
            try:
                results[name] = program()
            except Exception as error:
                traceback.clear_frames(error.__traceback__)  # model, optimiser and maps, which the others need room for
                results[name] = error
            except BaseException as error:  # SystemExit of one member must not leave the others waiting
                results[name] = RuntimeError(f"ended by {error!r}")
            self._has_stopped.release()

        # a daemon: whoever ends the process need not wait for threads that stand still
        threading.Thread(target=body, name=name, daemon=True).start()

    def let_run(self) -> None:
        self.state.restore()
        self._may_run.release()
        self._has_stopped.acquire()
        self.state = RandomState.now()

    def wait_for_answer(self, offer: Offer) -> Answer:
        self.offer = offer
        self._has_stopped.release()
        self._may_run.acquire()
        return self.answer
