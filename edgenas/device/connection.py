"""What a way to a device can do, and the way to this machine itself."""

import abc
import contextlib
import os
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from edgenas.device.device import Device
from edgenas.errors import DeviceError, InputError, TooSlowError

Sent = Callable[[int, int], None]


def not_told(done: int, total: int) -> None:
    """Ignores how far a file is."""


@dataclass(frozen=True)
class Completed:
    """What a command on the device left."""

    returncode: int
    stdout: str
    stderr: str


class Process(Protocol):
    """A process on the device, and the pipes to it."""

    def send(self, data: bytes) -> None:
        """Write all of `data` to its stdin; DeviceError when it is gone."""

    def receive(self, timeout_s: float) -> bytes:
        """Some bytes of its stdout, b"" at the end; TimeoutError after `timeout_s` of silence."""

    def errors(self) -> str:
        """The last of what it wrote to stderr."""

    def close(self) -> None:
        """Close its stdin, give it a moment to end, kill it."""


class Connection(abc.ABC):
    """A way to one device. All kinds pass the same contract tests (`tests/device/test_connection.py`)."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    @abc.abstractmethod
    def home(self) -> str:
        """The absolute path of the user's home on the device; commands start there."""

    @abc.abstractmethod
    def run(self, argv: list[str], timeout_s: float = 30, input: bytes | None = None) -> Completed:  # noqa: A002
        """Run a command to its end, its arguments passed as they are, never through a shell's eyes.

        A program that is not there gives returncode 127, as in a shell.

        Raises:
            TooSlowError: not done after `timeout_s` (what can be killed is).
            DeviceError: unreachable.
        """

    @abc.abstractmethod
    def put(
        self, local: Path, remote: str, timeout_s: float = 600, *, resume: bool = False, sent: Sent = not_told
    ) -> None:
        """Copy a file to the device, folders made as needed: it is there whole under its name, or not at all.

        Args:
            resume: go on with what an earlier call that was cut left there, and leave the same to a later one. The name
                has to follow from the content, as its hash does. Not every way can: then all is sent.
            sent: told (bytes there, of) now and then.

        Raises:
            InputError: there is no such file here.
            UnreachableError: the link broke, or was too slow.
            DeviceError: the device has no room, or refused.
        """

    @abc.abstractmethod
    def get(self, remote: str, local: Path, timeout_s: float = 600, *, largest_bytes: int | None = None) -> None:
        """Copy a file from the device: it is there whole, or not at all.

        Args:
            largest_bytes: what it may have, where that is known: a device cannot fill the host's disk.

        Raises:
            DeviceError: no such file there, it is larger, or the link broke.
        """

    @abc.abstractmethod
    def start(self, argv: list[str]) -> Process:
        """Start a long-running command."""

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of the device. Closing twice is fine."""

    def path(self, remote: str) -> str:
        """`remote` as an absolute path on the device: `~` and relative paths are below its home."""
        if remote.startswith("/"):
            return remote
        return f"{self.home}/{remote.removeprefix('~').lstrip('/')}".rstrip("/")

    @property
    def folder(self) -> str:
        """The absolute path of EdgeNAS' work folder on the device."""
        return self.path(self.device.folder)


class LocalConnection(Connection):
    """This machine as a device."""

    @property
    def home(self) -> str:
        return str(Path.home())

    def run(self, argv: list[str], timeout_s: float = 30, input: bytes | None = None) -> Completed:  # noqa: A002
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=self.home,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            return Completed(126 if isinstance(error, PermissionError) else 127, "", f"{argv[0]}: {error.strerror}")
        try:
            stdout, stderr = process.communicate(input or b"", timeout_s)
        except subprocess.TimeoutExpired:
            kill_process(process)
            raise TooSlowError(timed_out(self.device, argv, timeout_s)) from None
        except BaseException:
            kill_process(process)
            raise
        return Completed(process.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace"))

    def put(
        self, local: Path, remote: str, timeout_s: float = 600, *, resume: bool = False, sent: Sent = not_told
    ) -> None:
        if not local.is_file():
            raise InputError(f"There is no file {local} to send.")
        target = Path(self.path(remote))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(target) as part:  # a copy on one machine is not cut: nothing to go on with
                shutil.copyfile(local, part)
        except OSError as error:
            raise DeviceError(f"{self.device.name}: {remote} could not be written: {error.strerror}.") from None

    def get(self, remote: str, local: Path, timeout_s: float = 600, *, largest_bytes: int | None = None) -> None:
        try:
            with whole_file(local) as part, Path(self.path(remote)).open("rb") as source, part.open("wb") as file:
                sink = bounded(file.write, self.device, remote, largest_bytes)
                while piece := source.read(1 << 20):
                    sink(piece)
        except OSError as error:
            raise DeviceError(f"{self.device.name}: {remote} could not be read: {error.strerror}.") from None

    def start(self, argv: list[str]) -> Process:
        try:
            return LocalProcess(argv, self.home)
        except OSError as error:
            raise DeviceError(f"{self.device.name}: {argv[0]} did not start: {error.strerror}.") from None

    def close(self) -> None:
        pass


class LocalProcess:
    """A process on this machine, and the pipes to it.

    Attributes:
        killed: whether it had to be killed, since it did not end by itself.
    """

    def __init__(self, argv: list[str], folder: str) -> None:
        self.killed = False
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, cwd=folder, bufsize=0,
            start_new_session=True,
        )  # fmt: skip

    def send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._process.stdin.write(rest) or 0 :]
        except (OSError, ValueError) as error:
            raise DeviceError(f"The process has ended: {error}.") from None

    def receive(self, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        try:
            if not select.select([self._process.stdout], [], [], timeout_s)[0]:
                raise TimeoutError
            return os.read(self._process.stdout.fileno(), 1 << 16)
        except ValueError:  # closed meanwhile, by another thread
            return b""

    def errors(self) -> str:
        if self._stderr.closed:
            return ""
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - 4000))
        return self._stderr.read().decode(errors="replace")

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self.killed = True
            kill_process(self._process)
        self._process.stdout.close()
        self._stderr.close()


def kill_process(process: subprocess.Popen[bytes]) -> None:
    """End a process of this machine, and what it started; its pipes are closed."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


@contextlib.contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A file to write beside `target`, which takes its name only when the block ends without an error, and is synced
    first: a power cut leaves no file that has the name and not the content."""
    part = target.with_name(target.name + ".part")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def bounded(
    sink: Callable[[bytes], object], device: Device, remote: str, largest_bytes: int | None
) -> Callable[[bytes], object]:
    """`sink`, for pieces of a device's file: `DeviceError` instead of more than so many bytes; None: no end."""
    got = 0

    def take(piece: bytes) -> None:
        nonlocal got
        got += len(piece)
        if largest_bytes is not None and got > largest_bytes:
            raise too_large(device, remote, largest_bytes)
        sink(piece)

    return take


def too_large(device: Device, remote: str, largest_bytes: int) -> DeviceError:
    """The error to raise at a file of a device that is larger than it can be."""
    return DeviceError(f"{device.name}: expected {remote} to have at most {largest_bytes} bytes, received more.")


def timed_out(device: Device, argv: list[str], timeout_s: float) -> str:
    """What to say when a command took too long."""
    return f"{device.name}: {' '.join(argv)[:120]!r} was not done after {timeout_s:g} s, and was stopped."
