"""SSH to a device, on paramiko. Everything has a timeout, and a link that falls silent is noticed within 15 s.

Files travel through `cat` on the device rather than SFTP: small boards have no SFTP server, a full disk is named
as such, and what arrived short is removed by the device itself even when the link is gone.
"""

import contextlib
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import paramiko

from edgenas.device import limits, scripts
from edgenas.device.agent import machine
from edgenas.device.connection import (
    Completed,
    Connection,
    Process,
    Sent,
    bounded,
    check_words,
    home_of,
    not_told,
    printed,
    timed_out,
    too_large,
    unwritten,
    whole_file,
)
from edgenas.device.device import Device, fingerprint
from edgenas.device.login import Wire, authenticate, check_host_key, handshake, key_line, ran_nothing
from edgenas.device.target import resolve
from edgenas.errors import DeviceError, InputError, TooSlowError, UnreachableError, cut

_PING_S = 4.0
_SILENCE_S = 12.0
_MARK = re.compile(rb"edgenas-pid:(\d{1,19})\r?\n")  # what a chatty shell profile printed before it is dropped
_LONGEST_MARK = 40
_LOOK_S = 0.2  # for what came on stderr, while stdout is waited for
_PIECE = 1 << 16


class _BoundedWire(Wire):
    """A wire that takes no packet of any size: paramiko would wait for all of what one announces, and keep it."""

    def recv(self, count: int) -> bytes:
        if count > limits.LARGEST_PACKET_BYTES:
            raise OSError(f"a packet of {count} bytes is announced")
        return super().recv(count)


