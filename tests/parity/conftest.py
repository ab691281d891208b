"""Loading of the published cases."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

Case = tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]


@pytest.fixture
def load_case(reference_data: Path) -> Callable[[str], Case]:
    """Function from a case's name to (constructor arguments, published state dict, all other arrays)."""

    def load(name: str) -> Case:
        with np.load(reference_data / "parity" / f"{name}.npz", allow_pickle=False) as file:
            arrays = {key: torch.from_numpy(file[key]) for key in file.files if key != "kwargs"}
            kwargs = json.loads(str(file["kwargs"]))
        state = {key.removeprefix("state/"): value for key, value in arrays.items() if key.startswith("state/")}
        return kwargs, state, {key: value for key, value in arrays.items() if not key.startswith("state/")}

    return load


@pytest.fixture
def assert_matches() -> Callable[[Tensor, Tensor], None]:
    """Comparison at the tolerance of the published cases."""

    def compare(actual: Tensor, expected: Tensor) -> None:
        # a sum of many large terms is only exact to the rounding of its largest ones
        rounding = 1e-6 * float(expected.abs().max())
        torch.testing.assert_close(actual.detach(), expected, rtol=1e-4, atol=max(1e-5, rounding))

    return compare
