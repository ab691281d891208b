"""What the commands with a Hydra config share: finding the config folder, checking the config, calling Hydra."""

import sys
from collections.abc import Callable
from pathlib import Path

import hydra
from omegaconf import DictConfig

from coread.config import ConfigError, compose, config_directory


def run_with_config(command: str, argv: list[str], function: Callable[[DictConfig], None]) -> None:
    """Check the named config for unknown keys, then let Hydra's own command line compose it and call the function."""
    arguments = _with_config_path(argv)
    # Hydra understands --multirun, --cfg and the rest; it reads sys.argv
    sys.argv = [f"coread {command}", *arguments]
    hydra.main(config_path=None, version_base="1.3")(function)()


def experiment_folder(config: DictConfig) -> Path:
    """Return where the results of an experiment lie, as in the workflow."""
    return Path(config.paths.output_dir) / str(config.exp_name)


def member_folder(config: DictConfig) -> Path:
    """Return where the member of the config's fold and seed lies, as in the workflow."""
    return experiment_folder(config) / f"fold{config.fold}" / f"seed{config.seed}"


def _with_config_path(argv: list[str]) -> list[str]:
    """Return the arguments with an absolute config folder, and check the named config file for unknown keys."""
    directory, rest = _take(argv, ("--config-path", "-cp"))
    name, _ = _take(rest, ("--config-name", "-cn"))
    if name is None:
        known = sorted(path.stem for path in config_directory().glob("*.yaml"))
        raise ConfigError(f"--config-name is missing; shipped configs: {', '.join(known)}")
    folder = config_directory() if directory is None else Path(directory)
    if not folder.is_dir():
        if directory != "configs":
            raise ConfigError(f"--config-path {directory}: there is no such folder")
        folder = config_directory()  # the documented `--config-path configs` works from any folder
    compose(name, (), folder)
    return ["--config-path", str(folder.resolve()), *rest]


def _take(argv: list[str], names: tuple[str, ...]) -> tuple[str | None, list[str]]:
    """Return an option's value and the arguments without it."""
    for index, argument in enumerate(argv):
        if argument in names and index + 1 < len(argv):
            return argv[index + 1], argv[:index] + argv[index + 2 :]
        for name in names:
            if argument.startswith(f"{name}="):
                return argument.split("=", 1)[1], argv[:index] + argv[index + 1 :]
    return None, argv
