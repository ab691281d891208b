"""Write the report of all experiments as one HTML file."""

import argparse
import json
from pathlib import Path
from typing import Any

from coread.attempts import read_attempts
from coread.failure import reported_errors
from coread.orphans import uses_queue
from coread.report import write_report
from coread.slurm_queue import QueueError, has_queue, queued_jobs


def main() -> None:
    """Write report.html."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--files",
        type=json.loads,
        required=True,
        help="JSON: comparisons, path of a model; dataset, members, analyses of experiments",
    )
    parser.add_argument(
        "--recordings", type=Path, nargs="+", required=True, help="<dataset>/<session>.h5 of all datasets"
    )
    parser.add_argument("--logs", type=Path, required=True, help="folder of the records of attempts")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    recordings, models = _paths(arguments.files, arguments.recordings)
    output, attempts = arguments.output, read_attempts(arguments.logs, _queued())
    comparisons = arguments.files["comparisons"]
    analyses = {name: experiment["analyses"] for name, experiment in arguments.files["experiments"].items()}
    write_report(output, list(models), output.parent, recordings, models, attempts, comparisons, analyses)


def _paths(files: dict[str, Any], paths: list[Path]) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Return the recordings and the models of every experiment."""
    recordings: dict[str, list[Path]] = {}
    for path in paths:
        recordings.setdefault(path.parent.name, []).append(path)
    experiments = files["experiments"].items()
    return {name: recordings[experiment["dataset"]] for name, experiment in experiments}, {
        name: [Path(files["model"].format(experiment=name, member=member)) for member in experiment["members"]]
        for name, experiment in experiments
    }


def _queued() -> set[str] | None:
    """Return the jobs that the scheduler still has, None where there is none or it does not answer."""
    try:
        return {job.job_id for job in queued_jobs()} if uses_queue() and has_queue() else None
    except QueueError:
        return None


if __name__ == "__main__":
    with reported_errors():
        main()
