"""Write the report of all experiments as one HTML file."""

import argparse
import json
from pathlib import Path

from coread.failure import reported_errors
from coread.report import write_report


def main() -> None:
    """Write report.html."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=json.loads, required=True, help="JSON: experiment to recordings and members")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    def paths(kind: str) -> dict[str, list[Path]]:
        return {experiment: [Path(path) for path in files[kind]] for experiment, files in arguments.files.items()}

    output = arguments.output
    write_report(output, list(arguments.files), output.parent, paths("recordings"), paths("members"))


if __name__ == "__main__":
    with reported_errors():
        main()
