"""A small adbd: what the real `adb` client talks to in tests. It speaks the transport (CNXN, AUTH, OPEN, OKAY, WRTE,
CLSE), shell and shell_v2, and sync; commands really run, as this user, below a folder that is the phone.

Sources: the Android Open Source Project's adb/protocol.txt, adb/SYNC.TXT and adb/shell_protocol.h.
"""

import contextlib
import os
import queue
import re
import signal
import socket
import stat
import struct
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path

from tests.waiting import free_port

CNXN, AUTH, OPEN, OKAY, WRTE, CLSE = (
    int.from_bytes(word, "little") for word in (b"CNXN", b"AUTH", b"OPEN", b"OKAY", b"WRTE", b"CLSE")
)
VERSION, MOST_DATA = 0x01000001, 256 * 1024
TOKEN, SIGNATURE = 1, 2
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
SHELL = re.compile(rb"shell(?:,([^:]*))?:(.*)", re.DOTALL)
FEATURES = "shell_v2,cmd,stat_v2"


class Adbd:
    """A phone's adbd on a TCP port.

    Args:
        environment: of the commands that it runs.
        banner: what the phone is: `ro.product.name` and so on.
        folder: where they begin, in place of a phone's `/`: what one of them touches by accident is found there.
        authorised: whether the phone's owner has allowed this computer.

    Attributes:
        cut_after: bytes to receive from now on before the cable comes out; None: it stays in.
    """

    def __init__(
        self, environment: Mapping[str, str], banner: Mapping[str, str], folder: Path, authorised: bool = True
    ) -> None:
        self.environment = dict(environment)
        self.folder = folder
        self.authorised = authorised
        self.port = free_port()
        properties = "".join(f"{name}={value};" for name, value in banner.items())
        self.banner = f"device::{properties}features={FEATURES}".encode()
        self._cut_after: int | None = None
        self._received = 0
        self._links: list[_Link] = []
        self._listening: socket.socket | None = None
        self.plug_in()

    @property
    def serial(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def plugged(self) -> bool:
        return self._listening is not None

    @property
    def cut_after(self) -> int | None:
        return self._cut_after

    @cut_after.setter
    def cut_after(self, count: int | None) -> None:
        self._received = 0
        self._cut_after = count

    def plug_in(self) -> None:
        """Listen."""
        self._listening = socket.socket()
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listening.bind(("127.0.0.1", self.port))
        self._listening.listen()
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def unplug(self) -> None:
        """Drop every connection, and take none any more."""
        if self._listening is not None:
            with contextlib.suppress(OSError):
                self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
            self._listening = None
        for link in self._links:
            link.drop()
        self._links.clear()

    def count(self, received: int) -> None:
        """Take note of what came; the cable comes out when it was enough."""
        self._received += received
        if self._cut_after is not None and self._received > self._cut_after:
            self._cut_after = None
            self.unplug()
            raise ConnectionError("the cable is out")

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            link = _Link(self, connection)
            self._links.append(link)
            threading.Thread(target=link.serve, daemon=True).start()


class _Link:
    """One connection of an adb server."""

    def __init__(self, adbd: Adbd, connection: socket.socket) -> None:
        self.adbd = adbd
        self._connection = connection
        self._sending = threading.Lock()
        self._streams: dict[int, _Stream] = {}
        self._numbers = 0
        self.most_data = 4096

    def drop(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()
        for stream in list(self._streams.values()):
            stream.end()

    def send(self, command: int, first: int, second: int, data: bytes = b"") -> None:
        head = struct.pack("<6I", command, first, second, len(data), sum(data) & 0xFFFFFFFF, command ^ 0xFFFFFFFF)
        with self._sending:
            self._connection.sendall(head + data)

    def serve(self) -> None:
        try:
            while True:
                command, first, second, length, _, magic = struct.unpack("<6I", self._receive(24))
                assert magic == command ^ 0xFFFFFFFF
                self._take(command, first, second, self._receive(length))
        except (OSError, EOFError, ValueError):
            self.drop()

    def _receive(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = self._connection.recv(min(1 << 16, length - len(data)))
            if not piece:
                raise EOFError
            data += piece
            self.adbd.count(len(piece))
        return data

    def _take(self, command: int, first: int, second: int, data: bytes) -> None:
        if (command == CNXN and not self.adbd.authorised) or (command == AUTH and first == SIGNATURE):
            self.send(AUTH, TOKEN, 0, os.urandom(20))
        elif command == CNXN:
            self.most_data = min(second, MOST_DATA)
            self.send(CNXN, VERSION, MOST_DATA, self.adbd.banner)
        elif command == OPEN:
            self._numbers += 1
            stream = self._streams[self._numbers] = _Stream(self, self._numbers, first)
            threading.Thread(target=_serve, args=(stream, data.rstrip(b"\0")), daemon=True).start()
        elif (found := self._streams.get(second)) is not None:
            if command == WRTE:
                found.feed(data)
                self.send(OKAY, second, first)
            elif command == OKAY:
                found.acknowledged.set()
            elif command == CLSE:
                found.end()

    def forget(self, number: int) -> None:
        self._streams.pop(number, None)


class _Stream:
    """What an OPEN made: bytes both ways."""

    def __init__(self, link: _Link, number: int, theirs: int) -> None:
        self.link = link
        self._number, self._theirs = number, theirs
        self._pieces: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._ahead = b""
        self._ended = False
        self.acknowledged = threading.Event()

    def accept(self) -> None:
        self.link.send(OKAY, self._number, self._theirs)

    def refuse(self) -> None:
        self.link.send(CLSE, 0, self._theirs)

    def feed(self, data: bytes) -> None:
        self._pieces.put(data)

    def end(self) -> None:
        """The other side is gone: whoever reads or writes is woken."""
        self._ended = True
        self._pieces.put(b"")
        self.acknowledged.set()

    def read(self, length: int) -> bytes:
        """So many bytes; EOFError when the other side is gone."""
        while len(self._ahead) < length:
            piece = self._pieces.get()
            if not piece and self._ended:
                raise EOFError
            self._ahead += piece
        data, self._ahead = self._ahead[:length], self._ahead[length:]
        return data

    def write(self, data: bytes) -> None:
        for start in range(0, len(data), self.link.most_data):
            self.acknowledged.clear()
            if self._ended:
                raise EOFError
            self.link.send(WRTE, self._number, self._theirs, data[start : start + self.link.most_data])
            self.acknowledged.wait(60)
            if self._ended:
                raise EOFError

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.link.send(CLSE, self._number, self._theirs)
        self.link.forget(self._number)


def _serve(stream: _Stream, service: bytes) -> None:
    try:
        if (shell := SHELL.fullmatch(service)) is not None:
            stream.accept()
            if shell[1] and b"v2" in shell[1].split(b","):
                _Shell(stream, shell[2]).run()
            else:
                done = subprocess.run(_argv(shell[2]), **_setting(stream), stdin=subprocess.DEVNULL, check=False,
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
                stream.write(done.stdout)
        elif service == b"sync:":
            stream.accept()
            _Sync(stream).run()
        else:
            stream.refuse()
    except (OSError, EOFError):
        pass
    finally:
        stream.close()


def _argv(command: bytes) -> list[bytes]:
    return [b"sh", b"-c", command]


def _setting(stream: _Stream) -> dict[str, object]:
    return {"cwd": stream.link.adbd.folder, "env": stream.link.adbd.environment, "start_new_session": True}


class _Shell:
    """shell_v2: packets of a kind, a length and data."""

    def __init__(self, stream: _Stream, command: bytes) -> None:
        self._stream = stream
        self._writing = threading.Lock()
        self._process = subprocess.Popen(
            _argv(command), **_setting(stream), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            bufsize=0,
        )  # type: ignore[call-overload]  # fmt: skip

    def run(self) -> None:
        threading.Thread(target=self._pump_in, daemon=True).start()
        pumps = [
            threading.Thread(target=self._pump_out, args=(self._process.stdout, STDOUT), daemon=True),
            threading.Thread(target=self._pump_out, args=(self._process.stderr, STDERR), daemon=True),
        ]
        for pump in pumps:
            pump.start()
        for pump in pumps:
            pump.join()
        code = self._process.wait()
        self._packet(EXIT, bytes([code if code >= 0 else 128 - code]))

    def _packet(self, kind: int, data: bytes) -> None:
        with self._writing:
            self._stream.write(struct.pack("<BI", kind, len(data)) + data)

    def _pump_in(self) -> None:
        assert self._process.stdin is not None
        try:
            while True:
                kind, length = struct.unpack("<BI", self._stream.read(5))
                data = self._stream.read(length)
                if kind == STDIN:
                    with contextlib.suppress(OSError, ValueError):
                        self._process.stdin.write(data)
                elif kind == CLOSE_STDIN:
                    with contextlib.suppress(OSError):
                        self._process.stdin.close()
        except EOFError:
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGHUP)  # to the shell alone, as adbd does
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def _pump_out(self, pipe: "subprocess.IO[bytes]", kind: int) -> None:
        try:
            while data := pipe.read(1 << 16):
                self._packet(kind, data)
        except (OSError, EOFError, ValueError):
            pass
        finally:
            pipe.close()


class _Sync:
    """The file service."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream

    def run(self) -> None:
        while True:
            kind, length = struct.unpack("<4sI", self._stream.read(8))
            if kind == b"QUIT":
                return
            path = os.fsdecode(self._stream.read(length))
            {b"STAT": self._stat, b"STA2": self._stat2, b"LST2": self._lstat2, b"SEND": self._send,
             b"RECV": self._recv, b"LIST": self._list}[kind](path)  # fmt: skip

    def _stat(self, path: str) -> None:
        try:
            found = Path(path).lstat()
            self._stream.write(struct.pack("<4s3I", b"STAT", found.st_mode, found.st_size, int(found.st_mtime)))
        except OSError:
            self._stream.write(struct.pack("<4s3I", b"STAT", 0, 0, 0))

    def _stat2(self, path: str, follow: bool = True) -> None:
        kind = b"STA2" if follow else b"LST2"
        try:
            found = Path(path).stat(follow_symlinks=follow)
        except OSError as error:
            self._stream.write(struct.pack("<4sI64x", kind, error.errno or 5))
            return
        self._stream.write(
            struct.pack(
                "<4sI2Q4IQ3q", kind, 0, found.st_dev, found.st_ino, found.st_mode, found.st_nlink, found.st_uid,
                found.st_gid, found.st_size, int(found.st_atime), int(found.st_mtime), int(found.st_ctime),
            )
        )  # fmt: skip

    def _lstat2(self, path: str) -> None:
        self._stat2(path, follow=False)

    def _send(self, request: str) -> None:
        path, _, mode = request.rpartition(",")
        failure: OSError | None = None
        file = None
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "wb")  # noqa: PTH123, SIM115
            Path(path).chmod(stat.S_IMODE(int(mode)))
        except OSError as error:
            failure = error
        try:
            while True:
                kind, length = struct.unpack("<4sI", self._stream.read(8))
                if kind == b"DONE":
                    break
                assert kind == b"DATA" and length <= 1 << 16
                data = self._stream.read(length)
                try:
                    if file is not None:
                        file.write(data)
                        file.flush()
                except OSError as error:
                    failure = failure or error
        finally:
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()
        if failure is not None:
            self._fail(f"couldn't write file: {os.strerror(failure.errno or 5)}")
        else:
            self._stream.write(struct.pack("<4sI", b"OKAY", 0))

    def _recv(self, path: str) -> None:
        try:
            with open(path, "rb") as file:  # noqa: PTH123
                while data := file.read(1 << 16):
                    self._stream.write(struct.pack("<4sI", b"DATA", len(data)) + data)
        except OSError as error:
            self._fail(f"open failed: {os.strerror(error.errno or 5)}")
            return
        self._stream.write(struct.pack("<4sI", b"DONE", 0))

    def _list(self, path: str) -> None:
        with contextlib.suppress(OSError):
            for entry in sorted(Path(path).iterdir()):
                found, raw = entry.lstat(), os.fsencode(entry.name)
                head = struct.pack("<4s4I", b"DENT", found.st_mode, found.st_size, int(found.st_mtime), len(raw))
                self._stream.write(head + raw)
        self._stream.write(struct.pack("<4s4I", b"DONE", 0, 0, 0, 0))

    def _fail(self, why: str) -> None:
        self._stream.write(struct.pack("<4sI", b"FAIL", len(why)) + why.encode())
