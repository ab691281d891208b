"""The search itself: keep the slots of a study busy until every one has a finished trial, then write the results.

Killed and started again it goes on: finished trials stand in the study's journal, jobs that still run in its ledger.
"""

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import torch

from coread.config import canonical_text
from coread.member_lock import member_lock
from coread.provenance import combined_digest, write_text
from coread.search.jobs import (
    Ledger,
    SearchError,
    Submission,
    TrialTask,
    cancel,
    end_jobs,
    last_line,
    live_jobs,
    queued,
    submit,
    wait_until_gone,
)
from coread.search.results import write_results
from coread.search.study import CRASHED, GOOD, REASON, SLOT, create_study, fail_trial, trial_of_slot
from coread.search.trial import SETTINGS
from coread.signatures import deciding_code

log = logging.getLogger(__name__)

PATIENCE_S = 10.0  # for a search in the same folder that is about to end
HOPELESS = 3  # trials that fail before any succeeds end the search: it is not the values


def run_search(
    experiment: str,
    settings: Mapping[str, Any],
    recordings: Sequence[Path],
    digests: Sequence[str],
    folder: Path,
    submission: Submission,
) -> pd.DataFrame:
    """Run, or go on with, the search of an experiment and return the table of its trials.

    `settings` come from `search_settings`, `digests` are those of the recordings' contents. Writes trials.csv,
    best.yaml and the figures history and importance into `folder`; the study lies in `folder/.study`, named by
    everything that decides a trial. Raises SearchError if the search cannot go on, MemberLockError if another process
    runs a search in this folder.
    """
    study_folder = folder.absolute() / ".study" / study_digest(settings, digests)
    study_folder.mkdir(parents=True, exist_ok=True)
    search = _Search(experiment, settings["search"], [path.absolute() for path in recordings], study_folder, submission)
    with member_lock(study_folder.parent, PATIENCE_S):
        write_text(study_folder / SETTINGS, canonical_text(settings))
        end_other_studies(study_folder)
        search.run()
        return write_results(folder, experiment, search.study, settings["search"])


def study_digest(settings: Mapping[str, Any], digests: Sequence[str]) -> str:
    """Return a name for a study: another for anything that decides a trial, the same for more trials or other workers.

    Settings and space, contents of the recordings, code of the training and torch count; the device does not, because
    the search may run on a host without the GPU that its trials have.
    """
    train = canonical_text(settings["train"])
    deciding = {key: value for key, value in settings["search"].items() if key not in ("n_trials", "parallel")}
    trial = Path(__file__).with_name("trial.py")
    code = combined_digest([trial, *deciding_code(trial, train)])
    return combined_digest((), train, canonical_text(deciding), list(digests), code, str(torch.__version__))


def end_other_studies(study_folder: Path) -> None:
    """End jobs of studies that this one takes the place of: its settings, recordings or code are other ones."""
    for path in sorted(study_folder.parent.glob("*/jobs.jsonl")):
        if path.parent == study_folder:
            continue
        records = Ledger(path).records
        if live := live_jobs(records, job_name(path.parent)):
            log.warning(
                "settings, recordings or code have changed since the search in %s: its %d jobs are ended",
                path.parent,
                len(live),
            )
            end_jobs([record for record in records if str(record["job_id"]) in live])


def job_name(study_folder: Path) -> str:
    """Return the name of a study's jobs in the queue."""
    return f"coread-search-{hashlib.sha256(str(study_folder).encode()).hexdigest()[:12]}"