class _Link:
    """One logged-in transport and its heartbeat."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._channels: list[weakref.ref[paramiko.Channel]] = []
        target = resolve(device)
        self.account = target.user
        self._wire = _BoundedWire(device, target)
        self._transport = handshake(device, target, self._wire)
        self._closed = threading.Event()
        self._why = ""  # it was given up
        try:
            check_host_key(device, self._transport)
            with self.border():
                authenticate(device, target, self._transport)
        except BaseException:
            self.close()
            raise
        for work in (self._ping, self._watch):
            threading.Thread(target=work, daemon=True, name=f"edgenas {device.name} {work.__name__}").start()

    @property
    def alive(self) -> bool:
        return self._transport.is_active()

    def channel(self) -> paramiko.Channel:
        with self.border():
            channel = self._transport.open_session(timeout=15)
        self._channels = [each for each in self._channels if each() is not None] + [weakref.ref(channel)]
        return channel

    def begin(self, channel: paramiko.Channel, script: str, argv: list[str]) -> None:
        """Run a script of ours on a channel. A server that does not answer to that is not waited for."""
        check_words(self.device, argv)
        command = scripts.command(script, argv)
        giving_up = threading.Timer(limits.UNANSWERED_S, channel.close)
        giving_up.start()
        try:
            with self.border():
                channel.exec_command(command)
        finally:
            giving_up.cancel()

    def lost(self, cause: object = "") -> UnreachableError:
        """The error to raise now that the link does not work."""
        reason = self._why or cut(str(cause)) or "the connection was closed"
        return UnreachableError(f"{self.device.name}: the link broke: {reason}. Try again when it is back.")

    @contextlib.contextmanager
    def border(self) -> Iterator[None]:
        """paramiko's exceptions and the socket's end here."""
        try:
            yield
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self.lost(error) from None

    def close(self) -> None:
        self._closed.set()
        self._transport.close()
        self._wire.close()

    def _ping(self) -> None:
        while not self._closed.wait(_PING_S) and self.alive:
            with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
                self._transport.global_request("keepalive@openssh.com", wait=True)

    def _watch(self) -> None:
        while not self._closed.wait(1) and self.alive:
            if time.monotonic() - self._wire.heard_at > _SILENCE_S:
                self._why = f"nothing heard for {_SILENCE_S:g} s"
            elif any(_waiting(channel()) > limits.MOST_UNREAD_BYTES for channel in list(self._channels)):
                self._why = "it sends more than it was asked for"
            if self._why:
                self._transport.close()  # wakes whoever waits on it


def _waiting(channel: paramiko.Channel | None) -> int:
    """How much of what came on a channel nobody has read yet."""
    return 0 if channel is None else len(channel.in_buffer) + len(channel.in_stderr_buffer)


class _SshProcess:
    """A process on the device, known by its number there."""

    def __init__(self, link: _Link, argv: list[str]) -> None:
        self._link = link
        self._stderr = bytearray()
        self._pid = b""
        self._ahead = bytearray()  # read before the mark was complete
        self._channel = link.channel()
        link.begin(self._channel, scripts.START, argv)

    def send(self, data: bytes) -> None:
        # Not `sendall`: its timeout is the channel's, which whoever receives in another thread sets as well.
        deadline = time.monotonic() + limits.UNREAD_S
        rest = memoryview(data)
        with self._link.border():
            while rest:
                if self._channel.send_ready():
                    sent = self._channel.send(bytes(rest[: 1 << 15]))
                    if not sent:
                        raise EOFError("the process reads no more")
                    rest = rest[sent:]
                elif time.monotonic() > deadline:
                    raise TimeoutError("a process there reads nothing")
                else:
                    machine.sleep(0.003)

    def receive(self, timeout_s: float) -> bytes:
        deadline = time.monotonic() + timeout_s
        while True:
            self._drain()
            left = deadline - time.monotonic()
            self._channel.settimeout(max(0.01, min(_LOOK_S, left)))
            with contextlib.suppress(TimeoutError):
                data = self._channel.recv(_PIECE)
                if not data and not self._link.alive:
                    raise self._link.lost()
                data = self._after_mark(data)
                if data or self._channel.eof_received:
                    return data
            if left <= 0:
                raise TimeoutError

    def _after_mark(self, data: bytes) -> bytes:
        if self._pid:
            return data
        begin = max(0, len(self._ahead) - _LONGEST_MARK)
        self._ahead += data
        if (mark := _MARK.search(self._ahead, begin)) is None:
            if len(self._ahead) > limits.MOST_CHATTER_BYTES:
                raise too_large(self._link.device, "what its shell's profile prints", limits.MOST_CHATTER_BYTES)
            return b""
        self._pid = mark[1]
        return bytes(self._ahead[mark.end() :])

    def _drain(self) -> None:
        """Take what came on its stderr; who writes without end is not listened to without end."""
        for _ in range(0, limits.MOST_UNREAD_BYTES, _PIECE):
            if not self._channel.recv_stderr_ready():
                break
            limits.keep_end(self._stderr, self._channel.recv_stderr(_PIECE))

    def errors(self) -> str:
        self._drain()
        return self._stderr.decode(errors="replace")

    def finish(
        self, pieces: Iterator[bytes], sink: Callable[[bytes], object], timeout_s: float, argv: list[str]
    ) -> int:
        """Feed it `pieces`, give its stdout to `sink`, and return its exit code (-1: killed by a signal).

        What `pieces` and `sink` raise is theirs: a full disk of the host is no broken link.
        """
        deadline = time.monotonic() + timeout_s
        pending: memoryview | None = memoryview(b"")
        while True:
            moved = 0
            if pending is not None and len(pending) == 0 and (pending := _next(pieces)) is None:
                with contextlib.suppress(OSError):  # it may have ended already
                    self._channel.shutdown_write()
            if pending is not None and self._channel.send_ready():
                try:
                    moved = self._channel.send(bytes(pending[: 1 << 15]))
                    pending = pending[moved:]
                except (paramiko.SSHException, EOFError, OSError):
                    pending = None  # it ended without reading on; what it left is still to be read. Or the link broke
            if self._channel.recv_ready():
                with self._link.border():
                    data = self._channel.recv(_PIECE)
                moved += len(data)
                sink(self._after_mark(data))
            with self._link.border():
                self._drain()
            ended = self._channel.eof_received or self._channel.closed
            if ended and not self._channel.recv_ready() and not self._channel.recv_stderr_ready():
                break
            if time.monotonic() > deadline:
                raise TooSlowError(timed_out(self._link.device, argv, timeout_s))
            if not moved:
                machine.sleep(0.003)
        self._channel.status_event.wait(15)
        if not self._link.alive:
            raise self._link.lost()
        if not self._pid:
            said = limits.last_line(f"{self._ahead.decode(errors='replace')}\n{self.errors()}")
            raise ran_nothing(self._link.device, self._link.account, said, self._channel.exit_status)
        return self._channel.exit_status

    def kill(self) -> None:
        """Stop it on the device as well, as far as it can be reached."""
        if self._pid and self._link.alive:
            with contextlib.suppress(DeviceError):
                stopper = self._link.channel()
                self._link.begin(stopper, scripts.STOP, [self._pid.decode()])
                stopper.status_event.wait(5)
                stopper.close()
        self._channel.close()

    def close(self) -> None:
        with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
            self._channel.shutdown_write()
        if not self._channel.status_event.wait(5 if self._link.alive else 0):
            self.kill()
        self._channel.close()


def _next(pieces: Iterator[bytes]) -> memoryview | None:
    piece = next(pieces, None)
    return None if piece is None else memoryview(piece)


class SshConnection(Connection):
    """A device that answers SSH."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self._link: _Link | None = None
        self._home: str | None = None

    @property
    def home(self) -> str:
        if self._home is None:
            done = self.run(["sh", "-c", "cd && pwd"])
            self._home = home_of(self.device, done, "the user has no home folder there")
        return self._home

    def run(self, argv: list[str], timeout_s: float = 30, input: bytes | None = None) -> Completed:  # noqa: A002
        stdout = bytearray()
        sink = printed(stdout.extend, self.device, argv)
        code, stderr = self._finish(argv, timeout_s, iter([input or b""]), sink)
        return Completed(code, stdout.decode(errors="replace"), stderr)

    def put(
        self, local: Path, remote: str, timeout_s: float = 600, *, resume: bool = False, sent: Sent = not_told
    ) -> None:
        if not local.is_file():
            raise InputError(f"There is no file {local} to send.")
        path, size = self.path(remote), local.stat().st_size
        there = self._arrived(path, size) if resume else 0
        with local.open("rb") as file:
            file.seek(there)
            argv = ["sh", "-c", scripts.RESUME if resume else scripts.PUT, "sh", path, str(size), str(there)]
            pieces = _told(file, there, size, sent)
            try:
                sink = printed(lambda _: None, self.device, argv)
                code, stderr = self._finish(argv, timeout_s, pieces, sink, tidies_up=True)
            except TooSlowError:
                raise UnreachableError(
                    f"{self.device.name}: {remote} ({size} bytes) did not arrive within {timeout_s:g} s: the link is "
                    "too slow. Try again when it is better."
                ) from None
        if code != 0:
            raise unwritten(self.device, remote, limits.last_line(stderr) or "the file came short")

    def _arrived(self, path: str, size: int) -> int:
        """How much of a file an earlier call left there."""
        done = self.run(["sh", "-c", scripts.SIZE, "sh", path])
        there = int(done.stdout) if done.stdout.strip().isdigit() else 0
        if there <= size:
            return there
        self.run(["rm", "-f", "--", f"{path}.part"])
        return 0

    def get(
        self, remote: str, local: Path, timeout_s: float = 600, *, largest_bytes: int = limits.LARGEST_FILE_BYTES
    ) -> None:
        argv = ["sh", "-c", scripts.GET, "sh", self.path(remote)]
        try:
            with whole_file(local) as part:
                with part.open("wb") as file:
                    sink = bounded(file.write, self.device, remote, largest_bytes)
                    code, stderr = self._finish(argv, timeout_s, iter([]), sink)
                if code != 0:
                    raise DeviceError(f"{self.device.name}: {remote} could not be read: {limits.last_line(stderr)}.")
        except OSError as error:
            raise InputError(f"{local} could not be written here: {error.strerror}.") from None

    def start(self, argv: list[str]) -> Process:
        return _SshProcess(self._open(), argv)

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def _open(self) -> _Link:
        if self._link is not None and not self._link.alive:
            self.close()
        if self._link is None:
            self._link = _Link(self.device)
        return self._link

    def _finish(
        self,
        argv: list[str],
        timeout_s: float,
        pieces: Iterator[bytes],
        sink: Callable[[bytes], object],
        tidies_up: bool = False,
    ) -> tuple[int, str]:
        link = self._open()
        process = _SshProcess(link, argv)
        try:
            return process.finish(pieces, sink, timeout_s, argv), process.errors()
        except BaseException:
            if not tidies_up:  # what does is let go, not killed
                process.kill()
            raise
        finally:
            process.close()


def _told(file: BinaryIO, there: int, size: int, sent: Sent) -> Iterator[bytes]:
    """The rest of a file in pieces, telling how far it is."""
    while piece := file.read(1 << 18):
        yield piece
        there += len(piece)
        sent(there, size)


def fetch_host_key(device: Device) -> tuple[str, str]:
    """The host key that the device shows now, as a line and as its fingerprint. Nothing is trusted by this.

    Raises:
        DeviceError: unreachable, or no SSH server.
    """
    target = resolve(device)
    wire = _BoundedWire(device, target)
    transport = handshake(device, target, wire)
    try:
        line = key_line(transport)
    finally:
        transport.close()
        wire.close()
    return line, fingerprint(line)
