"""Files in the published layout."""

import pytest

from tests.data_io.hoefling_2024.short_clips import lay_out


@pytest.fixture
def folder(tmp_path):
    return lay_out(tmp_path)
