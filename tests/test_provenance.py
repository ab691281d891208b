"""Digests of files and folders, atomic texts, versions."""

import json
import os
from pathlib import Path

import pytest

from coread import __version__, provenance
from coread.provenance import (
    code_version,
    combined_digest,
    describe_sources,
    library_versions,
    sources_digest,
    write_digest,
    write_text,
)


def test_sources_digest_follows_names_and_contents_but_not_folders_and_times(tmp_path: Path) -> None:
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.h5").write_bytes(b"content")
    first, second = tmp_path / "one" / "a.h5", tmp_path / "other" / "a.h5"
    os.utime(second, (1, 1))
    assert sources_digest([first]) == sources_digest([second])
    second.write_bytes(b"changed")
    assert sources_digest([first]) != sources_digest([second])
    assert sources_digest([]) == "none"


def test_a_known_file_is_not_hashed_again_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, record = tmp_path / "raw.h5", tmp_path / "record.json"
    path.write_bytes(b"content")
    hashed: list[Path] = []
    real = provenance.file_sha256
    monkeypatch.setattr(provenance, "file_sha256", lambda file: hashed.append(file) or real(file))
    write_text(record, json.dumps(describe_sources([path])))
    provenance._sha256_of_version.cache_clear()  # as in the next process
    first = sources_digest([path], record)
    assert hashed == [path]  # when the record was made only
    assert first == sources_digest([path]) == sources_digest([path])
    assert hashed == [path, path]  # once in a process without the record
    path.write_bytes(b"longer content")
    assert sources_digest([path], record) != first
    assert hashed == [path, path, path]


def test_files_of_one_name_size_and_time_are_told_apart_by_their_content(tmp_path: Path) -> None:
    paths, record = [tmp_path / f"trial_{index}" / "all_images.npy" for index in range(3)], tmp_path / "record.json"
    for index, path in enumerate(paths):
        path.parent.mkdir()
        path.write_bytes(b"%d" % index)
        os.utime(path, (1, 1))  # as archives unpack them
    write_text(record, json.dumps(describe_sources(paths)))
    assert sources_digest(paths, record) == sources_digest(paths)


def test_combined_digest_follows_contents_order_and_values(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    digests = {
        combined_digest([one, two], 0, 0),
        combined_digest([two, one], 0, 0),
        combined_digest([one, two], 0, 1),
        combined_digest([one], 0, 0),
    }
    assert len(digests) == 4
    assert combined_digest([one.rename(tmp_path / "three"), two], 0, 0) in digests


def test_digest_lies_beside_its_file_and_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(b"weights")
    assert write_digest(path) == tmp_path / "model.sha256"
    assert len((tmp_path / "model.sha256").read_text().strip()) == 64
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "broken.txt", "\ud800")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.ckpt", "model.sha256"]


def test_versions_name_the_package_and_its_libraries() -> None:
    assert code_version().startswith(__version__)
    assert {"python", "torch", "numpy"} <= set(library_versions())
