"""`coread search`: from a shipped kind of experiment to best.yaml, and what it says when something is wrong."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from coread.cli.main import main
from tests.campaign import Campaign
from tests.conftest import REPOSITORY

SMALL = ["cluster=debug", "search.n_trials=2", "search.parallel=1", "trainer.max_epochs=1"]


@pytest.fixture
def place(tmp_path: Path) -> Campaign:
    return Campaign(tmp_path / "place").prepare()


def run(place: Campaign, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "coread.cli.main", *arguments]
    program = f"import sys; from coread.cli.main import main; main({list(arguments)!r})"
    command = [sys.executable, "-c", program]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=place.root, env=environment, capture_output=True, text=True)


def test_it_explains_itself(capsys: pytest.CaptureFixture) -> None:
    main(["search"])
    said = capsys.readouterr().out
    assert said.startswith("usage: coread search --config-name NAME")
    assert "best.yaml" in said


@pytest.mark.slow
def test_it_searches_an_experiment_and_goes_on_where_it_ended(place: Campaign) -> None:
    named = ("search", "--config-path", "configs", "--config-name", "tiny")
    done = run(place, *named, *SMALL)
    assert done.returncode == 0, done.stderr
    folder = place.root / "results" / "tiny" / "search"
    table = pd.read_csv(folder / "trials.csv")
    assert len(table) == 2
    assert "wrote results/tiny/search/best.yaml" in done.stdout + done.stderr
    again = run(place, *named, *SMALL[:1], "search.n_trials=3", *SMALL[2:])
    assert again.returncode == 0, again.stderr
    longer = pd.read_csv(folder / "trials.csv")
    pd.testing.assert_frame_equal(longer.head(2), table)  # durations too: finished trials are not run again
    assert len(longer) == 3
    assert len(list((folder / ".study").glob("data-*"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+search.space.model.learning_rte={distribution: float, low: 1, high: 2}"], "did you mean 'learning_rate'?"),
        (["+cluster.partiton=gpu"], "unknown key 'cluster.partiton' (did you mean 'partition'?)"),
        (["search=nothing"], "nothing"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(place: Campaign, overrides: list[str], message: str) -> None:
    done = run(place, "search", "--config-path", "configs", "--config-name", "tiny", *SMALL, *overrides)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert message in line
    assert "Traceback" not in done.stderr


def test_without_optuna_it_says_how_to_get_it() -> None:
    program = """
import sys
sys.modules["optuna"] = None
from coread.failure import reported_errors
with reported_errors(in_terminal=True):
    import coread.search.study
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "a search needs Optuna: pip install 'coread[search]'" in done.stderr
