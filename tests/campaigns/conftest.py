"""An empty campaign's folder, SLURM as a few shell scripts, and a supervisor that runs."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coread import campaign
from tests.campaigns.jobs import MEMBER
from tests.fake_slurm import FakeSlurm


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty campaign's folder, in which the test runs."""
    folder = tmp_path / "campaign"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return FakeSlurm(tmp_path / "slurm", monkeypatch)


@pytest.fixture
def supervised(folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A supervisor that runs beside the test."""
    environment = {**os.environ, "PYTHONPATH": str(Path(campaign.__file__).parent.parent)}
    command = [sys.executable, "-m", "coread.supervisor", f"logs/{MEMBER}.log", "--", "sleep", "60"]
    with subprocess.Popen(command, env=environment) as process:
        while campaign.last_attempt(MEMBER) is None:
            assert process.poll() is None
            time.sleep(0.01)
        yield process
        process.terminate()
