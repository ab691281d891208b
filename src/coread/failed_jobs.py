"""What the head of a campaign says at its end about the jobs that failed. Standard library only."""

from collections.abc import Iterator, Mapping

from coread.campaign import last_attempt, listed_jobs


def describe_failures(failed: Mapping[str, str | None], waiting: int) -> Iterator[str]:
    """Yield lines on failed jobs: name -> what the executor said of its last submission, if anything.

    Each tells the rule, the member, the attempts made, the last error and the log. `waiting` jobs did not run.
    """
    if not failed:
        return
    listed = listed_jobs()
    yield f"{len(failed)} job{'s' * (len(failed) > 1)} failed:"
    for name in sorted(failed):
        rule, _, member = name.partition("/")
        reason, log, number = _last_error(name, failed[name], listed[name].attempts if name in listed else 0)
        yield f"  {rule} {member}, attempt {number}: {reason}" if number else f"  {rule} {member}: {reason}"
        yield f"    log: {log}"
    if waiting:
        yield f"{waiting} job{'s' * (waiting > 1)} that need{'s' * (waiting == 1)} them did not run."
    yield "What is finished is kept: the same command goes on from here."


def _last_error(name: str, message: str | None, attempts_before: int) -> tuple[str, str, int]:
    attempt = last_attempt(name)
    if attempt is None or (number := int(attempt[0]["attempt"])) <= attempts_before:
        return message or "no attempt began", "none; SLURM's own are in logs/slurm/", 0
    start, end = attempt
    log = str(start.get("log", f"logs/{name}.log"))
    if end is None:
        return f"cut off without a word, as by the crash of its node; {message or 'no more is known'}", log, number
    if end.get("exit") == 0:
        # its script did its work, what came after it failed: outputs that a late file system does not show, for one
        return message or "the script ended well, but Snakemake did not accept its outputs", log, number
    lines = end.get("last_lines") or ["no output"]
    return str(end.get("reason") or lines[-1]), log, number
