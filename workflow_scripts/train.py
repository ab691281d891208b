"""Train one member (one fold and one seed) and write it with its digest and learning curve."""

import argparse
import logging
import sys
from contextlib import nullcontext
from pathlib import Path

from coread.distributed import ensure_ranks
from coread.failure import reported_errors
from coread.member_files import TrainingInputs, remove_others, training_loggers, write_member
from coread.member_lock import member_lock
from coread.recording import read_recordings
from coread.training import resume_digest, train


def main() -> None:
    """Train one member; a killed run goes on from its last epoch if nothing that decides the weights has changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fold", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    inputs, arguments = TrainingInputs.parse(parser, Path(__file__))
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    ranks = ensure_ranks(inputs.config["trainer"].get("num_processes", 1), [sys.executable, *sys.argv])
    # outputs are deleted before a retry, so what resumes lies beside them, named by everything that decides the weights
    folder = arguments.output.parent
    work_dir = folder / ".work" / resume_digest(inputs.decided_by(arguments.fold), arguments.fold, arguments.seed)
    with member_lock(folder) if ranks.is_first else nullcontext():
        member = train(
            inputs.config,
            # the memory is that of the node, and each of its ranks holds the data
            read_recordings(inputs.recordings, memory_budget_bytes=inputs.budget_bytes / ranks.local_size),
            arguments.fold,
            arguments.seed,
            work_dir=work_dir,
            stas=inputs.stas(arguments.fold),
            loggers=training_loggers(inputs.log_dir),
        )
        if not ranks.is_first:
            return
        # .work stays until predictions are made from the model: where a scheduler ends this job after all, Snakemake
        # deletes the model, and the next attempt writes it again without training
        write_member(member, arguments.output, inputs.contents)
        remove_others(work_dir)


if __name__ == "__main__":
    with reported_errors():
        main()
