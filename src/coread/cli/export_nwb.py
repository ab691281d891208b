"""`coread export-nwb RECORDING.h5 OUT.nwb`: write a recording as Neurodata Without Borders file."""

import argparse
from datetime import datetime
from pathlib import Path

from coread.failure import reported_errors


def main(argv: list[str]) -> None:
    """Run the command; exits with status 1 and one sentence for anything that is wrong."""
    parser = argparse.ArgumentParser(prog="coread export-nwb", description=__doc__)
    parser.add_argument("recording", type=Path, help="results/data/<dataset>/<session>.h5")
    parser.add_argument("output", type=Path, help="file to write; needs the extra nwb")
    parser.add_argument(
        "--session-start-time",
        metavar="TIME",
        help="when the session began, with time zone: 2024-05-17T09:30:00+02:00 (unknown: 1970-01-01)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    arguments = parser.parse_args(argv)
    with reported_errors(in_terminal=True):
        if arguments.output.suffix != ".nwb":
            raise ValueError(f"{arguments.output}: an NWB file ends in .nwb")
        if arguments.output.exists() and not arguments.overwrite:
            raise FileExistsError(f"{arguments.output} exists; --overwrite replaces it")
        begun = arguments.session_start_time
        start = None if begun is None else datetime.fromisoformat(begun)
        from coread.data_io.nwb import write_nwb
        from coread.recording import read_recording

        recording = read_recording(arguments.recording, load_frames=False, load_responses=False)
        write_nwb(recording, arguments.output, start)
        print(f"wrote session {recording.session} of {recording.dataset} to {arguments.output}")
