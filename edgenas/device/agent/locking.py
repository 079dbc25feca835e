"""One device, one profiler: a lock that ends with the agent that holds it."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from .context import Context, OperationError

_held: list[int] = []  # the descriptor of the lock, open for as long as this agent lives


def lock(context: Context, who: str) -> dict[str, Any]:
    """Take the device for measuring, until this agent ends; `who` is shown to whoever comes meanwhile.

    The lock is the system's own (`flock`): it is gone when its holder is, however that ended. It is one for the whole
    device, whatever the work folder, so it lies where every user can reach it.
    """
    if _held:
        return {"held": True}
    path = Path(tempfile.gettempdir()) / "edgenas-device.lock"
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise OperationError("busy", f"the device is being measured by {_holder(path)}") from None
    _held.append(descriptor)
    note = {"who": who[:200], "pid": os.getpid(), "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(note).encode(), 0)
    except OSError:
        pass  # another user's file: the lock holds all the same
    return {"held": True}


def _open(path: Path) -> int:
    common = os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, os.O_RDWR | common)
    except FileNotFoundError:
        pass
    except PermissionError:
        return os.open(path, os.O_RDONLY | common)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | common, 0o666)
        os.fchmod(descriptor, 0o666)
        return descriptor
    except FileExistsError:
        return os.open(path, os.O_RDWR | common)


def _holder(path: Path) -> str:
    try:
        note = json.loads(path.read_bytes()[:2000])
        return f"{note['who']} (process {int(note['pid'])} there) since {note['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "somebody else"


OPERATIONS = {"lock": lock}
