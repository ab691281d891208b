"""`coread download`: by dataset or experiment, into a folder or the cache, and the list of what there is."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from coread.cli.download import describe_datasets
from coread.cli.main import main
from coread.config import config_directory
from coread.data_io.download import transfer
from tests.file_server import FileServer, running_server

HUB_FOLDERS = {"path": "s/", "unpack": False}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(transfer, "RETRY_PAUSES_S", (0.0,))
    with running_server() as running:
        running.files = {"a.h5": b"A" * 1_500_000, "s/b.h5": b"B"}
        yield running


@pytest.fixture
def configs(server: FileServer, tmp_path: Path) -> Path:
    folder = tmp_path / "configs"
    (folder / "data_io").mkdir(parents=True)
    base = {
        "dataset": "lab_set",
        "reader": "hdf5_directory",
        "files": [{"path": "a.h5", "bytes": 1_500_000}],
        "source": {"url": server.url, "licence": "CC BY 4.0"},
    }
    child = {"defaults": ["lab", "_self_"], "dataset": "lab_more"}
    child["files"] = [*base["files"], HUB_FOLDERS, {"path": "c.h5"}]  # type: ignore[index]
    local = {"dataset": "mine", "reader": "hdf5_directory"}
    for name, content in {"lab": base, "lab_more": child, "mine": local}.items():
        (folder / "data_io" / f"{name}.yaml").write_text(yaml.safe_dump(content))
    (folder / "study.yaml").write_text("defaults:\n  - data_io: lab\n  - _self_\nexp_name: study\n")
    return folder


def test_a_dataset_goes_to_a_folder_of_its_name_and_its_path_is_printed(
    server: FileServer, configs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    main(["download", "lab", "--to", str(tmp_path / "to"), "--config-path", str(configs)])
    folder = tmp_path / "to/lab_set"
    assert capsys.readouterr().out == f"{folder}\n"
    assert (folder / "a.h5").read_bytes() == server.files["a.h5"]
    main(["download", "lab", "--to", str(tmp_path / "to"), "--verify", "--config-path", str(configs)])
    assert server.asked("a.h5") == [None]


def test_an_experiment_means_its_dataset_and_the_cache_is_the_default(
    server: FileServer, configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("COREAD_CACHE_DIRECTORY", str(tmp_path / "cache"))
    main(["download", "study", "--config-path", str(configs)])
    folder = Path(capsys.readouterr().out.strip())
    assert folder == tmp_path / "cache/lab_set"
    assert "a.h5" in json.loads((folder / "downloads.json").read_text())["files"]


def test_the_list_names_files_bytes_and_licence_of_what_can_be_downloaded(configs: Path) -> None:
    header, *rows = describe_datasets(configs).splitlines()
    assert header.split() == ["dataset", "files", "size", "licence"]
    assert [row.split("  ")[0] for row in rows] == ["lab", "lab_more"]
    assert rows[0].split() == ["lab", "1", "1.5", "MB", "CC", "BY", "4.0"]
    assert "2 + 1 folder" in rows[1]
    assert "1.5 MB and more" in rows[1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lav", "there is no dataset and no experiment 'lav' (did you mean 'lab'?)"),
        ("mine", "dataset 'mine' lists no files"),
        ("workflow", "there is no dataset"),
    ],
)
def test_what_cannot_be_downloaded_is_told_in_one_sentence(
    configs: Path, tmp_path: Path, name: str, message: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["download", name, "--to", str(tmp_path), "--config-path", str(configs)])
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_the_registries_of_all_shipped_datasets_are_valid() -> None:
    listed = {row.split()[0] for row in describe_datasets(config_directory()).splitlines()[1:]}
    with_files = {
        path.stem for path in (config_directory() / "data_io").glob("*.yaml") if "\nfiles:" in path.read_text()
    }
    assert with_files <= listed
