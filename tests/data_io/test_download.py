"""Published files get here: resumed, verified, never half-present, never silently replaced, and offline afterwards."""

import hashlib
import io
import json
import multiprocessing
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coread.data_io.download import (
    DownloadError,
    check_downloaded,
    download_dataset,
    downloaded_summary,
    fetch,
    get_local_file_path,
    registry_text,
    transfer,
)
from coread.data_io.download.origin import AddressPrefix, HubDataset, make_origin
from tests.file_server import COMMIT, FileServer, running_server

DATA = bytes(range(256)) * 4000  # 1 MB: several chunks


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(transfer, "RETRY_PAUSES_S", (0.0, 0.0, 0.0))
    with running_server() as running:
        yield running


def block_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **keywords: Any) -> None:
        raise AssertionError("the network was touched")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# ------------------------------------------------------------------------------------------------------------- one file


def test_a_file_is_fetched_once_and_then_only_verified(server: FileServer, tmp_path: Path) -> None:
    server.files["a.bin"] = DATA
    target = fetch(f"{server.url}/a.bin", tmp_path / "deep" / "a.bin", sha256(DATA), len(DATA))
    assert target.read_bytes() == DATA
    assert names(tmp_path) == ["deep/a.bin"]
    before = target.stat().st_mtime_ns
    fetch(f"{server.url}/a.bin", target, sha256(DATA).upper())
    assert target.stat().st_mtime_ns == before
    assert len(server.requests) == 1


def test_a_broken_connection_goes_on_where_it_ended(server: FileServer, tmp_path: Path) -> None:
    server.files["a.bin"] = DATA
    server.cut(300_000, 200_000)
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin").read_bytes() == DATA
    assert server.asked("a.bin") == [None, "bytes=300000-", "bytes=500000-"]


def test_a_redirected_transfer_goes_on_where_it_ended(server: FileServer, tmp_path: Path) -> None:
    server.files["elsewhere.bin"] = DATA
    server.cut(300_000)

    def redirect(handler: Any) -> bool:
        if handler.path != "/a.bin":
            return False
        handler.send_response(302)
        handler.send_header("Location", f"{server.url}/elsewhere.bin")
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    server.faults.insert(0, redirect)
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin").read_bytes() == DATA
    assert server.asked("elsewhere.bin") == [None, "bytes=300000-"]


def test_passing_answers_of_the_server_are_tried_again(server: FileServer, tmp_path: Path) -> None:
    server.files["a.bin"] = DATA
    server.fail(500, 503, Retry_After="0")
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin").read_bytes() == DATA
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"RateLimit": '"resolvers";r=0;t=55'}, 56.0),
        ({}, 60.0),
        ({"Retry-After": "9999"}, 300.0),
    ],
)
def test_a_server_that_limits_requests_is_asked_again_when_it_says(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], expected: float
) -> None:
    server.files["a.bin"] = DATA
    server.fail(429, **{name.replace("-", "_"): value for name, value in headers.items()})
    pauses: list[float] = []
    monkeypatch.setattr(transfer.Progress, "wait", lambda progress, seconds: pauses.append(seconds))
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert pauses == [expected]


def test_a_server_that_stays_broken_is_given_up_with_its_address_and_the_place_for_the_file(
    server: FileServer, tmp_path: Path
) -> None:
    server.fail(*[502] * 50)
    target = tmp_path / "a.bin"
    with pytest.raises(DownloadError, match=rf"{server.url}/a.bin: 502 .* 3 times in a row.*by hand at {target}"):
        fetch(f"{server.url}/a.bin", target)
    assert len(server.requests) == 3


