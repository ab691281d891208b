"""The wheel carries what `coread` needs away from a checkout; lock, conda environment and image name one software."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.campaign import Campaign

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


def _project() -> dict[str, Any]:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def _locked() -> list[str]:
    lines = (REPOSITORY / "requirements.lock").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=\[ ]", line)[0].lower().replace("_", "-") for line in requirements}


def test_the_lock_pins_every_dependency_exactly_and_names_no_address() -> None:
    project, lines = _project(), _locked()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    extras = [line for extra in project["optional-dependencies"].values() for line in extra]
    assert _names([*project["dependencies"], *extras, "hatchling", "editables"]) <= _names(lines)
    assert "torch==2.13.0" in lines


def test_the_lock_leaves_the_packages_of_a_cuda_build_to_torch() -> None:
    assert not [line for line in _locked() if line.startswith(("nvidia", "cuda", "triton"))]


def test_every_locked_version_is_one_that_the_project_asks_for() -> None:
    project, versions = _project(), dict(line.split("==") for line in _locked())
    versions = {name.lower().replace("_", "-"): version for name, version in versions.items()}
    extras = [line for extra in project["optional-dependencies"].values() for line in extra]
    for wanted in map(Requirement, [*project["dependencies"], *extras]):
        assert wanted.specifier.contains(versions[wanted.name.lower()]), wanted


def test_the_conda_environment_is_the_lock() -> None:
    environment = yaml.safe_load((REPOSITORY / "deploy" / "environment.yml").read_text())
    assert environment["name"] == "coread"
    python, pip, packages = environment["dependencies"]
    assert pip == "pip"
    assert packages == {"pip": _locked()}
    assert SpecifierSet(_project()["requires-python"]).contains(python.removeprefix("python="))


def test_make_renews_the_conda_environment_from_the_lock(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock", "deploy/environment.yml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    make = ["make", "-s", "-B", "-o", "requirements.lock", "deploy/environment.yml"]
    subprocess.run(make, cwd=tmp_path, check=True)
    assert (tmp_path / "deploy/environment.yml").read_text() == (REPOSITORY / "deploy/environment.yml").read_text()
    with (tmp_path / "requirements.lock").open("a") as lock:
        lock.write("another==1.0\n")
    subprocess.run(make, cwd=tmp_path, check=True)
    assert (
        yaml.safe_load((tmp_path / "deploy/environment.yml").read_text())["dependencies"][-1]["pip"][-1]
        == "another==1.0"
    )


def _definition() -> dict[str, str]:
    """Return the header ("") and the sections of the Apptainer definition, without comments."""
    text = re.sub(r"^#.*\n", "", (REPOSITORY / "deploy" / "coread.def").read_text(), flags=re.MULTILINE)
    header, *sections = re.split(r"^%", text, flags=re.MULTILINE)
    return {"": header} | dict(section.split("\n", 1) for section in sections)


def test_the_image_installs_the_lock_with_a_python_that_the_project_allows() -> None:
    definition = _definition()
    assert set(definition) == {"", "arguments", "files", "post", "environment", "test"}
    version = re.search(r"^From: python:([\d.]+)-", definition[""], re.MULTILINE)
    assert version
    assert SpecifierSet(_project()["requires-python"]).contains(version[1])
    copies = [line.split() for line in definition["files"].splitlines() if line.strip()]
    assert copies
    for source, target in copies:
        assert (REPOSITORY / source).is_file()
        assert f"-r {target}" in definition["post"]
    names = re.findall(r"\{\{ (\w+) \}\}", definition["post"])
    assert names == [line.split("=")[0].strip() for line in definition["arguments"].split()]


@pytest.mark.parametrize(
    ("index", "options"), [("none", []), ("https://index", ["--extra-index-url", "https://index"])]
)
def test_the_image_takes_torch_from_the_index_that_is_named(tmp_path: Path, index: str, options: list[str]) -> None:
    _program(tmp_path / "pip", 'printf "%s\\n" "$@"')
    script = _definition()["post"].replace("{{ TORCH_INDEX }}", index)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-e", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["install", "--no-cache-dir", *options, "-r", "/opt/requirements.lock"]


@pytest.mark.slow
def test_jobs_in_a_container_take_python_from_the_image_and_code_from_the_checkout(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path / "campaign").prepare()
    (campaign.root / "deploy").mkdir()
    (campaign.root / "deploy" / "coread.sif").touch()
    used, outside, image = tmp_path / "used", tmp_path / "bin", tmp_path / "image"
    outside.mkdir()
    image.mkdir()
    _program(image / "python", f'echo "$PYTHONPATH $*" >> {used}; exec {sys.executable} "$@"')
    # what apptainer does as far as a job can see: the image's PATH and nothing of the one outside
    _program(
        outside / "apptainer",
        'if [ "$1" = --version ]; then echo "apptainer version 1.3.0"; exit; fi\n'
        'while [ "$1" != deploy/coread.sif ]; do shift; done; shift\n'
        f'export APPTAINER_CONTAINER=deploy/coread.sif PATH={image}:/usr/bin:/bin; unset PYTHONPATH; exec "$@"',
    )
    arguments = ["results/data/tiny/stimuli.h5", "--sdm", "apptainer"]
    campaign.snakemake(*arguments, PATH=f"{outside}:{os.environ['PATH']}")
    assert (campaign.root / "results/data/tiny/stimuli.h5").is_file()
    path, _, command = used.read_text().splitlines()[0].partition(" ")
    assert path == str(campaign.root / "src")
    assert "workflow_scripts/build_stimuli.py" in command


def _program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
