"""Phones, through Google's own `adb` client: always with a serial number, and always with a time limit.

`adb shell` joins its arguments into one text for the phone's shell, so each is quoted here. Every command says its
process number first and its exit code last: what lacks the one never began, what lacks the other was cut.
"""

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from edgenas.device import limits
from edgenas.device.connection import (
    Completed,
    Connection,
    Process,
    Sent,
    check_words,
    home_of,
    not_told,
    printed,
    timed_out,
    too_large,
    unwritten,
    whole_file,
)
from edgenas.device.device import Device
from edgenas.device.process import LocalProcess, converse
from edgenas.errors import DeviceError, InputError, TooSlowError, UnreachableError

_QUICK_S = 15
# Android's adbd sets TMPDIR for its shells; what is older has the same folder.
_GO_HOME = 'cd "${TMPDIR:-/data/local/tmp}"'
_BEGIN = f"echo edgenas-pid:$$; {_GO_HOME} || exit 126; "
_RUN = _BEGIN + '"$@"; code=$?; printf "\\nedgenas-exit:%s\\n" "$code" >&2; exit $code'
_START = _BEGIN + 'exec "$@"'
_BEGUN = re.compile(rb"edgenas-pid:(\d{1,19})\r?\n")
_LONGEST_BEGUN = 40
_ENDED = re.compile(rb"\nedgenas-exit:(\d{1,3})\r?\n")
_STOP = 'kill -KILL -"$1" 2>/dev/null || kill -KILL "$1"'
_ROOM = 'mkdir -p -- "$(dirname -- "$1")" && rm -rf -- "$1.part"'
_SETTLE = (
    '[ "$(wc -c < "$1.part")" -eq "$2" ] || { echo "the file came short" >&2; exit 1; }; '
    'sum=$(sha256sum < "$1.part") || { echo "its Android has no sha256sum" >&2; exit 1; }; '
    '[ "${sum%% *}" = "$3" ] || { echo "other content arrived" >&2; exit 1; }; '
    '[ ! -d "$1" ] || { echo "a folder has that name" >&2; exit 1; }; mv -f -- "$1.part" "$1"'
)
# A pipe in the place of a file would be waited for for ever.
_HASH = (
    '[ ! -e "$1" ] || [ -f "$1" ] || { echo "it is no regular file" >&2; exit 1; }; sha256sum < "$1" && wc -c < "$1"'
)
_STATES = {
    "unauthorized": "the phone has not allowed this computer yet: unlock it, and confirm 'Allow USB debugging' on it",
    "authorizing": "the phone is being asked to allow this computer: unlock it, and confirm on it",
    "offline": "adb sees the phone, but it does not answer: unplug it and plug it in again, or: {again}",
    "connecting": "adb is still connecting to it: try again in a moment",
    "no permissions": (
        "this user may not open the phone's USB device: install Android's udev rules (Debian: "
        "android-sdk-platform-tools-common), or join the group plugdev; then plug it in again"
    ),
    "bootloader": "the phone is in its bootloader: start Android, with: fastboot reboot",
    "recovery": "the phone is in recovery: start Android, with: adb -s {serial} reboot",
    "sideload": "the phone waits for an update (sideload): start Android on it",
    "rescue": "the phone is in rescue mode: start Android on it",
    "host": "that is another adb host, no phone: name the phone's own serial number",
}


def find_adb() -> str:
    """The path of the adb client: what the environment variable ADB names, else the one on PATH.

    Raises:
        DeviceError: there is none.
    """
    named = os.environ.get("ADB")
    found = shutil.which(named or "adb")
    if found is None:
        what = f"ADB names {named!r}, which is no program" if named else "the program adb is not there"
        raise DeviceError(
            f"{what[0].upper()}{what[1:]}: install Android's platform tools (Debian and Ubuntu: sudo apt-get install "
            "adb), or name it: ADB=/path/to/adb"
        )
    return found