def test_a_later_call_goes_on_with_what_an_earlier_one_left(server: FileServer, tmp_path: Path) -> None:
    server.files["a.bin"] = DATA
    server.cut(400_000, 0, 0, 0)
    with pytest.raises(DownloadError, match=r"400000 of 1024000 bytes, 3 times in a row; start again to go on"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert names(tmp_path) == ["a.bin.part", "a.bin.part.json"]
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert server.asked("a.bin")[-1] == "bytes=400000-"
    assert names(tmp_path) == ["a.bin"]
    assert (tmp_path / "a.bin").read_bytes() == DATA


@pytest.mark.parametrize("validators", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_a_file_that_changed_meanwhile_starts_anew(
    server: FileServer, tmp_path: Path, validators: bool, known: bool
) -> None:
    server.files["a.bin"], server.validators = DATA, validators
    server.cut(400_000, 0, 0, 0)
    with pytest.raises(DownloadError):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    server.files["a.bin"] = changed = DATA[::-1]
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin", sha256(changed) if known else None)
    assert (tmp_path / "a.bin").read_bytes() == changed


def test_a_server_without_ranges_starts_anew_and_is_not_asked_for_ever(server: FileServer, tmp_path: Path) -> None:
    server.files["a.bin"], server.ranges = DATA, False
    server.cut(400_000)
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin").read_bytes() == DATA
    server.cut(*[400_000] * 50)
    asked = len(server.requests)
    with pytest.raises(DownloadError, match="times in a row"):
        fetch(f"{server.url}/a.bin", tmp_path / "b.bin")
    assert len(server.requests) - asked == 4


def test_what_arrived_whole_before_a_kill_is_not_fetched_again(server: FileServer, tmp_path: Path) -> None:
    server.files["a.bin"] = DATA
    server.cut(400_000, 0, 0, 0)
    with pytest.raises(DownloadError):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    (tmp_path / "a.bin.part").write_bytes(DATA)
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin", sha256(DATA)).read_bytes() == DATA
    assert server.asked("a.bin")[-1] == f"bytes={len(DATA)}-"


def test_a_damaged_partial_file_is_noticed_and_fetched_anew(server: FileServer, tmp_path: Path) -> None:
    server.files["a.bin"] = DATA
    server.cut(400_000, 0, 0, 0)
    with pytest.raises(DownloadError):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    (tmp_path / "a.bin.part").write_bytes(bytes(400_000))
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin", sha256(DATA)).read_bytes() == DATA


def test_another_file_than_expected_is_an_error_with_both_digests_and_leaves_nothing(
    server: FileServer, tmp_path: Path
) -> None:
    server.files["a.bin"] = DATA
    other = sha256(b"other")
    with pytest.raises(DownloadError, match=rf"a\.bin: .*sha256 is {sha256(DATA)} .*expected {other}"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", other)
    with pytest.raises(DownloadError, match=r"it has 1024000 bytes .*expected 5"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", bytes=5)
    assert names(tmp_path) == []


def test_a_file_that_is_there_is_never_replaced(server: FileServer, tmp_path: Path) -> None:
    server.files["a.bin"] = DATA
    (tmp_path / "a.bin").write_bytes(b"mine")
    with pytest.raises(DownloadError, match=rf"{sha256(b'mine')}.*expected {sha256(DATA)}; it is left as it is"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", sha256(DATA))
    assert (tmp_path / "a.bin").read_bytes() == b"mine"
    assert server.requests == []


@pytest.mark.parametrize(
    ("status", "reason"), [(404, "there is no such file"), (403, "refuses it"), (401, "wants a login"), (418, "cannot")]
)
def test_a_refusal_names_the_address_and_is_not_tried_again(
    server: FileServer, tmp_path: Path, status: int, reason: str
) -> None:
    server.fail(*[status] * 5)
    with pytest.raises(DownloadError, match=rf"{server.url}/a.bin: {status} .*{reason}"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert len(server.requests) == 1


def test_without_a_network_the_message_says_where_to_put_the_file(server: FileServer, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/a.bin"
    target = tmp_path / "a.bin"
    message = rf"{url}: cannot reach .*put the file \(sha256 {sha256(DATA)}\) by hand at {target}"
    with pytest.raises(DownloadError, match=message):
        fetch(url, target, sha256(DATA))
    target.write_bytes(DATA)
    assert fetch(url, target, sha256(DATA)) == target


def test_a_web_page_in_place_of_a_file_is_refused(server: FileServer, tmp_path: Path) -> None:
    def login(handler: Any) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/html; charset=utf-8")
        handler.send_header("Content-Length", "5")
        handler.end_headers()
        handler.wfile.write(b"hello")
        return True

    server.faults.append(login)
    with pytest.raises(DownloadError, match="a web page came instead of the file"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin")


def test_file_addresses_work_and_others_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mirror of a lab").mkdir()
    original = tmp_path / "mirror of a lab" / "a b.bin"
    original.write_bytes(DATA)
    assert fetch(original.as_uri(), tmp_path / "copy.bin", sha256(DATA)).read_bytes() == DATA
    with pytest.raises(DownloadError, match=r"nothing\.bin: cannot be read"):
        fetch((tmp_path / "nothing.bin").as_uri(), tmp_path / "b.bin")
    with pytest.raises(DownloadError, match="only http, https and file"):
        fetch("ftp://somewhere/a.bin", tmp_path / "b.bin")


def test_too_little_space_is_said_before_the_disk_is_full(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["a.bin"] = DATA
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda path: _Free(500_000))
    with pytest.raises(DownloadError, match=r"1\.0 MB are to come, but its disk has 0\.5 MB free"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin")


class _Free:
    def __init__(self, free: int) -> None:
        self.free = free


def test_processes_that_want_the_same_file_fetch_it_once(server: FileServer, tmp_path: Path) -> None:
    server.files["a.bin"] = DATA

    def slowly(handler: Any) -> bool:
        time.sleep(0.3)
        return False

    server.faults.append(slowly)
    context = multiprocessing.get_context("fork")
    arguments = (f"{server.url}/a.bin", tmp_path / "a.bin", sha256(DATA))
    processes = [context.Process(target=fetch, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(server.requests) == 1
    assert names(tmp_path) == ["a.bin"]


def test_a_killed_download_goes_on(server: FileServer, tmp_path: Path) -> None:
    server.files["a.bin"] = DATA

    def stall(handler: Any) -> bool:
        if handler.headers.get("Range") is not None:
            return False
        handler.send_file(limit=600_000)
        time.sleep(20.0)
        return True

    server.faults.append(stall)
    program = (
        f"from coread.data_io.download import fetch; fetch({server.url + '/a.bin'!r}, {str(tmp_path / 'a.bin')!r})"
    )
    part = tmp_path / "a.bin.part"
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        while not (part.exists() and part.stat().st_size >= 500_000):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    left = part.stat().st_size
    assert not (tmp_path / "a.bin").exists()
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin").read_bytes() == DATA
    assert server.asked("a.bin")[-1] == f"bytes={left}-"


# ------------------------------------------------------------------------------------------------------------- archives


def _config(server: FileServer, *files: dict[str, Any], **source: Any) -> dict[str, Any]:
    return {"dataset": "lab", "files": list(files), "source": {"url": server.url} | source}


def test_an_archive_is_unpacked_beside_and_kept(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = {"inner/a.h5": b"A" * 1000, "b.txt": b"B", "__MACOSX/inner/._a.h5": b"fork"}
    server.files["deep/x.zip"] = zipped(members)
    config = _config(server, {"path": "deep/x.zip", "unpack": True})
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
    config = _config(server, {"path": "x.zip", "unpack": True})
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
        download_dataset(_config(server, {"path": "x.zip", "unpack": True}), tmp_path / "lab")
    assert names(tmp_path) == ["lab/downloads.json", "lab/x.zip"]


def test_a_damaged_member_leaves_no_folder(server: FileServer, tmp_path: Path) -> None:
    content = bytearray(zipped({"a.h5": os.urandom(20_000)}))
    content[5_000] ^= 0xFF
    server.files["x.zip"] = bytes(content)
    with pytest.raises(DownloadError, match=r"x\.zip: not a zip archive that can be unpacked"):
        download_dataset(_config(server, {"path": "x.zip", "unpack": True}), tmp_path)
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
        f"download_dataset({_config(server, {'path': 'x.zip', 'unpack': True})!r}, {str(tmp_path)!r})\n"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == -signal.SIGKILL
    assert not (tmp_path / "x").exists()
    download_dataset(_config(server, {"path": "x.zip", "unpack": True}), tmp_path)
    assert names(tmp_path / "x") == ["a.h5", "b.h5"]
    assert not [name for name in names(tmp_path) if "unpacking" in name or ".lock" in name]


def test_a_foreign_folder_in_the_place_of_an_unpacked_one_is_kept_and_told(server: FileServer, tmp_path: Path) -> None:
    server.files["x.zip"] = zipped({"a.h5": DATA})
    (tmp_path / "x").mkdir()
    (tmp_path / "x/a.h5").write_bytes(b"mine")
    config = _config(server, {"path": "x.zip", "unpack": True})
    with pytest.raises(DownloadError, match=r"x is there but not what x\.zip holds: a\.h5 has sha256"):
        download_dataset(config, tmp_path)
    assert (tmp_path / "x/a.h5").read_bytes() == b"mine"
    (tmp_path / "x/a.h5").write_bytes(DATA)
    download_dataset(config, tmp_path)


# ------------------------------------------------------------------------------------------------------------- datasets


def test_nothing_touches_the_network_once_all_is_there(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files |= {"a.bin": DATA, "sub/b.bin": b"B"}
    config = _config(server, {"path": "a.bin"}, {"path": "sub/b.bin", "sha256": sha256(b"B"), "bytes": 1})
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
    config = _config(server, {"path": "a.bin", "sha256": None})
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
    config = _config(server, {"path": "a.bin"})
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
    download_dataset(_config(server, {"path": "a.bin"}), tmp_path)
    download_dataset(_config(server, {"path": "a.bin", "sha256": sha256(DATA)}), tmp_path)
    with pytest.raises(DownloadError, match=rf"with sha256 {sha256(DATA)}, but {sha256(b'')} is expected"):
        download_dataset(_config(server, {"path": "a.bin", "sha256": sha256(b"")}), tmp_path)


def test_files_put_there_by_hand_are_verified_and_used(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(server, {"path": "a.bin", "sha256": sha256(DATA)}, {"path": "b.bin"})
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
    config = _config(server, *({"path": f"{index}.bin"} for index in range(6)), {"path": "missing.bin"})
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
    config = _config(server, {"path": "a.bin"})
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
    folder = download_dataset(_config(server, {"path": "a.bin"}, {"path": "x.zip", "unpack": True}), tmp_path / "lab")
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
    plain, words = _config(server, {"path": "a"}), _config(server, {"path": "a"}, licence="CC0", citation="Lab 2024")
    assert registry_text(plain) == registry_text(words)
    assert registry_text(plain) != registry_text(_config(server, {"path": "a", "sha256": sha256(b"")}))


# ------------------------------------------------------------------------------------------------------------ the hub


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
        download_dataset(_config(server, {"path": "s/"}), tmp_path)


# ---------------------------------------------------------------------------------------------------- documented access


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
