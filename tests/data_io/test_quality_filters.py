from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from coread.data_io.quality_filters import (
    ALL_SESSIONS,
    QualityFilterError,
    filter_cells,
    parse_steps,
    session_info_of,
    tabulate,
)
from coread.recording import read_recording, write_recording

CELLS = pd.DataFrame(
    {
        "group": [1, 32, 33, 5, 6, 7, 8, 46],
        "d_qi": [0.6, 0.59, 0.9, 0.1, np.nan, 0.1, 0.7, 0.9],
        "chirp_qi": [0.0, 0.35, 0.9, 0.34, 0.9, np.nan, 0.5, 0.9],
        "confidence": [0.25, 0.3, 0.2, 0.9, 0.24, 0.9, 0.2, 0.9],
    }
)
TYPE = {"step": "type", "one_of": {"group": list(range(1, 33))}}
QUALITY = {"step": "quality", "at_least": {"d_qi": 0.6, "chirp_qi": 0.35}, "logic": "or"}
CONFIDENCE = {"step": "confidence", "at_least": {"confidence": 0.25}}


def test_thresholds_are_reached_by_equality_and_values_that_are_no_numbers_pass_nothing():
    kept, table = filter_cells(CELLS, parse_steps([TYPE, QUALITY, CONFIDENCE]))
    assert kept.tolist() == [0, 1]
    assert table.to_dict("list") == {
        "step": ["type", "quality", "confidence"],
        "n_before": [8, 6, 4],
        "n_removed": [2, 2, 2],
    }


def test_and_wants_every_threshold():
    kept, _ = filter_cells(CELLS, parse_steps([QUALITY | {"logic": "and"}]))
    assert kept.tolist() == [2, 6, 7]


def test_the_order_moves_the_counts_and_not_the_cells():
    kept, table = filter_cells(CELLS, parse_steps([CONFIDENCE, QUALITY, TYPE]))
    assert kept.tolist() == [0, 1]
    assert table["n_removed"].tolist() == [3, 2, 1]
    assert table["step"].tolist() == ["confidence", "quality", "type"]


@pytest.mark.parametrize(("minimum", "kept"), [(7, 8), (8, 0)])
def test_a_session_with_too_few_cells_loses_all_of_them(minimum, kept):
    rows, table = filter_cells(CELLS, parse_steps([{"step": "n_cells", "more_cells_than": minimum}]))
    assert len(rows) == kept
    assert table["n_removed"].tolist() == [8 - kept]


def test_no_filters_keep_every_cell():
    kept, table = filter_cells(CELLS, parse_steps(None))
    assert kept.tolist() == list(range(8))
    assert table.empty


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ([{"step": "a", "at_leest": {"d_qi": 1}}], r"quality_filters\[0\]: unknown keys \['at_leest'\]"),
        ([TYPE, {"one_of": {"group": [1]}}], r"quality_filters\[1\]: missing keys \['step'\]"),
        ([TYPE, TYPE], "names the step 'type' twice"),
        ([QUALITY | {"logic": "xor"}], r"'quality': logic is one of \['and', 'or'\], not 'xor'"),
        ([{"step": "a"}], "'a': needs one_of, at_least or more_cells_than"),
    ],
)
def test_wrong_filters_are_errors(filters, message):
    with pytest.raises(ValueError, match=message):
        parse_steps(filters)


def test_a_column_that_does_not_exist_is_an_error():
    with pytest.raises(QualityFilterError, match=r"'a': there is no 'snr' of the cells, only .*chirp_qi"):
        filter_cells(CELLS, parse_steps([{"step": "a", "at_least": {"snr": 1.0}}]))


def test_the_table_of_all_sessions_sums_what_each_recording_says(tmp_path, make_recording):
    recordings = []
    for index, cells in enumerate((CELLS, CELLS[:3])):
        _, table = filter_cells(cells, parse_steps([TYPE, QUALITY, CONFIDENCE]))
        recording = replace(make_recording(f"session_{index}"), session_info=session_info_of(table))
        write_recording(recording, tmp_path / f"{index}.h5")
        recordings.append(read_recording(tmp_path / f"{index}.h5"))
    table = tabulate([*recordings, make_recording("without_filters")])
    assert table["session"].unique().tolist() == ["session_0", "session_1", ALL_SESSIONS]
    total = table[table["session"] == ALL_SESSIONS]
    assert total["step"].tolist() == ["type", "quality", "confidence"]
    assert total["n_before"].tolist() == [11, 8, 6]
    assert total["n_removed"].tolist() == [3, 2, 2]
    assert total["n_kept"].tolist() == [8, 6, 4]
    assert tabulate([make_recording()]).empty
