"""`coread train --config-name X a.b=c ...`: Hydra's entry point to the same `train()` that the workflow calls."""

import logging
import shutil
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from coread.config import ConfigError, compose, config_directory, stage_slice
from coread.failure import reported_errors

log = logging.getLogger(__name__)

USAGE = """usage: coread train --config-name NAME [--config-path DIR] [key=value ...] [--multirun]

Trains one member (fold and seed, both 0 unless given as fold=1 seed=3) and writes
<paths.output_dir>/<exp_name>/fold<fold>/seed<seed>/{model.ckpt,history.csv}.
DIR defaults to the configs shipped with coread. Any key of the config can be overridden; --cfg job prints it."""


def main(argv: list[str]) -> None:
    """Run the command; exits with status 1 and one sentence for anything that is wrong."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return
    with reported_errors():
        arguments = _with_config_path(argv)
        # Hydra's own command line understands --multirun, --cfg and the rest; it reads sys.argv
        sys.argv = ["coread train", *arguments]
        hydra.main(config_path=None, version_base="1.3")(_train)()


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


def _train(config: DictConfig) -> None:
    from coread.data_io.sources import build_recordings
    from coread.training import train

    data_dir = None if config.paths.data_dir is None else Path(config.paths.data_dir)
    recordings = build_recordings(stage_slice(config, "data")["data_io"], data_dir)
    folder = Path(config.paths.output_dir) / config.exp_name / f"fold{config.fold}" / f"seed{config.seed}"
    loggers = [hydra.utils.instantiate(logger, save_dir=str(folder)) for logger in config.logger.values()]
    member = train(
        stage_slice(config, "train"),
        recordings,
        int(config.fold),
        int(config.seed),
        work_dir=folder / ".work",
        loggers=loggers,
    )
    member.save(folder / "model.ckpt")
    shutil.rmtree(folder / ".work")
    member.history.to_csv(folder / "history.csv", index=False)
    log.info("wrote %s", folder / "model.ckpt")
