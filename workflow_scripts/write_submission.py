"""Write the competition files of an experiment: the mean prediction of its members for withheld trials."""

import argparse
from pathlib import Path

from coread.eval.competition import write_submissions
from coread.failure import reported_errors


def main() -> None:
    """Write and check the files of every session with withheld responses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--predictions", type=Path, nargs="+", required=True)
    parser.add_argument("--recordings", type=Path, nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder")
    arguments = parser.parse_args()

    table = write_submissions(arguments.recordings, arguments.predictions, arguments.output)
    print(table.to_string(index=False) if len(table) else "no session has trials whose responses are withheld")


if __name__ == "__main__":
    with reported_errors():
        main()
