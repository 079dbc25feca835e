"""One device, one profiler: a lock that ends with the agent that holds it, an agent that ends when its host is gone.

A link that breaks without a word (a cable, a radio) leaves an agent whose stdin stays open for hours. So whoever holds
the lock hears from its host all the time, and ends after a lease of silence.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import time
from pathlib import Path
from typing import Any

from . import machine
from .children import Stdin
from .context import Context, OperationError
from .store import read

_held: list[int] = []  # the descriptor of the lock, open for as long as this agent lives


def lock(context: Context, who: str, lease_s: float) -> dict[str, Any]:
    """Take the device for measuring, until this agent ends; `who` is shown to whoever comes meanwhile.

    From now on this agent ends when its host was not heard for `lease_s`; a holder whose host is silent is waited for.

    The lock is the system's own (`flock`): it is gone when its holder is, however that ended. It is one for the whole
    device, whatever the work folder and TMPDIR, so it lies where every user and session can reach it.
    """
    if _held:
        return {"held": True}
    path = Path(machine.shared_folder()) / "edgenas-device.lock"
    descriptor = _open(path)
    deadline = machine.monotonic_s() + lease_s
    while not _taken(descriptor):
        if time.time() - os.fstat(descriptor).st_mtime < lease_s / 3 or machine.monotonic_s() > deadline:
            os.close(descriptor)
            raise OperationError("busy", f"the device is being measured by {_holder(path)}")
        machine.sleep(0.2)
    _held.append(descriptor)
    note = {"who": who[:200], "pid": os.getpid(), "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(note).encode(), 0)
    except OSError:
        pass  # another user's file: the lock holds all the same
    _keep_lease(context.stdin, descriptor, lease_s)
    return {"held": True}


def held() -> bool:
    """Whether this agent holds its device."""
    return bool(_held)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False


def _keep_lease(stdin: Stdin, descriptor: int, lease_s: float) -> None:
    """Look often whether the host was heard, and write when that was: the lock file's time.

    A timer, not a thread: this process forks.
    """

    def look(*_: Any) -> None:
        silent_s = machine.monotonic_s() - stdin.heard_at
        if silent_s > lease_s and not select.select([stdin.descriptor], [], [], 0)[0]:
            os._exit(1)
        heard = time.time() - silent_s
        with contextlib.suppress(OSError):  # another user's file
            os.utime(descriptor, (heard, heard))

    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, lease_s / 15, lease_s / 15)


def _open(path: Path) -> int:
    common = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe in its place would be waited for
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
        note = json.loads(read(path)[:2000])
        return f"{note['who']} (process {int(note['pid'])} there) since {note['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "somebody else"


OPERATIONS = {"lock": lock}
