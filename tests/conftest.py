"""Fixtures and guards shared by every test."""

import contextlib
import os
import random
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest

from coread.recording import Recording, Stimulus

REPOSITORY = Path(__file__).resolve().parent.parent
CLUSTER = "tests/cluster"
# minutes each: they begin first, so that no worker waits for another that began one last
LONGEST = (CLUSTER, "tests/test_shipped_configs.py", "tests/test_rerun.py")


# ---------------------------------------------------------------------------------------- workers (`pytest -n 2`)


def work_unit(nodeid: str) -> str:
    """Return what a worker runs as a whole: a file, which may share fixtures, or the tests of the one cluster."""
    return CLUSTER if nodeid.startswith(f"{CLUSTER}/") else nodeid.partition("::")[0]


def has_workers(config: pytest.Config) -> bool:
    """Return whether this process hands out the tests."""
    return bool(config.getoption("numprocesses", None)) and not is_worker(config)


def is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def pytest_configure(config: pytest.Config) -> None:
    """Give workers and the programs that they start one thread each: threads of several would fight for the cores."""
    if has_workers(config):
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        config.option.testrunuid = config.option.testrunuid or uuid.uuid4().hex


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """End what workers left behind: after Ctrl-C they get ten seconds, and a cluster takes longer to stop."""
    if has_workers(session.config):
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get("PYTEST_XDIST_TESTRUNUID") == session.config.option.testrunuid:
                    process.kill()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if is_worker(config):
        order = {unit: place for place, unit in enumerate(LONGEST)}
        items.sort(key=lambda item: order.get(work_unit(item.nodeid), len(order)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Hand out work units in the order of the collection."""
    from xdist.scheduler import LoadScopeScheduling

    class ByUnit(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return work_unit(nodeid)

    config.option.loadscopereorder = False
    return ByUnit(config, log)


# ------------------------------------------------------------------------------------------------------------- fixtures


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

    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (the global generator is what is guarded here)
    torch.manual_seed(0)
    yield
    random.setstate(python_state)
    np.random.set_state(numpy_state)  # noqa: NPY002
    torch.set_rng_state(torch_state)


@pytest.fixture
def make_recording() -> Callable[..., Recording]:
    """Return a factory of small recordings: training trials of one movie, a repeated test movie."""
    return fabricate_recording


def fabricate_recording(
    session: str = "session_0",
    *,
    n_neurons: int = 4,
    n_trials: int = 3,
    trial_length: int = 60,
    n_repeats: int = 4,
    test_length: int = 30,
    shape: tuple[int, int, int] = (1, 6, 8),
    seed: int = 0,
) -> Recording:
    """Fabricate a recording whose neurons follow one pixel each, with Poisson noise."""
    rng = np.random.default_rng(seed)
    movie = rng.integers(0, 256, (n_trials * trial_length, *shape), dtype=np.uint8)
    test = rng.integers(0, 256, (test_length, *shape), dtype=np.uint8)
    trial_lengths = [trial_length] * n_trials + [test_length] * n_repeats
    frame = np.concatenate([np.arange(n_trials * trial_length), np.tile(np.arange(test_length), n_repeats)])
    shown = np.concatenate([movie, np.tile(test, (n_repeats, 1, 1, 1))]).reshape(len(frame), -1)
    rate = 0.2 + 2.0 * shown[:, rng.integers(0, shown.shape[1], n_neurons)] / 255
    return Recording(
        dataset="fabricated",
        session=session,
        stimuli={"movie": Stimulus(movie, 30.0), "test": Stimulus(test, 30.0)},
        trials=pd.DataFrame(
            {
                "stimulus": ["movie"] * n_trials + ["test"] * n_repeats,
                "tier": ["train"] * n_trials + ["test"] * n_repeats,
                "repeat": [0] * n_trials + list(range(n_repeats)),
                "time_order": np.arange(n_trials + n_repeats),
                "withheld": False,
            }
        ),
        trial=np.repeat(np.arange(n_trials + n_repeats), trial_lengths).astype(np.int32),
        frame=frame.astype(np.int32),
        responses=rng.poisson(rate).astype(np.float32),
        valid=np.ones(len(frame), bool),
        rate_hz=30.0,
        unit="spike count",
        neurons=pd.DataFrame({"unit_id": np.arange(n_neurons) + 1}),
    )
