"""A published dataset through the workflow: one rule touches the network, once, and what it brought stays."""

import hashlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

from tests.campaign import Campaign
from tests.file_server import FileServer, running_server

pytestmark = pytest.mark.slow

WORKFLOW = {
    "experiments": ["published"],
    "catalogue": {"published": {"members": {"cross": {"folds": [0], "seeds": [0]}}}},
    "data_dirs": {},
}
OUTER = "defaults:\n  - hdf5_core_readout\n  - override data_io: published\n  - _self_\nexp_name: published\n"
BUILT = {"build_stimuli": 1, "build_recording": 1}
FROM_NOTHING = {"write_data_config": 1, "write_download_config": 1, "download_dataset": 1, **BUILT}
AGAIN = {"write_download_config": 1, "download_dataset": 1, **BUILT}


def _raw() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    frames = {"random_noise_0": 60, "random_noise_2": 20, "random_noise_3": 20}
    files = {}
    for name, n_frames in frames.items():
        buffer = io.BytesIO()
        np.save(buffer, rng.normal(size=(3, n_frames, 16, 8)).astype(np.float32))
        files[f"stimuli/{name}.npy"] = buffer.getvalue()
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, n_frames in frames.items():
            file[f"responses_{name}"] = rng.normal(size=(4, n_frames)).astype(np.float32)
    return files | {"session_1.h5": buffer.getvalue()}


def _data_config(campaign: Campaign, server: FileServer, sessions: list[str] | None, **files: dict[str, Any]) -> None:
    entries = [{"path": path, **files.get(path.rpartition("/")[2].partition(".")[0], {})} for path in server.files]
    config = {
        "defaults": ["hdf5_directory", "_self_"],
        "dataset": "published",
        "sessions": sessions,
        "files": entries,
        "source": {"url": server.url, "licence": "CC0"},
    }
    campaign.write("configs/data_io/published.yaml", yaml.safe_dump(config))


def _fails(campaign: Campaign, *arguments: str) -> str:
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--show-failed-logs", *arguments]
    with campaign.start(command) as process:
        output, _ = process.communicate()
    assert process.returncode == 1, output[-2000:]
    return output


@pytest.fixture(scope="module")
def server() -> Iterator[FileServer]:
    with running_server() as running:
        running.files = _raw()
        yield running


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, server: FileServer) -> Campaign:
    campaign = Campaign(tmp_path_factory.mktemp("download") / "finished").prepare(WORKFLOW)
    campaign.write("configs/published.yaml", OUTER)
    _data_config(campaign, server, ["session_1"])
    assert campaign.planned(target="data") == FROM_NOTHING

    session = server.files.pop("session_1.h5")  # not published yet: the download fails and keeps what arrived
    said = _fails(campaign, "data")
    assert f"error: {server.url}/session_1.h5: 404" in said
    server.files["session_1.h5"] = session
    arrived = sorted(campaign.root.glob("results/downloads/published/stimuli/*.npy"))
    server.requests.clear()

    campaign.snakemake("data")
    fetched = {path for path, _ in server.requests}
    assert "session_1.h5" in fetched
    assert not fetched & {f"stimuli/{path.name}" for path in arrived}
    return campaign


def test_recordings_are_made_of_what_was_downloaded_and_a_second_run_has_nothing_to_do(
    finished: Campaign, server: FileServer
) -> None:
    summary = json.loads((finished.root / "results/downloads/published.json").read_text())
    assert summary["n_files"] == 4
    assert summary["bytes"] == sum(map(len, server.files.values()))
    with h5py.File(finished.root / "results/data/published/session_1.h5") as file:
        with h5py.File(io.BytesIO(server.files["session_1.h5"])) as raw:
            expected = np.concatenate([raw[f"responses_random_noise_{index}"][()].T for index in (0, 2, 3)])
        np.testing.assert_array_equal(file["bins/responses"][()], expected)
    assert finished.planned(target="data") == {}


def test_after_the_download_no_job_needs_a_network(finished: Campaign, server: FileServer, tmp_path: Path) -> None:
    campaign = finished.copy(tmp_path / "campaign")
    server.requests.clear()
    campaign.snakemake("data", "--forcerun", "build_stimuli", "build_recording")
    assert server.requests == []


def test_an_edit_of_the_registry_runs_the_download_again_and_fetches_nothing_that_is_there(
    finished: Campaign, server: FileServer, tmp_path: Path
) -> None:
    campaign = finished.copy(tmp_path / "campaign")
    known = hashlib.sha256(server.files["session_1.h5"]).hexdigest()
    _data_config(campaign, server, ["session_1"], session_1={"sha256": known})
    assert campaign.planned(target="data") == AGAIN
    server.requests.clear()
    campaign.snakemake("results/downloads/published.json")
    assert server.requests == []
    campaign.replace("configs/data_io/published.yaml", "CC0", "CC BY 4.0")
    campaign.snakemake("data")
    assert campaign.planned(target="data") == {}

    wrong = hashlib.sha256(b"another").hexdigest()
    _data_config(campaign, server, ["session_1"], session_1={"sha256": wrong})
    said = _fails(campaign, "data")
    assert f"it was downloaded with sha256 {known}, but {wrong} is expected" in said
    assert (campaign.root / "results/downloads/published/session_1.h5").read_bytes() == server.files["session_1.h5"]


def test_an_added_file_is_downloaded(finished: Campaign, server: FileServer, tmp_path: Path) -> None:
    campaign = finished.copy(tmp_path / "campaign")
    server.files["session_2.h5"] = server.files["session_1.h5"]
    try:
        _data_config(campaign, server, ["session_1", "session_2"])
        assert campaign.planned(target="data") == {**AGAIN, "write_data_config": 1, "build_recording": 2}
        server.requests.clear()
        campaign.snakemake("results/downloads/published.json")
        assert {path for path, _ in server.requests} == {"session_2.h5"}
    finally:
        del server.files["session_2.h5"]


def test_a_raw_file_that_changed_after_its_download_is_not_read(finished: Campaign, tmp_path: Path) -> None:
    campaign = finished.copy(tmp_path / "campaign")
    path = campaign.root / "results/downloads/published/session_1.h5"
    with h5py.File(path, "r+") as file:
        file["responses_random_noise_0"][0, 0] += 1.0
    said = _fails(campaign, "data", "--forcerun", "build_recording")
    assert "session_1.h5 is not what was downloaded: sha256 is" in said


def test_a_folder_of_this_machine_is_read_instead_of_a_download(
    finished: Campaign, server: FileServer, tmp_path: Path
) -> None:
    campaign = Campaign(tmp_path / "campaign").prepare(WORKFLOW)
    campaign.write("configs/published.yaml", OUTER)
    _data_config(campaign, server, ["session_1"])
    folder = finished.root / "results/downloads/published"
    planned = campaign.planned("--config", f"data_dirs={{published: '{folder}'}}", target="data")
    assert planned == {"write_data_config": 1, **BUILT}


def test_unlisted_sessions_of_a_download_are_refused_with_the_way_out(
    server: FileServer, finished: Campaign, tmp_path: Path
) -> None:
    campaign = Campaign(tmp_path / "campaign").prepare(WORKFLOW)
    campaign.write("configs/published.yaml", OUTER)
    _data_config(campaign, server, None)
    said = _fails(campaign, "data", "-n")
    assert "config lists no sessions" in said
    assert "coread download published --to DIR" in said
    assert "data_dirs={published: DIR/published}" in said
