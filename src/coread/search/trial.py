"""One trial of a search: train a member per fold, report every epoch, end early if others are better."""

import contextlib
import logging
import math
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytorch_lightning as pl
import yaml
from optuna.trial import Trial, TrialState
from pytorch_lightning.callbacks import Callback

from coread.member_lock import member_lock
from coread.recording import read_recordings
from coread.search.space import trial_settings
from coread.search.study import EPOCHS, REASON, claim_trial, open_study, trial_values
from coread.training import train

log = logging.getLogger(__name__)

SETTINGS = "settings.yaml"
ENDING = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)  # a time limit, a pre-emption, an end


def run_trial(
    folder: Path,
    slot: int,
    recordings: Sequence[Path],
    life: Mapping[str, Any],
    *,
    memory_budget_bytes: float = float("inf"),
) -> None:
    """Run the trial of a slot to its end and enter its value into the study in `folder`.

    A trial that was cut off goes on from its last epoch. What cannot be trained (ValueError) fails the trial for good;
    any other error is recorded and raised, and the trial stays open for another job.
    """
    settings = yaml.safe_load((folder / SETTINGS).read_text(encoding="utf-8"))
    study = open_study(folder, settings["search"], slot)
    trial = claim_trial(study, settings["search"], slot, life)
    if trial is None:
        return
    values = trial_values(settings["search"], trial.params)
    log.info("trial %d: %s", trial.number, values)
    work = folder / "trials" / str(trial.number)
    try:
        data = read_recordings(recordings, memory_budget_bytes=memory_budget_bytes)
        with member_lock(work):  # after a network split the job of an earlier life may still be running
            value, epochs = _train_members(trial, trial_settings(settings, values), settings["search"], data, work)
        with signals_wait():
            trial.set_user_attr(EPOCHS, epochs)
            study.tell(trial, value)
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
    except ValueError as error:
        trial.set_user_attr(REASON, str(error).splitlines()[0])
        study.tell(trial, state=TrialState.FAIL)
        log.exception("trial %d cannot be trained", trial.number)
    except Exception as error:
        with contextlib.suppress(OSError):  # the error itself is what must be seen
            trial.set_user_attr(REASON, f"{type(error).__name__}: {error}".splitlines()[0])
        raise
    shutil.rmtree(work, ignore_errors=True)


def _train_members(
    trial: Trial, settings: Mapping[str, Any], search: Mapping[str, Any], recordings: Sequence[Any], work: Path
) -> tuple[float, int]:
    """Return the mean over folds of the best validation correlation, and how many epochs all folds took.

    Nothing of a test tier is read. Raises TrialPruned in the first fold, ValueError if a member has no such value.
    """
    best, epochs = [], 0
    for fold in search["folds"]:
        callbacks = [ReportEpochs(trial)] if fold == search["folds"][0] else []
        member = train(
            settings,
            recordings,
            fold,
            search["member_seed"],
            work_dir=work / f"fold{fold}",
            callbacks=callbacks,
            progress_bar=False,
        )
        best.append(float(member.history["val_correlation"].max()))
        epochs += len(member.history)
    value = sum(best) / len(best)
    if not math.isfinite(value):
        raise ValueError(f"the validation correlation of a member is {value}")
    return value, epochs


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """Let signals wait while the study is written.

    submitit ends the process from a handler; in the middle of the study's lock that becomes an error of the lock, and
    the job fails instead of being queued again.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone runs handlers
        yield
        return
    arrived: list[int] = []
    before = {number: signal.signal(number, lambda number, _frame: arrived.append(number)) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in arrived:
            signal.raise_signal(late)


class ReportEpochs(Callback):
    """Tell the study every epoch's validation correlation and end a trial that the pruner gives up."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.reported = set(trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report once per epoch, also where a resumed trial repeats one; raises TrialPruned."""
        epoch = trainer.current_epoch
        if epoch not in self.reported:
            with signals_wait():
                self.trial.report(float(trainer.callback_metrics["val_correlation"]), epoch)
        if self.trial.should_prune():
            raise optuna.TrialPruned(f"below the median of other trials in epoch {epoch + 1}")
