"""The jobs of a campaign in SLURM's queue, above all those that a dead head left there.

An executor does not take them over, so they are waited for or cancelled before the next head starts.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from coread.campaign import CampaignError, ListedJob, last_attempt, lingering, listed_jobs, read_head
from coread.slurm_queue import (
    QueuedJob,
    QueueError,
    cancel_jobs,
    describe,
    queued_jobs,
    submissions_in_flight,
    target_jobs,
)

PREFIX = "coread_"  # of the jobs' names in the queue: profiles/slurm says slurm-jobname-prefix: coread
_RESUME = "`coread campaign resume` waits for them or cancels them, and goes on"


def uses_queue(executor: str | None = None) -> bool:
    """Return whether SLURM may hold jobs of this campaign: a head with this executor or the newest one submits there.

    SLURM's commands alone mean nothing: a workstation may have them without a cluster, and they take a minute to fail.
    """
    head = read_head()
    return executor == "slurm" or (head is not None and head.executor == "slurm")


def campaign_queue(folder: str | Path) -> list[QueuedJob]:
    """Return the jobs of this campaign in the queue, of every run; raises QueueError if it cannot be asked."""
    head = read_head()
    run_ids = set() if head is None else {head.run_id, *head.earlier}
    here, own = os.path.realpath(folder), os.environ.get("SLURM_JOB_ID")  # the head may run in a job itself
    found = [job for job in queued_jobs() if job.run_id in run_ids or _is_from(job, here)]
    return [job for job in found if job.job_id != own]


def _is_from(job: QueuedJob, folder: str) -> bool:
    ours = job.run_id.startswith(PREFIX) or job.comment.startswith(("rule_", "group_"))
    return ours and os.path.realpath(job.folder) == folder


def refuse_orphans(folder: str | Path, executor: str) -> None:
    """Raise CampaignError if jobs of earlier runs wait or run, before a new head has started any."""
    submitting = submissions_in_flight(folder)  # before the queue, which they may still enter
    if uses_queue(executor) and (left := campaign_queue(folder)):
        ids = ", ".join(job.job_id for job in left[:10]) + (", ..." if len(left) > 10 else "")
        what = "1 job of an earlier run is" if len(left) == 1 else f"{len(left)} jobs of an earlier run are"
        raise CampaignError(f"{what} still in the queue ({describe(left)}; ids {ids}): {_RESUME}")
    if pids := [*submitting, *(attempt.supervisor.pid for attempt in lingering())]:
        raise CampaignError(f"processes of an earlier run are just ending on this machine ({_listed(pids)}): {_RESUME}")


def names_in_queue(queue: Iterable[QueuedJob], listed: Mapping[str, ListedJob]) -> dict[str, list[str]]:
    """Return which jobs of the workflow every submission holds: SLURM's id -> names.

    The comment tells, and where it does not (jobs that share a submission) SLURM is asked for the batch script.
    """
    by_comment: dict[str, list[str]] = {}
    for name, job in listed.items():
        by_comment.setdefault(job.comment, []).append(name)
    by_target = {_target(job.rule, job.wildcards): name for name, job in listed.items()}
    names = {}
    for queued in queue:
        found = by_comment.get(queued.comment, [])
        if len(found) != 1:
            found = _names_from_script(queued, by_target) or [queued.comment]
        names[queued.job_id] = found
    return names


def _target(rule: str, wildcards: Mapping[str, str]) -> str:
    return f"{rule} {' '.join(f'{key}={value}' for key, value in sorted(wildcards.items()))}"


def _names_from_script(queued: QueuedJob, by_target: Mapping[str, str]) -> list[str]:
    try:
        targets = target_jobs(queued.job_id)
    except QueueError:  # it left the queue in the meantime, or the site shows no scripts
        return []
    return sorted(by_target.get(target, target) for target in (_target(*entry) for entry in targets))


def cancel_run(run_id: str) -> None:
    """Cancel what is left of one run in the queue: the executor forgets jobs whose state it was just asking for."""
    cancel([job for job in queued_jobs() if job.run_id == run_id])


def cancel(queue: Sequence[QueuedJob]) -> list[str]:
    """Cancel jobs and return their ids, without those whose work is done.

    Between the end of its script and its own end a job takes some seconds, in which the Snakemake inside it would
    answer a cancellation by deleting the finished outputs.
    """
    names = names_in_queue(queue, listed_jobs())
    ids = [job.job_id for job in queue if not all(_is_done(name, job.job_id) for name in names[job.job_id])]
    cancel_jobs(ids)
    return ids


def _is_done(name: str, job_id: str) -> bool:
    attempt = last_attempt(name)
    return attempt is not None and attempt[0].get("job_id") == job_id and (attempt[1] or {}).get("exit") == 0


def wait_until_gone(folder: str | Path, tell: Callable[[str], None], *, poll_s: float, cancelling: bool) -> None:
    """Return when no job of this campaign is in the queue, cancelling them first if asked.

    Processes can outlive their job where SLURM runs without cgroups: those on this machine are waited for, too.
    """
    cancelled: set[str] = set()
    told = ""
    while True:
        running, submitting = lingering(), submissions_in_flight(folder)  # before the queue, which they may still enter
        left = campaign_queue(folder) if uses_queue() else []
        if not left and not running and not submitting:
            return
        if cancelling:
            cancelled.update(cancel([job for job in left if job.job_id not in cancelled]))
        pids = [*submitting, *(attempt.supervisor.pid for attempt in running)]
        state = describe(left) if left else f"out of the queue, processes still ending: {_listed(pids)}"
        if state != told:
            tell(f"waiting for jobs of the earlier run: {state}")
            told = state
        time.sleep(poll_s)


def _listed(pids: Iterable[int]) -> str:
    return ", ".join(str(pid) for pid in pids)
