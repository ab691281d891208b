"""`coread search --config-name X`: search hyper-parameters with jobs on this machine or on a cluster."""

import logging
import os
import shutil
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from coread.cli.hydra_entry import experiment_folder, run_with_config
from coread.config import ConfigError, stage_slice

log = logging.getLogger(__name__)

USAGE = """usage: coread search --config-name NAME [--config-path DIR] [cluster=local|slurm|debug] [key=value ...]

Trains search.n_trials variants of the experiment (search.space says what varies, configs/search/), prunes those that
fall behind, and writes <paths.output_dir>/<exp_name>/search/{trials.csv,best.yaml,history.*,importance.*}.
Where trials run: cluster=slurm cluster.partition=gpu cluster.gpus=1 ... (configs/cluster/default.yaml lists all).
Killed and started again with the same arguments it goes on. The first lines of best.yaml say how to use it."""


def main(argv: list[str]) -> None:
    """Run the command; exits with status 1 and one sentence for anything that is wrong."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return
    run_with_config("search", argv, _search)


def _search(config: DictConfig) -> None:
    from coread.search.space import search_settings

    settings = search_settings(config)  # a wrong space is told before anything slow is imported
    if config.get("cluster") is None:
        raise ConfigError(f"{config.exp_name}: nothing says where trials run; add `- cluster: local` to its defaults")

    from coread.search.driver import run_search
    from coread.search.jobs import Submission

    submission = Submission.from_config(OmegaConf.to_container(config.cluster, resolve=True))  # type: ignore[arg-type]
    folder = experiment_folder(config) / "search"
    recordings, digests = _recordings(config, folder / ".study")
    table = run_search(str(config.exp_name), settings, recordings, digests, folder, submission)
    best = table[table["state"] == "complete"].nlargest(1, "value").iloc[0]
    log.info("best: trial %d with %.4f; wrote %s", best["number"], best["value"], folder / "best.yaml")


def _recordings(config: DictConfig, folder: Path) -> tuple[list[Path], list[str]]:
    """Write the recordings of the experiment where the trials' jobs can read them; return files and digests.

    Their folder is named by their content: jobs of an earlier search never see other data under the same name.
    """
    from coread.data_io.sources import build_recording, build_stimuli, list_sessions
    from coread.provenance import combined_digest
    from coread.recording import digest_path, read_stimuli, write_recording, write_stimuli

    data = stage_slice(config, "data")["data_io"]
    data_dir = None if config.paths.data_dir is None else Path(config.paths.data_dir)
    sessions = list_sessions(data, data_dir)
    building = folder / f".building.{os.getpid()}"
    try:
        shared = building / "stimuli.h5"
        write_stimuli(build_stimuli(data, data_dir), shared)
        for session in sessions:
            recording = build_recording(data, session, data_dir, read_stimuli(shared))
            write_recording(recording, building / f"{session}.h5", shared)
        digests = [digest_path(building / f"{session}.h5") for session in sessions]
        texts = [path.read_text(encoding="utf-8").strip() for path in digests]
        final = folder / f"data-{combined_digest(digests, sessions)}"
        if not final.exists():
            building.replace(final)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return [final / f"{session}.h5" for session in sessions], texts
