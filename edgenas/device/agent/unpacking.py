"""Many small files in one: a round trip for each would cost more than the files."""

from __future__ import annotations

import errno
import re
import zipfile
from pathlib import Path
from typing import Any

from .context import Context, OperationError

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


def unpack(context: Context, archive: str, folder: str) -> dict[str, Any]:
    """Write the files of a zip archive into a folder, and remove the archive; how many there were."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(archive) as content:
            for name in content.namelist():
                if not _PLAIN_NAME.fullmatch(name):
                    raise OperationError("bad_name", f"{name[:80]!r} is no plain file name")
                (Path(folder) / name).write_bytes(content.read(name))
            return {"files": len(content.namelist())}
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OperationError("no_space", f"no space is left in {folder}") from None
        raise
    finally:
        Path(archive).unlink()


OPERATIONS = {"unpack": unpack}
