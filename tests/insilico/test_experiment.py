"""What an in-silico experiment is given and gives back: shares of neurons, joining, files, settings."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from coread.insilico.experiment import (
    ExperimentResult,
    Quantity,
    join_results,
    read_provenance,
    read_results,
    write_results,
)
from coread.insilico.population import Population
from coread.insilico.running import finish_experiment, load_experiment, run_experiment
from coread.plotting.style import Drawing

SIZES = {"b": 5, "a": 2}


class Scaled(nn.Module):
    """Neuron i responds with i + 1 times the mean of the frame."""

    lag = 1

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))
        self.data_info = {"n_neurons_dict": SIZES, "input_shape": [1, 2, 2], "rate_hz": 10.0}

    def stimulus_shape(self, time_steps: int, num_batches: int = 1) -> tuple[int, ...]:
        return num_batches, 1, time_steps, 2, 2

    def forward(self, x: Tensor, data_key: str | None = None) -> Tensor:
        assert data_key is not None
        return x.mean((1, 3, 4))[:, 1:, None] * torch.arange(1.0, SIZES[data_key] + 1)


@dataclasses.dataclass(frozen=True)
class Steps:
    """Responses to full-field steps."""

    contrasts: tuple[float, ...] = (0.5, 1.0)

    def run(self, population: Population, neurons: np.ndarray) -> ExperimentResult:
        shown = torch.tensor(self.contrasts)[:, None, None, None, None].expand(
            -1, *population.models[0].stimulus_shape(3)[1:]
        )
        response = population.respond(shown).mean(dim=(0, 2)).numpy()[:, neurons].T
        table = pd.DataFrame({"session": population.session, "neuron": neurons, "largest": response.max(axis=1)})
        return ExperimentResult(
            table,
            {"response": Quantity(response, ("neuron", "contrast"), population.unit)},
            {"contrast": Quantity(np.array(self.contrasts), ("contrast",))},
        )

    def summarise(self, results: Mapping[str, ExperimentResult]) -> dict[str, ExperimentResult]:
        top = max(float(result.table["largest"].max()) for result in results.values())
        return {
            session: dataclasses.replace(result, table=result.table.assign(share=result.table["largest"] / top))
            for session, result in results.items()
        }

    def draw(self, results: Mapping[str, ExperimentResult]) -> dict[str, Drawing]:
        return {}


class Others(Steps):
    """Answers for other neurons than it was asked for."""

    def run(self, population: Population, neurons: np.ndarray) -> ExperimentResult:
        return super().run(population, neurons[::-1])


@pytest.mark.parametrize("n_shards", [1, 2, 3, 7])
def test_any_number_of_shares_gives_the_same_file(n_shards: int, tmp_path: Path) -> None:
    shards = []
    for shard in range(n_shards):
        part = run_experiment(Steps(), [Scaled()], shard=shard, n_shards=n_shards)
        assert all((result.table["neuron"] % n_shards == shard).all() for result in part.values())
        path = tmp_path / f"shard{shard}.h5"
        write_results(part, path, None, {"members": {}})
        assert not list(tmp_path.glob("*.csv"))
        shards.append(read_results(path))
    whole = finish_experiment(Steps(), [run_experiment(Steps(), [Scaled()])])
    joined = finish_experiment(Steps(), shards)
    files = []
    for name, results in (("whole", whole), ("joined", joined)):
        write_results(results, tmp_path / f"{name}.h5", tmp_path / f"{name}.csv", {"settings": {"n": 1}})
        files.append(((tmp_path / f"{name}.h5").read_bytes(), (tmp_path / f"{name}.csv").read_bytes()))
    assert files[0] == files[1]
    table = pd.read_csv(tmp_path / "joined.csv")
    assert list(zip(table["session"], table["neuron"], strict=True)) == [
        (session, neuron) for session in sorted(SIZES) for neuron in range(SIZES[session])
    ]
    # twice the contrast in deviations of the stimulus, neuron i with factor i + 1; the largest of all has share 1
    assert table["largest"].tolist() == [2.0, 4.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    assert table["share"].tolist() == pytest.approx((table["largest"] / 10).tolist())
    again = read_results(tmp_path / "joined.h5")["b"].arrays["response"]
    assert (again.dims, again.unit) == (("neuron", "contrast"), "arbitrary units")
    assert read_provenance(tmp_path / "joined.h5")["settings"] == {"n": 1}


def test_chosen_neurons_are_shared_out_and_sessions_without_any_left_out() -> None:
    results = run_experiment(Steps(), [Scaled()], neurons=[4, 1, 3], shard=1, n_shards=2)
    assert {session: result.table["neuron"].tolist() for session, result in results.items()} == {"b": [3]}


def test_a_share_that_does_not_exist_and_other_neurons_are_refused() -> None:
    with pytest.raises(ValueError, match="shares 0 to 1 of the neurons, got 2"):
        run_experiment(Steps(), [Scaled()], shard=2, n_shards=2)
    with pytest.raises(ValueError, match=r"asked for \[0, 1, 2, 3, 4\] of 'b', found \[4, 3, 2, 1, 0\] of \['b'\]"):
        run_experiment(Others(), [Scaled()])


def test_shares_that_do_not_fit_together_are_refused() -> None:
    part = run_experiment(Steps(), [Scaled()], neurons=[0])["a"]
    with pytest.raises(ValueError, match="neuron 0 is in two parts"):
        join_results([part, part])
    other = run_experiment(Steps((0.5, 0.9)), [Scaled()], neurons=[1])["a"]
    with pytest.raises(ValueError, match="different values along the axis 'contrast'"):
        join_results([part, other])


def test_settings_name_a_class_that_is_an_experiment() -> None:
    with pytest.raises(ValueError, match=r"name its class as _target_, found \['contrast'\]"):
        load_experiment({"contrast": 1})
    with pytest.raises(ValueError, match=r"collections.Counter is no in-silico experiment: it needs run"):
        load_experiment({"_target_": "collections.Counter"})
    settings = {"_target_": "coread.insilico.omitted_stimulus.OmittedStimulus", "contrast": -1.0, "flash_s": 0.1}
    with pytest.raises(Exception, match="missing 5 required positional arguments"):
        load_experiment(settings)


def test_a_result_says_what_is_wrong_with_it() -> None:
    with pytest.raises(ValueError, match=r"needs the columns \['session', 'neuron'\], 'neuron' is missing"):
        ExperimentResult(pd.DataFrame({"session": ["a"]}))
    table = pd.DataFrame({"session": ["a"], "neuron": [0]})
    with pytest.raises(ValueError, match="first axis is to be the 1 neurons"):
        ExperimentResult(table, {"x": Quantity(np.zeros((3, 1)), ("time", "neuron"))})
    with pytest.raises(ValueError, match="2 axes needs as many names"):
        Quantity(np.zeros((3, 1)), ("time",))


def test_a_file_that_is_no_result_is_named(tmp_path: Path) -> None:
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file.create_group("a")
    for read in (read_results, read_provenance):
        with pytest.raises(ValueError, match=r"other\.h5: not a readable result"):
            read(path)
