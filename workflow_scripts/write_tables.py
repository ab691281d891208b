"""Write the paper tables of all experiments as CSV, Markdown and LaTeX."""

import argparse
from pathlib import Path

import yaml

from coread.eval.tables import write_tables
from coread.failure import reported_errors


def main() -> None:
    """Write tables/scores.*, tables/sessions.* and tables/differences.*."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configs", type=Path, nargs="+", required=True, help="settings of the evaluate stages")
    parser.add_argument("--scores", type=Path, nargs="+", required=True, help="in the same order")
    parser.add_argument("--output", type=Path, required=True, help="folder")
    arguments = parser.parse_args()

    settings = [yaml.safe_load(path.read_text())["evaluation"] for path in arguments.configs]
    write_tables(arguments.scores, arguments.output, settings)


if __name__ == "__main__":
    with reported_errors():
        main()
