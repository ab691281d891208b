"""The scores compute what the published ones do."""

from pathlib import Path

import numpy as np
import pytest

from coread.eval.metrics import correlation_numpy, explainable_vs_total_var, feve
from coread.eval.oracles import oracle_corr_jackknife


@pytest.fixture
def case(reference_data: Path) -> dict[str, np.ndarray]:
    with np.load(reference_data / "parity" / "metrics.npz", allow_pickle=False) as file:
        return dict(file)


def test_scores_match(case: dict[str, np.ndarray]):
    responses, predictions = case["responses"], case["predictions"]
    ratio, explainable = explainable_vs_total_var(responses)
    actual = {
        "feve": np.clip(feve(responses, predictions), 0, 1),
        "var_ratio": ratio,
        "explainable_var": explainable,
        "jackknife": oracle_corr_jackknife(responses)[0],
        "correlation": correlation_numpy(responses.mean(axis=1), predictions, axis=0),
    }
    for name, values in actual.items():
        np.testing.assert_allclose(values, case[name], rtol=1e-4, atol=1e-5, err_msg=name)
    np.testing.assert_array_equal(feve(responses, predictions, clip=True), actual["feve"])
