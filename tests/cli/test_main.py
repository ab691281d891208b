"""The dispatcher, what the commands print about themselves, and `coread create-data`."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from coread import __version__
from coread.cli.hydra_entry import _named_config
from coread.cli.main import COMMANDS, main
from coread.config import ConfigError, config_directory


def test_overview_and_version(capsys: pytest.CaptureFixture) -> None:
    main([])
    overview = capsys.readouterr().out
    assert all(name in overview for name in COMMANDS)
    main(["--version"])
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_commands_explain_themselves(command: str, capsys: pytest.CaptureFixture) -> None:
    main([command])
    assert capsys.readouterr().out.startswith(f"usage: coread {command} --config-name NAME")


def test_an_unknown_command_is_answered_with_those_that_exist(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["trian"])
    assert stopped.value.code == 2
    assert "unknown command 'trian'" in (said := capsys.readouterr().err)
    assert "create-data" in said


def test_the_overview_needs_no_torch() -> None:
    program = "import sys; from coread.cli.main import main; main(['--help']); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "False"


def test_create_data_follows_its_arguments(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "new" / "data"
    sizes = ["--num-colors", "2", "--num-stimuli", "3", "--num-sessions", "1", "--clip-length", "2", "--seed", "4"]
    main(["create-data", str(folder), *sizes])
    assert sorted(path.name for path in folder.iterdir()) == ["session_0.hdf5", "stimuli"]
    shapes = [np.load(path).shape for path in sorted((folder / "stimuli").iterdir())]
    assert shapes == [(2, 140, 16, 8), (2, 142, 16, 8), (2, 144, 16, 8)]
    with h5py.File(folder / "session_0.hdf5") as file:
        assert file["responses_random_noise_1"].shape[1] == 142
    assert "3 stimuli and 1 sessions" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["create-data", str(folder), "--num-sessions", "0"])
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "error: num_sessions must be at least 1, found 0\n"


def test_the_named_config_is_found_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = config_directory()
    assert _named_config(["--config-name", "x", "a=1"]) == ("x", shipped, ["a=1"])
    assert _named_config(["a=1", "--config-name=x.yaml", "--multirun"]) == ("x", shipped, ["a=1", "--multirun"])
    assert _named_config(["-cp", "configs", "-cn", "x"]) == ("x", shipped, [])  # the documented folder, from anywhere
    (tmp_path / "configs").mkdir()
    assert _named_config(["-cp", "configs", "-cn", "x"]) == ("x", Path("configs"), [])
    for path in (["-cp", "configs"], []):  # one's own folder need not repeat what is shipped
        assert _named_config([*path, "-cn", "liu_2017"]) == ("liu_2017", shipped, [])
    (tmp_path / "configs" / "x.yaml").touch()
    assert _named_config(["-cn", "x"]) == ("x", Path("configs"), [])
    with pytest.raises(ConfigError, match="--config-path mine: there is no such folder"):
        _named_config(["--config-path", "mine", "--config-name", "x"])
    with pytest.raises(ConfigError, match=r"--config-name is missing; shipped configs: .*hdf5_core_readout"):
        _named_config(["a=1"])
