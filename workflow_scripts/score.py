"""Score every neuron with every member and with their ensemble."""

import argparse
from pathlib import Path

import yaml

from coread.eval.predictions import read_predictions
from coread.eval.scores import score_experiment, write_scores
from coread.failure import reported_errors
from coread.recording import read_recordings


def main() -> None:
    """Write scores.csv of one experiment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="settings of the evaluate stage")
    parser.add_argument("--predictions", type=Path, nargs="+", required=True)
    parser.add_argument("--recordings", type=Path, nargs="+", required=True)
    parser.add_argument("--memory-mb", type=float, required=True, help="of the job; data above half of it are streamed")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    scores = score_experiment(
        read_recordings(arguments.recordings, load_frames=False, memory_budget_bytes=arguments.memory_mb * 2**20 / 2),
        [read_predictions(path, lazy=True) for path in arguments.predictions],
        yaml.safe_load(arguments.config.read_text())["evaluation"],
    )
    write_scores(scores, arguments.output)


if __name__ == "__main__":
    with reported_errors():
        main()
