"""What the commands with a Hydra config share: finding the config folder, checking the config, calling Hydra."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from coread.config import ConfigError, closest, compose, config_directory, search_path
from coread.failure import reported_errors


def run_with_config(command: str, argv: list[str], function: Callable[[DictConfig], None]) -> None:
    """Let Hydra's own command line compose the named config, check it for unknown keys and call the function with it.

    Whatever goes wrong ends the process with status 1 and one sentence.
    """

    def job(config: DictConfig) -> None:
        # inside the job, because Hydra puts text of its own before an error that leaves it
        with reported_errors(in_terminal=True):
            _check(name, HydraConfig.get().overrides.task, folder)
            function(config)

    with reported_errors(in_terminal=True):
        name, folder, rest = _named_config(argv)
        base = compose(name, (), folder)
        # Hydra understands --multirun, --cfg and the rest; it reads sys.argv
        overrides = [text for text in rest if not text.startswith("-") and ("=" in text or text.startswith("~"))]
        options = [text for text in rest if text not in overrides]  # Hydra wants them before all overrides
        options += ["--config-path", str(folder.resolve()), "--config-name", name]
        sys.argv = [f"coread {command}", *options, f"hydra.job.name={command}", *search_path(folder), *overrides]
        os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints its errors itself
        try:
            hydra.main(config_path=None, version_base="1.3")(job)()
        except (ConfigCompositionException, OverrideParseException) as error:
            raise ConfigError(f"configs/{name}.yaml: {_composition_problem(error, base)}") from error


def experiment_folder(config: DictConfig) -> Path:
    """Return where the results of an experiment lie, as in the workflow."""
    return Path(config.paths.output_dir) / str(config.exp_name)


def member_folder(config: DictConfig) -> Path:
    """Return where the member of the config's fold and seed lies, as in the workflow."""
    return experiment_folder(config) / f"fold{config.fold}" / f"seed{config.seed}"


def _named_config(argv: list[str]) -> tuple[str, Path, list[str]]:
    """Return name and folder of the config that the arguments name, and the other arguments."""
    directory, rest = _take(argv, ("--config-path", "-cp"))
    name, rest = _take(rest, ("--config-name", "-cn"))
    if name is None:
        known = sorted(path.stem for path in config_directory().glob("*.yaml") if path.stem != "workflow")
        raise ConfigError(f"--config-name is missing; shipped configs: {', '.join(known)}")
    name = name.removesuffix(".yaml")
    folder = _own_or_shipped(name, directory) if directory in (None, "configs") else Path(directory)
    if not folder.is_dir():
        raise ConfigError(f"--config-path {directory}: there is no such folder")
    return name, folder, rest


def _own_or_shipped(name: str, directory: str | None) -> Path:
    """Return where a config is, with the documented `--config-path configs` or without: here first, then shipped."""
    own, shipped = Path("configs"), config_directory()
    if (own / f"{name}.yaml").is_file():
        return own
    asked_for = directory is not None and own.is_dir()
    return own if asked_for and not (shipped / f"{name}.yaml").is_file() else shipped


def _check(name: str, overrides: Sequence[str], folder: Path) -> None:
    """Compose the config once more, for the checks that Hydra's own command line does not make."""
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        compose(name, overrides, folder)
    finally:
        GlobalHydra.instance().hydra = running


def _composition_problem(error: Exception, base: DictConfig) -> str:
    """Return in one line why Hydra cannot apply the overrides; an unknown key comes with the most similar known one."""
    text = re.sub(r"\s+", " ", str(error)).strip()
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown is None:
        return text
    *parents, key = unknown[1].split(".")
    node = base
    for parent in parents:
        inner = OmegaConf.select(node, parent)
        if not isinstance(inner, DictConfig):
            key = parent
            break
        node = inner
    return f"unknown key {unknown[1]!r}{closest(key, map(str, node))}"


def _take(argv: list[str], names: tuple[str, ...]) -> tuple[str | None, list[str]]:
    """Return an option's value and the arguments without it."""
    for index, argument in enumerate(argv):
        if argument in names and index + 1 < len(argv):
            return argv[index + 1], argv[:index] + argv[index + 2 :]
        for name in names:
            if argument.startswith(f"{name}="):
                return argument.split("=", 1)[1], argv[:index] + argv[index + 1 :]
    return None, argv
