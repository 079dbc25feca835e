"""Sees what this process changes in the file system, just before it does, and can make that fail.

Python tells of it by audit events; whoever listens to them listens for ever, so there is one ear that mostly sleeps.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Of each kind, where among its arguments the path is that it changes, and the folder that this is relative to.
# `shutil.rmtree` names what it removes relative to a folder that it has open.
_KINDS = {"os.rename": (0, 2), "os.link": (1, 3), "os.symlink": (1, 2), "os.mkdir": (0, 2), "os.remove": (0, 1),
          "os.rmdir": (0, 1)}  # fmt: skip
Heard = Callable[[str, str, bool], None]
_listener: list[Heard] = []
_installed: list[bool] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _listener or (event != "open" and event not in _KINDS):
        return
    folder, writes = -1, True
    if event == "open":
        path, _, flags = arguments
        writes = isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))
    else:
        path, folder = (arguments[place] for place in _KINDS[event])
    if not isinstance(path, str | bytes | os.PathLike):
        return
    path = os.fsdecode(path)
    if folder != -1:
        path = str(Path(f"/proc/self/fd/{folder}").readlink() / path)
    _listener[0](event, path, writes)


@contextlib.contextmanager
def heard_by(listener: Heard) -> Iterator[None]:
    """`listener(event, path, whether it writes)` hears what happens meanwhile; what it raises happens instead."""
    if not _installed:
        sys.addaudithook(_hook)
        _installed.append(True)
    _listener.append(listener)
    try:
        yield
    finally:
        _listener.clear()


@contextlib.contextmanager
def failing(part: str, number: int, writing: bool) -> Iterator[None]:
    """A disk that fails where a file whose path holds `part` is opened, for writing where that is asked."""

    def fail(event: str, path: str, writes: bool) -> None:
        if event == "open" and part in path and (writes or not writing):
            raise OSError(number, os.strerror(number), path)

    with heard_by(fail):
        yield


class Steps:
    """Counts the steps of an agent that change something in the folders of models and of the store below `work`, and
    ends it just before a certain one.

    Args:
        working: whether what happens now is the agent's doing.
        each: called before each step: what an application would find then.
    """

    def __init__(self, work: Path, working: Callable[[], bool], each: Callable[[], object]) -> None:
        self._roots = (f"{work}/models", f"{work}/blobs")
        self._working, self._each = working, each
        self.seen: list[str] = []
        self.hit = False

    @contextlib.contextmanager
    def until(self, last: int | str, end: Callable[[], object]) -> Iterator[None]:
        """`end` is called at the step of that number, or at the first that has this text in it; where there is one."""
        self.seen, self.hit = [], False

        def count(event: str, path: str, writes: bool) -> None:
            if writes and path.startswith(self._roots) and self._working() and not self.hit:
                self._each()
                self.seen.append(f"{event} {path}")
                if len(self.seen) == last or (isinstance(last, str) and last in self.seen[-1]):
                    self.hit = True
                    end()

        with heard_by(count):
            yield


# For `hooked_python`: a real agent kills itself at the step that the file EDGENAS_CUT names as JSON; 0: at none.
KILLER = (
    Path(__file__).read_text(encoding="utf-8").partition("\n# For `hooked_python`")[0]
    + """
import json, signal

_plan, _me = os.environ["EDGENAS_CUT"], os.getpid()
_steps = Steps(Path(os.environ["EDGENAS_WORK"]), lambda: os.getpid() == _me, lambda: None)

def _end():
    open(_plan + ".hit", "w").close()
    os.kill(_me, signal.SIGKILL)

_kept = _steps.until(json.load(open(_plan)), _end)
_kept.__enter__()
"""
)
