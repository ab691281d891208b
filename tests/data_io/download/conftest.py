"""A server of files on this machine."""

from collections.abc import Iterator

import pytest

from coread.data_io.download import transfer
from tests.file_server import FileServer, running_server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(transfer, "RETRY_PAUSES_S", (0.0, 0.0, 0.0))
    with running_server() as running:
        yield running
