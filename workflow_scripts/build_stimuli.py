"""Write the stimuli that the sessions of a dataset share, their digest, and which raw files they came from."""

import argparse
import json
from pathlib import Path

import yaml

from coread.data_io.download import check_downloaded, downloaded_folder
from coread.data_io.sources import build_stimuli, source_files
from coread.failure import reported_errors
from coread.provenance import describe_sources, write_digest, write_text
from coread.recording import write_stimuli


def main() -> None:
    """Build one dataset's stimuli."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="settings of the dataset")
    parser.add_argument("--data-dirs", type=json.loads, default={}, help="JSON: dataset name to folder")
    parser.add_argument("--downloaded", type=Path, nargs="?", help="summary of a download, for a dataset that is one")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    config = yaml.safe_load(arguments.config.read_text())
    folder = arguments.data_dirs.get(config["dataset"])
    data_dir = None if folder is None else Path(folder)
    if arguments.downloaded is not None:
        data_dir = downloaded_folder(arguments.downloaded)
    files = source_files(config, None, data_dir)
    check_downloaded(arguments.downloaded, files)
    write_stimuli(build_stimuli(config, data_dir), arguments.output)
    sources = describe_sources(files)
    write_text(arguments.output.with_suffix(".source.json"), json.dumps(sources, indent=1))
    write_digest(arguments.output)


if __name__ == "__main__":
    with reported_errors():
        main()
