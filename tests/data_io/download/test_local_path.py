"""Documented access: a path, an address or what lies in the cache."""

import socket
from pathlib import Path

import pytest

from coread.data_io.download import (
    DownloadError,
    get_local_file_path,
)
from tests.data_io.download.served import DATA, block_network, names, zipped
from tests.file_server import FileServer


def test_a_local_path_is_returned_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert get_local_file_path(str(tmp_path / "a.h5")) == tmp_path / "a.h5"
    assert get_local_file_path("~/a.h5") == tmp_path / "a.h5"


def test_an_address_is_fetched_into_the_cache_once(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files |= {"d/a.h5": DATA, "d/one.zip": zipped({"x.pkl": b"1"}), "d/two.zip": zipped({"x": b"1", "y": b"2"})}
    monkeypatch.setenv("COREAD_CACHE_DIRECTORY", str(tmp_path / "cache"))
    path = get_local_file_path(f"{server.url}/d/a.h5")
    assert path.read_bytes() == DATA
    assert path.is_relative_to(tmp_path / "cache")
    before = path.stat().st_mtime_ns
    one = get_local_file_path(f"{server.url}/d/one.zip")
    two = get_local_file_path(f"{server.url}/d/two.zip")
    assert one.read_bytes() == b"1"
    assert names(two) == ["x", "y"]
    block_network(monkeypatch)
    assert get_local_file_path(f"{server.url}/d/a.h5") == path
    assert path.stat().st_mtime_ns == before
    assert get_local_file_path(f"{server.url}/d/one.zip") == one
    assert get_local_file_path(f"{server.url}/d/two.zip") == two
    assert get_local_file_path(f"{server.url}/d/a.h5", tmp_path / "cache") == path


def test_addresses_of_the_hub_lie_in_the_cache_at_their_path_in_the_repository(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    server.files |= {"lab_a/set/a.h5": DATA, "lab_a/set/x.zip": zipped({"in.h5": b"in"}), "lab_b/a.h5": b"other"}
    hub = "https://huggingface.co/datasets/lab/data"
    assert get_local_file_path(f"{hub}/blob/main/lab_a/set/a.h5", tmp_path) == tmp_path / "lab_a/set/a.h5"
    assert get_local_file_path(f"{hub}/tree/main/lab_a/set", tmp_path) == tmp_path / "lab_a/set/"
    assert (tmp_path / "lab_a/set/x/in.h5").read_bytes() == b"in"
    assert get_local_file_path(f"{hub}/tree/main/lab_a/set/a.h5", tmp_path) == tmp_path / "lab_a/set/a.h5"
    block_network(monkeypatch)
    assert get_local_file_path(f"{hub}/tree/main/lab_a/set", tmp_path) == tmp_path / "lab_a/set/"
    assert get_local_file_path(f"{hub}/resolve/main/lab_a/set/a.h5?download=true", tmp_path).read_bytes() == DATA
    assert not (tmp_path / "lab_b").exists()


def test_what_another_program_left_in_the_cache_is_used_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
    hub = "https://huggingface.co/datasets/lab/data/resolve/main"
    (tmp_path / "s/x").mkdir(parents=True)
    (tmp_path / "s/a.h5").write_bytes(DATA)
    assert get_local_file_path(f"{hub}/s/a.h5", tmp_path) == tmp_path / "s/a.h5"
    assert get_local_file_path(f"{hub}/s/x.zip", tmp_path) == tmp_path / "s/x"
    assert "put there by hand" in caplog.text
    assert "unpacked by another program" in caplog.text
    with pytest.raises(DownloadError, match="cannot reach"):
        get_local_file_path(f"{hub}/s/x_other.zip", tmp_path)
