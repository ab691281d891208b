"""`coread download NAME`: bring the published files of a dataset to this machine, verified."""

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coread.config import ConfigError, closest, compose_data_io, config_directory, experiment_slice
from coread.data_io.download import cache_directory, download_dataset, read_registry
from coread.failure import reported_errors

DESCRIPTION = """Bring the published files of a dataset to this machine: resumed, verified, unpacked. Prints the folder,
so that `coread train ... paths.data_dir=$(coread download NAME)` works; started again it only checks what is there,
without a network. Files put there by hand are verified and used."""


def main(argv: list[str]) -> None:
    """Run the command; exits with status 1 and one sentence for anything that is wrong."""
    parser = argparse.ArgumentParser(prog="coread download", description=DESCRIPTION)
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("name", nargs="?", help="dataset (a file of configs/data_io/) or experiment")
    chosen.add_argument("--list", action="store_true", help="list the datasets with files, bytes and licence, and end")
    parser.add_argument(
        "--to",
        type=Path,
        metavar="DIR",
        help="the files go to DIR/<dataset> (default: $COREAD_CACHE_DIRECTORY, else ~/.cache/coread)",
    )
    parser.add_argument("--verify", action="store_true", help="read all files again and compare them with the record")
    parser.add_argument("--config-path", type=Path, metavar="DIR", help="folder of configs (default: the shipped ones)")
    arguments = parser.parse_args(argv)
    with reported_errors(in_terminal=True):
        directory = config_directory() if arguments.config_path is None else arguments.config_path
        if arguments.list:
            print(describe_datasets(directory))
            return
        logging.basicConfig(level=logging.INFO, format="%(message)s")  # on standard error
        config = dataset_config(arguments.name, directory)
        root = cache_directory() if arguments.to is None else arguments.to
        print(download_dataset(config, root / str(config["dataset"]), verify=arguments.verify))


def dataset_config(name: str, directory: Path) -> dict[str, Any]:
    """Return the data_io node that a name means, of a dataset's config or of an experiment; raises ConfigError."""
    if (directory / "data_io" / f"{name}.yaml").is_file():
        return compose_data_io(name, directory)
    if (directory / f"{name}.yaml").is_file() and name != "workflow":
        return dict(experiment_slice(name, "data", directory)["data_io"])
    raise ConfigError(f"there is no dataset and no experiment {name!r}{closest(name, _downloadable(directory))}")


def describe_datasets(directory: Path) -> str:
    """Return a table of the datasets that can be downloaded: files, bytes where known, licence."""
    rows = [("dataset", "files", "size", "licence")]
    rows += [(name, *_describe(config)) for name, config in _downloadable(directory).items()]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows
    )


def _downloadable(directory: Path) -> dict[str, dict[str, Any]]:
    configs = {
        path.stem: compose_data_io(path.stem, directory) for path in sorted((directory / "data_io").glob("*.yaml"))
    }
    return {name: config for name, config in configs.items() if config.get("files")}


def _describe(config: Mapping[str, Any]) -> tuple[str, str, str]:
    entries = read_registry(config)
    folders = sum(entry.is_folder for entry in entries)
    parts = [f"{len(entries) - folders}"] if len(entries) > folders else []
    parts += [f"{folders} folder{'s' if folders > 1 else ''}"] if folders else []
    known = [entry.bytes for entry in entries if entry.bytes is not None]
    size = f"{sum(known) / 1e6:,.1f} MB" if known else "unknown"
    if 0 < len(known) < len(entries):
        size += " and more"
    return " + ".join(parts), size, str((config.get("source") or {}).get("licence") or "unknown")
