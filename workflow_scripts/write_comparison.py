"""Write one comparison of experiments with a baseline as CSV, Markdown and LaTeX."""

import argparse
import json
from pathlib import Path

import yaml

from coread.eval.comparison import Comparison, write_comparison
from coread.failure import reported_errors


def main() -> None:
    """Write tables/comparison_<name>.*."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--comparison", type=json.loads, required=True, help="JSON: baseline, rows, published values")
    parser.add_argument("--configs", type=Path, nargs="+", required=True, help="settings of the evaluate stages")
    parser.add_argument("--scores", type=Path, nargs="+", required=True, help="in the same order")
    parser.add_argument("--output", type=Path, required=True, help="folder")
    arguments = parser.parse_args()

    settings = [yaml.safe_load(path.read_text())["evaluation"] for path in arguments.configs]
    comparison = Comparison.from_config(arguments.name, arguments.comparison)
    write_comparison(comparison, arguments.scores, settings, arguments.output)


if __name__ == "__main__":
    with reported_errors():
        main()
