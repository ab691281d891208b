"""`coread publish --member results/X/fold0/seed0/model.ckpt --to FOLDER`: a trained model to give away."""

import argparse
from pathlib import Path

from coread.failure import reported_errors


def main(argv: list[str]) -> None:
    """Run the command; exits with status 1 and one sentence for anything that is wrong."""
    parser = argparse.ArgumentParser(prog="coread publish", description=__doc__)
    parser.add_argument("--member", type=Path, nargs="+", required=True, help="model.ckpt; several make an ensemble")
    parser.add_argument("--to", type=Path, required=True, help="folder to write")
    parser.add_argument("--scores", type=Path, help="results/X/scores.csv, for the table of the model card")
    parser.add_argument("--data", type=Path, help="folder of the recordings, default results/data/<dataset>")
    parser.add_argument("--licence", default="unknown", help="of the model, such as CC-BY-4.0")
    parser.add_argument("--author", default="unknown")
    parser.add_argument("--name", help="of the model; default: the folder's")
    parser.add_argument("--replace", action="store_true", help="replace the published model that is there")
    parser.add_argument(
        "--data-changed",
        action="store_true",
        help="publish although the recordings are no longer those of the training; the checksums are of those",
    )
    arguments = parser.parse_args(argv)
    with reported_errors(in_terminal=True):
        from coread.models.publish import Statement, publish

        statement = Statement(arguments.name or arguments.to.name, arguments.licence, arguments.author)
        folder = publish(
            arguments.member,
            arguments.to,
            statement,
            scores=arguments.scores,
            data=arguments.data,
            replace=arguments.replace,
            data_changed=arguments.data_changed,
        )
        print(f"wrote {folder}")
