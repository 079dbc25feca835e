"""How much of the device a child may take: what it loads is foreign, and a number in a file can ask for any size.

Linux alone holds a process to it; elsewhere a child takes what it gets.
"""

from __future__ import annotations

import contextlib
import resource
import sys

_SHARE = 4  # a child gets one of so many parts of the device's memory
_DIES_FIRST = "1000"
_most_kb: list[int] = []  # what this process was bound to


def share_kb(total_kb: int) -> int:
    """What a child may take of a device with so much memory; 0 where nobody knows how much that is."""
    return total_kb // _SHARE


def bind_memory(most_kb: int) -> None:
    """Hold this process to so much more memory than it has now, and let it die first where all is used up.

    Memory of its own is what counts (RLIMIT_DATA), not what it maps of files: libraries map much that they never use.
    """
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write(_DIES_FIRST)
    now_kb = _data_kb()
    if most_kb <= 0 or now_kb is None:
        return
    most_bytes = (now_kb + most_kb) << 10
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if hard != resource.RLIM_INFINITY:
        most_bytes = min(most_bytes, hard)
    with contextlib.suppress(OSError, ValueError, OverflowError):
        resource.setrlimit(resource.RLIMIT_DATA, (most_bytes, most_bytes))
        _most_kb[:] = [most_kb]


def left_kb() -> int | None:
    """What this process may still take; None: it is not held to anything."""
    now_kb = _data_kb()
    if not _most_kb or now_kb is None:
        return None
    return max(0, (resource.getrlimit(resource.RLIMIT_DATA)[0] >> 10) - now_kb)


def bound_told(most_kb: int | None = None) -> str:
    """What a process was held to, in words that follow others; empty where it was not.

    `most_kb` is that of another process; None: of this one.
    """
    if most_kb is None:
        most_kb = _most_kb[0] if _most_kb else 0
    return f" (it may take {most_kb / 1024:.0f} MB of memory, a quarter of the device's)" if most_kb > 0 else ""


def _data_kb() -> int | None:
    """Memory of this process' own, touched or not."""
    if sys.platform != "linux":
        return None
    try:
        with open("/proc/self/status") as file:  # noqa: PTH123
            return next(int(line.split()[1]) for line in file if line.startswith("VmData:"))
    except (OSError, StopIteration, ValueError):
        return None
