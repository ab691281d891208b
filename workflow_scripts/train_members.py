"""Train several members of an experiment in one process, their steps computed together."""

import argparse
import logging
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from coread.failure import reported_errors
from coread.member_files import PACKED, TrainingInputs, remove_others, training_loggers, write_member, write_pack
from coread.member_lock import member_lock
from coread.models.core_readout import StepTogether
from coread.packing.packed_training import train_together
from coread.recording import Recording, read_recordings
from coread.training import resume_digest, train


def main() -> None:
    """Train the members that are not trained yet; raises ValueError, once the others are done, if any failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", nargs="+", required=True, help="fold:seed")
    parser.add_argument("--results", type=Path, required=True, help="folder of the experiment")
    parser.add_argument("--output", type=Path, required=True, help="where the members lie, as JSON")
    inputs, arguments = TrainingInputs.parse(parser, Path(__file__))
    logging.basicConfig(level=logging.INFO, format="%(threadName)s  %(message)s")

    members: dict[str, tuple[int, int, Path]] = {}
    for fold, seed in (map(int, member.split(":")) for member in arguments.members):
        name, digest = f"fold{fold}/seed{seed}", resume_digest(inputs.decided_by(fold), fold, seed)
        members[name] = fold, seed, arguments.results / name / PACKED / digest
    with ExitStack() as locks:
        for name in members:
            locks.enter_context(member_lock(arguments.results / name))
        missing = {name: member for name, member in members.items() if not (member[2] / "model.sha256").exists()}
        # one reading for all of them
        recordings = read_recordings(inputs.recordings, memory_budget_bytes=inputs.budget_bytes)
        programs = {
            name: partial(_train_one, inputs, recordings, *member, inputs.log_dir / name)
            for name, member in missing.items()
        }
        results = train_together(programs)
    failed = {name: error for name, error in results.items() if isinstance(error, Exception)}
    for name, error in failed.items():
        logging.error("%s failed", name, exc_info=error)
    if failed:
        reasons = "; ".join(f"{name}: {error}" for name, error in failed.items())
        raise ValueError(f"{len(failed)} of {len(members)} members failed, the others are kept: {reasons}")
    write_pack(arguments.output, {name: folder for name, (_, _, folder) in members.items()})


def _train_one(
    inputs: TrainingInputs,
    recordings: list[Recording],
    fold: int,
    seed: int,
    folder: Path,
    log_dir: Path,
    together: StepTogether,
) -> None:
    """Train a member and leave it in its folder as soon as it is done, whatever becomes of the others."""
    work_dir = folder.parent.parent / ".work" / folder.name
    member = train(
        inputs.config,
        recordings,
        fold,
        seed,
        work_dir=work_dir,
        stas=inputs.stas(fold),
        loggers=training_loggers(log_dir),
        progress_bar=False,
        together=together,
    )
    write_member(member, folder / "model.ckpt", inputs.contents)
    remove_others(work_dir)
    remove_others(folder)


if __name__ == "__main__":
    with reported_errors():
        main()
