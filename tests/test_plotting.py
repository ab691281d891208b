import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from coread.insilico.receptive_fields import ReceptiveFields
from coread.plotting import (
    draw_learning_curves,
    draw_receptive_fields,
    draw_score_distribution,
    draw_traces,
    draw_truth_cosine,
    write_figures,
)
from tests.results import make_fields, make_histories, make_predictions, make_recording, make_scores

N_EXCLUDED = 2


@pytest.fixture(scope="module")
def scores() -> pd.DataFrame:
    return make_scores()


def dots(figure: Figure, panel: int) -> int:
    """Count the dots of all scatters in one panel."""
    return sum(
        len(collection.get_offsets())
        for collection in figure.axes[panel].collections
        if hasattr(collection, "get_sizes") and len(collection.get_sizes())
    )


def test_score_distribution_shows_every_neuron_of_every_predictor(scores: pd.DataFrame) -> None:
    drawing = draw_score_distribution(scores)
    assert drawing is not None
    assert len(drawing.figure.axes) == 3
    labels = [label.get_text() for label in drawing.figure.axes[0].get_xticklabels()]
    assert labels == ["fold0\nseed0", "fold0\nseed1", "ensemble", "ceiling"]
    n_neurons = scores["neuron"].nunique()
    ceiling = scores[(scores["metric"] == "noise_ceiling")]["value"].notna().sum()
    assert dots(drawing.figure, 0) == 3 * n_neurons + ceiling
    assert f"n = {n_neurons - N_EXCLUDED} neurons, {N_EXCLUDED} excluded" in drawing.caption
    assert draw_score_distribution(scores[scores["tier"] == "validation"]) is None


def test_score_distribution_counts_neurons_without_a_value(scores: pd.DataFrame) -> None:
    complete = draw_score_distribution(scores)
    assert complete is not None
    assert "undefined" not in complete.caption
    chosen = scores["metric"].isin(["noise_ceiling", "fraction_of_ceiling"]) & scores["neuron"].isin([0, 1, 7])
    drawing = draw_score_distribution(scores.assign(value=scores["value"].mask(chosen)))
    assert drawing is not None
    assert "noise ceiling undefined for 2 of the n" in drawing.caption
    assert "fraction of ceiling undefined for 2 of the n" in drawing.caption


def test_learning_curves_show_every_member_and_mark_its_best_epoch() -> None:
    histories = make_histories()
    drawing = draw_learning_curves(histories)
    assert drawing is not None
    left, middle, _ = drawing.figure.axes
    assert [text.get_text() for text in left.get_legend().get_texts()] == list(histories)
    marked = [line for line in middle.lines if line.get_marker() == "o"]
    first = histories["fold0_seed0"]
    assert marked[0].get_xdata()[0] == first["epoch"][first["val_correlation"].idxmax()] + 1
    assert draw_learning_curves({"fold0_seed0": pd.DataFrame()}) is None


def test_traces_go_from_the_best_to_the_worst_included_neuron(scores: pd.DataFrame) -> None:
    drawing = draw_traces([make_recording()], make_predictions(), scores)
    assert drawing is not None
    shown = [float(re.search(r"r = (-?[\d.]+)", axes.get_title(loc="left"))[1]) for axes in drawing.figure.axes]  # type: ignore[index]
    values = scores[(scores["predictor"] == "ensemble") & (scores["metric"] == "correlation_to_average")]
    included = values[values["included"]]["value"]
    assert shown == sorted(shown, reverse=True)
    assert shown[0] == round(included.max(), 2)
    assert shown[-1] == round(included.min(), 2)
    recorded, predicted = drawing.figure.axes[0].lines
    assert len(recorded.get_ydata()) == len(predicted.get_ydata())
    assert np.corrcoef(recorded.get_ydata(), predicted.get_ydata())[0, 1] > 0.5


def test_receptive_fields_show_each_neuron_once_with_a_scale_bar() -> None:
    fields = make_fields()
    drawing = draw_receptive_fields(fields)
    titles = [axes.get_title(loc="left") for axes in drawing.figure.axes if axes.images]
    table = fields["a"].table
    expected = {
        f"{unit}  {'ON' if sign > 0 else 'OFF'}" for unit, sign in zip(table["unit_id"], table["polarity"], strict=True)
    }
    assert set(titles) == expected
    assert len(titles) == len(table)
    texts = [text.get_text() for axes in drawing.figure.axes for text in axes.texts]
    assert texts == ["200 µm"]
    without_unit = {"a": ReceptiveFields(**{**vars(fields["a"]), "pixel_um": None})}
    drawing = draw_receptive_fields(without_unit)
    assert any(text.get_text().endswith("px") for axes in drawing.figure.axes for text in axes.texts)
    assert " px" in drawing.caption


def test_the_truth_is_drawn_where_it_is_known() -> None:
    fields = make_fields()
    drawing = draw_truth_cosine(fields)
    assert drawing is not None
    mean = fields["a"].table["truth_cosine"].mean()
    assert f"mean {mean:.3f}, 62 % of neurons" in drawing.caption
    unknown = fields["a"].table.assign(truth_cosine=fields["a"].table["truth_cosine"].mask(lambda value: value < 0.8))
    drawing = draw_truth_cosine({"a": ReceptiveFields(**{**vars(fields["a"]), "table": unknown})})
    assert drawing is not None
    assert f"of {unknown['truth_cosine'].notna().sum()} simulated neurons" in drawing.caption
    assert "100 % of neurons at least 0.80" in drawing.caption, "neurons without a value count for nothing"
    without = {"a": ReceptiveFields(**{**vars(fields["a"]), "table": fields["a"].table.drop(columns="truth_cosine")})}
    assert draw_truth_cosine(without) is None


def test_figures_are_written_twice_the_same_without_dates_and_leave_settings_alone(
    tmp_path: Path, scores: pd.DataFrame
) -> None:
    before = dict(mpl.rcParams)
    for folder in ("first", "second"):
        written = write_figures(
            tmp_path / folder,
            scores=scores,
            histories=make_histories(),
            recordings=[make_recording()],
            predictions=make_predictions(),
            fields=make_fields(),
        )
    names = ["learning_curves", "receptive_fields", "score_distribution", "traces", "truth_cosine"]
    assert sorted(path.name for path in written) == sorted(
        f"{name}.{kind}" for name in names for kind in ("pdf", "png")
    )
    for path in written:
        twin = tmp_path / "first" / path.name
        assert path.read_bytes() == twin.read_bytes()
        assert b"CreationDate" not in path.read_bytes()
        assert path.with_suffix(".txt").read_text().strip()
    assert not list((tmp_path / "first").glob(".*"))
    assert dict(mpl.rcParams) == before
