"""Competition files: what stands in them, in the published form, and everything that can be wrong with one."""

import ast
import csv
import io
import re
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from tests.published_data.sensorium_2022 import KEY, toy_session

from coread.cli.main import main
from coread.data_io.sensorium_layout import write_session
from coread.data_io.sources import build_recording
from coread.data_io.splits import UNUSED
from coread.eval.competition import (
    CompetitionError,
    demand,
    missing_neurons,
    opened_predictions,
    response_scale,
    withheld_tiers,
    write_submission,
    write_submissions,
)
from coread.eval.competition_check import check_submission
from coread.eval.predictions import predict_member
from coread.provenance import file_sha256
from coread.recording import write_recording

CONFIG = yaml.safe_load((Path(__file__).parents[2] / "configs" / "data_io" / "sensorium_2022.yaml").read_text())
OWN = CONFIG | {"sessions": None}


@pytest.fixture
def session():
    return toy_session(n_train=12, n_repeats=4)


@pytest.fixture
def recording(session, tmp_path):
    """The session as competitors get it."""
    write_session(session.withheld(), tmp_path / "raw", zipped=True)
    return build_recording(OWN, KEY, tmp_path / "raw")


def member(recording, seed=0):
    """What a member might predict, for every bin."""
    return np.random.default_rng(seed).gamma(2.0, 1.5, recording.responses.shape).astype(np.float32)


def written(recording, tmp_path, tier="test", suffix=".csv"):
    path = tmp_path / demand(recording, tier).file_name(suffix)
    write_submission(recording, [member(recording)], tier, path)
    return path


# -------------------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize(("tier", "name"), [("test", "live_test"), ("final_test", "final_test")])
def test_a_file_holds_the_mean_of_the_members_in_standard_deviations(session, recording, tmp_path, tier, name):
    members = [member(recording, seed) for seed in range(3)]
    path = tmp_path / demand(recording, tier).file_name()
    write_submission(recording, members, tier, path)
    assert path.name == f"submission_file_{name}.csv"
    table = pd.read_csv(path)
    assert table.columns.tolist() == ["trial_indices", "image_ids", "prediction", "neuron_ids"]
    rows = np.flatnonzero(session.tiers == tier)
    assert table["trial_indices"].tolist() == session.withheld().trial_idx[rows].tolist()
    assert table["image_ids"].tolist() == session.image_ids[rows].tolist()
    assert [ast.literal_eval(ids) for ids in table["neuron_ids"]] == [session.unit_ids.tolist()] * len(rows)
    predictions = np.array([ast.literal_eval(text) for text in table["prediction"]])
    published = session.withheld().responses.std(axis=0, dtype=np.float64)
    np.testing.assert_allclose(predictions, np.mean(members, axis=0)[rows] / published, rtol=1e-6)


def test_the_text_is_that_of_the_published_program(recording, tmp_path):
    path = written(recording, tmp_path)
    rows = demand(recording, "test")
    predictions = (member(recording)[rows.bins] / response_scale(recording)).astype(np.float32)
    table = pd.DataFrame(
        {
            "trial_indices": rows.trial_ids,
            "image_ids": rows.image_ids,
            "prediction": predictions.tolist(),
            "neuron_ids": [rows.neuron_ids] * len(rows.bins),
        }
    )
    assert path.read_text() == table.to_csv(index=False, lineterminator="\n")


def test_without_published_deviations_those_of_training_trials_are_the_unit(session, tmp_path):
    session.responses[:, 1] = 0.5
    write_session(session, tmp_path, zipped=True)
    recording = build_recording(OWN, KEY, tmp_path)
    recording.session_info.pop("published_response_scale")
    deviation = session.responses[session.tiers == "train"].std(axis=0, dtype=np.float64)
    expected = np.where(np.arange(5) == 1, 0.01 * deviation.mean(), deviation)
    np.testing.assert_allclose(response_scale(recording), expected)


def test_only_withheld_tiers_are_asked_for(session, recording, tmp_path):
    assert withheld_tiers(recording) == ["test", "final_test"]
    write_session(session, tmp_path / "open", zipped=True)
    assert withheld_tiers(build_recording(OWN, KEY, tmp_path / "open")) == []


