"""Rules run under the supervisor: what Snakemake does to logs, and that no script outlives a killed Snakemake."""

import subprocess
import sys
import time
from pathlib import Path

from coread.attempt_log import read_records
from tests.campaign import Campaign

JOB = "build_stimuli/tiny"
LINK = f"logs/{JOB}.log"
RECORDS = f"logs/{JOB}.attempts.jsonl"
PATIENCE_S = 120.0
SLEEP = "import time\nprint('ready', flush=True)\ntime.sleep(300)\n"


def data(*options: str) -> list[str]:
    return [sys.executable, "-m", "snakemake", "--cores", "1", "--show-failed-logs", *options, "data"]


def kept(campaign: Campaign) -> list[str]:
    return sorted(path.name for path in (campaign.root / "logs/build_stimuli").glob("tiny*.log"))


def test_every_attempt_keeps_its_log_and_the_newest_is_the_declared_one(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path / "campaign").prepare()
    marker = campaign.root / "logs/campaign/stopped" / JOB
    marker.parent.mkdir(parents=True)
    marker.touch()
    with campaign.start(data("--retries", "1")) as process:
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode != 0
    assert "error: build_stimuli/tiny was stopped by `coread campaign stop`" in output, "the declared log is shown"
    assert "build_stimuli tiny, attempt 2: build_stimuli/tiny was stopped" in output
    assert kept(campaign) == ["tiny.attempt-1.log", "tiny.attempt-2.log", "tiny.log"]
    assert [record["exit"] for record in read_records(campaign.root / RECORDS)[1::2]] == [1, 1]

    marker.unlink()
    (campaign.root / LINK).resolve().unlink()  # a link to nothing must not stop the next run
    campaign.snakemake("data")
    assert kept(campaign) == ["tiny.attempt-1.log", "tiny.attempt-3.log", "tiny.log"]
    assert str((campaign.root / LINK).readlink()) == "tiny.attempt-3.log"
    assert read_records(campaign.root / RECORDS)[-1]["exit"] == 0
    benchmark = (campaign.root / f"logs/{JOB}.tsv").read_text().splitlines()
    measured = dict(zip(*(line.split("\t") for line in benchmark), strict=True))
    assert float(measured["max_rss"]) > 50, "the script is measured, not the supervisor alone"
    assert "Nothing to be done" in campaign.snakemake("data"), "what attempts leave re-runs nothing"


def test_a_script_ends_with_a_killed_snakemake(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path / "campaign").prepare()
    campaign.write("workflow_scripts/build_stimuli.py", SLEEP)
    with campaign.start(data()) as head:
        script = wait_for_script(campaign)
        head.kill()
    deadline = time.monotonic() + PATIENCE_S
    while is_running(script) or len(read_records(campaign.root / RECORDS)) < 2:
        assert time.monotonic() < deadline, "the script outlived its Snakemake"
        time.sleep(0.1)
    assert read_records(campaign.root / RECORDS)[-1]["reason"] == "killed because its Snakemake was gone"


def wait_for_script(campaign: Campaign) -> int:
    log, deadline = campaign.root / LINK, time.monotonic() + PATIENCE_S
    while not (log.exists() and "ready" in log.read_text() and read_records(campaign.root / RECORDS)):
        assert time.monotonic() < deadline, "the script was never started"
        time.sleep(0.1)
    return int(read_records(campaign.root / RECORDS)[0]["pid"])


def is_running(pid: int) -> bool:
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(shown) and not shown.startswith("Z")
