"""A folder in which attempts of one job run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.supervision.attempts import Workplace


@pytest.fixture
def workplace(tmp_path: Path) -> Iterator[Workplace]:
    place = Workplace(tmp_path)
    yield place
    for process in place.started:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
