"""What a search leaves: overrides that an experiment takes over, and figures that say what they show."""

import shutil
from pathlib import Path

import optuna
import pandas as pd
import pytest

from coread.config import compose, config_directory, stage_slice, stage_text
from coread.plotting.search import draw_history, draw_importance
from coread.search.results import best_text, write_results
from coread.search.space import experiment_search, read_space, trial_settings
from coread.search.study import importances, optuna_distribution, trials_table

CHOSEN = {
    "model.learning_rate": 0.00875,
    "model.hidden_channels": "[32]",
    "model.core.gamma_input": 1.25e-05,
    "model.core.gamma_temporal": 0.003,
    "model.readout.feature_weights_l1_reg": 0.0004,
}


@pytest.fixture
def study() -> optuna.Study:
    """Eight trials of simulated_retina: six complete, better with a larger learning rate; one pruned, one failed."""
    space = read_space(experiment_search("simulated_retina")["search"])
    distributions = {key: optuna_distribution(entry) for key, entry in space.items()}
    made = optuna.create_study(direction="maximize")
    states = [optuna.trial.TrialState.COMPLETE] * 6 + [optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.FAIL]
    for number, state in enumerate(states):
        params = CHOSEN | {"model.learning_rate": 0.00875 if number == 3 else 0.002 + 0.0001 * number}
        value = None if state == optuna.trial.TrialState.FAIL else (0.5 if number == 3 else 0.1 + 0.01 * number)
        if state == optuna.trial.TrialState.PRUNED:
            value = 0.9  # the last epoch of a pruned trial is no result
        attributes = {"slot": number, "reason": "no reason"} if value is None else {"slot": number, "epochs": 7}
        made.add_trial(
            optuna.trial.create_trial(
                state=state, value=value, params=params, distributions=distributions, user_attrs=attributes
            )
        )
    return made


def test_an_experiment_that_includes_best_yaml_has_the_best_settings(study: optuna.Study, tmp_path: Path) -> None:
    settings = experiment_search("simulated_retina")
    text = best_text("simulated_retina", study, settings["search"])
    assert "trial 3, the best of 8 trials (6 complete, 1 fail, 1 pruned)" in text
    assert "0.5000" in text

    # what its first lines tell the reader to do
    configs = Path(shutil.copytree(config_directory(), tmp_path / "configs"))
    (configs / "tuned").mkdir()
    (configs / "tuned" / "simulated_retina.yaml").write_text(text)
    told = [line.removeprefix("#        ") for line in text.splitlines() if line.startswith("#        ")]
    assert [line.split(":")[0] for line in told] == ["defaults", "exp_name"]
    (configs / "simulated_retina_tuned.yaml").write_text("\n".join(told) + "\n")

    values = CHOSEN | {"model.hidden_channels": [32]}
    tuned = compose("simulated_retina_tuned", (), configs)
    assert stage_slice(tuned, "train") == trial_settings(settings, values)
    assert stage_slice(tuned, "train")["lr_scheduler"]["max_lr"] == 0.00875
    for stage in ("data", "evaluate", "insilico"):
        assert stage_text("simulated_retina_tuned", stage, configs) == stage_text("simulated_retina", stage, configs)


def test_the_table_has_a_row_per_finished_trial(study: optuna.Study) -> None:
    search = experiment_search("simulated_retina")["search"]
    study.ask()  # a running one is no result
    table = trials_table(study, search)
    assert list(table["state"]) == ["complete"] * 6 + ["pruned", "fail"]
    assert set(CHOSEN) < set(table.columns)
    assert table["model.hidden_channels"][0] == "[32]"
    assert table["reason"][7] == "no reason"
    assert table["value"][3] == 0.5


def test_results_are_written_whole(study: optuna.Study, tmp_path: Path) -> None:
    write_results(tmp_path, "simulated_retina", study, experiment_search("simulated_retina")["search"])
    figures = {f"{name}{suffix}" for name in ("history", "importance") for suffix in (".png", ".pdf", ".txt")}
    assert {path.name for path in tmp_path.iterdir()} == {"trials.csv", "best.yaml", *figures}
    assert "6 complete, 1 pruned, 1 failed" in (tmp_path / "history.txt").read_text()


def test_the_setting_that_decides_is_the_important_one(study: optuna.Study) -> None:
    shares = importances(study)
    assert sum(shares.values()) == pytest.approx(1)
    assert max(shares, key=lambda key: shares[key]) == "model.learning_rate"
    assert importances(optuna.create_study(direction="maximize")) == {}


def test_figures_show_every_trial_and_say_where_there_is_nothing_to_show(study: optuna.Study) -> None:
    table = trials_table(study, experiment_search("simulated_retina")["search"])
    axes = draw_history(table).figure.axes[0]
    pruned, complete = axes.collections
    assert len(complete.get_offsets()) == 6
    assert len(pruned.get_offsets()) == 1
    assert list(axes.lines[0].get_ydata()) == pytest.approx([0.1, 0.11, 0.12, 0.5, 0.5, 0.5])
    assert [text.get_text() for text in axes.texts] == ["failed"]
    assert "too few" in draw_importance({}).figure.axes[0].texts[0].get_text()
    bars = draw_importance({"a": 0.25, "b": 0.75}).figure.axes[0].patches
    assert [bar.get_width() for bar in bars] == [0.25, 0.75]
    assert draw_history(table[table["state"] == "fail"]).figure.axes[0].collections


def test_an_unfinished_table_is_empty() -> None:
    study = optuna.create_study(direction="maximize")
    study.ask()
    assert trials_table(study, experiment_search("simulated_retina")["search"]).equals(pd.DataFrame([]))
