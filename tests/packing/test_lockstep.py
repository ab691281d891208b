"""Programs side by side: who waits for whom, own random numbers, and one that fails."""

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from coread.packing.lockstep import Lockstep
from coread.packing.random_state import RandomState


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def test_programs_meet_until_they_end_and_draw_what_they_would_alone() -> None:
    met: list[list[str]] = []

    def answer_all(offers: Sequence[str], states: Sequence[RandomState]) -> list[str]:
        met.append(list(offers))
        draw()  # whoever computes may draw too
        return [offer.upper() for offer in offers]

    lockstep: Lockstep[str, str] = Lockstep(answer_all)

    def program(name: str, n_meetings: int, meet: Callable[[str], str]) -> list[object]:
        random.seed(n_meetings)
        np.random.seed(n_meetings)  # noqa: NPY002
        torch.manual_seed(n_meetings)
        seen: list[object] = [draw()]
        for _ in range(n_meetings):
            seen += [meet(name), draw()]
        return seen

    before = RandomState.now()
    names = {"a": 2, "b": 0, "c": 3}
    together = lockstep.run({name: lambda n=name: program(n, names[n], lockstep.meet) for name in names})
    assert met == [["a", "c"], ["a", "c"], ["c"]]
    assert not before.torch_differs()
    assert together == {name: program(name, n, str.upper) for name, n in names.items()}


def test_a_program_that_fails_stops_no_other() -> None:
    lockstep: Lockstep[int, int] = Lockstep(lambda offers, states: [offer + 1 for offer in offers])

    def fails() -> int:
        lockstep.meet(1)
        raise ValueError("no more")

    def leaves() -> int:
        raise SystemExit(3)

    results = lockstep.run(
        {"fails": fails, "leaves": leaves, "stays": lambda: lockstep.meet(lockstep.meet(lockstep.meet(0)))}
    )
    assert results["stays"] == 3
    with pytest.raises(ValueError, match="no more"):
        raise results["fails"]  # type: ignore[misc]
    assert "SystemExit(3)" in str(results["leaves"])
