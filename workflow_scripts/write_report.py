"""Write the report of all experiments as one HTML file."""

import argparse
import json
from pathlib import Path

from coread.attempts import read_attempts
from coread.failure import reported_errors
from coread.report import write_report
from coread.slurm_queue import QueueError, has_queue, queued_jobs


def main() -> None:
    """Write report.html."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=json.loads, required=True, help="JSON: experiment to recordings and members")
    parser.add_argument("--logs", type=Path, required=True, help="folder of the records of attempts")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    def paths(kind: str) -> dict[str, list[Path]]:
        return {experiment: [Path(path) for path in files[kind]] for experiment, files in arguments.files.items()}

    output, attempts = arguments.output, read_attempts(arguments.logs, _queued())
    write_report(output, list(arguments.files), output.parent, paths("recordings"), paths("members"), attempts)


def _queued() -> set[str] | None:
    """Return the jobs that the scheduler still has, None where there is none or it does not answer."""
    try:
        return {job.job_id for job in queued_jobs()} if has_queue() else None
    except QueueError:
        return None


if __name__ == "__main__":
    with reported_errors():
        main()
