"""The page of measured results: what replaces what, medians and ratios, and that every claim's row exists."""

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "benchmarks"


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    import results as module

    monkeypatch.setattr(module, "TABLE", tmp_path / "results.csv")
    return module


def benchmark(results: ModuleType, **changes: Any) -> Any:
    given = {"title": "Steps", "command": ("steps.py",), "quantities": {"seconds": "s"}, "cases": ("case",)}
    return results.Benchmark(**given | changes)


def table(ours: list[float], theirs: list[float]) -> pd.DataFrame:
    systems = ["coread"] * len(ours) + ["peer"] * len(theirs)
    return pd.DataFrame({"system": systems, "case": "small", "seconds": [*ours, *theirs]})


def test_a_page_has_medians_spreads_and_ratios(results: ModuleType) -> None:
    steps = benchmark(results)
    results.record(results.tidy(table([2.0, 1.0, 4.0], [10.0]), "steps", steps))
    page = results.page(results.known(), {"steps": steps, "others": benchmark(results, title="Others")})
    assert "| case | quantity | coread | peer | peer / coread | runs |" in page
    assert "| small | seconds (s) | 2 [1, 4] | 10 | 5 | 3/1 |" in page
    assert "## others\n\nOthers (`steps.py`).\n\nNot run.\n" in page
    assert re.search(r"commit: [0-9a-f]{7,}( with changes)?; date: \d{4}-\d\d-\d\d; machine: .*cores.*torch", page)


def test_a_benchmark_replaces_its_own_rows_and_no_others(results: ModuleType) -> None:
    steps, others = benchmark(results), benchmark(results, cases=())
    results.record(results.tidy(table([2.0], [10.0]), "steps", steps))
    results.record(results.tidy(pd.DataFrame({"seconds": [7.0]}), "others", others))
    results.record(results.tidy(table([3.0], [float("nan")]), "steps", steps))
    known = results.known()
    assert known.loc[known["benchmark"] == "steps", ["system", "value"]].to_numpy().tolist() == [["coread", 3.0]]
    assert known.loc[known["benchmark"] == "others", "value"].tolist() == [7.0]


def test_every_kind_of_machine_has_rows_of_its_own(results: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = benchmark(results)
    for machine, seconds in (("a laptop", 2.0), ("a GPU", 0.5), ("a laptop", 3.0)):
        monkeypatch.setattr(results, "machine", lambda machine=machine: machine)
        results.record(results.tidy(table([seconds], [10 * seconds]), "steps", steps))
    page = results.page(results.known(), {"steps": steps})
    assert "| small | seconds (s) | 0.5 | 5 | 10 | 1/1 |" in page
    assert "| small | seconds (s) | 3 | 30 | 10 | 1/1 |" in page
    assert page.count("small") == 2


def test_every_benchmark_has_its_script_and_every_claim_its_section(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    import run

    for name, listed in run.BENCHMARKS.items():
        assert (FOLDER / listed.command[0]).is_file(), name
    for path in [REPOSITORY / "README.md", *REPOSITORY.glob("docs/*.md"), *FOLDER.glob("*.md")]:
        for section in re.findall(r"results\.md#([\w-]+)", path.read_text()):
            assert section in run.BENCHMARKS, f"{path.name}: {section}"


def test_an_unknown_benchmark_is_refused() -> None:
    command = [sys.executable, str(FOLDER / "run.py"), "nonsense"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unknown benchmark ['nonsense'], known: ['tutorial'" in done.stderr
