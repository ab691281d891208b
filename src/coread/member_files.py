"""The files of a trained member, and what the jobs that train one member or several are told."""

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from coread.provenance import combined_digest, write_digest, write_text
from coread.signatures import deciding_code

if TYPE_CHECKING:
    from coread.models.member import Member

PACKED = ".packed"  # beside a member's model, where the job that trained several leaves it


@dataclass(frozen=True)
class TrainingInputs:
    """What trains a member beside its fold and seed."""

    config: dict[str, Any]
    recordings: list[Path]
    contents: dict[str, str]  # digests of the recordings' contents by session
    budget_bytes: float
    log_dir: Path
    _code: tuple[Path, ...]
    _digests: list[Path]
    _stas: Path | None

    @classmethod
    def parse(cls, parser: argparse.ArgumentParser, script: Path) -> tuple["TrainingInputs", argparse.Namespace]:
        """Add the arguments that these inputs come from, and parse; data above half of the memory are streamed."""
        parser.add_argument("--config", type=Path, required=True, help="settings of the train stage")
        parser.add_argument("--recordings", type=Path, nargs="+", required=True)
        parser.add_argument("--stas", type=Path, help="folder of averages, fold<fold>/sta/<session>.h5 in it")
        parser.add_argument("--memory-mb", type=float, required=True, help="of the job")
        parser.add_argument("--log-dir", type=Path, required=True, help="TensorBoard and CSV logs")
        arguments = parser.parse_args()
        from coread.recording import digest_path  # here: linking a member's files needs neither h5py nor pandas

        digests = [digest_path(path) for path in arguments.recordings]
        settings = arguments.config.read_text()
        inputs = cls(
            yaml.safe_load(settings),
            arguments.recordings,
            # read before the training, so that they are those of what it reads
            {path.stem: path.read_text().strip() for path in digests},
            arguments.memory_mb * 2**20 / 2,
            arguments.log_dir,
            (arguments.config, script, *deciding_code(script, settings)),
            digests,
            arguments.stas,
        )
        return inputs, arguments

    def stas(self, fold: int) -> dict[str, Path] | None:
        """Return the files of a fold's spike-triggered averages by session, None if they were not computed before."""
        if self._stas is None:
            return None
        folder = self._stas / f"fold{fold}" / "sta"
        return {path.stem: folder / f"{path.stem}.h5" for path in self.recordings}

    def decided_by(self, fold: int) -> str:
        """Return a digest of all files that decide the weights of a fold's members."""
        stas = [path.with_suffix(".sha256") for path in (self.stas(fold) or {}).values()]
        return combined_digest([*self._digests, *stas, *self._code])


def training_loggers(log_dir: Path) -> list[Any]:
    """Return the loggers of one attempt at one member."""
    from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

    attempt = os.environ.get("COREAD_ATTEMPT", "1")
    # by attempt: it would empty the last attempt's table
    return [CSVLogger(log_dir, "", f"csv/attempt-{attempt}"), TensorBoardLogger(log_dir, "", "tensorboard")]


def write_member(member: "Member", path: Path, contents: dict[str, str]) -> None:
    """Write a member with its learning curve and, last, its digest."""
    write_text(path.with_name("history.csv"), member.history.to_csv(index=False))
    member.recordings = {session: contents[session] for session in member.data_info["n_neurons_dict"]}
    member.save(path)
    write_digest(path)


def remove_others(folder: Path) -> None:
    """Remove what lies beside a folder: what other settings, data or code left there."""
    for outdated in set(folder.parent.iterdir()) - {folder}:
        shutil.rmtree(outdated)


def write_pack(path: Path, members: dict[str, Path]) -> None:
    """Write where every member of a pack lies, by `fold<fold>/seed<seed>`, and its digest."""
    facts = {
        name: {"folder": folder.name, "sha256": (folder / "model.sha256").read_text().strip()}
        for name, folder in members.items()
    }
    write_text(path, json.dumps({"members": facts}, indent=1, sort_keys=True) + "\n")


def unpack_member(pack: Path, name: str, target: Path, files: Sequence[str]) -> None:
    """Put the files of a member where the workflow expects them, as links where the file system has them.

    Raises ValueError if the pack does not hold the member, or what it left is gone or has changed.
    """
    facts = json.loads(pack.read_text(encoding="utf-8"))["members"].get(name)
    if facts is None:
        raise ValueError(f"{pack} holds no member {name}")
    source = target / PACKED / facts["folder"]
    digest = source / "model.sha256"
    if not digest.is_file() or digest.read_text().strip() != facts["sha256"]:
        raise ValueError(f"{source} is gone or has changed since {pack} was written: delete {pack} to train it again")
    for file in files:
        temporary = target / f".{file}.tmp"
        temporary.unlink(missing_ok=True)
        try:
            os.link(source / file, temporary)
        except OSError:  # no hard links here
            shutil.copyfile(source / file, temporary)
        os.utime(temporary)  # newer than what it is made from
        temporary.replace(target / file)
