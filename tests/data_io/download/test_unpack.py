"""Archives are unpacked beside themselves, whole or not at all."""

import io
import os
import signal
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from coread.data_io.download import (
    DownloadError,
    download_dataset,
)
from tests.data_io.download.served import DATA, block_network, names, sha256, source_config, zipped
from tests.file_server import FileServer


def test_an_archive_is_unpacked_beside_and_kept(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = {"inner/a.h5": b"A" * 1000, "b.txt": b"B", "__MACOSX/inner/._a.h5": b"fork"}
    server.files["deep/x.zip"] = zipped(members)
    config = source_config(server, {"path": "deep/x.zip", "unpack": True})
    folder = download_dataset(config, tmp_path / "lab")
    assert names(folder) == ["deep/x.zip", "deep/x/b.txt", "deep/x/inner/a.h5", "downloads.json"]
    assert (folder / "deep/x/inner/a.h5").read_bytes() == members["inner/a.h5"]

    block_network(monkeypatch)
    (folder / "deep/x.zip").unlink()  # unpacked, so it may go
    download_dataset(config, folder)
    assert not (folder / "deep/x.zip").exists()
    (folder / "deep/x/b.txt").write_bytes(b"C")
    with pytest.raises(DownloadError, match=rf"b\.txt .*sha256 is {sha256(b'C')} .*was {sha256(b'B')}"):
        download_dataset(config, folder)
    (folder / "deep/x/b.txt").unlink()
    with pytest.raises(DownloadError, match=r"b\.txt: it was unpacked and is gone"):
        download_dataset(config, folder)


def test_an_unpacked_folder_that_was_removed_is_made_again_without_a_network(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["x.zip"] = zipped({"a.h5": DATA})
    config = source_config(server, {"path": "x.zip", "unpack": True})
    download_dataset(config, tmp_path)
    (tmp_path / "x/a.h5").unlink()
    (tmp_path / "x").rmdir()
    block_network(monkeypatch)
    download_dataset(config, tmp_path)
    assert (tmp_path / "x/a.h5").read_bytes() == DATA


def _with_link() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("good.txt", b"good")
        link = zipfile.ZipInfo("evil")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zipped({"good.txt": b"", "../evil": b"x"}), r"'\.\./evil' would leave its folder"),
        (zipped({"good.txt": b"", "a/../../evil": b"x"}), r"'a/\.\./\.\./evil' would leave"),
        (zipped({"good.txt": b"", "/tmp/evil": b"x"}), r"'/tmp/evil' would leave"),
        (zipped({"good.txt": b"", "C:evil": b"x"}), r"'C:evil' would leave"),
        (zipped({"good.txt": b"", "..\\evil": b"x"}), r"evil' would leave"),
        (_with_link(), r"'evil' is a link"),
        (zipped({"x": b"", "x/y": b""}), r"x\.zip: the place of the member 'x/y' is taken by another"),
        (zipped({"x/y": b"", "x": b""}), r"x\.zip: the place of the member 'x' is taken"),
        (zipped({"x": b"", "x/": b""}), r"x\.zip: the place of the member 'x/' is taken"),
        (zipped({"x": b"", "x/y/z": b""}), r"x\.zip: the place of the member 'x/y/z' is taken"),
        (b"not a zip", r"x\.zip: not a zip archive"),
        (zipped({"good.txt": DATA})[:-500], r"x\.zip: not a zip archive"),
    ],
)
def test_archives_that_would_do_harm_or_are_damaged_are_refused(
    server: FileServer, tmp_path: Path, content: bytes, message: str
) -> None:
    server.files["x.zip"] = content
    with pytest.raises(DownloadError, match=message):
        download_dataset(source_config(server, {"path": "x.zip", "unpack": True}), tmp_path / "lab")
    assert names(tmp_path) == ["lab/downloads.json", "lab/x.zip"]


def test_a_damaged_member_leaves_no_folder(server: FileServer, tmp_path: Path) -> None:
    content = bytearray(zipped({"a.h5": os.urandom(20_000)}))
    content[5_000] ^= 0xFF
    server.files["x.zip"] = bytes(content)
    with pytest.raises(DownloadError, match=r"x\.zip: not a zip archive that can be unpacked"):
        download_dataset(source_config(server, {"path": "x.zip", "unpack": True}), tmp_path)
    assert not (tmp_path / "x").exists()


def test_an_unpacking_that_was_killed_leaves_nothing_half(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["x.zip"] = zipped({"a.h5": DATA, "b.h5": DATA})
    program = (
        "import os, zipfile\n"
        "from coread.data_io.download import download_dataset, unpack\n"
        "plain = unpack._write_member\n"
        "def die(opened, info, path):\n"
        "    if info.filename == 'b.h5': os.kill(os.getpid(), 9)\n"
        "    return plain(opened, info, path)\n"
        "unpack._write_member = die\n"
        f"download_dataset({source_config(server, {'path': 'x.zip', 'unpack': True})!r}, {str(tmp_path)!r})\n"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == -signal.SIGKILL
    assert not (tmp_path / "x").exists()
    download_dataset(source_config(server, {"path": "x.zip", "unpack": True}), tmp_path)
    assert names(tmp_path / "x") == ["a.h5", "b.h5"]
    assert not [name for name in names(tmp_path) if "unpacking" in name or ".lock" in name]


def test_a_foreign_folder_in_the_place_of_an_unpacked_one_is_kept_and_told(server: FileServer, tmp_path: Path) -> None:
    server.files["x.zip"] = zipped({"a.h5": DATA})
    (tmp_path / "x").mkdir()
    (tmp_path / "x/a.h5").write_bytes(b"mine")
    config = source_config(server, {"path": "x.zip", "unpack": True})
    with pytest.raises(DownloadError, match=r"x is there but not what x\.zip holds: a\.h5 has sha256"):
        download_dataset(config, tmp_path)
    assert (tmp_path / "x/a.h5").read_bytes() == b"mine"
    (tmp_path / "x/a.h5").write_bytes(DATA)
    download_dataset(config, tmp_path)
