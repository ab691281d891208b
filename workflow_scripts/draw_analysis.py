"""Draw the figures of one in-silico analysis, each as PNG and PDF with its caption, and its stimuli as movies."""

import argparse
from pathlib import Path

import yaml

from coread.failure import reported_errors
from coread.insilico.experiment import read_results
from coread.insilico.running import load_experiment
from coread.plotting.analyses import write_analysis_figures


def main() -> None:
    """Write figures/ of one analysis."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="settings of the analysis")
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    experiment = load_experiment(yaml.safe_load(arguments.config.read_text()))
    write_analysis_figures(arguments.output, experiment, read_results(arguments.result))


if __name__ == "__main__":
    with reported_errors():
        main()
