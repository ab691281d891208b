"""Zip archives as published: unpacked beside and renamed, so that a folder is whole or absent; nothing leaves it."""

import hashlib
import re
import shutil
import stat
import zipfile
import zlib
from pathlib import Path

from coread.data_io.download.connection import DownloadError

CHUNK_BYTES = 1 << 20
NO_DATA = ("__MACOSX/",)  # a Mac's resource forks, whose names would be taken for those of data files

Members = dict[str, tuple[int, str]]  # path inside the folder -> size in bytes, sha256


def unpack(archive: Path, folder: Path) -> Members:
    """Unpack a zip archive into `folder` and return its files; an existing folder must hold the same, and is kept.

    Raises DownloadError that names archive and member: not a zip, damaged, a path that leaves the folder, a link, a
    name that comes twice or is that of a file and of a folder, or an existing folder with other content.
    """
    temporary = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)  # of an unpacking that was killed
    try:
        members = _unpack_into(archive, temporary)
        if folder.exists():
            _check_same(archive, folder, members)
        else:
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return members


def file_digest(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpack_into(archive: Path, folder: Path) -> Members:
    folder.mkdir(parents=True)
    members: Members = {}
    try:
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                _check_member(archive, info)
                if info.filename.startswith(NO_DATA):
                    continue
                if info.filename in members:
                    raise DownloadError(f"{archive}: the member {info.filename!r} comes twice")
                try:
                    if info.is_dir():
                        (folder / info.filename).mkdir(parents=True, exist_ok=True)
                    else:
                        members[info.filename] = _write_member(opened, info, folder / info.filename)
                except (FileExistsError, NotADirectoryError) as error:
                    raise DownloadError(
                        f"{archive}: the place of the member {info.filename!r} is taken by another: one name is that "
                        "of a file and of a folder, or of two files"
                    ) from error
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError) as error:
        raise DownloadError(f"{archive}: not a zip archive that can be unpacked ({error})") from error
    return members


def _check_member(archive: Path, info: zipfile.ZipInfo) -> None:
    name = info.orig_filename
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        raise DownloadError(f"{archive}: the member {name!r} is a link; nothing of it is unpacked")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DownloadError(f"{archive}: the member {name!r} is neither file nor folder; nothing of it is unpacked")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name) or "\\" in name or ".." in name.split("/") or "\0" in name:
        raise DownloadError(f"{archive}: the member {name!r} would leave its folder; nothing of it is unpacked")


def _write_member(opened: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> tuple[int, str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    sha256 = hashlib.sha256()
    with opened.open(info) as source, path.open("xb") as target:
        while chunk := source.read(CHUNK_BYTES):
            sha256.update(chunk)
            target.write(chunk)
        return target.tell(), sha256.hexdigest()


def _check_same(archive: Path, folder: Path, members: Members) -> None:
    for name, (_, sha256) in members.items():
        if not (folder / name).is_file() or (found := file_digest(folder / name)) != sha256:
            state = "is missing" if not (folder / name).is_file() else f"has sha256 {found}, expected {sha256}"
            raise DownloadError(f"{folder} is there but not what {archive.name} holds: {name} {state}; move it away")
