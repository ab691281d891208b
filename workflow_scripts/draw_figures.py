"""Draw the figures of one experiment, each as PNG and PDF with its caption."""

import argparse
from pathlib import Path

import pandas as pd

from coread.eval.predictions import read_predictions
from coread.eval.scores import read_scores
from coread.failure import reported_errors
from coread.insilico.receptive_fields import read_receptive_fields
from coread.models.member import load_member
from coread.plotting import write_figures
from coread.plotting.learned import draw_learned
from coread.recording import read_recordings


def main() -> None:
    """Write figures/ of one experiment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--histories", type=Path, nargs="+", required=True, help="learning curves, as the predictions")
    parser.add_argument("--predictions", type=Path, nargs="+", required=True)
    parser.add_argument(
        "--models", type=Path, nargs="*", default=[], help="trained members, for what they have learned"
    )
    parser.add_argument("--recordings", type=Path, nargs="+", required=True)
    parser.add_argument("--memory-mb", type=float, required=True, help="of the job; data above half of it are streamed")
    parser.add_argument("--fields", type=Path, nargs="*", default=[], help="receptive fields, if there are any")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    predictions = [read_predictions(path, lazy=True) for path in arguments.predictions]
    histories = (pd.read_csv(path) for path in arguments.histories)
    recordings = read_recordings(
        arguments.recordings, load_frames=False, memory_budget_bytes=arguments.memory_mb * 2**20 / 2
    )
    write_figures(
        arguments.output,
        scores=read_scores(arguments.scores),
        histories={member.name: history for member, history in zip(predictions, histories, strict=True)},
        recordings=recordings,
        predictions=predictions,
        fields=read_receptive_fields(arguments.fields[0]) if arguments.fields else None,
        learned=draw_learned(recordings, [load_member(path) for path in arguments.models]),
    )


if __name__ == "__main__":
    with reported_errors():
        main()