def test_of_a_tier_withheld_in_part_the_withheld_trials_are_asked_for(recording):
    rows = np.flatnonzero(recording.trials["tier"] == "test")
    shown = rows[::2]
    recording.trials.loc[shown, "withheld"] = False
    assert demand(recording, "test").bins.tolist() == sorted(set(rows) - set(shown))


def test_images_without_numbers_are_refused(recording):
    recording.trials["image_id"] = [f"n01_{number}" for number in recording.trials["image_id"]]
    with pytest.raises(CompetitionError, match=r"name images by whole numbers, found ids such as 'n01_\d+'"):
        demand(recording, "test")


def test_neurons_that_were_left_out_are_warned_of(recording, session, tmp_path):
    assert missing_neurons(recording) is None
    some = {KEY: session.unit_ids[:2].tolist()}
    chosen = build_recording(OWN | {"neuron_ids": some}, KEY, tmp_path / "raw")
    assert "was read with 2 of its 5 neurons" in str(missing_neurons(chosen))


def test_predictions_that_are_missing_leave_no_file(recording, tmp_path):
    predicted = member(recording)
    predicted[demand(recording, "test").bins[1], 3] = np.nan
    with pytest.raises(CompetitionError, match=f"trial {demand(recording, 'test').trial_ids[1]} of tier test has no"):
        write_submission(recording, [predicted], "test", tmp_path / "file.csv")
    assert not list(tmp_path.glob("*file.csv*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"members": lambda m: []}, "there are no predictions to write"),
        ({"members": lambda m: [m, m[:, 1:]]}, r"a member predicts \(bin, neuron\)"),
        ({"tier": "train"}, "tier 'train' has no competition file"),
        ({"name": "file.txt"}, r"competition files end in one of"),
    ],
)
def test_what_cannot_be_written_is_refused(recording, tmp_path, change, message):
    members = change.get("members", lambda m: [m])(member(recording))
    with pytest.raises(CompetitionError, match=message):
        write_submission(recording, members, change.get("tier", "test"), tmp_path / change.get("name", "file.csv"))


def test_movies_have_no_competition_files(make_recording):
    with pytest.raises(CompetitionError, match=r"its trials have no \['image_id', 'trial_id'\]"):
        demand(make_recording(), "test")


def test_parquet_holds_the_same(recording, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra parquet is not installed")
    csv_path, path = written(recording, tmp_path), written(recording, tmp_path, suffix=".parquet")
    table, text = parquet.read_table(path).to_pandas(), pd.read_csv(csv_path)
    assert table.columns.tolist() == text.columns.tolist()
    assert table["trial_indices"].tolist() == text["trial_indices"].tolist()
    assert table["image_ids"].tolist() == text["image_ids"].tolist()
    assert [row.tolist() for row in table["prediction"]] == [ast.literal_eval(row) for row in text["prediction"]]
    assert [row.tolist() for row in table["neuron_ids"]] == [ast.literal_eval(row) for row in text["neuron_ids"]]
    assert check_submission(path, recording) == []
    assert check_submission(path, recording, "final_test") != []


# ------------------------------------------------------------------------------------------------------------- checking


def rewritten(path, change):
    """Change the rows of a file, each a dictionary; `change` returns the new ones."""
    with path.open(newline="") as file:
        rows = change(list(csv.DictReader(file)))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue())


def in_row(row, **values):
    return lambda rows: [one | values if number == row else one for number, one in enumerate(rows)]


def renamed(rows):
    return [{"predictions" if key == "prediction" else key: value for key, value in row.items()} for row in rows]


def swapped_columns(rows):
    return [{key: row[key] for key in ("image_ids", "trial_indices", "prediction", "neuron_ids")} for row in rows]


