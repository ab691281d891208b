"""`coread train --config-name X a.b=c ...`: Hydra's entry point to the same `train()` that the workflow calls."""

import logging
import shutil
from pathlib import Path

import hydra
from omegaconf import DictConfig

from coread.cli.hydra_entry import member_folder, run_with_config
from coread.config import stage_slice

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
    run_with_config("train", argv, _train)


def _train(config: DictConfig) -> None:
    from coread.data_io.sources import build_recordings
    from coread.training import train

    data_dir = None if config.paths.data_dir is None else Path(config.paths.data_dir)
    recordings = build_recordings(stage_slice(config, "data")["data_io"], data_dir)
    folder = member_folder(config)
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
