"""What a head that starts makes of what another one left, on this machine."""

import json
import sys
from pathlib import Path

import pytest

from coread import campaign
from tests.campaign import Campaign
from tests.campaigns.jobs import MEMBER
from tests.fake_slurm import FakeSlurm


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """A campaign of which one member was trained."""
    made = Campaign(tmp_path_factory.mktemp("trained") / "campaign").prepare()
    made.snakemake("results/tiny/fold0/seed0/model.ckpt")
    return made


@pytest.fixture
def orphaned(trained: Campaign, tmp_path: Path) -> Campaign:
    """The same as the death of its head would have left it: Snakemake recorded nothing about the member's files."""
    copy = trained.copy(tmp_path / "campaign")
    head = copy.root / "logs/campaign/head.json"
    head.write_text(json.dumps({**json.loads(head.read_text()), "outcome": None}))
    records = list((copy.root / ".snakemake/metadata").iterdir())
    forgotten = [path for path in records if "train_member" in json.loads(path.read_text())["log"][0]]
    assert len(forgotten) == 3
    for path in forgotten:
        path.unlink()
    return copy


def trains(made: Campaign) -> bool:
    return "train_member" in made.planned(target="results/tiny/fold0/seed0/model.ckpt")


@pytest.mark.slow
def test_what_ended_after_its_head_is_not_repeated_but_follows_edits(orphaned: Campaign) -> None:
    assert not trains(orphaned)
    for path in ("workflow_scripts/train.py", "results/tiny/config/train.yaml"):
        (orphaned.root / path).touch()
    assert not trains(orphaned)
    orphaned.replace("src/coread/training.py", '"""', '"""Edited. ')
    assert trains(orphaned)


@pytest.mark.slow
def test_code_edited_before_the_next_start_is_noticed_too(orphaned: Campaign) -> None:
    """The record says what the dead head ran, not what the next one would run."""
    orphaned.replace("src/coread/training.py", '"""', '"""Edited. ')
    assert trains(orphaned)


@pytest.mark.slow
@pytest.mark.parametrize("exit_status", [None, 1])
def test_what_did_not_end_well_is_repeated_whatever_files_there_are(
    orphaned: Campaign, exit_status: int | None
) -> None:
    path = orphaned.root / f"logs/{MEMBER}.attempts.jsonl"
    start, end = path.read_text().splitlines()
    changed = [] if exit_status is None else [json.dumps({**json.loads(end), "exit": exit_status})]
    path.write_text("\n".join([start, *changed]) + "\n")
    target = "results/tiny/fold0/seed0/model.ckpt"
    assert "train_member" in orphaned.planned("--rerun-incomplete", target=target)


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
def test_what_ended_while_a_head_was_starting_is_not_repeated(orphaned: Campaign) -> None:
    """The jobs were planned before the member's end was known; the next start knows it."""
    path = orphaned.root / f"logs/{MEMBER}.attempts.jsonl"
    start, end = path.read_text().splitlines()
    path.write_text(f"{start}\n")
    (orphaned.root / "end.jsonl").write_text(f"{end}\n")
    ends = f'with open("logs/{MEMBER}.attempts.jsonl", "a") as file:\n    file.write(open("end.jsonl").read())\n\n\n'
    orphaned.replace("Snakefile", "rule all:", f"{ends}rule all:")
    output = failing(orphaned, "--rerun-incomplete", "results/tiny/fold0/seed0/model.ckpt")
    assert "jobs of an earlier run ended while this one was starting: start it again" in output
    assert path.read_text() == f"{start}\n{end}\n"
    orphaned.replace("Snakefile", ends, "")
    assert not trains(orphaned)


@pytest.mark.slow
def test_a_second_head_is_refused_before_it_starts_a_job(
    trained: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = trained.copy(tmp_path / "campaign")
    monkeypatch.chdir(copy.root)
    lock = campaign.hold_lock()
    output = failing(copy, "results/tiny/fold0/seed1/model.ckpt")
    lock.release()
    assert f"another process drives the campaign in {copy.root}" in output
    assert not (copy.root / "logs/train_member/tiny/fold0/seed1.log").exists()


@pytest.mark.slow
def test_a_head_is_refused_beside_orphans_in_the_queue(trained: Campaign, tmp_path: Path, slurm: FakeSlurm) -> None:
    copy = trained.copy(tmp_path / "campaign")
    head = copy.root / "logs/campaign/head.json"
    head.write_text(json.dumps({**json.loads(head.read_text()), "executor": "slurm"}))
    slurm.enqueue("41", copy.root, state="RUNNING")
    output = failing(copy, "results/tiny/fold0/seed1/model.ckpt")
    assert "1 job of an earlier run is still in the queue (1 RUNNING; ids 41)" in output
    assert not (copy.root / "logs/train_member/tiny/fold0/seed1.log").exists()


def failing(made: Campaign, *arguments: str) -> str:
    """Return what Snakemake says when it fails."""
    with made.start([sys.executable, "-m", "snakemake", "--cores", "1", *arguments]) as process:
        output, _ = process.communicate()
    assert process.returncode == 1, output[-2000:]
    return output
