"""Write how many cells each quality filter removed, per session and over all of them."""

import argparse
from pathlib import Path

from coread.data_io.quality_filters import tabulate
from coread.failure import reported_errors
from coread.provenance import write_text
from coread.recording import read_recording


def main() -> None:
    """Tabulate the filters of one dataset."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recordings", type=Path, nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    sessions = [
        read_recording(path, load_frames=False, load_responses=False, check=False) for path in arguments.recordings
    ]
    write_text(arguments.output, tabulate(sessions).to_csv(index=False, lineterminator="\n"))


if __name__ == "__main__":
    with reported_errors():
        main()
