"""What a search leaves: the table of its trials, the best one as a file of overrides, and two figures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import yaml

from coread.plotting.search import draw_history, draw_importance
from coread.plotting.style import save_drawing
from coread.provenance import write_text
from coread.search.space import nested
from coread.search.study import importances, trial_values, trials_table

BEST = """\
# @package _global_
# Written by a search on {experiment}: trial {number}, the best of {n} trials ({states}).
# Mean over folds {folds} of the best validation correlation: {value:.4f} (chosen for it, so optimistic).
# An experiment takes these settings like this:
#   1. copy this file to configs/tuned/{experiment}.yaml
#   2. write configs/{experiment}_tuned.yaml:
#        defaults: [{experiment}, tuned: {experiment}, _self_]
#        exp_name: {experiment}_tuned
"""


def write_results(folder: Path, experiment: str, study: optuna.Study, search: Mapping[str, Any]) -> pd.DataFrame:
    """Write trials.csv, best.yaml and the figures history and importance, each atomically; return the table.

    Only finished trials are read.
    """
    table = trials_table(study, search)
    save_drawing(draw_history(table), folder / "history")
    save_drawing(draw_importance(importances(study)), folder / "importance")
    write_text(folder / "best.yaml", best_text(experiment, study, search))
    write_text(folder / "trials.csv", table.to_csv(index=False))
    return table


def best_text(experiment: str, study: optuna.Study, search: Mapping[str, Any]) -> str:
    """Return the best trial's settings as a file that an experiment names in its defaults."""
    best = study.best_trial
    finished = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    states = [trial.state.name.lower() for trial in finished]
    header = BEST.format(
        experiment=experiment,
        number=best.number,
        n=len(finished),
        states=", ".join(f"{states.count(state)} {state}" for state in sorted(set(states))),
        folds=search["folds"],
        value=best.value,
    )
    return header + yaml.safe_dump(nested(trial_values(search, best.params)), sort_keys=True)
