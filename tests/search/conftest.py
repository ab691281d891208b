"""A search small enough for a test: two fabricated sessions, members that train in a fraction of a second."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from coread.recording import Recording, digest_path, write_recording
from coread.search.driver import run_search
from coread.search.jobs import Submission
from tests.conftest import fabricate_recording
from tests.test_training import SETTINGS

EPOCHS = 4
SPACE = {
    "model": {
        "learning_rate": {"distribution": "float", "low": 0.001, "high": 0.1, "log": True},
        "hidden_channels": {"distribution": "categorical", "choices": [[2], [3]]},
    }
}


def make_settings(space: dict[str, Any] = SPACE, train: dict[str, Any] | None = None, **search: Any) -> dict[str, Any]:
    """Return settings as `search_settings` does; one worker and no pruning unless asked for."""
    defaults = {
        "n_trials": 3,
        "parallel": 1,
        "folds": [0],
        "member_seed": 0,
        "seed": 0,
        "sampler": {"method": "tpe", "startup_trials": 2},
        "pruner": {"method": "none", "startup_trials": 1, "warmup_epochs": 1},
        "space": space,
    }
    short = {"trainer": SETTINGS["trainer"] | {"max_epochs": EPOCHS}}
    scheduler = SETTINGS["lr_scheduler"] | {"max_lr": "${model.learning_rate}"}  # follows the varied setting
    return {"search": defaults | search, "train": {**SETTINGS, "lr_scheduler": scheduler, **short, **(train or {})}}


def write_recordings(
    folder: Path, change: Callable[[Recording], Recording] = lambda recording: recording
) -> list[Path]:
    paths = []
    for session, seed in (("a", 0), ("b", 1)):
        paths.append(folder / f"{session}.h5")
        write_recording(change(fabricate_recording(session, n_trials=4, seed=seed)), paths[-1])
    return paths


@pytest.fixture
def recordings(tmp_path: Path) -> list[Path]:
    return write_recordings(tmp_path / "data")


@pytest.fixture
def search(tmp_path: Path, recordings: list[Path]) -> Callable[..., pd.DataFrame]:
    """Run a search inside this process and return its table."""

    def run(
        settings: dict[str, Any] | None = None, folder: str = "search", paths: list[Path] = recordings, **jobs: Any
    ) -> pd.DataFrame:
        return run_here(settings or make_settings(), paths, tmp_path / folder, **jobs)

    return run


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Return the table of a search with the default settings to which nothing happened."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return run_here(make_settings(), write_recordings(folder / "data"), folder / "search")


def run_here(settings: dict[str, Any], paths: list[Path], folder: Path, **jobs: Any) -> pd.DataFrame:
    digests = [digest_path(path).read_text().strip() for path in paths]
    return run_search("toy", settings, paths, digests, folder, Submission(executor="debug", poll_s=0.0, **jobs))


def drawn(table: pd.DataFrame) -> pd.DataFrame:
    """Return what must be equal in equal searches: everything but times and machines."""
    return table[["number", "state", "value", "model.learning_rate", "model.hidden_channels", "epochs"]]