def test_a_file_that_was_written_can_be_submitted(recording, tmp_path):
    assert check_submission(written(recording, tmp_path), recording) == []
    assert check_submission(written(recording, tmp_path, "final_test"), recording) == []


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (lambda rows: rows[::-1], ["the trials are in another order than the files of the session: row 1 is trial"]),
        (lambda rows: rows[:-2], ["it has 6 rows, tier test of session 21067-10-18 has 8", "2 trials of tier test"]),
        (lambda rows: [*rows[:-1], rows[0]], ["1 trials are there more than once", "1 trials of tier test"]),
        (lambda rows: [*rows, rows[0]], ["it has 9 rows", "1 trials are there more than once"]),
        (in_row(2, trial_indices="f" * 32), ["1 trials are not of tier test", "1 trials of tier test of session"]),
        (in_row(2, image_ids="7"), [r"row 3 \(trial [0-9a-f]{32}\): image_ids is 7, that trial showed image 10"]),
        (in_row(2, neuron_ids="[1, 3, 5, 7]"), ["neuron_ids lists 4 neurons, the session has 5"]),
        (in_row(2, neuron_ids="[3, 1, 5, 7, 9]"), ["neuron_ids are in another order"]),
        (
            in_row(2, neuron_ids="[1, 3, 5, 7, 8]"),
            ["neuron_ids are not those of the session: neuron 4 is 8, expected 9"],
        ),
        (in_row(2, prediction="[1.0, nan, inf, 2.0, 3.0]"), ["prediction has 2 numbers that are not finite"]),
        (in_row(2, prediction="[1.0, -2.0, -1e-3, 2.0, 3.0]"), ["prediction has 2 negative numbers"]),
        (in_row(2, prediction="[1.0, 2.0]"), ["prediction has 2 numbers, the session has 5 neurons"]),
        (in_row(2, prediction="[1.0 2.0 3.0 4.0 5.0]"), ["prediction is no list of numbers separated by commas"]),
        (in_row(2, prediction="__import__('os')"), ["prediction is no list of numbers"]),
        (
            lambda rows: [row | {"prediction": "[1.0]"} for row in rows],
            [r"row 1 .*prediction has 1 numbers.*\(and 7 more such rows\)"],
        ),
        (renamed, [r"its columns are \['trial_indices', 'image_ids', 'predictions', 'neuron_ids'\], expected"]),
        (swapped_columns, [r"its columns are \['image_ids', 'trial_indices'"]),
    ],
)
def test_what_is_wrong_is_said_and_nothing_else(recording, tmp_path, change, messages):
    path = written(recording, tmp_path)
    rewritten(path, change)
    problems = check_submission(path, recording)
    assert len(problems) == len(messages)
    for problem, message in zip(problems, messages, strict=True):
        assert re.search(message, problem), problem


def test_numbers_as_other_programs_write_them_are_numbers(recording, tmp_path):
    path = written(recording, tmp_path)
    rewritten(path, in_row(1, prediction="[1., .5, 1e-09, 2, 3.25]"))
    assert check_submission(path, recording) == []


def test_the_other_tier_and_other_files_are_told_apart(recording, tmp_path):
    live = written(recording, tmp_path)
    assert "8 trials are not of tier final_test" in " ".join(check_submission(live, recording, "final_test"))
    nameless = live.rename(tmp_path / "mine.csv")
    assert check_submission(nameless, recording)[0].startswith("its name says no tier")
    assert check_submission(nameless, recording, "test") == []
    (tmp_path / "submission_file_live_test.csv").write_bytes(b"\xff\xfe\x00")
    assert "no text of comma-separated values" in check_submission(live, recording)[0]
    live.write_text("")
    assert check_submission(live, recording)[0].startswith("its columns are []")
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        check_submission(tmp_path / "absent.csv", recording)


# -------------------------------------------------------------------------------------------------- from files to files


@pytest.fixture
def packed(recording, tmp_path):
    """Recording and two members' predictions as the workflow leaves them."""
    write_recording(recording, tmp_path / f"{KEY}.h5")
    paths = []
    for seed in (0, 1):
        paths.append(tmp_path / f"predictions{seed}.h5")
        write_member(paths[-1], member(recording, seed), seed=seed)
    return tmp_path / f"{KEY}.h5", paths


def write_member(path, prediction, *, session=KEY, **identity):
    """Write what the file of a member holds of one session; an attribute of None is left out."""
    with h5py.File(path, "w") as file:
        known = {"experiment": "toy", "fold": 0, "seed": 0} | identity
        file.attrs.update({name: value for name, value in known.items() if value is not None})
        file.create_dataset(f"{session}/prediction", data=prediction, chunks=True)
    return path


