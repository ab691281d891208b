"""`coread train --config-name X a.b=c ...`: Hydra's entry point to the same `train()` that the workflow calls."""

import logging
import shutil
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from coread.cli.hydra_entry import member_folder, run_with_config
from coread.config import canonical_text, stage_slice
from coread.distributed import Ranks, ensure_ranks

log = logging.getLogger(__name__)

USAGE = """usage: coread train --config-name NAME [--config-path DIR] [key=value ...] [--multirun]

Trains one member (fold and seed, both 0 unless given as fold=1 seed=3) and writes
<paths.output_dir>/<exp_name>/fold<fold>/seed<seed>/{model.ckpt,history.csv}.
paths.load_model_path=MODEL starts from the core of a trained model (a file, a folder, a released name), which stays as
it is unless only_train_readout=false.
DIR defaults to the configs shipped with coread. Any key of the config can be overridden; --cfg job prints it."""


def main(argv: list[str]) -> None:
    """Run the command; exits with status 1 and one sentence for anything that is wrong."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return
    run_with_config("train", argv, partial(_train, argv=argv))


def _train(config: DictConfig, argv: list[str]) -> None:
    folder = member_folder(config)
    if (folder / "model.sha256").exists():  # which only the workflow writes; its predictions are made from that model
        raise ValueError(f"{folder} holds a member of the workflow: give another exp_name=... or paths.output_dir=...")
    ranks = _ranks(config, argv)
    from coread.data_io.sources import build_recordings
    from coread.member_lock import member_lock
    from coread.provenance import combined_digest, write_text
    from coread.recording import content_digest
    from coread.signatures import deciding_code
    from coread.training import resume_digest, train

    data_dir = None if config.paths.data_dir is None else Path(config.paths.data_dir)
    recordings = build_recordings(stage_slice(config, "data")["data_io"], data_dir)
    settings, fold, seed = stage_slice(config, "train"), int(config.fold), int(config.seed)
    model_files = _start_from_trained_model(settings, config)
    code = combined_digest(deciding_code(Path(__file__), canonical_text(settings)))
    contents = {recording.session: content_digest(recording) for recording in recordings}
    digest = resume_digest(canonical_text(settings), list(contents.values()), code, fold, seed)
    loggers = [hydra.utils.instantiate(logger, save_dir=str(folder)) for logger in config.logger.values()]
    with member_lock(folder) if ranks.is_first else nullcontext():
        member = train(
            settings,
            recordings,
            fold,
            seed,
            work_dir=folder / ".work" / digest,
            loggers=loggers,
            model_files=model_files,
        )
        if not ranks.is_first:
            return
        member.recordings = contents
        member.save(folder / "model.ckpt")
        shutil.rmtree(folder / ".work")
        write_text(folder / "history.csv", member.history.to_csv(index=False))
    log.info("wrote %s", folder / "model.ckpt")


def _start_from_trained_model(settings: dict[str, Any], config: DictConfig) -> dict[str, Path] | None:
    """Put the model of `paths.load_model_path` into the settings, by its digest; return where it lies."""
    given = config.paths.get("load_model_path")
    if given is None:
        return None
    from coread.models.extension import model_digest
    from coread.models.pretrained import find_model_file

    path = find_model_file(given)
    if settings.get("pretrained_core") is None:
        settings["pretrained_core"] = {
            "_target_": "coread.models.extension.PretrainedCore",
            "model": Path(given).name,
            "sha256": model_digest(path),
            "freeze": bool(config.only_train_readout),
        }
    return {settings["pretrained_core"]["model"]: path}


def _ranks(config: DictConfig, argv: list[str]) -> Ranks:
    """Return which rank this process is, starting the ranks if the config asks for several.

    Raises ValueError for several members in one command, because the ranks take this process's place.
    """
    num_processes = int(config.trainer.get("num_processes", 1))
    if num_processes > 1 and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise ValueError(
            f"--multirun trains one member after the other in one process, trainer.num_processes is {num_processes}: "
            "start a command for every member, or use the workflow"
        )
    # not sys.argv, which Hydra was given another version of
    return ensure_ranks(
        num_processes, [sys.executable, "-c", "from coread.cli.main import main; main()", "train", *argv]
    )
