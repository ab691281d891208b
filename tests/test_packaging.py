"""The wheel carries what `coread` needs away from a checkout, and the lock file what the checkout needs."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_the_wheel_ships_configs_and_runs_from_any_folder(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    shipped = {path.relative_to(REPOSITORY / "configs") for path in REPOSITORY.glob("configs/**/*.*")}
    installed = tmp_path / "site" / "coread" / "configs"
    assert {path.relative_to(installed) for path in installed.glob("**/*.*")} == shipped
    code = "from coread.config import *; print(config_directory(), stage_text('liu_2017', 'data'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(str(installed))
    assert "dataset: liu_2017" in done.stdout


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=\[ ]", line)[0].lower().replace("_", "-") for line in requirements}


def test_the_lock_pins_every_dependency_exactly_and_names_no_address() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    lines = [line for line in (REPOSITORY / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    wanted = _names([*project["dependencies"], *project["optional-dependencies"]["test"], "hatchling", "editables"])
    assert wanted <= _names(lines)
    assert "torch==2.13.0" in lines