def test_the_files_of_an_experiment_are_listed(packed, recording, tmp_path):
    source, predictions = packed
    table = write_submissions([source], predictions, tmp_path / "out", parquet=False)
    assert table["file"].tolist() == [f"{KEY}/submission_file_{name}.csv" for name in ("live_test", "final_test")]
    assert table[["rows", "neurons", "members"]].to_numpy().tolist() == [[8, 5, 2]] * 2
    assert pd.read_csv(tmp_path / "out" / "files.csv").equals(table)
    direct = tmp_path / "direct.csv"
    write_submission(recording, [member(recording, seed) for seed in (0, 1)], "test", direct)
    assert (tmp_path / "out" / table["file"][0]).read_bytes() == direct.read_bytes()


def test_an_experiment_without_withheld_responses_has_no_files(session, tmp_path):
    write_session(session, tmp_path / "raw", zipped=True)
    write_recording(build_recording(OWN, KEY, tmp_path / "raw"), tmp_path / "open.h5")
    table = write_submissions([tmp_path / "open.h5"], [tmp_path / "unused.h5"], tmp_path / "out", parquet=False)
    assert len(table) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["files.csv"]


def test_predictions_of_other_sessions_are_named(packed, tmp_path):
    write_member(tmp_path / "other.h5", np.zeros((2, 2)), session="1-2-3")
    with pytest.raises(CompetitionError, match=rf"other.h5: no predictions of session '{KEY}', only of \['1-2-3'\]"):
        write_submissions([packed[0]], [tmp_path / "other.h5"], tmp_path / "out", parquet=False)


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ({"seed": 1}, "predictions1.h5 and .*third.h5: both are fold 0, seed 1 of 'toy'"),
        (
            {"experiment": "other"},
            "several experiments are no ensemble: .*predictions0.h5 of 'toy', .*third.h5 of 'other'",
        ),
        ({"fold": None}, "third.h5: does not say whose predictions it holds: no attribute 'fold'"),
    ],
)
def test_only_different_members_of_one_experiment_are_averaged(packed, recording, tmp_path, identity, message):
    source, predictions = packed
    third = write_member(tmp_path / "third.h5", member(recording, 2), **({"seed": 2} | identity))
    with pytest.raises(CompetitionError, match=message):
        write_submissions([source], [*predictions, third], tmp_path / "out", parquet=False)
    with pytest.raises(CompetitionError, match=message), opened_predictions([*predictions, third], KEY):
        pass
    assert not list((tmp_path / "out").iterdir())


def test_a_file_or_a_session_given_twice_is_refused(packed, tmp_path):
    source, predictions = packed
    with pytest.raises(CompetitionError, match=r"predictions0.h5 and .*predictions0.h5: both are fold 0, seed 0"):
        write_submissions([source], [predictions[0]] * 2, tmp_path / "out", parquet=False)
    with pytest.raises(CompetitionError, match=rf"both are '{KEY}'"):
        write_submissions([source, source], predictions, tmp_path / "out", parquet=False)


