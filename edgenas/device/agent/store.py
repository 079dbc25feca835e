"""Files by what they hold: what is on the device is not sent again, and an upload that was cut goes on.

Below `FOLDER/blobs/`: a file under its SHA-256, and `SHA256.part` while it arrives. A release holds hard links to them.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .context import Context, OperationError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MARGIN_BYTES = 1 << 20


def entries(folder: Path) -> list[Path]:
    """What lies in a folder, by name; nothing where there is no such folder.

    Raises:
        OSError: something lies there that cannot be listed: a file, a link that leads nowhere, a folder of others. That
            is not the same as nothing.
    """
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        if is_there(folder):
            raise
        return []


def is_there(path: Path) -> bool:
    """Whether anything has this name, a link that leads nowhere as well.

    Raises:
        OSError: that cannot be told.
    """
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def read(path: Path) -> bytes:
    """The content of a file.

    Raises:
        OSError: it cannot be read, or is no file: a pipe in its place would be waited for for ever.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no file", str(path))
        return file.read()


def want(context: Context, files: dict[str, int], spare_bytes: int = 0) -> dict[str, Any]:
    """Make room for files, SHA-256 -> size in bytes, and `spare_bytes` besides.

    What the store holds for nobody any more is removed. Returns its `folder` and, in `lacking`, the files that are to
    be sent; each goes to `folder/SHA256`, and goes on where it was cut.
    """
    for sha, size in files.items():
        if not isinstance(sha, str) or not _SHA256.fullmatch(sha) or not isinstance(size, int) or size < 0:
            raise OperationError("bad_file", f"{sha!r} of {size!r} bytes is no file by its SHA-256")
    folder = _folder(context)
    folder.mkdir(parents=True, exist_ok=True)
    sweep(context, set(files))
    lacking = {}
    for sha, size in files.items():
        path = folder / sha
        if path.is_file() and sha256(path) != sha:
            path.unlink()  # the disk lost it: it is sent again
        if not path.is_file():
            lacking[sha] = size
    arrived = sum(part.stat().st_size for part in folder.glob("*.part"))
    needed, free = sum(lacking.values()) - arrived + spare_bytes, shutil.disk_usage(folder).free
    if free < needed + _MARGIN_BYTES:
        raise OperationError(
            "no_space",
            f"{needed / 1e6:.1f} MB are needed and 1 MB to spare; the device has {free / 1e6:.1f} MB free",
        )
    return {"folder": str(folder), "lacking": sorted(lacking)}


def build(context: Context, files: Mapping[str, str], folder: Path) -> None:
    """Put files, name -> SHA-256, from the store into `folder`, each checked."""
    for name, sha in sorted(files.items()):
        blob = _folder(context) / sha
        if not blob.is_file():
            raise OperationError("hash_mismatch", f"{name} (sha256 {sha}) is missing among the files received")
        received = sha256(blob)
        if received != sha:
            blob.unlink()
            raise OperationError("hash_mismatch", f"{name}: expected sha256 {sha}, received {received}")
        try:
            os.link(blob, folder / name)  # Path.hardlink_to is of Python 3.10
        except OSError:  # a file system without hard links
            shutil.copyfile(blob, folder / name)


def sha256(path: Path) -> str:
    """Of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


def forget(context: Context, files: list[str]) -> dict[str, Any]:
    """Remove files, and what arrived of them, that no release holds."""
    for path in _unused(context):
        if path.name.partition(".")[0] in files:
            path.unlink()
    return {}


def sweep(context: Context, wanted: set[str]) -> None:
    """Remove what no release holds, but for the files that are `wanted`."""
    for path in _unused(context):
        if path.name.partition(".")[0] not in wanted:
            path.unlink()


def _unused(context: Context) -> list[Path]:
    found = entries(_folder(context))
    return [path for path in found if path.suffix == ".part" or path.stat().st_nlink == 1]


def _folder(context: Context) -> Path:
    return Path(context.folder) / "blobs"


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, so that they last through a power cut."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def sync(path: Path) -> None:
    """Make what was written to a file or a folder last through a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
