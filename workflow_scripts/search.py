"""Search the hyper-parameters of one experiment with jobs on this machine or on a cluster."""

import argparse
import json
import logging
from pathlib import Path

import yaml

from coread.failure import reported_errors
from coread.recording import digest_path
from coread.search.driver import run_search
from coread.search.jobs import Submission


def main() -> None:
    """Run the trials of one search to their end; killed and started again it goes on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--config", type=Path, required=True, help="settings of the search and of the train stage")
    parser.add_argument("--recordings", type=Path, nargs="+", required=True)
    parser.add_argument("--jobs", type=json.loads, required=True, help="JSON: where trials run and what each asks for")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    run_search(
        arguments.experiment,
        yaml.safe_load(arguments.config.read_text(encoding="utf-8")),
        arguments.recordings,
        [digest_path(path).read_text(encoding="utf-8").strip() for path in arguments.recordings],
        arguments.output.parent,
        Submission.from_config(arguments.jobs),
    )


if __name__ == "__main__":
    with reported_errors():
        main()