def content(folder):
    """The bytes of every file below a folder, by its name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_that_cannot_be_submitted_change_nothing(packed, recording, tmp_path):
    source, predictions = packed
    negative = member(recording, 2)
    negative[demand(recording, "final_test").bins] *= -100  # the tier that is written last
    unfit = write_member(tmp_path / "unfit.h5", negative, seed=2)
    with pytest.raises(CompetitionError, match=rf"{KEY}/submission_file_final_test.csv: .*negative numbers"):
        write_submissions([source], [*predictions, unfit], tmp_path / "out", parquet=False)
    assert content(tmp_path / "out") == {}
    write_submissions([source], predictions, tmp_path / "out", parquet=False)
    before = content(tmp_path / "out")
    with pytest.raises(CompetitionError, match="negative numbers"):
        write_submissions([source], [unfit], tmp_path / "out", parquet=False)
    assert content(tmp_path / "out") == before


def test_tiers_may_be_written_one_after_another(packed, tmp_path, caplog):
    source, predictions = packed
    out = tmp_path / "out"
    first = write_submissions([source], predictions, out, ["test"], parquet=False)
    assert not caplog.records
    second = write_submissions([source], predictions[:1], out, ["final_test"], parquet=False)
    assert second["tier"].tolist() == ["final_test"]
    listed = pd.read_csv(out / "files.csv")
    pd.testing.assert_frame_equal(listed, pd.concat([second, first], ignore_index=True), check_dtype=False)
    assert listed["members"].tolist() == [1, 2]
    assert set(content(out)) == {"files.csv", *listed["file"]}
    assert f"files of earlier calls stay: {first['file'][0]}" in caplog.text
    (out / first["file"][0]).write_text("edited")  # then it is not what the list says
    write_submissions([source], predictions, out, ["final_test"], parquet=False)
    assert pd.read_csv(out / "files.csv")["tier"].tolist() == ["final_test"]
    assert (out / first["file"][0]).read_text() == "edited"


def test_the_other_format_of_a_file_does_not_keep_other_predictions(packed, tmp_path, caplog):
    source, predictions = packed
    out, parquet = tmp_path / "out", f"{KEY}/submission_file_live_test.parquet"
    (out / KEY).mkdir(parents=True)
    (out / parquet).write_text("mine")
    table = write_submissions([source], predictions, out, ["test"], parquet=False)
    assert (out / parquet).read_text() == "mine"
    assert f"{parquet} stays, but is not of these predictions" in caplog.text
    # as if it had been written by the call before
    row = table.assign(file=parquet, sha256=file_sha256(out / parquet))
    pd.concat([table, row]).to_csv(out / "files.csv", index=False)
    write_submissions([source], predictions[:1], out, ["test"], parquet=False)
    assert set(content(out)) == {"files.csv", table["file"][0]}


def test_lists_without_experiments_are_read_and_other_tables_stay(packed, tmp_path):
    source, predictions = packed
    out = tmp_path / "out"
    write_submissions([source], predictions, out, ["test"], parquet=False)
    pd.read_csv(out / "files.csv").drop(columns="experiment").to_csv(out / "files.csv", index=False)
    write_submissions([source], predictions, out, ["final_test"], parquet=False)
    assert len(pd.read_csv(out / "files.csv")) == 2
    (out / "files.csv").write_text("a,b\n1,2\n")
    with pytest.raises(CompetitionError, match=r"files.csv: no list of competition files"):
        write_submissions([source], predictions, out, parquet=False)
    assert (out / "files.csv").read_text() == "a,b\n1,2\n"


def test_the_command_writes_and_checks(packed, tmp_path, capsys):
    source, predictions = packed
    to = ["--to", str(tmp_path / "out"), "--no-parquet"]
    main(["submission", "write", "--predictions", *map(str, predictions), "--recordings", str(source), *to])
    assert "submission_file_final_test.csv" in capsys.readouterr().out
    path = tmp_path / "out" / KEY / "submission_file_live_test.csv"
    main(["submission", "check", str(path), "--recording", str(source)])
    assert capsys.readouterr().out == f"{path}: can be submitted\n"
    rewritten(path, lambda rows: rows[1:])
    with pytest.raises(SystemExit) as ended:
        main(["submission", "check", str(path), "--recording", str(source)])
    assert ended.value.code == 1
    assert "cannot be submitted:\nit has 7 rows, tier test" in capsys.readouterr().out


class Brightness(torch.nn.Module):
    """Predicts the mean of the image for every neuron, a lag of zero."""

    lag = 0
    context_names = ()

    def forward(self, x, data_key=None):
        return x.mean(dim=(1, 3, 4))[..., None].expand(-1, -1, 5)


def test_withheld_bins_are_predicted_and_belong_to_no_score(recording):
    info = {"stim_mean": 0.0, "stim_std": 1.0, "response_scale": {KEY: torch.full((5,), 2.0)}}
    model = SimpleNamespace(
        config={"splits": {"method": "published"}}, fold=0, seed=0, model=Brightness(), data_info=info, recordings={}
    )
    predicted = predict_member(model, [recording], experiment="x").sessions[KEY]
    hidden = demand(recording, "test").bins
    images = recording.stimuli["images"]
    pixels = images.frames[recording.frame[hidden]] * images.scale + images.offset
    np.testing.assert_allclose(predicted.prediction[hidden, 0], 2 * pixels.mean(axis=(1, 2, 3)), rtol=1e-5)
    assert (predicted.label[hidden] == UNUSED).all()
    train = recording.trials["tier"].to_numpy() == "train"
    assert np.isnan(predicted.prediction[train]).all()
