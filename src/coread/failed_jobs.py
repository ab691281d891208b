"""What the head of a campaign says about jobs that failed: when one does, and at the end. Standard library only."""

from collections.abc import Iterator, Mapping, Sequence

from coread.campaign import last_attempt, listed_jobs

_NONE = "none; SLURM's own are in logs/slurm/"


def describe_submission(names: Sequence[str], job_id: str | None, message: str | None, slurm_log: str) -> Iterator[str]:
    """Yield lines on a submission that failed: its jobs by name, SLURM's id, what the executor says, SLURM's log.

    Where attempts were made, those that failed are told; otherwise the executor's message is all there is.
    """
    said = _first_sentence(message) or "it failed"
    told = False
    for name in sorted(names):
        attempt = last_attempt(name)
        if attempt is None or job_id is None or attempt[0].get("job_id") != job_id:
            continue
        start, end = attempt
        if end is not None and end.get("exit") == 0 and len(names) > 1:
            continue  # another job of the submission failed
        yield f"{_title(name)}, attempt {start['attempt']}: {_reason(end, said)}"
        yield f"    log: {start.get('log', f'logs/{name}.log')}"
        told = True
    if not told:
        others = f" and {len(names) - 1} more that share its submission" if len(names) > 1 else ""
        yield f"{_title(min(names))}{others}: {said}"
    if job_id is not None:
        yield f"    SLURM job {job_id}, log: {slurm_log or _NONE}"


def describe_failures(failed: Mapping[str, str | None], waiting: int) -> Iterator[str]:
    """Yield lines on failed jobs: name -> what the executor said of its last submission, if anything.

    Each tells the rule, the member, the attempts made, the last error and the log. `waiting` jobs did not run.
    """
    if not failed:
        return
    listed = listed_jobs()
    yield f"{len(failed)} job{'s' * (len(failed) > 1)} failed:"
    for name in sorted(failed):
        said = _first_sentence(failed[name])
        attempt = last_attempt(name)
        if attempt is None or int(attempt[0]["attempt"]) <= (listed[name].attempts if name in listed else 0):
            yield f"  {_title(name)}: {said or 'no attempt began'}"
            yield f"    log: {_NONE}"
        else:
            start, end = attempt
            yield f"  {_title(name)}, attempt {start['attempt']}: {_reason(end, said or 'no more is known')}"
            yield f"    log: {start.get('log', f'logs/{name}.log')}"
    if waiting:
        yield f"{waiting} job{'s' * (waiting > 1)} that need{'s' * (waiting == 1)} them did not run."
    yield "What is finished is kept: the same command goes on from here."


def _title(name: str) -> str:
    rule, _, member = name.partition("/")
    return f"{rule} {member}".strip()


def _reason(end: Mapping[str, object] | None, message: str) -> str:
    if end is None:
        return f"cut off without a word, as by the crash of its node; {message}"
    if end.get("exit") == 0:  # its script did its work, but a late file system did not show the outputs, for one
        return f"its script ended well, and then: {message}"
    return str(end.get("reason") or f"ended with exit status {end.get('exit')}")


def _first_sentence(message: str | None) -> str:
    return (message or "").partition("\n")[0].partition(" Detailed failure reason unavailable")[0].strip()
