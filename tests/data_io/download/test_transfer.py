"""One file: resumed, verified, never half-present, never silently replaced."""

import multiprocessing
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from coread.data_io.download import (
    DownloadError,
    fetch,
    transfer,
)
from tests.data_io.download.served import DATA, names, sha256
from tests.file_server import FileServer


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
