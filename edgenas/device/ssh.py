"""SSH to a device, on paramiko. Everything has a timeout, and a link that falls silent is noticed within 15 s.

Files travel through `cat` on the device rather than SFTP: small boards have no SFTP server, a full disk is named
as such, and what arrived short is removed by the device itself even when the link is gone.
"""

import contextlib
import re
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import paramiko

from edgenas.device.agent import machine
from edgenas.device.connection import (
    Completed,
    Connection,
    Process,
    Sent,
    bounded,
    not_told,
    timed_out,
    whole_file,
)
from edgenas.device.device import Device, fingerprint
from edgenas.device.login import Wire, authenticate, check_host_key, handshake, key_line
from edgenas.device.target import resolve
from edgenas.errors import DeviceError, InputError, TooSlowError, UnreachableError

_PING_S = 4.0
_SILENCE_S = 12.0
# Says the process's number (so that it can be stopped), goes home, and becomes the command.
_START = 'echo edgenas-pid:$$; cd 2>/dev/null; exec "$@"'
_MARK = re.compile(rb"edgenas-pid:(\d+)\r?\n")  # what a chatty shell profile printed before it is dropped
_STOP = 'kill -KILL -"$1" 2>/dev/null || kill -KILL "$1"'
# Synced before it takes its name: a power cut leaves no file that has the name and not the content. An old `sync` takes
# no file, and syncs all there is.
_PUT = (
    'mkdir -p -- "$(dirname -- "$1")" && cat > "$1.part" && [ "$(wc -c < "$1.part")" -eq "$2" ] && '
    '{ sync "$1.part" 2>/dev/null || sync 2>/dev/null || :; } && '
    'mv -f -- "$1.part" "$1" && exit 0; rm -f -- "$1.part"; exit 1'
)
# The same, going on where it was; not synced, for whoever asks for this checks the content's hash before it is used.
# Cut again (2), what came stays; without room or whatever else (1), nothing does.
# It goes on in a copy, where there is room, of what was there when it was asked: the process of a link that broke may
# write on into what it has open.
_RESUME = (
    'mkdir -p -- "$(dirname -- "$1")" || exit 1; '
    'if [ -s "$1.part" ]; then head -c "$3" "$1.part" > "$1.part-$$" && '
    'mv -f -- "$1.part-$$" "$1.part" || rm -f -- "$1.part-$$"; fi; '
    'cat >> "$1.part" || { rm -f -- "$1.part"; exit 1; }; '
    'have=$(wc -c < "$1.part") && [ "$have" -lt "$2" ] && exit 2; '
    '[ "$have" -eq "$2" ] && mv -f -- "$1.part" "$1" && exit 0; rm -f -- "$1.part"; exit 1'
)
_SIZE = 'test -f "$1.part" && wc -c < "$1.part" || echo 0'


class _Link:
    """One logged-in transport and its heartbeat."""

    def __init__(self, device: Device) -> None:
        self.device = device
        target = resolve(device)
        self._wire = Wire(device, target)
        self._transport = handshake(device, target, self._wire)
        self._closed = threading.Event()
        self._silent = False
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
            return self._transport.open_session(timeout=15)

    def lost(self, cause: object = "") -> UnreachableError:
        """The error to raise now that the link does not work."""
        reason = f"nothing heard for {_SILENCE_S:g} s" if self._silent else str(cause) or "the connection was closed"
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
                self._silent = True
                self._transport.close()  # wakes whoever waits on it


