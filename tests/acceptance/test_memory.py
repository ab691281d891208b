"""Peak memory of training: a constant, one copy of each distinct stimulus, and the responses; flat where streamed."""

from pathlib import Path

import pytest
from benchmarks.memory import markdown_table, measure

SLACK_MB = 50.0


@pytest.mark.acceptance
@pytest.mark.timeout(1200)
def test_a_session_costs_its_responses_in_memory_and_nothing_where_streamed(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    cases = measure([1, 4, 16], n_frames=40_000, n_neurons=200, folder=tmp_path)
    with capsys.disabled():
        print("\n" + markdown_table(cases))
    for mode in ("loaded", "streamed"):
        first, *more = [case for case in cases if case.mode == mode]
        for case in more:
            growth, expected = case.peak_mb - first.peak_mb, case.data_mb - first.data_mb
            assert abs(growth - expected) <= 0.25 * expected + SLACK_MB, (mode, case.n_sessions)
    one_loaded, one_streamed = (next(case for case in cases if case.mode == mode) for mode in ("loaded", "streamed"))
    # the movie is there once when loaded and not at all when streamed
    saved, expected = one_loaded.peak_mb - one_streamed.peak_mb, one_loaded.data_mb
    assert abs(saved - expected) <= 0.25 * expected + SLACK_MB
