import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coread.cli.main import main
from coread.config import config_directory

OVERRIDES = ["splits.clip_length=50", "dataloader.window_length=30", "model.hidden_channels=[4]"]


@pytest.fixture(scope="session")
def tutorial_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with small tutorial data, as `coread create-data` writes them; copy it before changing anything."""
    folder = tmp_path_factory.mktemp("tutorial") / "test_data"
    main(["create-data", str(folder), "--clip-length", "8"])
    return folder


@pytest.fixture
def data(tutorial_data: Path, tmp_path: Path) -> Path:
    """Return a copy of the tutorial data that the test may damage."""
    return Path(shutil.copytree(tutorial_data, tmp_path / "test_data"))


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in an empty folder; put back what Hydra's command line changes in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["coread"])
    monkeypatch.setitem(os.environ, "HYDRA_FULL_ERROR", "0")
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers, logging.root.level = handlers, level


@pytest.fixture
def train() -> Callable[..., None]:
    """Return `coread train` on the tutorial data with a tiny model, in this process."""

    def run(*arguments: str, config_name: str = "hdf5_core_readout", epochs: int = 1) -> None:
        small = [*OVERRIDES, f"trainer.max_epochs={epochs}", "paths.data_dir=test_data", "paths.output_dir=results"]
        main(["train", "--config-name", config_name, *small, *arguments])

    return run


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    """Return a copy of the shipped configs that the test may change."""
    return Path(shutil.copytree(config_directory(), tmp_path / "my_configs"))
