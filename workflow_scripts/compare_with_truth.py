"""Compare the in-silico analyses of one experiment with what the simulation knows of its cells."""

import argparse
from pathlib import Path

from coread.config import RECEPTIVE_FIELDS
from coread.failure import reported_errors
from coread.insilico.experiment import read_results
from coread.insilico.receptive_fields import read_receptive_fields
from coread.insilico.truth import compare_with_truth
from coread.plotting.style import save_drawing
from coread.plotting.truth import draw_truth_comparison
from coread.provenance import write_text
from coread.recording import read_recording


def main() -> None:
    """Write comparison.csv and, where something is known, comparison.{png,pdf,txt}."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, nargs="+", required=True)
    parser.add_argument("--recordings", type=Path, nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    recordings = [
        read_recording(path, load_frames=False, load_responses=False, check=False) for path in arguments.recordings
    ]
    results = {
        path.stem: read_receptive_fields(path) if path.stem == RECEPTIVE_FIELDS else read_results(path)
        for path in arguments.results
    }
    table = compare_with_truth(results, recordings)
    write_text(arguments.output / "comparison.csv", table.to_csv(index=False, lineterminator="\n"))
    if len(table):
        save_drawing(draw_truth_comparison(table), arguments.output / "comparison")


if __name__ == "__main__":
    with reported_errors():
        main()
