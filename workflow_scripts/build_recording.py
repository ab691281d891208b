"""Write one session as a recording, the digest of its content, and which raw files it came from."""

import argparse
import json
from pathlib import Path

import yaml

from coread.data_io.download import check_downloaded, downloaded_folder
from coread.data_io.sources import build_recording, source_files
from coread.failure import reported_errors
from coread.provenance import describe_sources, write_text
from coread.recording import read_stimuli, write_recording


def main() -> None:
    """Build one recording."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="settings of the dataset")
    parser.add_argument("--data-dirs", type=json.loads, default={}, help="JSON: dataset name to folder")
    parser.add_argument("--downloaded", type=Path, nargs="?", help="summary of a download, for a dataset that is one")
    parser.add_argument("--session", required=True)
    parser.add_argument("--stimuli", type=Path, required=True, help="the stimuli that sessions share")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    config = yaml.safe_load(arguments.config.read_text())
    folder = arguments.data_dirs.get(config["dataset"])
    data_dir = None if folder is None else Path(folder)
    if arguments.downloaded is not None:
        data_dir = downloaded_folder(arguments.downloaded)
    files = source_files(config, arguments.session, data_dir)
    check_downloaded(arguments.downloaded, files)
    recording = build_recording(config, arguments.session, data_dir, read_stimuli(arguments.stimuli))
    sources = describe_sources(files)
    write_text(arguments.output.with_suffix(".source.json"), json.dumps(sources, indent=1))
    write_recording(recording, arguments.output, shared_stimuli=arguments.stimuli)


if __name__ == "__main__":
    with reported_errors():
        main()
