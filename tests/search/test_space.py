"""The space of a search: what is refused with which sentence, and the settings of one trial."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from coread.config import ConfigError, compose, config_directory, stage_slice
from coread.search.space import experiment_search, nested, read_space, search_settings, trial_settings

RATE = "search.space.model.learning_rate"
EXPERIMENTS = sorted(yaml.safe_load((config_directory() / "workflow.yaml").read_text())["catalogue"])


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_shipped_experiment_has_a_space_and_composes_at_its_ends(experiment: str) -> None:
    settings = experiment_search(experiment)
    space = read_space(settings["search"])
    assert len(space) >= 3
    for index in (0, -1):
        values = {key: distribution.extremes[index] for key, distribution in space.items()}
        overrides = [f"{key}={value}" for key, value in values.items()]
        # the same settings as on the command line, so also the same as in an experiment that takes them over
        composed = stage_slice(compose(experiment, overrides), "train")
        assert trial_settings(settings, values) == composed
        assert composed["model"]["learning_rate"] == values["model.learning_rate"]
        if "max_lr" in composed.get("lr_scheduler", {}):  # schedules that know no peak start at the optimiser's rate
            assert composed["lr_scheduler"]["max_lr"] == values["model.learning_rate"]


def test_a_search_reads_its_own_group_and_the_train_settings_and_nothing_of_this_machine() -> None:
    here = search_settings(compose("simulated_retina", ["cluster=slurm", "cluster.partition=x", "paths.output_dir=x"]))
    assert here == experiment_search("simulated_retina")
    assert set(here) == {"search", "train"}
    assert here["train"]["lr_scheduler"]["max_lr"] == "${model.learning_rate}"
    assert not {"cluster", "paths", "evaluation", "insilico", "data_io"} & set(here["train"])


def refused(*overrides: str) -> str:
    with pytest.raises(ConfigError) as refusal:
        search_settings(compose("simulated_retina", overrides))
    return str(refusal.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "+search.space.model.learning_rte={distribution: float, low: 1, high: 2}",
            "search.space varies 'model.learning_rte', but below model there is no 'learning_rte' "
            "(did you mean 'learning_rate'?)",
        ),
        (
            "+search.space.evaluation.bootstrap.n={distribution: int, low: 1, high: 2}",
            "search.space varies 'evaluation.bootstrap.n', but there is no 'evaluation' (known: ",
        ),
        ("+search.space.splits={distribution: categorical, choices: [1]}", "'splits', which is a group of settings"),
        (f"{RATE}.distribution=flat", "unknown distribution 'flat'"),
        (f"+{RATE}.hihg=3", f"{RATE}: unknown key 'hihg' (did you mean 'high'?)"),
        (f"{RATE}.low=1", f"{RATE}: low must be below high, found 1 and 0.05"),
        (f"{RATE}.low=0", f"{RATE}: log: true needs low above 0"),
        (f"{RATE}.low=small", f"{RATE}.low: expected a number, found 'small'"),
        ("search.space.model.hidden_channels.choices=[]", "expected a list of choices, found []"),
        ("search.space.model.hidden_channels.choices=[[8], [8]]", "a choice is listed twice"),
        ("search.space.model.hidden_channels.choices=[8]", "the setting is a list ([16]), found 8"),
        (
            "+search.space.trainer.max_epochs={distribution: categorical, choices: [ten]}",
            "is a number (10), found 'ten'",
        ),
        ("search.space.model.learning_rate=3", f"{RATE}: expected {{distribution: ...}}, found 3"),
        ("search.n_trials=0", "search.n_trials: expected a whole number of at least 1, found 0"),
        ("search.folds=[5]", "search.folds: expected a list of folds from 0 to 4, found [5]"),
        ("search.pruner.method=medain", "search.pruner.method: unknown 'medain' (did you mean 'median'?)"),
        ("search.sampler.startup_trials=-1", "search.sampler.startup_trials: expected a whole number"),
        ("+search.n_trails=3", "unknown key 'search.n_trails' (did you mean 'n_trials'?)"),
        ("trainer.num_processes=2", "set trainer.num_processes to 1"),
    ],
)
def test_a_wrong_space_is_refused_with_the_key(override: str, message: str) -> None:
    said = refused(override)
    assert said.startswith("simulated_retina: ")
    assert message in said


def test_a_space_without_anything_to_vary_and_an_experiment_without_a_space_are_refused() -> None:
    assert "search.space is empty" in refused("search=default")
    assert "no search space; add `- search: core_readout`" in refused("~search")


def test_an_experiment_may_add_to_its_space(tmp_path: Path) -> None:
    configs = Path(shutil.copytree(config_directory(), tmp_path / "configs"))
    distribution: dict[str, Any] = {"distribution": "int", "low": 2, "high": 9}
    added = {"space": {"trainer": {"max_epochs": distribution}}, "n_trials": 7}
    outer = {"defaults": ["simulated_retina", "_self_"], "exp_name": "more", "search": added}
    (configs / "more.yaml").write_text(yaml.safe_dump(outer))
    settings = experiment_search("more", configs)
    assert settings["search"]["n_trials"] == 7
    assert set(read_space(settings["search"])) > {"trainer.max_epochs", "model.learning_rate"}


def test_values_by_dotted_key_become_nested_mappings() -> None:
    assert nested({"a.b": 1, "a.c.d": [2], "e": None}) == {"a": {"b": 1, "c": {"d": [2]}}, "e": None}


def test_the_space_is_read_without_torch_and_optuna() -> None:
    code = "import sys, coread.search.space; print([m for m in ('torch', 'optuna', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
