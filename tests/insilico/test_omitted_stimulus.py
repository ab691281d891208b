"""The omitted stimulus response of cells that keep time, of cells that lag behind, and of silent ones."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from coread.config import analysis_settings
from coread.insilico.omitted_stimulus import OmittedStimulus
from coread.insilico.population import Population
from coread.insilico.running import load_experiment

LAG, RATE_HZ = 20, 30.0
PERIODS = np.array([3, 4, 5, 7])  # bins, none a multiple of another
SETTINGS = {
    "contrast": -1.0,
    "flash_s": 0.03,
    "periods_s": (PERIODS / RATE_HZ).tolist(),
    "n_flashes": 8,
    "grey_s": 0.5,
    "after_s": 0.7,
    "uncertain_sd": 0.25,
}


class Cells(nn.Module):
    """Cells that answer a dark flash 8 bins later (`lagging`), a missing flash one bin later (`timed`), or nothing."""

    lag = LAG

    def __init__(self, *kinds: str, rate_hz: float | None = RATE_HZ) -> None:
        super().__init__()
        self.kinds, self.unused = kinds, nn.Parameter(torch.zeros(()))
        self.data_info = {
            "n_neurons_dict": {"a": len(kinds)},
            "neurons_dict": {"a": {"unit_id": [f"u{i}" for i in range(len(kinds))]}},
            "input_shape": [1, 2, 3],
            "stim_mean": 1.0,
            "stim_std": 0.5,
            "rate_hz": rate_hz,
            "unit": "spike count",
        }

    def stimulus_shape(self, time_steps: int, num_batches: int = 1) -> tuple[int, ...]:
        return num_batches, 1, time_steps, 2, 3

    def forward(self, x: Tensor, data_key: str | None = None) -> Tensor:
        flash = torch.relu(-x.mean((1, 3, 4))) / 2  # contrast 1 is two standard deviations

        def past(bins: int) -> Tensor:
            return flash[:, LAG - bins : flash.shape[1] - bins]

        timed = sum(past(1 + p) * past(1 + 2 * p) for p in PERIODS.tolist()) * (1 - past(1))
        answers = {"lagging": past(8), "timed": timed, "silent": torch.full_like(timed, 0.2)}
        return torch.stack([answers[kind] for kind in self.kinds], dim=2)


def test_cells_that_keep_time_have_slope_one_and_those_that_lag_behind_slope_zero() -> None:
    population = Population([Cells("lagging", "timed", "silent", "timed")], "a")
    result = OmittedStimulus(**SETTINGS).run(population, np.array([0, 1, 2]))
    table = result.table.set_index("unit_id")
    assert list(table.index) == ["u0", "u1", "u2"]
    assert table.loc["u0", "latency_slope"] == pytest.approx(0)
    assert table.loc["u1", "latency_slope"] == pytest.approx(1)
    assert np.isnan(table.loc["u2", "latency_slope"])
    assert table.loc["u0", "omitted_response"] == pytest.approx(1), "as to any flash of the series"
    assert table.loc["u2", "omitted_response"] == 0
    assert table["latency_slope_sd_members"].isna().all()
    assert not table["latency_slope_uncertain"].any()
    np.testing.assert_allclose(result.axes["period"].data, PERIODS / RATE_HZ)


def test_series_end_together_and_hold_every_flash() -> None:
    result = OmittedStimulus(**SETTINGS).run(Population([Cells("lagging")], "a"), np.array([0]))
    shown, time = result.arrays["contrast"].data, np.rint(result.axes["time"].data * RATE_HZ).astype(int)
    for series, period in zip(shown, PERIODS, strict=True):
        dark = time[series == -1]
        assert dark[-1] == 0
        assert set(np.diff(dark)) == {period}
    assert set(np.unique(shown)) == {-1, 0}
    # the lagging cell repeats the flashes 8 bins later
    response = result.arrays["response"].data[0, 0]
    np.testing.assert_allclose(response[:, 8:], -shown[:, :-8], atol=1e-6)


def test_a_slope_that_differs_between_members_is_uncertain() -> None:
    members = [Cells("lagging", "timed", "timed"), Cells("lagging", "lagging", "timed")]
    experiment = OmittedStimulus(**SETTINGS)
    result = experiment.run(Population(members, "a"), np.arange(3))
    assert result.table["latency_slope_uncertain"].tolist() == [False, True, False]
    assert result.table["latency_slope_sd_members"].to_numpy() == pytest.approx([0, np.sqrt(0.5), 0])
    (drawing,) = experiment.draw({"a": result}).values()
    assert "3 of 3 neurons" in drawing.caption
    assert "members disagree (1)" in drawing.caption


def test_what_cannot_be_shown_is_refused() -> None:
    experiment = OmittedStimulus(**SETTINGS | {"periods_s": [0.03, 0.2]})
    with pytest.raises(ValueError, match=r"a period of 1 bins leaves no grey after a flash of 1"):
        experiment.run(Population([Cells("timed")], "a"), np.array([0]))
    with pytest.raises(ValueError, match="does not know its bins per second"):
        OmittedStimulus(**SETTINGS).run(Population([Cells("timed", rate_hz=None)], "a"), np.array([0]))


def test_the_shipped_settings_make_the_experiment() -> None:
    assert isinstance(load_experiment(analysis_settings("omitted_stimulus")), OmittedStimulus)
