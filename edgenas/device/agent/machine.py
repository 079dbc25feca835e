"""What a measurement has of the machine that it runs on: its clock, its cores, its caches, its memory; waiting, and
where it is locked.

Nothing else of EdgeNAS reads a clock to measure, or sleeps, on the device or on the host: tests put a machine of their
own, whose times follow a formula, in the place of this module.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
import time
from resource import RUSAGE_SELF, getrusage
from typing import Any

_FILLING_BYTES = 4 << 20
_EVERYBODYS = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - for a lock that is opened without following links
_filling: list[Any] = []


def now_us() -> float:
    """The clock that inferences are timed with, in microseconds."""
    return time.perf_counter_ns() / 1000


def on_core_us() -> float:
    """How long this thread has been on a core, in microseconds."""
    return time.thread_time_ns() / 1000


def lost_core() -> int:
    """How often the system has taken a core away from this process."""
    return getrusage(RUSAGE_SELF).ru_nivcsw


def sleep(seconds: float) -> None:
    """Wait: every wait of EdgeNAS is this one."""
    time.sleep(seconds)


def monotonic_s() -> float:
    """The clock of deadlines and leases, in seconds."""
    return time.monotonic()


def fill_caches() -> None:
    """Read as much as a large network's weights and tensors: the caches next to the core hold that afterwards."""
    import numpy

    if not _filling:
        _filling.append(numpy.ones(_FILLING_BYTES // 8))
    _filling[0].sum()


def anonymous_kb() -> int | None:
    """Memory of this process that no file backs; None where the system does not tell."""
    return _status_kb("RssAnon")


def rss_kb(key: str) -> int:
    """VmRSS (now) or VmHWM (the peak) of this process."""
    kb = _status_kb(key)
    if kb is not None:
        return kb
    peak = getrusage(RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak


def shared_folder() -> str:
    """Where every session of every user on this machine finds the same file, whatever its TMPDIR says."""
    for folder in _EVERYBODYS:
        try:
            writable = os.stat(folder).st_mode & stat.S_IWOTH and not os.statvfs(folder).f_flag & os.ST_RDONLY  # noqa: PTH116
        except OSError:
            continue
        if writable:
            return folder
    return tempfile.gettempdir()


def _status_kb(key: str) -> int | None:
    try:
        with open("/proc/self/status") as file:  # noqa: PTH123
            return next(int(line.split()[1]) for line in file if line.startswith(key + ":"))
    except (OSError, StopIteration):
        return None
