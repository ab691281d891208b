"""`coread campaign status | resume | stop | allow`: the workflow that runs, or ran, in this folder."""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from coread import campaign, orphans
from coread.campaign import CampaignError, Head, Running
from coread.failure import reported_errors
from coread.slurm_queue import QueuedJob, describe, has_queue

USAGE = """coread campaign status
       coread campaign resume (--wait | --cancel) [-- SNAKEMAKE ARGUMENTS]
       coread campaign stop [MEMBER ...]
       coread campaign allow MEMBER ...

Run it in the folder in which Snakemake was started. A MEMBER is EXPERIMENT/foldF/seedS, or the name of another job as
`status` shows it.

status   the process that drives the campaign, its jobs in the queue, the attempts that were made
resume   after that process was killed: wait for the jobs that it left in the queue, or cancel them; then unlock, and
         start Snakemake with the same arguments (or with those after --); finished work is not repeated
stop     end these members for good: cancel their jobs and start them no more; without members: end the campaign
allow    let stopped members run again"""

POLL_S = 10.0
INTERRUPTED_S = 60.0  # Snakemake ends some 20 s after SIGINT
LOOKED_AGAIN_S = 5.0


def main(argv: list[str]) -> None:
    """Run the command; exits with status 1 and one sentence for anything that is wrong."""
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: {USAGE}")
        return
    commands: dict[str, Callable[[list[str]], None]] = {
        "status": status,
        "resume": resume,
        "stop": stop,
        "allow": allow,
    }
    with reported_errors(in_terminal=True):
        if argv[0] not in commands:
            raise CampaignError(f"coread campaign: unknown command {argv[0]!r}, expected {' | '.join(commands)}")
        if any(word in ("-h", "--help") for word in argv[: argv.index("--") if "--" in argv else None]):
            print(f"usage: {USAGE}")
            return
        commands[argv[0]](argv[1:])


# --------------------------------------------------------------------------------------------------------------- status


def status(argv: list[str]) -> None:
    """Print the head, the queue, the attempts and the stopped jobs."""
    _parser("status").parse_args(argv)
    head, alive = _require_head(), campaign.head_lives()
    print(f"head      {'running' if alive else _how_it_ended(head)}: {head}")
    print(f"          snakemake {' '.join(head.command)}")
    queue = orphans.campaign_queue(head.folder) if orphans.uses_queue() and has_queue() else None
    if queue is not None:
        _print_queue(queue, head, alive)
    elif head.executor == "slurm":
        print("queue     unknown: squeue is not on this machine's PATH; ask on a host of the cluster")
    _print_attempts(queue)
    for job in campaign.stopped_jobs():
        print(f"stopped   {job}")


def _how_it_ended(head: Head) -> str:
    return "killed" if head.outcome is None else f"ended ({head.outcome})"


def _print_queue(queue: Sequence[QueuedJob], head: Head, alive: bool) -> None:
    left = sum(1 for job in queue if not (alive and job.run_id == head.run_id))
    note = f"; {left} of them left by an earlier run: `coread campaign resume`" if left and not alive else ""
    print(f"queue     {describe(queue) or 'empty'}{note}")
    names = orphans.names_in_queue(queue, campaign.listed_jobs())
    for job in queue:
        where = job.node or f"({job.reason})"
        print(f"  {job.job_id:>9}  {job.state:<11} {job.elapsed:>10}  {where:<12} {', '.join(names[job.job_id])}")


def _print_attempts(queue: Sequence[QueuedJob] | None) -> None:
    from coread.attempts import read_attempts, summarize_attempts  # here: pandas is needed by this command only

    attempts = read_attempts(campaign.LOGS, None if queue is None else {job.job_id for job in queue})
    if attempts.empty:
        print("attempts  none yet")
        return
    print("attempts")
    table = summarize_attempts(attempts).dropna(axis="columns", how="all")
    print(table.rename(columns={"failed": "failed_attempts"}).to_string(index=False, float_format="%.1f"))


# --------------------------------------------------------------------------------------------------------------- resume


def resume(argv: list[str]) -> None:
    """Settle what a dead head left in the queue and become Snakemake."""
    own, given = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, None)
    parser = _parser("resume")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--wait", action="store_true")
    choice.add_argument("--cancel", action="store_true")
    parser.add_argument("--poll", type=float, default=POLL_S, metavar="SECONDS")
    options = parser.parse_args(own)
    head = _require_head()
    # held until this process becomes Snakemake: no head can start between the last look at the queue and the unlocking
    lock = campaign.hold_lock()
    if orphans.uses_queue():
        queue = orphans.campaign_queue(head.folder)
        cancelling = _asks_to_cancel(options, queue) if queue else options.cancel
        orphans.wait_until_gone(head.folder, _tell, poll_s=options.poll, cancelling=cancelling)
    else:
        orphans.wait_until_gone(head.folder, _tell, poll_s=options.poll, cancelling=False)
    arguments = head.command if given is None else given
    _unlock(arguments, head.folder)
    lock.release()
    _tell(f"snakemake {' '.join(arguments)}")
    os.chdir(head.folder)
    os.execv(sys.executable, [sys.executable, "-m", "snakemake", *arguments])


