"""What a way to a device can do, and the way to this machine itself."""

import abc
import contextlib
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from edgenas.device import limits
from edgenas.device.device import Device
from edgenas.device.process import LocalProcess, converse
from edgenas.device.remedies import remedy_for
from edgenas.errors import DeviceError, InputError, TooSlowError, shown
from edgenas.files import user_path

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
        """The end of what it wrote to stderr."""

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

        A program that is not there gives returncode 127, as in a shell. Of its stderr the end is kept.

        Raises:
            TooSlowError: not done after `timeout_s` (what can be killed is).
            DeviceError: unreachable, or it prints more than `limits` allows.
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
    def get(
        self, remote: str, local: Path, timeout_s: float = 600, *, largest_bytes: int = limits.LARGEST_FILE_BYTES
    ) -> None:
        """Copy a file from the device: it is there whole, or not at all.

        Args:
            largest_bytes: what it may have: a device cannot fill the host's disk.

        Raises:
            DeviceError: no such file there, it is larger, it is no regular file, or the link broke.
        """

    @abc.abstractmethod
    def start(self, argv: list[str]) -> Process:
        """Start a long-running command."""

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of the device. Closing twice is fine."""

    def path(self, remote: str) -> str:
        """`remote` as an absolute path on the device: `~` and relative paths are below its home."""
        check_words(self.device, [remote])
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
        return str(user_path("~"))

    def run(self, argv: list[str], timeout_s: float = 30, input: bytes | None = None) -> Completed:  # noqa: A002
        check_words(self.device, argv)
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=self.home,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            return Completed(126 if isinstance(error, PermissionError) else 127, "", f"{argv[0]}: {error.strerror}")
        stdout, stderr = bytearray(), bytearray()
        try:
            converse(process, input or b"", timeout_s, printed(stdout.extend, self.device, argv), stderr)
        except TimeoutError:
            raise TooSlowError(timed_out(self.device, argv, timeout_s)) from None
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
            raise unwritten(self.device, remote, str(error.strerror)) from None

    def get(
        self, remote: str, local: Path, timeout_s: float = 600, *, largest_bytes: int = limits.LARGEST_FILE_BYTES
    ) -> None:
        try:
            with whole_file(local) as part, part.open("wb") as file:
                sink = bounded(file.write, self.device, remote, largest_bytes)
                # A pipe that nobody writes to would be waited for for ever.
                source = os.open(self.path(remote), os.O_RDONLY | os.O_NONBLOCK)
                try:
                    if not stat.S_ISREG(os.fstat(source).st_mode):
                        raise DeviceError(f"{self.device.name}: {remote} could not be read: it is no regular file.")
                    while piece := os.read(source, 1 << 20):
                        sink(piece)
                finally:
                    os.close(source)
        except OSError as error:
            raise DeviceError(f"{self.device.name}: {remote} could not be read: {error.strerror}.") from None

    def start(self, argv: list[str]) -> Process:
        check_words(self.device, argv)
        try:
            return LocalProcess(argv, self.home)
        except OSError as error:
            raise DeviceError(f"{self.device.name}: {argv[0]} did not start: {error.strerror}.") from None

    def close(self) -> None:
        pass


@contextlib.contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A file to write beside `target`, which takes its name only when the block ends without an error, and is synced
    first: a power cut leaves no file that has the name and not the content."""
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)  # a pipe would be waited for
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def bounded(
    sink: Callable[[bytes], object], device: Device, what: str, largest_bytes: int
) -> Callable[[bytes], object]:
    """`sink`, for pieces of what a device sends: `DeviceError` instead of more than so many bytes."""
    got = 0

    def take(piece: bytes) -> None:
        nonlocal got
        got += len(piece)
        if got > largest_bytes:
            raise too_large(device, what, largest_bytes)
        sink(piece)

    return take


def printed(sink: Callable[[bytes], object], device: Device, argv: Sequence[str]) -> Callable[[bytes], object]:
    """`sink`, for pieces of what a command prints."""
    return bounded(sink, device, f"the output of {_words(argv)}", limits.MOST_OUTPUT_BYTES)


def unwritten(device: Device, remote: str, said: str) -> DeviceError:
    """The error to raise at a file that a device does not take, in its own words."""
    return DeviceError(f"{device.name}: {remote} could not be written: {said}. {remedy_for(said)}".rstrip())


def too_large(device: Device, what: str, largest_bytes: int) -> DeviceError:
    """The error to raise at what a device sends that is larger than it can be."""
    return DeviceError(f"{device.name}: expected {what} to have at most {largest_bytes} bytes, received more.")


def timed_out(device: Device, argv: Sequence[str], timeout_s: float) -> str:
    """What to say when a command took too long."""
    return f"{device.name}: {_words(argv)} was not done after {timeout_s:g} s, and was stopped."


def check_words(device: Device, words: Sequence[str]) -> None:
    """Raise `DeviceError` for what no program can be given as a path or an argument; a device may have said it."""
    for word in words:
        try:
            impossible = b"\0" in os.fsencode(word)
        except UnicodeEncodeError:  # half of a character
            impossible = True
        if impossible:
            raise DeviceError(f"{device.name}: {shown(word)} can be no path or argument there.")


def home_of(device: Device, done: Completed, otherwise: str) -> str:
    """The home folder that a device named.

    Raises:
        DeviceError: it named none; `otherwise` says what that means.
    """
    home = done.stdout.rstrip("\n")
    if done.returncode != 0 or not home.startswith("/") or len(home) > limits.LONGEST_PATH:
        raise DeviceError(f"{device.name}: {otherwise}: {limits.last_line(done.stderr) or shown(home)}")
    check_words(device, [home])
    return home


def _words(argv: Sequence[str]) -> str:
    return repr(" ".join(argv)[:120])
