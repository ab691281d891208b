"""The search as a whole, inside this process: results, repeatability, what survives a kill, failures."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import yaml

from coread.member_lock import MemberLockError, member_lock
from coread.recording import Recording, digest_path, read_recordings
from coread.search import driver
from coread.search import trial as trial_module
from coread.search.driver import study_digest
from coread.search.jobs import SearchError
from coread.search.space import read_space, trial_settings
from coread.search.study import JOURNAL, create_study, open_study, optuna_distribution
from coread.training import train
from tests.search.conftest import EPOCHS, SPACE, drawn, make_settings, write_recordings

Search = Callable[..., pd.DataFrame]


class KilledError(BaseException):
    """Stands for kill -9: nothing of this package may catch it."""


def break_at(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, number: int, epoch: int = 1, times: int = 1
) -> None:
    """Let the training of one trial end with an error after an epoch, the given number of times."""
    report = trial_module.ReportEpochs.on_train_epoch_end
    left = [times]

    def broken(self: trial_module.ReportEpochs, trainer: Any, module: Any) -> None:
        report(self, trainer, module)
        if self.trial.number == number and trainer.current_epoch == epoch and left[0]:
            left[0] -= 1
            raise error

    monkeypatch.setattr(trial_module.ReportEpochs, "on_train_epoch_end", broken)


def study_folder(tmp_path: Path, name: str = "search") -> Path:
    (folder,) = (path.parent for path in (tmp_path / name).glob(f".study/*/{JOURNAL}"))
    return folder


def test_a_search_leaves_a_table_the_best_overrides_and_figures(
    search: Search, tmp_path: Path, recordings: list[Path]
) -> None:
    settings = make_settings()
    table = search(settings)
    assert list(table["number"]) == [0, 1, 2]
    assert set(table["state"]) == {"complete"}
    assert set(table["epochs"]) == {EPOCHS}
    assert table["model.learning_rate"].between(0.001, 0.1).all()
    assert table["model.learning_rate"].is_unique
    written = pd.read_csv(tmp_path / "search" / "trials.csv")
    pd.testing.assert_frame_equal(drawn(written), drawn(table))

    best = table.loc[table["value"].idxmax()]
    overrides = yaml.safe_load((tmp_path / "search" / "best.yaml").read_text())
    values = {
        "learning_rate": float(best["model.learning_rate"]),
        "hidden_channels": json.loads(best["model.hidden_channels"]),
    }
    assert overrides == {"model": values}
    names = {path.name for path in (tmp_path / "search").iterdir()}
    assert names >= {f"{figure}.{kind}" for figure in ("history", "importance") for kind in ("png", "pdf", "txt")}

    # the value is that of the member which the workflow would train with these settings
    chosen = trial_settings(settings, {f"model.{name}": value for name, value in values.items()})
    member = train(chosen, read_recordings(recordings), 0, 0, work_dir=tmp_path / "work", accelerator="cpu")
    assert member.history["val_correlation"].max() == best["value"]


def test_the_value_is_the_mean_over_folds(search: Search, tmp_path: Path, recordings: list[Path]) -> None:
    settings = make_settings(n_trials=1, folds=[0, 2])
    row = search(settings).iloc[0]
    values = {"model.learning_rate": float(row["model.learning_rate"])}
    values["model.hidden_channels"] = json.loads(row["model.hidden_channels"])
    best = []
    for fold in (0, 2):
        work = tmp_path / f"work{fold}"
        member = train(trial_settings(settings, values), read_recordings(recordings), fold, 0, work_dir=work)
        best.append(float(member.history["val_correlation"].max()))
    assert row["value"] == sum(best) / 2
    assert row["epochs"] == 2 * EPOCHS


def test_one_worker_and_the_same_seed_give_the_same_trials_and_another_seed_does_not(
    undisturbed: pd.DataFrame, search: Search
) -> None:
    again, other = search(), search(make_settings(seed=1, n_trials=2), folder="other")
    pd.testing.assert_frame_equal(drawn(undisturbed), drawn(again))
    assert not set(undisturbed["model.learning_rate"]) & set(other["model.learning_rate"])


def test_nothing_of_a_test_tier_moves_a_trial(search: Search, tmp_path: Path) -> None:
    def alter(recording: Recording) -> Recording:
        responses = recording.responses.copy()
        tested = recording.bin_column("tier") == "test"
        assert tested.any()
        responses[tested] = np.random.default_rng(5).poisson(9.0, responses[tested].shape)
        return replace(recording, responses=responses)

    settings = make_settings(pruner={"method": "median", "startup_trials": 1, "warmup_epochs": 1}, n_trials=4)
    altered = search(settings, folder="altered", paths=write_recordings(tmp_path / "altered_data", alter))
    pd.testing.assert_frame_equal(drawn(search(settings)), drawn(altered))


@pytest.mark.parametrize(("others", "state", "epochs"), [(0.99, "pruned", 3), (-0.99, "complete", EPOCHS)])
def test_trials_below_the_median_of_others_are_ended_early(
    search: Search, tmp_path: Path, recordings: list[Path], others: float, state: str, epochs: int
) -> None:
    settings = make_settings(n_trials=4, pruner={"method": "median", "startup_trials": 2, "warmup_epochs": 2})
    digests = [digest_path(path).read_text().strip() for path in recordings]
    folder = tmp_path / "search" / ".study" / study_digest(settings, digests)
    folder.mkdir(parents=True)
    study = create_study(folder, settings["search"])
    for slot in (0, 1):
        study.add_trial(
            optuna.trial.create_trial(
                value=others,
                params={"model.learning_rate": 0.01, "model.hidden_channels": "[2]"},
                distributions={key: optuna_distribution(d) for key, d in read_space(settings["search"]).items()},
                intermediate_values=dict.fromkeys(range(EPOCHS), others),
                user_attrs={"slot": slot},
            )
        )
    table = search(settings)
    assert list(table["state"]) == ["complete", "complete", state, state]
    # the two epochs of the warm-up, and the one in which it was compared
    assert list(table["epochs"][2:]) == [epochs, epochs]
    reported = study.get_trials()[2].intermediate_values
    assert list(reported) == list(range(epochs))
    if state == "pruned":
        assert table["value"][2] == reported[2]
        assert best_number(tmp_path) in (0, 1)


def best_number(tmp_path: Path) -> int:
    """Return the number of the trial that best.yaml says it comes from."""
    return int((tmp_path / "search" / "best.yaml").read_text().split("trial ")[1].split(",")[0])


def test_a_killed_search_goes_on_and_ends_like_one_that_was_not(
    undisturbed: pd.DataFrame, search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_at(monkeypatch, KilledError(), number=1)
    with pytest.raises(KilledError):
        search()
    assert not (tmp_path / "search" / "trials.csv").exists()
    study = open_study(study_folder(tmp_path), make_settings()["search"])
    before = study.trials
    assert [trial.state.name for trial in before] == ["COMPLETE", "RUNNING"]
    assert sorted(before[1].intermediate_values) == [0, 1]

    table = search()
    pd.testing.assert_frame_equal(drawn(table), drawn(undisturbed))
    assert list(table["lives"]) == [1, 2, 1]
    after = open_study(study_folder(tmp_path), make_settings()["search"]).trials
    assert after[0] == before[0]  # no finished trial is run again, not even its times have changed
    assert after[1].params == before[1].params
    assert after[1].intermediate_values.items() >= before[1].intermediate_values.items()
    assert sorted(after[1].intermediate_values) == list(range(EPOCHS))
    assert not (study_folder(tmp_path) / "trials").exists()


def test_a_finished_search_runs_nothing_and_more_trials_go_on(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    short = search(make_settings(n_trials=2))
    break_at(monkeypatch, AssertionError("trained again"), number=0, epoch=0, times=99)
    pd.testing.assert_frame_equal(search(make_settings(n_trials=2)), short)
    longer = search(make_settings())
    pd.testing.assert_frame_equal(longer.head(2), short)
    assert len(longer) == 3


def test_another_setting_or_recording_begins_another_study() -> None:
    settings = make_settings()
    digest = study_digest(settings, ["a"])
    assert study_digest(make_settings(n_trials=99, parallel=8), ["a"]) == digest
    for other in (make_settings(seed=1), make_settings(folds=[1]), make_settings(train={"optimizer": {"lr": 1.0}})):
        assert study_digest(other, ["a"]) != digest
    assert study_digest(settings, ["b"]) != digest


def test_another_way_to_judge_trials_begins_another_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, copy = make_settings(), tmp_path / "trial.py"
    copy.write_text(Path(trial_module.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(driver, "__file__", str(tmp_path / "driver.py"))
    digest = study_digest(settings, ["a"])
    text = copy.read_text(encoding="utf-8")
    edited = text.replace("sum(best) / len(best)", "min(best)")
    assert edited != text
    copy.write_text(edited, encoding="utf-8")
    assert study_digest(settings, ["a"]) != digest


def test_a_crashed_trial_goes_on_under_its_own_number(
    undisturbed: pd.DataFrame, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_at(monkeypatch, RuntimeError("the GPU fell off the bus"), number=2, times=2)
    table = search(retries=2)
    pd.testing.assert_frame_equal(drawn(table), drawn(undisturbed))
    assert list(table["lives"]) == [1, 1, 3]


def test_a_trial_that_crashes_too_often_is_failed_with_its_reason_and_the_next_search_makes_up_for_it(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_at(monkeypatch, RuntimeError("the GPU fell off the bus"), number=1, epoch=0, times=99)
    table = search(retries=1)
    assert list(table["state"]) == ["complete", "fail", "complete"]
    assert list(table["lives"]) == [1, 2, 1]
    reason = table["reason"][1]
    assert reason == "2 jobs died, the last one: RuntimeError: the GPU fell off the bus"
    assert "2 complete, 1 fail" in (tmp_path / "search" / "best.yaml").read_text()
    again = search(retries=1)
    assert list(again["state"]) == [*table["state"], "complete"]


def test_values_that_cannot_be_trained_fail_their_trial_only(search: Search) -> None:
    # a step of 1e30 makes the loss infinite in the first epoch, which train() refuses
    rate = {"distribution": "categorical", "choices": [0.01, 1e30]}
    space = {"model": {"learning_rate": rate, "hidden_channels": SPACE["model"]["hidden_channels"]}}
    table = search(make_settings(space, n_trials=6, sampler={"method": "random", "startup_trials": 0}))
    failed = table["model.learning_rate"] == 1e30
    assert failed.any()
    assert not failed.all()
    assert set(table["state"][failed]) == {"fail"}
    assert table["reason"][failed].str.contains("training loss is nan").all()
    assert set(table["lives"]) == {1}
    assert set(table["state"][~failed]) == {"complete"}


def test_a_search_in_which_everything_fails_says_why(search: Search, tmp_path: Path) -> None:
    settings = make_settings(
        n_trials=9, train={"dataloader": {**make_settings()["train"]["dataloader"], "window_length": 2}}
    )
    with pytest.raises(
        SearchError, match=r"all of the first 3 trials failed, trial 0 with: .*core cannot take an input"
    ):
        search(settings, retries=0)
    assert not (tmp_path / "search" / "best.yaml").exists()


def test_a_second_search_beside_the_first_is_refused(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "PATIENCE_S", 0.1)
    with member_lock(tmp_path / "search" / ".study"), pytest.raises(MemberLockError, match=f"process {os.getpid()} on"):
        search(make_settings(n_trials=1))


def test_a_record_that_a_crash_cut_off_is_dropped(search: Search, tmp_path: Path) -> None:
    table = search(make_settings(n_trials=2))
    journal = study_folder(tmp_path) / JOURNAL
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":4,"worker_id":"x"')
    create_study(study_folder(tmp_path), make_settings()["search"])
    assert journal.read_bytes() == whole
    journal.write_bytes(whole + b'{"op_code":4,"worker_id":"x"')
    pd.testing.assert_frame_equal(search(make_settings(n_trials=3)).head(2), table)
