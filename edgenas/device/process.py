"""Processes of this machine that speak for a device: they hold the host for no longer, and to no more, than `limits`.

Pipes are never waited on without end: neither one that nobody reads, nor one that is filled for ever.
"""

import contextlib
import os
import select
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import IO

from edgenas.device import limits
from edgenas.errors import DeviceError

_PIECE = 1 << 16
_WATCH_S = 0.2


def converse(
    process: subprocess.Popen[bytes],
    data: bytes,
    timeout_s: float,
    sink: Callable[[bytes], object],
    errors: bytearray,
    watch: Callable[[], object] = lambda: None,
) -> None:
    """Give a process its input and take what it prints, until it has ended. Ended otherwise, it is killed.

    Args:
        data: its stdin, if that is a pipe.
        sink: gets its stdout, in pieces.
        errors: gets the end of its stderr.
        watch: called now and then, and at the end.

    Raises:
        TimeoutError: not done after `timeout_s`.
        whatever `sink` and `watch` raise.
    """
    deadline = time.monotonic() + timeout_s
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        with selectors.DefaultSelector() as waiting:
            waiting.register(process.stdout, selectors.EVENT_READ, sink)
            waiting.register(process.stderr, selectors.EVENT_READ, lambda piece: limits.keep_end(errors, piece))
            if process.stdin is not None:
                os.set_blocking(process.stdin.fileno(), False)
                waiting.register(process.stdin, selectors.EVENT_WRITE)
            rest = memoryview(data)
            while waiting.get_map():
                for key, _ in waiting.select(min(_WATCH_S, _left(deadline))):
                    if key.fileobj is process.stdin:
                        rest = _write(key.fd, rest)
                        ended = not rest
                    else:
                        piece = os.read(key.fd, _PIECE)
                        key.data(piece)
                        ended = not piece
                    if ended:
                        waiting.unregister(key.fileobj)
                        key.fileobj.close()  # type: ignore[union-attr]
                watch()
        process.wait(_left(deadline))
        watch()
    except subprocess.TimeoutExpired:
        kill_process(process)
        raise TimeoutError from None
    except BaseException:
        kill_process(process)
        raise


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _write(descriptor: int, rest: memoryview) -> memoryview:
    """What is left to write; nothing where nobody reads any more."""
    try:
        return rest[os.write(descriptor, rest[:_PIECE]) :]
    except BlockingIOError:
        return rest
    except OSError:
        return rest[:0]


class LocalProcess:
    """A process on this machine, and the pipes to it.

    Attributes:
        killed: whether it had to be killed, since it did not end by itself.
    """

    def __init__(self, argv: Sequence[str], folder: str) -> None:
        self.killed = False
        self._errors = bytearray()
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder, bufsize=0,
            start_new_session=True,
        )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._stdin, self._stdout, self._stderr = self._process.stdin, self._process.stdout, self._process.stderr
        self._complaining = True  # its stderr is open
        for pipe in (self._stdin, self._stderr):
            os.set_blocking(pipe.fileno(), False)

    def send(self, data: bytes) -> None:
        deadline = time.monotonic() + limits.UNREAD_S
        rest = memoryview(data)
        try:
            while rest:
                try:
                    rest = rest[os.write(self._stdin.fileno(), rest) :]
                except BlockingIOError:
                    if (left := deadline - time.monotonic()) <= 0:
                        raise DeviceError(f"The process has read nothing for {limits.UNREAD_S:g} s.") from None
                    select.select(self._listened(), [self._stdin], [], left)
                    self._drain()
        except (OSError, ValueError) as error:
            raise DeviceError(f"The process has ended: {error}.") from None

    def receive(self, timeout_s: float) -> bytes:
        deadline = time.monotonic() + timeout_s
        try:
            while True:
                left = max(0.0, deadline - time.monotonic())
                ready = select.select([self._stdout, *self._listened()], [], [], left)[0]
                self._drain()
                if self._stdout in ready:
                    return os.read(self._stdout.fileno(), _PIECE)
                if left <= 0:
                    raise TimeoutError
        except ValueError:  # closed meanwhile, by another thread
            return b""

    def errors(self) -> str:
        with contextlib.suppress(ValueError):
            self._drain()
        return self._errors.decode(errors="replace")

    def close(self) -> None:
        for pipe in (self._stdin, self._stdout, self._stderr):  # who still talks ends when nobody listens
            with contextlib.suppress(OSError):
                pipe.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self.killed = True
            kill_process(self._process)

    def _listened(self) -> list[IO[bytes]]:
        return [self._stderr] if self._complaining else []

    def _drain(self) -> None:
        """Take what its stderr holds, as far as that is kept: who writes without end is not listened to without end."""
        for _ in range(0, limits.MOST_ERRORS_BYTES, _PIECE):
            try:
                piece = os.read(self._stderr.fileno(), _PIECE) if self._complaining else b""
            except BlockingIOError:
                return
            if not piece:
                self._complaining = False
                return
            limits.keep_end(self._errors, piece)


def kill_process(process: subprocess.Popen[bytes]) -> None:
    """End a process of this machine, and what it started; its pipes are closed."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