def explain_state(serial: str, states: Mapping[str, str]) -> str | None:
    """Why a phone cannot be used and what to do, in a line; None where adb finds nothing wrong with it.

    Args:
        serial: of the phone.
        states: serial number -> state, as `adb devices` lists them.
    """
    state = states.get(serial) or next((it for it in states.values() if it.startswith("no permissions")), None)
    again = f"adb disconnect {serial}; adb connect {serial}" if ":" in serial else f"adb -s {serial} reconnect"
    if state is None:
        others = f"adb sees {', '.join(sorted(states))}" if states else "adb sees no phone at all"
        connect = f"adb connect {serial}" if ":" in serial else "plug it in, and switch USB debugging on"
        return f"no phone {serial} is attached ({others}): {connect}"
    if state == "device":
        return None
    for known, text in _STATES.items():
        if state.startswith(known):
            return f"it is {known!r}: {text.format(serial=serial, again=again)}"
    return f"adb says it is {state[:60]!r}: unplug it and plug it in again, or: {again}"


def list_states(adb: str) -> dict[str, str]:
    """Serial number -> state of each phone that adb sees; empty where adb does not answer."""
    try:
        done = subprocess.run(
            [adb, "devices"], capture_output=True, timeout=_QUICK_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    found = {}
    for line in done.stdout.decode(errors="replace").splitlines():
        serial, tab, state = line.partition("\t")
        if tab:
            found[serial] = state.strip()
    return found


class _AdbProcess:
    """A process on the phone, known by its number there."""

    def __init__(self, connection: "AdbConnection", argv: list[str]) -> None:
        self._connection = connection
        self._local = LocalProcess(connection.shell(_START, argv), os.sep)
        self._pid = b""
        self._ahead = bytearray()

    def send(self, data: bytes) -> None:
        self._local.send(data)

    def receive(self, timeout_s: float) -> bytes:
        deadline = time.monotonic() + timeout_s
        while True:
            left = deadline - time.monotonic()
            data = self._local.receive(max(0.0, left))
            if self._pid or not data:
                return data
            begin = max(0, len(self._ahead) - _LONGEST_BEGUN)
            self._ahead += data
            if (mark := _BEGUN.search(self._ahead, begin)) is not None:
                self._pid = mark[1]
                if rest := bytes(self._ahead[mark.end() :]):
                    return rest
            elif len(self._ahead) > limits.MOST_CHATTER_BYTES:
                raise too_large(self._connection.device, "what its shell prints first", limits.MOST_CHATTER_BYTES)
            if left <= 0:
                raise TimeoutError

    def errors(self) -> str:
        return self._local.errors()

    def close(self) -> None:
        self._local.close()
        if self._pid and self._local.killed:
            self._connection.stop(self._pid)


class AdbConnection(Connection):
    """A phone that adb reaches, by its serial number."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self._serial = device.address.host
        self._home: str | None = None

    @property
    def home(self) -> str:
        if self._home is None:
            self._home = home_of(self.device, self.run(["pwd"]), "it has no folder /data/local/tmp")
        return self._home

    def run(self, argv: list[str], timeout_s: float = 30, input: bytes | None = None) -> Completed:  # noqa: A002
        process = subprocess.Popen(
            self.shell(_RUN, argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        stdout, stderr = bytearray(), bytearray()
        try:
            converse(process, input or b"", timeout_s, printed(stdout.extend, self.device, argv), stderr)
        except TimeoutError:
            if (begun := _BEGUN.search(stdout)) is not None:
                self.stop(begun[1])
            raise TooSlowError(timed_out(self.device, argv, timeout_s)) from None
        begun = _BEGUN.search(stdout)
        ended = list(_ENDED.finditer(stderr))
        if begun is None or not ended:
            raise self._lost(stderr)
        said = stderr[: ended[-1].start()] + stderr[ended[-1].end() :]
        return Completed(
            int(ended[-1][1]), stdout[begun.end() :].decode(errors="replace"), said.decode(errors="replace")
        )

    def put(
        self, local: Path, remote: str, timeout_s: float = 600, *, resume: bool = False, sent: Sent = not_told
    ) -> None:
        if not local.is_file():
            raise InputError(f"There is no file {local} to send.")
        target = self.path(remote)
        with local.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size_bytes = file.tell()
        try:
            self._check(["sh", "-c", _ROOM, "sh", target], remote)
            failed = f"{remote} could not be written"
            self._transfer(["push", str(local.absolute()), f"{target}.part"], timeout_s, failed)
            self._check(["sh", "-c", _SETTLE, "sh", target, str(size_bytes), digest], remote, timeout_s)
            sent(size_bytes, size_bytes)  # adb tells nothing on the way, and begins anew what was cut
        except BaseException:
            with contextlib.suppress(DeviceError):  # where it is out of reach the next one removes it
                self.run(["rm", "-rf", "--", f"{target}.part"], _QUICK_S)
            raise

    def get(
        self, remote: str, local: Path, timeout_s: float = 600, *, largest_bytes: int = limits.LARGEST_FILE_BYTES
    ) -> None:
        source = self.path(remote)
        with whole_file(local) as part:
            done = self.run(["sh", "-c", _HASH, "sh", source], timeout_s)
            if done.returncode != 0:
                raise DeviceError(f"{self.device.name}: {remote} could not be read: {_last(done.stderr)}.")
            words = done.stdout.split()
            digest, size_bytes = (words[0], words[-1]) if len(words) > 1 else ("", "")
            if re.fullmatch("[0-9]{1,19}", size_bytes) and int(size_bytes) > largest_bytes:
                raise too_large(self.device, remote, largest_bytes)

            def watch() -> None:  # what it sends need not be what it said
                if part.is_file() and part.stat().st_size > largest_bytes:
                    raise too_large(self.device, remote, largest_bytes)

            self._transfer(["pull", source, str(part.absolute())], timeout_s, f"{remote} could not be read", watch)
            with part.open("rb") as file:
                received = hashlib.file_digest(file, "sha256").hexdigest()
            if received != digest:
                raise DeviceError(f"{self.device.name}: {remote} arrived with other content than it has there.")

    def start(self, argv: list[str]) -> Process:
        return _AdbProcess(self, argv)

    def close(self) -> None:
        pass

    def shell(self, script: str, argv: list[str]) -> list[str]:
        """What to run here for `script` to run on the phone, `argv` being its arguments.

        The phone's first shell runs it, which leads a process group: so what it starts can be ended with it.
        """
        check_words(self.device, argv)
        return [find_adb(), "-s", self._serial, "shell", "-T", f"set -- {shlex.join(argv)}; {script}"]

    def stop(self, pid: bytes) -> None:
        """End a process there and what it started, as far as the phone can be reached."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            argv = self.shell(_STOP, [pid.decode()])
            subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_QUICK_S, check=False)

    def _check(self, argv: list[str], remote: str, timeout_s: float = 30) -> None:
        done = self.run(argv, timeout_s)
        if done.returncode != 0:
            raise unwritten(self.device, remote, _last(done.stderr))

    def _transfer(
        self, argv: list[str], timeout_s: float, failed: str, watch: Callable[[], None] = lambda: None
    ) -> None:
        """Run adb to its end; `watch` is called now and then, and at the end."""
        process = subprocess.Popen(
            [find_adb(), "-s", self._serial, *argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        stdout, stderr = bytearray(), bytearray()
        try:
            converse(process, b"", timeout_s, printed(stdout.extend, self.device, argv), stderr, watch)
        except TimeoutError:
            raise DeviceError(f"{self.device.name}: {failed} within {timeout_s:g} s.") from None
        if process.returncode != 0:
            why = explain_state(self._serial, list_states(find_adb()))
            lines = (stdout + b"\n" + stderr).decode(errors="replace").splitlines()
            said = _last("\n".join([line for line in lines if "error" in line] or lines))  # the rest is progress
            if why is not None:
                raise UnreachableError(f"{self.device.name}: {failed}: {said}; {why}.")
            raise DeviceError(f"{self.device.name}: {failed}: {said}.")

    def _lost(self, stderr: bytearray) -> UnreachableError:
        """The error to raise when adb did not get through to the phone, or not back."""
        said = stderr.decode(errors="replace").strip()
        why = explain_state(self._serial, list_states(find_adb()))
        if why is None:
            why = f"the link broke ({_last(said) or 'adb ended early'}): try again when it is back"
        return UnreachableError(f"{self.device.name}: {why}.")


def _last(text: str) -> str:
    """The last line of what adb or a phone said, without adb's own name."""
    return limits.last_line(text).removeprefix("adb: ").removeprefix("error: ") or "it does not say why"
