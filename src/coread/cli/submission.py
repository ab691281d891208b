"""`coread submission write | check`: competition files of SENSORIUM 2022, and what is wrong with one."""

import argparse
import sys
from pathlib import Path

from coread.failure import reported_errors

DESCRIPTION = """Competition files hold what an ensemble predicts for trials whose responses are withheld, one file for
the live test (tier test) and one for the final test, CSV as published and Parquet beside it."""


def main(argv: list[str]) -> None:
    """Run the command; exits with status 1 and one sentence for anything wrong, a list of them for a checked file."""
    arguments = _parser().parse_args(argv)
    with reported_errors(in_terminal=True):
        (_write if arguments.action == "write" else _check)(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="coread submission", description=DESCRIPTION)
    actions = parser.add_subparsers(dest="action", required=True)
    write = actions.add_parser("write", help="write and check the files of every session with withheld responses")
    write.add_argument(
        "--predictions", type=Path, nargs="+", required=True, help="results/X/fold*/seed*/predictions.h5"
    )
    write.add_argument("--recordings", type=Path, nargs="+", required=True, help="results/data/<dataset>/<session>.h5")
    write.add_argument(
        "--to",
        type=Path,
        required=True,
        help="folder; every session gets one of its own inside, and what earlier calls wrote of other sessions and "
        "tiers stays",
    )
    write.add_argument(
        "--tier",
        nargs="+",
        choices=["test", "final_test"],
        help="write these tiers of every recording, also where responses are published",
    )
    write.add_argument("--no-parquet", action="store_true", help="only CSV")
    check = actions.add_parser("check", help="say everything that is wrong with files; status 1 if anything is")
    check.add_argument("files", type=Path, nargs="+", metavar="FILE", help="submission_file_{live_test,final_test}.csv")
    check.add_argument(
        "--recording",
        type=Path,
        required=True,
        help="the session they are for; a warning says if data_io left out some of its neurons",
    )
    check.add_argument("--tier", choices=["test", "final_test"], help="default: as the name of the file says")
    return parser


def _write(arguments: argparse.Namespace) -> None:
    from coread.eval.competition import write_submissions

    parquet = False if arguments.no_parquet else None
    table = write_submissions(
        arguments.recordings, arguments.predictions, arguments.to, arguments.tier, parquet=parquet
    )
    print(table.to_string(index=False) if len(table) else "no session has trials whose responses are withheld")


def _check(arguments: argparse.Namespace) -> None:
    from coread.eval.competition import missing_neurons
    from coread.eval.competition_check import check_submission
    from coread.recording import read_recording

    recording = read_recording(arguments.recording, load_frames=False, load_responses=False, check=False)
    if (warning := missing_neurons(recording)) is not None:
        print(f"warning: {warning}", file=sys.stderr)
    failed = False
    for path in arguments.files:
        problems = check_submission(path, recording, arguments.tier)
        failed = failed or bool(problems)
        print(f"{path}: " + ("\n".join(["cannot be submitted:", *problems]) if problems else "can be submitted"))
    if failed:
        sys.exit(1)
