"""Data sets get here once, are verified ever after, and are read offline."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from coread.data_io.download import (
    DownloadError,
    check_downloaded,
    download_dataset,
    downloaded_summary,
    registry_text,
)
from tests.data_io.download.served import DATA, block_network, names, sha256, source_config, zipped
from tests.file_server import FileServer


def test_nothing_touches_the_network_once_all_is_there(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files |= {"a.bin": DATA, "sub/b.bin": b"B"}
    config = source_config(server, {"path": "a.bin"}, {"path": "sub/b.bin", "sha256": sha256(b"B"), "bytes": 1})
    folder = download_dataset(config, tmp_path / "lab")
    summary = downloaded_summary(config, folder)
    assert (summary["n_files"], summary["bytes"]) == (2, len(DATA) + 1)
    block_network(monkeypatch)
    download_dataset(config, folder)
    download_dataset(config, folder, verify=True)
    assert downloaded_summary(config, folder) == summary


def test_an_unknown_digest_is_recorded_at_the_first_download_and_verified_ever_after(
    server: FileServer, tmp_path: Path
) -> None:
    server.files["a.bin"] = DATA
    config = source_config(server, {"path": "a.bin", "sha256": None})
    download_dataset(config, tmp_path)
    recorded = json.loads((tmp_path / "downloads.json").read_text())["files"]["a.bin"]["sha256"]
    assert recorded == sha256(DATA)

    (tmp_path / "a.bin").write_bytes(b"edited")
    with pytest.raises(DownloadError, match=rf"a\.bin .*{sha256(b'edited')}.*was {recorded}"):
        download_dataset(config, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == b"edited"

    (tmp_path / "a.bin").unlink()
    server.files["a.bin"] = b"published anew"
    with pytest.raises(DownloadError, match=rf"sha256 is {sha256(b'published anew')} .*expected {recorded}"):
        download_dataset(config, tmp_path)
    assert not (tmp_path / "a.bin").exists()
    server.files["a.bin"] = DATA
    download_dataset(config, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == DATA


def test_bytes_that_rot_without_a_new_time_are_found_by_verify(server: FileServer, tmp_path: Path) -> None:
    server.files["a.bin"] = DATA
    config = source_config(server, {"path": "a.bin"})
    download_dataset(config, tmp_path)
    status = (tmp_path / "a.bin").stat()
    (tmp_path / "a.bin").write_bytes(DATA[::-1])
    os.utime(tmp_path / "a.bin", ns=(status.st_atime_ns, status.st_mtime_ns))
    download_dataset(config, tmp_path)
    with pytest.raises(DownloadError, match=sha256(DATA[::-1])):
        download_dataset(config, tmp_path, verify=True)


def test_a_digest_that_the_config_states_later_is_compared_with_the_recorded_one(
    server: FileServer, tmp_path: Path
) -> None:
    server.files["a.bin"] = DATA
    download_dataset(source_config(server, {"path": "a.bin"}), tmp_path)
    download_dataset(source_config(server, {"path": "a.bin", "sha256": sha256(DATA)}), tmp_path)
    with pytest.raises(DownloadError, match=rf"with sha256 {sha256(DATA)}, but {sha256(b'')} is expected"):
        download_dataset(source_config(server, {"path": "a.bin", "sha256": sha256(b"")}), tmp_path)


def test_files_put_there_by_hand_are_verified_and_used(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = source_config(server, {"path": "a.bin", "sha256": sha256(DATA)}, {"path": "b.bin"})
    (tmp_path / "a.bin").write_bytes(DATA)
    (tmp_path / "b.bin").write_bytes(b"B")
    block_network(monkeypatch)
    download_dataset(config, tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/a.bin").write_bytes(b"wrong")
    (tmp_path / "other/b.bin").write_bytes(b"B")
    with pytest.raises(DownloadError, match=rf"a\.bin: sha256 is {sha256(b'wrong')}.*expected {sha256(DATA)}"):
        download_dataset(config, tmp_path / "other")


def test_a_failure_ends_the_download_and_keeps_what_arrived(server: FileServer, tmp_path: Path) -> None:
    server.files |= {f"{index}.bin": b"%d" % index for index in range(6)}
    config = source_config(server, *({"path": f"{index}.bin"} for index in range(6)), {"path": "missing.bin"})
    with pytest.raises(DownloadError, match=r"missing\.bin: 404"):
        download_dataset(config, tmp_path)
    server.files["missing.bin"] = b"now"
    arrived = [name for name in names(tmp_path) if name.endswith(".bin")]
    server.requests.clear()
    download_dataset(config, tmp_path)
    assert not set(arrived) & {path for path, _ in server.requests}
    assert (tmp_path / "missing.bin").read_bytes() == b"now"


def test_a_damaged_manifest_is_told_and_can_be_made_anew(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["a.bin"] = DATA
    config = source_config(server, {"path": "a.bin"})
    download_dataset(config, tmp_path)
    (tmp_path / "downloads.json").write_text("{")
    with pytest.raises(DownloadError, match=r"downloads\.json: damaged .*move it away"):
        download_dataset(config, tmp_path)
    (tmp_path / "downloads.json").unlink()
    block_network(monkeypatch)
    download_dataset(config, tmp_path)
    assert "a.bin" in json.loads((tmp_path / "downloads.json").read_text())["files"]


def test_raw_files_are_compared_with_their_record_before_they_are_read(server: FileServer, tmp_path: Path) -> None:
    server.files |= {"a.bin": DATA, "x.zip": zipped({"b.h5": b"B"})}
    folder = download_dataset(
        source_config(server, {"path": "a.bin"}, {"path": "x.zip", "unpack": True}), tmp_path / "lab"
    )
    summary, files = tmp_path / "lab.json", [folder / "a.bin", folder / "x/b.h5"]
    check_downloaded(summary, files)
    check_downloaded(None, [tmp_path / "anything"])
    files[1].write_bytes(b"C")
    with pytest.raises(DownloadError, match=rf"b\.h5 is not what was downloaded: sha256 is {sha256(b'C')}"):
        check_downloaded(summary, files)
    (folder / "downloads.json").unlink()
    with pytest.raises(DownloadError, match="--forcerun download_dataset"):
        check_downloaded(summary, files)


@pytest.mark.parametrize(
    ("files", "source", "message"),
    [
        ([{"path": "../a"}], {"url": "file:///x"}, r"'\.\./a' is not a path inside a folder"),
        ([{"path": "/a"}], {"url": "file:///x"}, "not a path inside"),
        ([{"path": "a", "sha": "0"}], {"url": "file:///x"}, r"unknown keys \['sha'\]"),
        ([{"path": "a", "sha256": "0"}], {"url": "file:///x"}, "64 hexadecimal digits, found '0'"),
        ([{"path": "a", "bytes": "many"}], {"url": "file:///x"}, "bytes is a number or null, found 'many'"),
        ([{"path": "a/", "bytes": 5}], {"url": "file:///x"}, "a folder has no bytes"),
        ([{"path": "a.h5", "unpack": True}], {"url": "file:///x"}, r"only \.zip archives can be unpacked"),
        ([{"path": "a", "match": "*"}], {"url": "file:///x"}, "match chooses among the files of a folder"),
        ([{"path": "a"}, {"path": "a"}], {"url": "file:///x"}, "a is listed twice"),
        (["a"], {"url": "file:///x"}, "is a list of"),
        ([{"path": "a"}], None, "source says not where they come from"),
        ([{"path": "a"}], {"url": "somewhere"}, "source.url is an address like"),
        ([{"path": "a"}], {"kind": "ftp"}, r"source\.kind is one of"),
        ([{"path": "a"}], {"kind": "huggingface_dataset"}, "needs source.repository"),
        ([{"path": "a"}], {"urls": "x"}, r"unknown keys \['urls'\]"),
        (None, None, "lists no files"),
    ],
)
def test_a_wrong_registry_is_refused_with_the_key(files: Any, source: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        download_dataset({"dataset": "lab", "files": files, "source": source}, tmp_path)
    assert names(tmp_path) == []


def test_words_for_people_are_no_part_of_what_a_download_depends_on(server: FileServer) -> None:
    plain, words = (
        source_config(server, {"path": "a"}),
        source_config(server, {"path": "a"}, licence="CC0", citation="Lab 2024"),
    )
    assert registry_text(plain) == registry_text(words)
    assert registry_text(plain) != registry_text(source_config(server, {"path": "a", "sha256": sha256(b"")}))
