"""Work in forked children that the agent can afford to lose, while it listens for the end of the connection."""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from . import bounding, machine

_PR_SET_PDEATHSIG = 1
# How a program ends that is given no more memory and does not look.
OF_MEMORY = (signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS)


class Hangup(Exception):  # noqa: N818 - not an error: the host has gone
    """The host closed the connection."""


class Stdin:
    """Requests line by line, and whether there will be more."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.heard_at = machine.monotonic_s()  # when something came last
        self._ahead = b""

    def fill(self) -> None:
        """Read what has come; raise Hangup at the end."""
        data = os.read(self.descriptor, 1 << 16)
        if not data:
            raise Hangup
        self.heard_at = machine.monotonic_s()
        self._ahead += data

    def line(self) -> str | None:
        """The next request, None at the end. Empty lines only say that the host is there."""
        try:
            while b"\n" not in (ahead := self._ahead.lstrip(b"\n")):
                self._ahead = ahead
                self.fill()
        except Hangup:
            return None
        line, _, self._ahead = ahead.partition(b"\n")
        return line.decode()


class Died(Exception):  # noqa: N818 - said of a child
    """The child ended without an answer."""

    def __init__(self, reason: str, out_of_memory: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.out_of_memory = out_of_memory


def in_child(
    stdin: Stdin | None,
    work: Callable[..., Any],
    *arguments: Any,
    progress: Callable[..., None] | None = None,
    most_kb: int = 0,
) -> Any:
    """What `work(report, *arguments)` returns, run in a forked child; `report(**values)` reaches `progress`.

    The child dies before anything else where the device's memory is used up. With `most_kb` it gets no more memory than
    that: work on what is foreign.

    Raises:
        Died: a signal ended the child, or it was given no more memory.
        RuntimeError: `work` raised; the text says what.
        Hangup: the host went away meanwhile (the child is killed).
    """
    reader, writer = os.pipe()
    parent = os.getpid()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _child(reader, writer, parent, most_kb, work, arguments)
    os.close(writer)
    answer = None
    status = None
    try:
        for message in _messages(reader, stdin):
            if "progress" in message:
                if progress is not None:
                    progress(**message["progress"])
            else:
                answer = message
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(reader)
        if status is None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    if answer is None:
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            told = bounding.bound_told(most_kb) if number in OF_MEMORY else ""
            raise Died(f"killed by {signal.Signals(number).name}{told}", number == signal.SIGKILL)
        raise Died(f"ended with exit code {os.WEXITSTATUS(status)}", False)
    if "out_of_memory" in answer:
        raise Died(f"refused more memory{bounding.bound_told(most_kb)}", True)
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer["result"]


def _child(
    reader: int, writer: int, parent: int, most_kb: int, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    """The child's whole life; it never returns."""
    try:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
        os.close(reader)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)

        def write(value: dict[str, Any]) -> None:
            data = json.dumps(value).encode() + b"\n"
            while data:
                data = data[os.write(writer, data) :]

        bounding.bind_memory(most_kb)
        try:
            result = work(lambda **values: write({"progress": values}), *arguments)
            write({"result": result})
        except MemoryError:
            write({"out_of_memory": True})
        except BaseException as error:  # noqa: BLE001 - the parent is told
            traceback.print_exc()
            cause = error.__cause__ or error
            write({"error": f"{type(cause).__name__}: {cause}"})
    finally:
        sys.stderr.flush()
        os._exit(0)


def _messages(reader: int, stdin: Stdin | None) -> Any:
    """Each line that the child writes, until it closes its end."""
    ahead = b""
    watched = [reader] if stdin is None else [reader, stdin.descriptor]
    while True:
        ready, _, _ = select.select(watched, [], [])
        if stdin is not None and stdin.descriptor in ready:
            stdin.fill()
        if reader in ready:
            data = os.read(reader, 1 << 16)
            if not data:
                return
            *lines, ahead = (ahead + data).split(b"\n")
            for line in lines:
                yield json.loads(line)
