"""A local dataset: where it lies changes nothing, what is in it does; wrong input is answered with one sentence."""

import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def _snakemake(results: Path, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--directory", str(results), *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def _config(folder: Path) -> list[str]:
    return ["--config", "experiments=[hdf5_core_readout]", f"data_dirs={{hdf5_directory: '{folder}'}}"]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw folder") / "first"
    (folder / "stimuli").mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = {"random_noise_0": 60, "random_noise_2": 20, "random_noise_3": 20}
    for name, n_frames in names.items():
        np.save(folder / "stimuli" / f"{name}.npy", rng.normal(size=(3, n_frames, 16, 8)).astype(np.float32))
    with h5py.File(folder / "session_1.h5", "w") as file:
        for name, n_frames in names.items():
            file[f"responses_{name}"] = rng.normal(size=(4, n_frames)).astype(np.float32)
    return folder


@pytest.mark.slow
def test_the_folder_of_a_dataset_changes_nothing_but_its_contents_do(raw: Path, tmp_path: Path) -> None:
    status, output = _snakemake(tmp_path, "data", *_config(raw))
    assert status == 0, output[-2000:]
    assert (tmp_path / "results/data/hdf5_directory/session_1.h5").is_file()

    other = shutil.copytree(raw, raw.parent / "other", copy_function=shutil.copy)
    status, output = _snakemake(tmp_path, "data", "-n", *_config(other))
    assert "Nothing to be done" in output

    with h5py.File(other / "session_1.h5", "r+") as file:
        file["responses_random_noise_0"][0, 0] += 1.0
    status, output = _snakemake(tmp_path, "data", "-n", *_config(other))
    assert "rule build_recording" in output
    assert "rule build_stimuli" not in output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "experiments=[hdf5_core_readout]"], '--config "data_dirs={hdf5_directory: DIR}"'),
        (["--config", "experiments=[simulated_retinas]"], "unknown experiment 'simulated_retinas' (did you mean"),
        (["--config", "folds=[9]"], "simulated_retina: fold 9 does not exist, its split has"),
    ],
)
def test_wrong_requests_are_refused_before_the_first_job(arguments: list[str], message: str, tmp_path: Path) -> None:
    status, output = _snakemake(tmp_path, "-n", *arguments)
    assert status == 1
    assert message in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_failed_job_names_the_rule_the_log_and_the_reason_and_leaves_no_output(raw: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(raw, tmp_path / "broken")
    with h5py.File(broken / "session_1.h5", "r+") as file:
        del file["responses_random_noise_0"]
        file["responses_random_noise_0"] = np.zeros((4, 62), np.float32)
    status, output = _snakemake(tmp_path, "data", "--show-failed-logs", *_config(broken))
    assert status == 1
    assert "Error in rule build_recording" in output
    assert "logs/build_recording/hdf5_directory/session_1.log" in output
    reason = next(line for line in output.splitlines() if line.startswith("error: "))
    assert "62" in reason
    assert "60" in reason
    assert not list((tmp_path / "results/data/hdf5_directory").glob("*session_1*"))
