"""Bring the published files of a dataset into the folder beside the summary, verified, and write the summary."""

import argparse
import json
import logging
from pathlib import Path

import yaml

from coread.data_io.download import download_dataset, downloaded_summary
from coread.failure import reported_errors
from coread.provenance import write_text


def main() -> None:
    """Download one dataset, or go on with it."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="which files the dataset has, and where they are")
    parser.add_argument("--output", type=Path, required=True, help="<name>.json; the files go to <name>/")
    arguments = parser.parse_args()

    config = yaml.safe_load(arguments.config.read_text())
    folder = download_dataset(config, arguments.output.with_suffix(""))
    write_text(arguments.output, json.dumps(downloaded_summary(config, folder), indent=1))


if __name__ == "__main__":
    with reported_errors():
        main()
