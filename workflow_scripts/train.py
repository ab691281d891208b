"""Train one member (one fold and one seed) and write it with its digest and learning curve."""

import argparse
import logging
import os
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path

import yaml
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from coread.distributed import ensure_ranks
from coread.failure import reported_errors
from coread.member_lock import member_lock
from coread.provenance import combined_digest, write_digest, write_text
from coread.recording import read_recordings
from coread.signatures import deciding_code
from coread.training import resume_digest, train


def main() -> None:
    """Train one member; a killed run goes on from its last epoch if nothing that decides the weights has changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="settings of the train stage")
    parser.add_argument("--recordings", type=Path, nargs="+", required=True)
    parser.add_argument("--digests", type=Path, nargs="+", required=True, help="digests of the recordings' contents")
    parser.add_argument("--stas", type=Path, nargs="*", default=[], help="spike-triggered averages, <session>.h5")
    parser.add_argument("--fold", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--memory-mb", type=float, required=True, help="of the job; data above half of it are streamed")
    parser.add_argument("--log-dir", type=Path, required=True, help="TensorBoard and CSV logs")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    # outputs are deleted before a retry, so what resumes lies beside them, named by everything that decides the weights
    settings = arguments.config.read_text()
    config = yaml.safe_load(settings)
    ranks = ensure_ranks(config["trainer"].get("num_processes", 1), [sys.executable, *sys.argv])
    stas = {path.stem: path for path in arguments.stas}
    digests = [*arguments.digests, *(path.with_suffix(".sha256") for path in arguments.stas)]
    deciding = [arguments.config, *digests, Path(__file__), *deciding_code(Path(__file__), settings)]
    digest = resume_digest(combined_digest(deciding), arguments.fold, arguments.seed)
    # read before the training, so that they are those of what it reads
    contents = {path.stem: path.read_text().strip() for path in arguments.digests}
    # the memory is that of the node, and each of its ranks holds the data
    budget = arguments.memory_mb * 2**20 / 2 / ranks.local_size
    folder, attempt = arguments.output.parent, os.environ.get("COREAD_ATTEMPT", "1")
    with member_lock(folder) if ranks.is_first else nullcontext():
        member = train(
            config,
            read_recordings(arguments.recordings, memory_budget_bytes=budget),
            arguments.fold,
            arguments.seed,
            work_dir=folder / ".work" / digest,
            stas=stas or None,
            loggers=[
                CSVLogger(arguments.log_dir, "", f"csv/attempt-{attempt}"),  # it would empty the last attempt's table
                TensorBoardLogger(arguments.log_dir, "", "tensorboard"),
            ],
        )
        if not ranks.is_first:
            return
        write_text(folder / "history.csv", member.history.to_csv(index=False))
        member.recordings = {session: contents[session] for session in member.data_info["n_neurons_dict"]}
        member.save(arguments.output)
        # .work stays until predictions are made from the model: where a scheduler ends this job after all, Snakemake
        # deletes the model, and the next attempt writes it again without training
        write_digest(arguments.output)
        for outdated in set((folder / ".work").iterdir()) - {folder / ".work" / digest}:
            shutil.rmtree(outdated)


if __name__ == "__main__":
    with reported_errors():
        main()