def _asks_to_cancel(options: argparse.Namespace, queue: Sequence[QueuedJob]) -> bool:
    found = f"{len(queue)} job{'s' * (len(queue) > 1)} of an earlier run in the queue ({describe(queue)})"
    if options.wait or options.cancel:
        _tell(f"{found}: {'cancelling' if options.cancel else 'waiting for'} them")
        return bool(options.cancel)
    if not sys.stdin.isatty():
        raise CampaignError(f"{found}: say --wait (they finish first) or --cancel (they go on from their last epoch)")
    while (answer := input(f"{found}: [w]ait for them or [c]ancel them? ").strip().lower()[:1]) not in ("w", "c"):
        pass
    return answer == "c"


def _unlock(arguments: Sequence[str], folder: str) -> None:
    if not any(Path(".snakemake/locks").glob("*")):
        return
    command = [sys.executable, "-m", "snakemake", *arguments, "--unlock"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise CampaignError(f"snakemake --unlock failed: {said[-1] if said else 'it said nothing'}")
    _tell("unlocked")


# --------------------------------------------------------------------------------------------------------- stop, allow


def stop(argv: list[str]) -> None:
    """End members for good, or the whole campaign."""
    parser = _parser("stop")
    parser.add_argument("members", nargs="*")
    parser.add_argument("--poll", type=float, default=2.0, metavar="SECONDS")
    options = parser.parse_args(argv)
    head = _require_head()
    if options.members:
        _stop_jobs(campaign.resolve_jobs(options.members, _known_jobs()), head)
    else:
        _stop_campaign(head, options.poll)


def _stop_jobs(jobs: Sequence[str], head: Head) -> None:
    for job in jobs:  # first the markers, so that no retry slips through
        path = campaign.marker(job)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    queue = orphans.campaign_queue(head.folder) if orphans.uses_queue() else []
    names = orphans.names_in_queue(queue, campaign.listed_jobs())
    for job in jobs:
        mine = [queued for queued in queue if job in names[queued.job_id]]
        ids = orphans.cancel(mine)
        if others := sorted({name for queued in mine for name in names[queued.job_id]} - set(jobs)):
            _tell(f"{job} shares its submission with {', '.join(others)}: they fail as long as it is stopped")
        local = [] if mine else [running for running in campaign.lingering() if running.job == job]
        for running in local:
            running.supervisor.terminate()
        allow_it = f"`coread campaign allow {job.removeprefix(campaign.MEMBERS)}`"
        _tell(f"{job}: {_what_happened(mine, ids, local)}; it is not started again until {allow_it}")


def _what_happened(mine: Sequence[QueuedJob], cancelled: Sequence[str], local: Sequence[Running]) -> str:
    if cancelled:
        return f"cancelled ({', '.join(cancelled)})"
    if mine:
        return "finished before it could be cancelled"
    return "ended" if local else "neither queued nor running here"


def _stop_campaign(head: Head, poll_s: float) -> None:
    if campaign.head_lives():
        _end_head(head)
    lock = campaign.hold_lock()
    _end_local_attempts()
    orphans.wait_until_gone(head.folder, _tell, poll_s=poll_s, cancelling=True)
    lock.release()
    _tell("nothing of this campaign is queued or running; `coread campaign resume` goes on")


def _end_head(head: Head) -> None:
    if head.host != socket.gethostname():
        raise CampaignError(f"the campaign is driven from {head.host} ({head}): run this there")
    if (process := campaign.head_process(head)) is None:
        raise CampaignError(f"{campaign.LOCK} is held, but not by {head}: another coread campaign command is at work")
    if head.executor == "slurm":
        _tell(f"interrupting {head}: it cancels its jobs")
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGINT)
        if _ends_within(INTERRUPTED_S):
            return
        _tell("it ignores the interrupt, as a process does that a script started in the background: terminating it")
    # after SIGTERM it starts no more and waits for its jobs, which are ended here
    with contextlib.suppress(psutil.NoSuchProcess):
        process.terminate()
    while True:
        if head.executor == "slurm":
            orphans.cancel(orphans.campaign_queue(head.folder))
        _end_local_attempts()
        if _ends_within(LOOKED_AGAIN_S):
            return


def _ends_within(seconds: float) -> bool:
    """Wait for the head to let go of its lock; its process may stay as a zombie of whoever started it."""
    deadline = time.monotonic() + seconds
    while campaign.head_lives():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def _end_local_attempts() -> None:
    for running in campaign.lingering():
        if running.job_id is None:
            running.supervisor.terminate()


def allow(argv: list[str]) -> None:
    """Remove the markers of stopped jobs."""
    parser = _parser("allow")
    parser.add_argument("members", nargs="+")
    options = parser.parse_args(argv)
    for job in campaign.resolve_jobs(options.members, campaign.stopped_jobs()):
        campaign.marker(job).unlink()
        _tell(f"{job} may run again: the next start of the campaign runs it")


# --------------------------------------------------------------------------------------------------------------- shared


def _require_head() -> Head:
    if (head := campaign.read_head()) is None:
        raise CampaignError(
            f"no campaign was started in {Path.cwd()}: {campaign.RECORD} does not exist; "
            "run this in the folder in which Snakemake was started"
        )
    return head


def _known_jobs() -> set[str]:
    return {*campaign.listed_jobs(), *campaign.attempted_jobs()}


def _tell(sentence: str) -> None:
    print(f"coread campaign: {sentence}", flush=True)


def _parser(command: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"coread campaign {command}", usage=USAGE, add_help=False)
