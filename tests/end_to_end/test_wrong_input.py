"""What `coread train` says about wrong input: one sentence, exit status 1, nothing half-written."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

Train = Callable[..., None]


def two_bins_more(data: Path) -> None:
    with h5py.File(data / "session_1.hdf5", "a") as file:
        responses = file["responses_random_noise_0"][()]
        del file["responses_random_noise_0"]
        file["responses_random_noise_0"] = np.pad(responses, ((0, 0), (0, 2)))


def nan_response(data: Path) -> None:
    with h5py.File(data / "session_1.hdf5", "a") as file:
        file["responses_random_noise_1"][3, 40] = np.nan


def truncated(data: Path) -> None:
    path = data / "session_0.hdf5"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def missing_stimulus(data: Path) -> None:
    (data / "stimuli" / "random_noise_1.npy").unlink()


def truncated_stimulus(data: Path) -> None:
    path = data / "stimuli" / "random_noise_1.npy"
    path.write_bytes(path.read_bytes()[:1000])


def silent_neurons(data: Path) -> None:
    with h5py.File(data / "session_0.hdf5", "a") as file:
        for name in ("random_noise_0", "random_noise_1"):
            for neuron in (2, 5):
                file[f"responses_{name}"][neuron] = 0.25


def no_directory(data: Path) -> None:
    data.rename(data.with_name("elsewhere"))


DAMAGED = {
    two_bins_more: "session_1.hdf5: responses_random_noise_0 has 562 bins, stimulus random_noise_0 has 560 frames",
    nan_response: (
        "session_1.hdf5: 1 response values are not finite, the first at bin 600, neuron 3; "
        "set data_io.nan_responses to mask to leave such bins out"
    ),
    truncated: "session_0.hdf5: not a readable HDF5 file, truncated or damaged (",
    missing_stimulus: (
        "session_0.hdf5: responses_random_noise_1 has no stimulus: no stimulus_random_noise_1 in the file and no "
        "stimuli/random_noise_1.npy (found ['random_noise_0', 'random_noise_2', 'random_noise_3'])"
    ),
    truncated_stimulus: "stimuli/random_noise_1.npy: not a readable .npy array, truncated or damaged (",
    silent_neurons: (
        "session 'session_0': 2 of 25 neurons never change in the training bins of fold 0 (zero variance), "
        "neuron rows [2, 5]; remove them"
    ),
    no_directory: "dataset 'hdf5_directory': there is no directory test_data",
}


def complaint(capfd: pytest.CaptureFixture, run: Callable[[], None]) -> str:
    """Return the one sentence that a failing command prints; check that it failed cleanly."""
    with pytest.raises(SystemExit) as stopped:
        run()
    assert stopped.value.code == 1
    printed = capfd.readouterr()
    assert "Traceback" not in printed.out + printed.err
    lines = [line for line in printed.err.splitlines() if line]
    assert len(lines) == 1, printed.err
    assert lines[0].startswith("error: ")
    left = {path.name for path in Path("results").rglob("*") if path.suffix in (".ckpt", ".tmp", ".csv", ".h5")}
    assert left <= {"metrics.csv"}
    return lines[0].removeprefix("error: ")


@pytest.mark.parametrize("damage", DAMAGED, ids=lambda damage: damage.__name__)
def test_damaged_data_are_named(
    damage: Callable[[Path], None], data: Path, train: Train, capfd: pytest.CaptureFixture
) -> None:
    damage(data)
    assert complaint(capfd, train).startswith(DAMAGED[damage])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["fold=5"], "fold 5 does not exist: the split 'folds' has 5 folds, 0 to 4"),
        (
            ["trainer.max_epoch=3"],
            "configs/hdf5_core_readout.yaml: unknown key 'trainer.max_epoch' (did you mean 'max_epochs'?)",
        ),
        (["modle.core.dropout_rate=0"], "configs/hdf5_core_readout.yaml: unknown key 'modle.core.dropout_rate' (did"),
        (["+model.core.droput_rate=0"], "configs/hdf5_core_readout.yaml: unknown key 'model.core.droput_rate' (did"),
        (["model=no_such_model"], "configs/hdf5_core_readout.yaml: "),
        (["data_io.test_names=[probe]"], "session_0.hdf5: data_io names the unknown stimuli ['probe']; there are ["),
        (["data_io.color_channels=1"], "stimuli/random_noise_0.npy has shape (3, 560, 16, 8) (channel, time, "),
        (["dataloader.window_length=5"], "the core cannot take an input of (channel, time, height, width) (3, 5, 16"),
        (["--multirun", "fold=0,7"], "fold 7 does not exist: the split 'folds' has 5 folds, 0 to 4"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_wrong_settings_are_named(
    overrides: list[str],
    message: str,
    data: Path,
    train: Train,
    capfd: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "--multirun" in overrides:  # the first job is fine: only its failing sibling is looked at here
        monkeypatch.setattr("coread.models.member.Member.save", lambda member, path: None)
        monkeypatch.setattr("coread.provenance.write_text", lambda path, text: None)
    assert complaint(capfd, lambda: train(*overrides)).startswith(message)


def test_an_unknown_key_in_a_file_of_the_user_is_named(
    data: Path, train: Train, configs: Path, capfd: pytest.CaptureFixture
) -> None:
    path = configs / "hdf5_core_readout.yaml"
    path.rename(configs / "mine.yaml")
    mine = configs / "mine.yaml"
    mine.write_text(mine.read_text().replace("hidden_channels:", "hiden_channels:"))
    said = complaint(capfd, lambda: train("--config-path", str(configs), config_name="mine"))
    assert said == "configs/mine.yaml: unknown key 'model.hiden_channels' (did you mean 'hidden_channels'?)"


def test_a_missing_config_is_named(train: Train, capfd: pytest.CaptureFixture) -> None:
    said = complaint(capfd, lambda: train(config_name="hdf5_core_readuot"))
    assert said == "there is no experiment 'hdf5_core_readuot' in configs/ (did you mean 'hdf5_core_readout'?)"


def test_the_process_ends_with_status_one(data: Path, tmp_path: Path) -> None:
    truncated(data)
    program = "import sys; from coread.cli.main import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", program, "train", "--config-name", "hdf5_core_readout"]
    command += ["paths.data_dir=test_data"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("error: session_0.hdf5: not a readable HDF5 file, truncated or damaged")
    assert len(result.stderr.splitlines()) == 1
