"""The Optuna study of a search: one file on disk that every trial's job reads and appends to.

A search has `n_trials` slots. The job of a slot draws a trial when it starts, so that it knows every result there is; a
job that starts again for a slot goes on with the slot's trial.
"""

import hashlib
import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from coread.search.space import Distribution, read_space

try:
    import optuna
except ImportError as error:  # an optional dependency: the rest of the package works without it
    raise ImportError("a search needs Optuna: pip install 'coread[search]'") from error

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, Trial, TrialState

optuna.logging.set_verbosity(optuna.logging.WARNING)
log = logging.getLogger(__name__)

JOURNAL = "journal.log"
SLOT, LIVES, REASON, EPOCHS, CRASHED = "slot", "lives", "reason", "epochs", "crashed"
GOOD = (TrialState.COMPLETE, TrialState.PRUNED)


def create_study(folder: Path, search: Mapping[str, Any]) -> optuna.Study:
    """Begin the study of a folder, or open it if it is there; only the search itself does this."""
    _mend(folder / JOURNAL)
    try:
        return open_study(folder, search)
    except KeyError:
        optuna.create_study(storage=_storage(folder), study_name="search", direction="maximize")
        return open_study(folder, search)


def open_study(folder: Path, search: Mapping[str, Any], slot: int = 0) -> optuna.Study:
    """Open the study of a folder with the sampler of a slot, seeded by (search seed, slot)."""
    return optuna.load_study(
        storage=_storage(folder), study_name="search", sampler=_sampler(search, slot), pruner=_pruner(search)
    )


def _storage(folder: Path) -> JournalStorage:
    journal = str((folder / JOURNAL).absolute())
    return JournalStorage(JournalFileBackend(journal, lock_obj=_lock(journal)))


def _lock(journal: str) -> JournalFileSymlinkLock:
    """Return a lock that is a symbolic link: atomic on network file systems too, broken after 30 s without a change."""
    return JournalFileSymlinkLock(journal)


def _mend(journal: Path) -> None:
    """Drop a last line that a crashed node left unfinished: what was appended to it could not be read any more."""
    if not journal.exists():
        return
    lock = _lock(str(journal.absolute()))
    lock.acquire()
    try:
        content = journal.read_bytes()
        if content and not content.endswith(b"\n"):
            log.warning("%s: the last record was not written to its end, it is dropped", journal)
            with journal.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)
    finally:
        lock.release()


def claim_trial(study: optuna.Study, search: Mapping[str, Any], slot: int, life: Mapping[str, Any]) -> Trial | None:
    """Return the trial of a slot: the one it has, else a new one; None if that one is finished already.

    `life` says which job this is; it is added to the trial's record.
    """
    known = trial_of_slot(study.get_trials(deepcopy=False), slot)
    if known is not None and known.state.is_finished():
        return None
    if known is None:
        distributions = {key: optuna_distribution(entry) for key, entry in read_space(search).items()}
        trial = study.ask(distributions)
        trial.set_user_attr(SLOT, slot)
    else:
        trial = Trial(study, known._trial_id)  # as Optuna itself makes it; drawn values are those of the first life
    trial.set_user_attr(LIVES, [*trial.user_attrs.get(LIVES, []), dict(life)])
    return trial


def trial_of_slot(trials: Sequence[FrozenTrial], slot: int) -> FrozenTrial | None:
    """Return the trial that a slot has drawn."""
    return next((trial for trial in trials if trial.user_attrs.get(SLOT) == slot), None)


def trial_values(search: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a trial by dotted key, from the parameters that Optuna stores."""
    space = read_space(search)
    return {key: _choice(space[key], value) for key, value in sorted(params.items())}


def fail_trial(study: optuna.Study, number: int, reason: str) -> None:
    """End a trial whose jobs died as failed, with the reason in its record."""
    trial = Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)
    trial.set_user_attr(REASON, reason)
    trial.set_user_attr(CRASHED, True)
    study.tell(trial, state=TrialState.FAIL)


def trials_table(study: optuna.Study, search: Mapping[str, Any]) -> pd.DataFrame:
    """Return one row per finished trial: number, state, value, settings, epochs, duration_s, lives, job, node, reason.

    `value` of a pruned trial is its validation correlation in the last epoch. `epochs` counts those of all folds.
    """
    rows = []
    for trial in study.get_trials(deepcopy=False):
        if not trial.state.is_finished():
            continue
        values = trial_values(search, trial.params)
        lives = trial.user_attrs.get(LIVES, [{}])
        assert trial.datetime_complete is not None
        assert trial.datetime_start is not None
        rows.append(
            {
                "number": trial.number,
                "state": trial.state.name.lower(),
                "value": trial.value,
                **{key: _label(value) for key, value in values.items()},
                "epochs": trial.user_attrs.get(EPOCHS, len(trial.intermediate_values)),
                "duration_s": round((trial.datetime_complete - trial.datetime_start).total_seconds(), 1),
                "lives": len(lives),
                "job_id": lives[-1].get("job_id"),
                "node": lives[-1].get("node"),
                "reason": trial.user_attrs.get(REASON),
            }
        )
    return pd.DataFrame(rows)


def importances(study: optuna.Study) -> dict[str, float]:
    """Return how much every varied setting explains of being among the better trials; empty if too few have ended.

    PED-ANOVA (Watanabe et al. 2023, arXiv:2304.10255): shares of the between-trial variance, together 1.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len({trial.value for trial in complete}) < 4:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # too few trials for a setting: its importance is then 0
        return optuna.importance.get_param_importances(study)


def optuna_distribution(distribution: Distribution) -> BaseDistribution:
    """Return Optuna's distribution; choices that are lists or mappings are stored as JSON text."""
    if distribution.kind == "categorical":
        return CategoricalDistribution([_label(choice) for choice in distribution.choices])
    if distribution.kind == "int":
        step = 1 if distribution.step is None else int(distribution.step)
        return IntDistribution(int(distribution.low), int(distribution.high), log=distribution.log, step=step)
    return FloatDistribution(distribution.low, distribution.high, log=distribution.log, step=distribution.step)


def _label(choice: Any) -> Any:
    return json.dumps(choice) if isinstance(choice, list | dict) else choice


def _choice(distribution: Distribution, value: Any) -> Any:
    for choice in distribution.choices:
        if _label(choice) == value and type(_label(choice)) is type(value):
            return choice
    return value


def _sampler(search: Mapping[str, Any], slot: int) -> optuna.samplers.BaseSampler:
    seed = int.from_bytes(hashlib.sha256(f"{search['seed']}/{slot}".encode()).digest()[:4])
    options = search["sampler"]
    if options["method"] == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # running trials count as bad ones, so that trials drawn at the same time differ
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=options["startup_trials"], constant_liar=search["parallel"] > 1
        )


def _pruner(search: Mapping[str, Any]) -> optuna.pruners.BasePruner:
    options = search["pruner"]
    if options["method"] == "none":
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(
        n_startup_trials=options["startup_trials"], n_warmup_steps=options["warmup_epochs"]
    )
