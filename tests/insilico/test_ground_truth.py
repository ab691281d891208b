"""What the analyses find in the simulator, wrapped as a model, against what is true of its cells."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import hydra.utils
import numpy as np
import pandas as pd
import pytest
import torch

from coread.config import analysis_settings, compose, compose_data_io
from coread.data_io.simulate.tuning import ground_truth
from coread.data_io.statistics import Statistics
from coread.insilico.experiment import ExperimentResult, Quantity
from coread.insilico.population import Population
from coread.insilico.receptive_fields import ReceptiveFields, compute_receptive_fields
from coread.insilico.truth import COLUMNS, compare_with_truth
from coread.models.known_cells import CONTRAST_STD, KnownCellsModel, known_cells_model
from coread.plotting.truth import draw_truth_comparison
from coread.recording import Recording, Stimulus

SESSION = "tuning_0"
SMALLER: dict[str, dict[str, Any]] = {
    "spike_triggered": {"n_pieces": 100, "n_test_pieces": 12, "n_passes": 2, "window_px": 9, "n_axes": 3},
    "most_exciting": {"n_starts": 1, "rms_sd": 0.05},
}


@cache
def model() -> KnownCellsModel:
    return known_cells_model()


@cache
def recording() -> Recording:
    """Return a recording that says what is true of the cells, with hardly any responses."""
    config = compose_data_io("simulated_tuning")
    shape = (30, 2, int(config["height"]), int(config["width"]))
    trials = pd.DataFrame(
        {"stimulus": ["grey"], "tier": ["train"], "repeat": [0], "time_order": [0], "withheld": [False]}
    )
    neurons = Population([model()], SESSION).neurons.drop(columns=["session", "neuron"])
    return Recording(
        dataset="simulated_tuning",
        session=SESSION,
        stimuli={"grey": Stimulus(np.zeros(shape, np.float32), 30.0, pixel_deg=1.5)},
        trials=trials,
        trial=np.zeros(30, np.int32),
        frame=np.arange(30, dtype=np.int32),
        responses=np.zeros((30, len(neurons)), np.float32),
        valid=np.ones(30, bool),
        rate_hz=30.0,
        unit="spike count",
        neurons=neurons,
        session_info=ground_truth(model().cells),
    )


@cache
def run(analysis: str) -> ExperimentResult:
    settings = analysis_settings(analysis) | SMALLER.get(analysis, {})
    population = Population([model()], SESSION)
    return hydra.utils.instantiate(settings).run(population, np.arange(population.n_neurons))


@dataclass
class AsMember:
    """What compute_receptive_fields reads of a member."""

    model: KnownCellsModel
    statistics: Statistics


@cache
def gradient_fields() -> ReceptiveFields:
    statistics = Statistics(1.0, CONTRAST_STD, {SESSION: torch.ones(len(recording().neurons))}, {})
    config = compose("simulated_tuning").insilico
    return compute_receptive_fields([AsMember(model(), statistics)], [recording()], config)[SESSION]  # type: ignore[list-item]


def compared(analysis: str, quantity: str, result: Any = None) -> pd.DataFrame:
    """Return the rows of one quantity, with the tolerances for a model that is the simulator."""
    results = {analysis: {SESSION: run(analysis) if result is None else result}}
    table = compare_with_truth(results, [recording()], widen=1.0)
    assert list(table.columns) == list(COLUMNS)
    rows = table[table["quantity"] == quantity]
    assert len(rows), f"nothing was compared: {sorted(set(table['quantity']))}"
    return rows


def missed(rows: pd.DataFrame) -> str:
    return rows.loc[~rows["passed"], ["unit_id", "truth", "found", "error"]].to_string()


def test_gradients_find_place_and_polarity_of_linear_cells() -> None:
    fields = gradient_fields()
    for quantity, n_cells in (("center (gradient)", 5), ("polarity", 5)):
        rows = compared("receptive_fields", quantity, fields)
        assert len(rows) == n_cells
        assert rows["passed"].all(), missed(rows)
    kind = fields.table["cell_type"].to_numpy(str)
    silent = np.isin(kind, ["complex", "direction_energy", "on_off"])
    assert np.abs(fields.filter[silent]).max() < 1e-6, "no gradient at grey"
    assert (fields.table["truth_cosine"][~silent] > 0.999).all()


def test_sensitivity_finds_the_place_of_every_cell() -> None:
    rows = compared("spike_triggered", "center (sensitivity)")
    assert len(rows) == len(recording().neurons)
    assert rows["passed"].all(), missed(rows)


def test_the_average_of_a_complex_cell_is_flat_and_its_covariance_finds_the_subspace() -> None:
    flat = compared("spike_triggered", "strength of a flat STA")
    assert set(flat["cell_type"]) == {"complex", "direction_energy", "on_off"}
    assert flat["passed"].all(), missed(flat)
    table = run("spike_triggered").table
    linear = ~table["cell_type"].isin(set(flat["cell_type"]))
    assert table.loc[linear, "sta_strength"].min() > 3 * flat["found"].abs().max()
    angles = compared("spike_triggered", "angle to the subspace")
    assert angles["passed"].all(), missed(angles)
    n_dimensions = table.set_index("unit_id")["n_dimensions"]
    excess = n_dimensions - filter_dimensions()
    assert (excess >= 0).all()
    assert excess.sum() <= 1, "a direction too many is as rare as the level of the test"


def filter_dimensions() -> pd.Series:
    """Return how many dimensions the filters of each cell span."""
    space = recording().session_info["truth_subspace"]
    n_dimensions = (np.abs(space).max(axis=(2, 3, 4, 5)) > 0).sum(axis=1)
    return pd.Series(n_dimensions, recording().neurons["unit_id"])


def test_the_average_of_a_linear_cell_is_its_filter() -> None:
    average = run("spike_triggered").arrays["sta"].data
    truth = recording().session_info["truth_filter"]
    linear = recording().session_info["truth_linear"].astype(bool)
    a, b = (values[linear].reshape(linear.sum(), -1) for values in (average, truth))
    cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert (cosine > 0.9).all(), cosine


def test_colours_are_found() -> None:
    rows = compared("spike_triggered", "color angle")
    assert len(rows) == len(recording().neurons)
    assert rows["passed"].all(), missed(rows)
    opponent = rows[rows["cell_type"] == "color_opponent"]
    assert (opponent["found"] < 0).all()


@pytest.mark.parametrize(
    ("quantity", "n_cells"),
    [("preferred orientation", 8), ("preferred direction", 4), ("preferred spatial frequency", 8), ("DSI", 8)],
)
def test_gratings_find_the_tuning(quantity: str, n_cells: int) -> None:
    rows = compared("grating_tuning", quantity)
    assert len(rows) == n_cells
    assert rows["passed"].all(), missed(rows)


def test_most_exciting_stimuli_are_the_filters_or_lie_in_what_they_span() -> None:
    rows = compared("most_exciting", "cosine of the most exciting stimulus")
    assert len(rows) == len(recording().neurons)
    assert rows["passed"].all(), missed(rows)


def test_a_wrong_answer_is_a_miss() -> None:
    result = run("spike_triggered")
    moved = ExperimentResult(result.table.assign(center_x_px=result.table["center_x_px"] + 1), result.arrays)
    assert not compared("spike_triggered", "center (sensitivity)", moved)["passed"].any()
    lost = ExperimentResult(result.table.assign(center_x_px=np.nan), result.arrays)
    assert not compared("spike_triggered", "center (sensitivity)", lost)["passed"].any()
    axes = result.arrays["stc_axes"]
    of_others = Quantity(axes.data[::-1].copy(), axes.dims)
    turned = ExperimentResult(result.table, {**result.arrays, "stc_axes": of_others})
    angles = compared("spike_triggered", "angle to the subspace", turned).set_index("unit_id")
    assert not angles.loc[["complex_0", "complex_1"], "passed"].any()


def test_what_is_absent_has_no_rows() -> None:
    assert compare_with_truth({}, [recording()]).empty
    bare = Recording(**{**vars(recording()), "session_info": {}})
    table = compare_with_truth({"spike_triggered": {SESSION: run("spike_triggered")}}, [bare])
    assert table.empty
    assert list(table.columns) == list(COLUMNS)
    wide = compare_with_truth({"spike_triggered": {SESSION: run("spike_triggered")}}, [recording()])
    narrow = compare_with_truth({"spike_triggered": {SESSION: run("spike_triggered")}}, [recording()], widen=1.0)
    np.testing.assert_allclose(wide["tolerance"], 2 * narrow["tolerance"])


def test_the_figure_names_the_misses() -> None:
    result = run("spike_triggered")
    moved = result.table.assign(center_x_px=result.table["center_x_px"] + 2.0 * (result.table["unit_id"] == "simple_0"))
    table = compare_with_truth(
        {"spike_triggered": {SESSION: ExperimentResult(moved, result.arrays)}}, [recording()], widen=1.0
    )
    drawn = draw_truth_comparison(table)
    texts = [text.get_text() for text in drawn.figure.axes[0].texts]
    assert "simple 0" in " ".join(texts)
    assert f"{int(table['passed'].sum())} of {len(table)} comparisons" in drawn.caption
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_truth_comparison(table[:0])
