"""Fixtures and guards shared by every test."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """Folder with the published systems' numbers; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("COREAD_REFERENCE_DATA", REPOSITORY.parent / "shared"))
    if not (folder / "parity").is_dir():
        pytest.skip(f"reference data not found: {folder}/parity (set COREAD_REFERENCE_DATA)")
    return folder


@pytest.fixture(autouse=True)
def seed_everything() -> Iterator[None]:
    """Seed all generators before a test and restore their state after it."""
    import torch

    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (the global generator is what is guarded here)
    torch.manual_seed(0)
    yield
    random.setstate(python_state)
    np.random.set_state(numpy_state)  # noqa: NPY002
    torch.set_rng_state(torch_state)
