"""Compute the spike-triggered averages of one session over the training bins of a fold."""

import argparse
from pathlib import Path

import yaml

from coread.data_io.sta import write_sta
from coread.failure import reported_errors
from coread.models.initialization import compute_fold_sta
from coread.provenance import write_digest
from coread.recording import read_recordings


def main() -> None:
    """Write <session>.h5 and its digest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="settings of the sta stage")
    parser.add_argument("--recording", type=Path, required=True)
    parser.add_argument("--fold", type=int, required=True)
    parser.add_argument("--memory-mb", type=float, required=True, help="of the job; data above half of it are streamed")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    settings = yaml.safe_load(arguments.config.read_text())
    [recording] = read_recordings([arguments.recording], memory_budget_bytes=arguments.memory_mb * 2**20 / 2)
    sta = compute_fold_sta(settings, recording, arguments.fold)
    write_sta(sta, arguments.output, session=recording.session, fold=arguments.fold)
    write_digest(arguments.output)


if __name__ == "__main__":
    with reported_errors():
        main()