@dataclass
class _Search:
    """One life of a search: what it knows of its trials and jobs."""

    experiment: str
    search: Mapping[str, Any]
    recordings: Sequence[Path]
    folder: Path
    submission: Submission
    missing: set[str] = field(default_factory=set)  # jobs that were not in the queue when it was last asked
    reasons: set[str] = field(default_factory=set)  # why trials wait, as far as it was told

    def run(self) -> None:
        """Work until every slot has a finished trial."""
        self.ledger = Ledger(self.folder / "jobs.jsonl")
        self.name = job_name(self.folder)
        self.study = create_study(self.folder, self.search)
        known = [trial for trial in self._trials() if trial.state.is_finished()]
        self.known, self.told = len(self.ledger.records), {trial.number for trial in known}
        self.earlier = set(self.told)
        # a trial that an earlier life of the search gave up because its jobs died gets a successor
        self.n_slots = self.search["n_trials"] + sum(CRASHED in t.user_attrs and SLOT in t.user_attrs for t in known)
        log.info("search of %s: %d of %d trials are there", self.experiment, len(known), self.n_slots)
        self._cancel_strangers()
        try:
            while not self._advance():
                time.sleep(self.submission.poll_s)
        except BaseException as error:
            self._leave(error)
            raise
        self._close_orphans()
        shutil.rmtree(self.folder / "trials", ignore_errors=True)

    def _advance(self) -> bool:
        """Look at every slot, submit what has no job; return whether all is done."""
        live = self._still_live(records := self._open_records())
        if live is None:
            return False
        # asked after the queue: a trial whose job has left it is in the study by now
        finished = self._report_finished()
        open_slots = [slot for slot in range(self.n_slots) if slot not in finished]
        busy = {record["slot"] for record in records if str(record["job_id"]) in live}
        idle = [slot for slot in open_slots if slot not in busy and not self._given_up(slot)]
        self._submit(idle[: self._room(len(busy))])
        return not open_slots

    def _still_live(self, records: Sequence[Mapping[str, Any]]) -> set[str] | None:
        """Return the jobs that count as running: those in the queue, and those seen missing only once."""
        try:
            queue = live_jobs(records, self.name)
        except SearchError as error:
            log.warning("%s; asked again later", error)
            return None
        reasons = set(queue.values()) - {"None", "JobArrayTaskLimit", *self.reasons}
        if reasons:
            self.reasons |= reasons
            log.info("trials wait in the queue, SLURM says: %s", ", ".join(sorted(reasons)))
        missing = {str(record["job_id"]) for record in records} - queue.keys()
        once, self.missing = missing - self.missing, missing
        # SLURM may be late to list a job, and the file system to show the study's last record
        return set(queue) | (once if self._on_slurm() else set())

    def _room(self, n_busy: int) -> int:
        """Return how many trials may be submitted now so that no more than `parallel` ever run at once.

        SLURM itself limits how many tasks of an array run, so the first array takes everything; with one worker every
        trial waits for the one before, which makes the search repeatable whatever happens to a job.
        """
        parallel = self.search["parallel"]
        if self.submission.executor == "debug":
            return 1
        if self._on_slurm() and n_busy == 0 and parallel > 1:
            return self.submission.max_jobs
        return max(0, parallel - n_busy)

    def _submit(self, slots: Sequence[int]) -> None:
        if not slots:
            return
        parallel = self.search["parallel"]
        tasks = [
            TrialTask(
                folder=self.folder,
                slot=slot,
                recordings=tuple(self.recordings),
                memory_budget_bytes=self.submission.mem_mb * 2**20 / 2,
                cpus=self.submission.trial_cpus(parallel),
                devices=None if self._on_slurm() else _devices(),
            )
            for slot in slots
        ]
        records = submit(self.submission, self.folder, self.name, tasks, parallel)
        self.ledger.add(records)
        if self.submission.executor != "debug":
            log.info("submitted %d trials: %s", len(records), ", ".join(str(r["job_id"]) for r in records))

    def _given_up(self, slot: int) -> bool:
        """Fail the trial of a slot whose jobs died too often; raises SearchError if they die before they begin."""
        jobs = [record for record in self.ledger.records[self.known :] if record["slot"] == slot]
        if len(jobs) <= self.submission.retries:
            return False
        trial = trial_of_slot(self._trials(), slot)
        said = last_line(self.folder, str(jobs[-1]["job_id"]))
        if trial is None:
            raise SearchError(f"{len(jobs)} jobs ended one after the other before a trial began; the last said: {said}")
        reason = trial.user_attrs.get(REASON) or f"its job ended without a word; the last line of its log: {said}"
        fail_trial(self.study, trial.number, f"{len(jobs)} jobs died, the last one: {reason}")
        return True

    # ------------------------------------------------------------------------------------------------ what is there

    def _on_slurm(self) -> bool:
        return self.submission.executor == "slurm"

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _finished_slots(self) -> set[int]:
        return {t.user_attrs[SLOT] for t in self._trials() if SLOT in t.user_attrs and t.state.is_finished()}

    def _open_records(self) -> list[dict[str, Any]]:
        """Return the newest job of every slot that has one and is not finished."""
        finished = self._finished_slots()
        jobs = (self.ledger.of_slot(slot) for slot in range(self.n_slots) if slot not in finished)
        return [records[-1] for records in jobs if records]

    def _report_finished(self) -> set[int]:
        """Log what has ended since last time and return the finished slots; raises SearchError if nothing can work."""
        finished = self._finished_slots()
        trials = [trial for trial in self._trials() if trial.state.is_finished()]
        for trial in trials:
            if trial.number not in self.told:
                self.told.add(trial.number)
                shown = trial.user_attrs.get(REASON) if trial.value is None else f"{trial.value:.4f}"
                log.info("trial %d %s: %s", trial.number, trial.state.name.lower(), shown)
        failed = [trial for trial in trials if trial.number not in self.earlier]
        hopeless = not any(trial.state in GOOD for trial in trials)
        if hopeless and len(failed) >= min(HOPELESS, self.search["n_trials"]):
            reason = failed[0].user_attrs.get(REASON, "no reason recorded")
            raise SearchError(f"all of the first {len(failed)} trials failed, trial {failed[0].number} with: {reason}")
        return finished

    # --------------------------------------------------------------------------------------------- coming and going

    def _cancel_strangers(self) -> None:
        """Cancel jobs of this search that the ledger lacks: it was killed between submitting and recording them."""
        if not self._on_slurm():
            return
        known = {str(record["job_id"]) for record in self.ledger.records}
        if strangers := set(queued(self.name)) - known:
            log.warning("cancelling jobs that were submitted but not recorded: %s", ", ".join(sorted(strangers)))
            cancel(strangers)
            wait_until_gone(self.name, strangers)

    def _leave(self, error: BaseException) -> None:
        """End the trials of this machine, and those of a cluster if the search itself has failed."""
        records = self._open_records()
        if isinstance(error, SearchError) or not self._on_slurm():
            end_jobs(records)
        else:
            log.warning("trials stay in the queue; start the search again to go on, or: scancel --name=%s", self.name)

    def _close_orphans(self) -> None:
        """Fail trials that no slot owns: their job died between drawing them and saying so."""
        for trial in self._trials():
            if not trial.state.is_finished() and SLOT not in trial.user_attrs:
                fail_trial(self.study, trial.number, "its job ended before it began to train")


def _devices() -> str:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES says it."""
    every = ",".join(str(index) for index in range(torch.cuda.device_count()))
    return os.environ.get("CUDA_VISIBLE_DEVICES", every)
