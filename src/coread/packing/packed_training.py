"""Training of several members in one process, step by step together."""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from coread.models.core_readout import BaseCoreReadout, StepTogether
from coread.packing.lockstep import Lockstep
from coread.packing.packed_step import Computed, PackedSteps, Step
from coread.training import silence_lightning

Result = TypeVar("Result")


def train_together(
    programs: Mapping[str, Callable[[StepTogether], Result]], vectorize: bool | None = None
) -> dict[str, Result | Exception]:
    """Return what every program returned or raised, by name.

    A program trains one member (`train(..., together=...)`) and passes on what it is given. Each runs as if it were
    alone: its own epochs, random numbers, early stopping and checkpoints; one that fails or ends stops no other. Only
    their training steps are computed in one call, with the results of single steps up to rounding, where `vectorize` is
    true, or None and they are computed on a GPU.
    """
    lockstep: Lockstep[Step, Computed | None] = Lockstep(PackedSteps(vectorize).answer_all)

    def together(model: BaseCoreReadout, session: str, point: Any) -> Computed | None:
        return lockstep.meet(Step(model, session, point))

    with warnings.catch_warnings():
        silence_lightning()  # here too: filters belong to the process, and whoever ends first puts back what was before
        return lockstep.run({name: partial(program, together) for name, program in programs.items()})
