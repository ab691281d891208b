"""Folders of the hub are listed, verified and gone on with at the same commit."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from coread.data_io.download import (
    DownloadError,
    download_dataset,
    downloaded_summary,
)
from coread.data_io.download.origin import AddressPrefix, HubDataset, make_origin
from tests.data_io.download.served import DATA, block_network, names, source_config, zipped
from tests.file_server import COMMIT, FileServer


def _hub_config(server: FileServer, *files: dict[str, Any]) -> dict[str, Any]:
    return {"dataset": "lab", "files": list(files), "source": server.source()}


@pytest.mark.parametrize("lfs", [True, False])
def test_a_folder_of_the_hub_is_listed_page_by_page_and_verified(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lfs: bool
) -> None:
    server.lfs, server.page = lfs, 4
    server.files |= {f"stimuli/deep/{index:02d}_img.npy": bytes([index]) * 50 for index in range(11)}
    server.files |= {"stimuli/x.npy": b"x", "elsewhere/y.npy": b"y"}
    config = _hub_config(server, {"path": "stimuli/"})
    folder = download_dataset(config, tmp_path)
    assert len(names(folder)) == 12 + 1
    assert (folder / "stimuli/deep/07_img.npy").read_bytes() == bytes([7]) * 50
    assert json.loads((folder / "downloads.json").read_text())["origin"]["commit"] == COMMIT
    block_network(monkeypatch)
    download_dataset(config, folder)
    assert downloaded_summary(config, folder)["n_files"] == 12


def test_a_pattern_takes_only_some_files_of_a_folder(server: FileServer, tmp_path: Path) -> None:
    server.files |= {"s/01_Mouse.zip": zipped({"m.mat": b"m"}), "s/02_marmoset.zip": b"not even a zip"}
    config = _hub_config(server, {"path": "s/", "unpack": True, "match": "*mouse*"})
    assert names(download_dataset(config, tmp_path)) == ["downloads.json", "s/01_Mouse.zip", "s/01_Mouse/m.mat"]
    with pytest.raises(ValueError, match=r"none of its 2 files matches '\*rat\*'"):
        download_dataset(_hub_config(server, {"path": "s/", "match": "*rat*"}), tmp_path / "rat")


def test_an_interrupted_folder_goes_on_at_the_same_commit(server: FileServer, tmp_path: Path) -> None:
    server.files |= {f"s/{index}.npy": bytes([index]) * 9 for index in range(8)}
    config = _hub_config(server, {"path": "s/"})

    def fault(handler: Any) -> bool:
        if "/5.npy" not in handler.path:
            return False
        handler.send_error(403)
        return True

    server.faults.append(fault)
    with pytest.raises(DownloadError, match=r"5\.npy: 403"):
        download_dataset(config, tmp_path)
    server.faults.clear()
    server.requests.clear()
    server.commit = "beef" * 10  # main moved on
    download_dataset(config, tmp_path)
    assert f"datasets/lab/data/resolve/{COMMIT}/s/5.npy" in {path for path, _ in server.requests}
    assert not [path for path, _ in server.requests if path.startswith("api/")]


@pytest.mark.parametrize("lfs", [True, False])
def test_what_the_hub_says_of_a_file_is_compared_with_what_arrives(
    server: FileServer, tmp_path: Path, lfs: bool
) -> None:
    server.lfs, server.files["s/a.npy"] = lfs, DATA

    def other(handler: Any) -> bool:
        server.files["s/a.npy"] = DATA[::-1]
        return False

    server.faults.append(other)
    with pytest.raises(DownloadError, match=r"a\.npy: not the expected file: .* is [0-9a-f]+ .*expected [0-9a-f]+"):
        download_dataset(_hub_config(server, {"path": "s/a.npy"}), tmp_path)
    assert not (tmp_path / "s/a.npy").exists()


def test_a_path_that_the_hub_does_not_have_is_named(server: FileServer, tmp_path: Path) -> None:
    server.files["s/a.npy"] = DATA
    with pytest.raises(DownloadError, match=rf"datasets/lab/data: there is no s/b\.npy at {COMMIT}"):
        download_dataset(_hub_config(server, {"path": "s/b.npy"}), tmp_path)


def test_without_a_network_the_missing_files_of_the_hub_are_named(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    source = {"kind": "huggingface_dataset", "repository": "a/b", "endpoint": endpoint}
    config = {"dataset": "lab", "files": [{"path": "s/a.npy"}, {"path": "s/b.npy"}], "source": source}
    with pytest.raises(DownloadError, match=rf"cannot reach .*2 of 2 files are missing: .*\({tmp_path / 's/a.npy'}, "):
        download_dataset(config, tmp_path)
    with pytest.raises(
        DownloadError, match=rf"cannot reach .*knows the files of s/: copy {tmp_path} with its downloads"
    ):
        download_dataset(config | {"files": [{"path": "s/"}]}, tmp_path)


def test_an_address_of_the_hub_means_its_repository_and_a_mirror_can_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    origin = make_origin({"url": "https://huggingface.co/datasets/a/b/resolve/v1/"}, "here")
    assert isinstance(origin, HubDataset)
    assert (origin.repository, origin.revision, origin.endpoint) == ("a/b", "v1", "https://mirror.example")
    assert isinstance(make_origin({"url": "https://zenodo.example/records/1/files"}, "here"), AddressPrefix)


def test_a_mirror_in_a_folder_lists_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mirror/s/deep").mkdir(parents=True)
    (tmp_path / "mirror/s/deep/a.npy").write_bytes(DATA)
    config = {"dataset": "lab", "files": [{"path": "s/"}], "source": {"url": (tmp_path / "mirror").as_uri()}}
    folder = download_dataset(config, tmp_path / "lab")
    assert (folder / "s/deep/a.npy").read_bytes() == DATA
    with pytest.raises(DownloadError, match="t: there is no such folder"):
        download_dataset(config | {"files": [{"path": "t/"}]}, tmp_path / "lab")


def test_a_web_server_cannot_list_a_folder(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="s/ is a folder, which a web server does not list"):
        download_dataset(source_config(server, {"path": "s/"}), tmp_path)
