"""What tests of downloads serve, and what they look at afterwards."""

import hashlib
import io
import socket
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.file_server import FileServer

DATA = bytes(range(256)) * 4000  # 1 MB: several chunks


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


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


def source_config(server: FileServer, *files: dict[str, Any], **source: Any) -> dict[str, Any]:
    return {"dataset": "lab", "files": list(files), "source": {"url": server.url} | source}
