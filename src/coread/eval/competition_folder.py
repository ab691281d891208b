"""The folder that competition files are written to: what a call leaves in it, and files.csv, which lists what is there.

Sessions and tiers may be written one call after another. A call therefore leaves those of earlier calls, lists them as
long as they are unchanged, and names them in the log.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from coread.eval.competition import FORMATS, CompetitionError, file_name
from coread.provenance import file_sha256, write_text

LIST = "files.csv"
COUNTS = {"rows": int, "neurons": int, "members": int}
LISTED = ("session", "tier", "file", *COUNTS, "experiment", "sha256")

log = logging.getLogger(__name__)


def read_list(folder: Path) -> pd.DataFrame:
    """Return what earlier calls wrote to a folder; raises CompetitionError where files.csv is something else."""
    path = folder / LIST
    if not path.exists():
        return pd.DataFrame(columns=list(LISTED))
    try:
        # older lists name no experiment
        table = pd.read_csv(path, dtype=str, keep_default_na=False).assign(experiment=lambda old: old.get("experiment"))
        return table[list(LISTED)].fillna("").astype(COUNTS)
    except (OSError, ValueError, KeyError) as error:
        raise CompetitionError(f"{path}: no list of competition files, which would replace it ({error})") from error


def publish(staged: Path, folder: Path, written: pd.DataFrame, earlier: pd.DataFrame) -> None:
    """Move written files from `staged` into the folder and list them with those of earlier calls.

    The other format of a file that was written is removed: the two would hold different predictions. Nothing is removed
    that files.csv does not list or that changed since.
    """
    for name in written["file"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (staged / name).replace(folder / name)
    left = earlier[~earlier["file"].isin(written["file"])]
    is_own = [_is_unchanged(folder / name, digest) for name, digest in zip(left["file"], left["sha256"], strict=True)]
    own = left[pd.Series(is_own, index=left.index, dtype=bool)]
    removed = [name for name in _other_formats(folder, written) if _removed(folder / name, name in set(own["file"]))]
    own = own[~own["file"].isin(removed)]
    if len(own):
        log.warning("%s: files of earlier calls stay: %s", folder, ", ".join(own["file"]))
    listed = pd.concat([table for table in (written, own) if len(table)] or [written])
    write_text(folder / LIST, listed.to_csv(index=False, lineterminator="\n"))


def _is_unchanged(path: Path, digest: str) -> bool:
    return path.is_file() and file_sha256(path) == digest


def _other_formats(folder: Path, written: pd.DataFrame) -> Sequence[str]:
    """Return the files of the written sessions and tiers in a format that was not written."""
    named = [
        f"{session}/{file_name(tier, suffix)}"
        for session, tier in dict.fromkeys(zip(written["session"], written["tier"], strict=True))
        for suffix in FORMATS
    ]
    return [name for name in named if name not in set(written["file"]) and (folder / name).exists()]


def _removed(path: Path, is_own: bool) -> bool:
    """Remove a file of an earlier call and return True; only say so of a file that is somebody else's."""
    if is_own:
        path.unlink()
    else:
        log.warning("%s stays, but is not of these predictions: it is not as this command wrote it", path)
    return is_own