class _SshProcess:
    """A process on the device, known by its number there."""

    def __init__(self, link: _Link, argv: list[str]) -> None:
        self._link = link
        self._stderr = bytearray()
        self._pid = b""
        self._ahead = b""  # read before the mark was complete
        self._channel = link.channel()
        with link.border():
            self._channel.exec_command(shlex.join(["sh", "-c", _START, "sh", *argv]))

    def send(self, data: bytes) -> None:
        # Not `sendall`: its timeout is the channel's, which whoever receives in another thread sets as well.
        deadline = time.monotonic() + 60  # a process that does not read for a minute
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
            del self._stderr[:-1_000_000]  # of a process that talks all day
            left = deadline - time.monotonic()
            self._channel.settimeout(max(0.01, min(1, left)))
            try:
                data = self._channel.recv(1 << 16)
            except TimeoutError:
                if left <= 0:
                    raise
                continue
            if not data and not self._link.alive:
                raise self._link.lost()
            data = self._after_mark(data)
            if data or self._channel.eof_received:
                return data

    def _after_mark(self, data: bytes) -> bytes:
        if self._pid:
            return data
        self._ahead += data
        if (mark := _MARK.search(self._ahead)) is None:
            return b""
        self._pid = mark[1]
        return self._ahead[mark.end() :]

    def _drain(self) -> None:
        while self._channel.recv_stderr_ready():
            self._stderr += self._channel.recv_stderr(1 << 16)

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
                    data = self._channel.recv(1 << 16)
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
        return self._channel.exit_status

    def kill(self) -> None:
        """Stop it on the device as well, as far as it can be reached."""
        if self._pid and self._link.alive:
            with contextlib.suppress(DeviceError, paramiko.SSHException, OSError):
                stopper = self._link.channel()
                stopper.exec_command(shlex.join(["sh", "-c", _STOP, "sh", self._pid.decode()]))
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
            home = done.stdout.rstrip("\n")
            if done.returncode != 0 or not home.startswith("/"):
                raise DeviceError(f"{self.device.name}: the user has no home folder there: {done.stderr.strip()}")
            self._home = home
        return self._home

    def run(self, argv: list[str], timeout_s: float = 30, input: bytes | None = None) -> Completed:  # noqa: A002
        stdout = bytearray()
        code, stderr = self._finish(argv, timeout_s, iter([input or b""]), stdout.extend)
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
            argv = ["sh", "-c", _RESUME if resume else _PUT, "sh", path, str(size), str(there)]
            pieces = _told(file, there, size, sent)
            try:
                code, stderr = self._finish(argv, timeout_s, pieces, lambda _: None, tidies_up=True)
            except TooSlowError:
                raise UnreachableError(
                    f"{self.device.name}: {remote} ({size} bytes) did not arrive within {timeout_s:g} s: the link is "
                    "too slow. Try again when it is better."
                ) from None
        if code != 0:
            raise DeviceError(
                f"{self.device.name}: {remote} could not be written: {_last(stderr) or 'the file came short'}."
            )

    def _arrived(self, path: str, size: int) -> int:
        """How much of a file an earlier call left there."""
        done = self.run(["sh", "-c", _SIZE, "sh", path])
        there = int(done.stdout) if done.stdout.strip().isdigit() else 0
        if there <= size:
            return there
        self.run(["rm", "-f", "--", f"{path}.part"])
        return 0

    def get(self, remote: str, local: Path, timeout_s: float = 600, *, largest_bytes: int | None = None) -> None:
        argv = ["cat", "--", self.path(remote)]
        try:
            with whole_file(local) as part:
                with part.open("wb") as file:
                    sink = bounded(file.write, self.device, remote, largest_bytes)
                    code, stderr = self._finish(argv, timeout_s, iter([]), sink)
                if code != 0:
                    raise DeviceError(f"{self.device.name}: {remote} could not be read: {_last(stderr)}.")
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


def _last(stderr: str) -> str:
    lines = stderr.strip().splitlines()
    return lines[-1].strip().rstrip(".") if lines else ""


def fetch_host_key(device: Device) -> tuple[str, str]:
    """The host key that the device shows now, as a line and as its fingerprint. Nothing is trusted by this.

    Raises:
        DeviceError: unreachable, or no SSH server.
    """
    target = resolve(device)
    wire = Wire(device, target)
    transport = handshake(device, target, wire)
    try:
        line = key_line(transport)
    finally:
        transport.close()
        wire.close()
    return line, fingerprint(line)
