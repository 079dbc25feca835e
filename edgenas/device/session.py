"""The host's side of the agent: starts it, asks it, and believes nothing it says unchecked."""

import contextlib
import functools
import getpass
import hashlib
import io
import itertools
import json
import os
import re
import socket
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from edgenas.device import limits
from edgenas.device.agent.inspection import boot_id
from edgenas.device.connection import Connection, Process
from edgenas.device.phone import PhoneInfo
from edgenas.device.pythons import alone, candidates, find_python
from edgenas.errors import CheckFailedError, DeviceError, InputError, UnreachableError, WentBackError, shown
from edgenas.files import canonical_json, from_mapping, parse_json

_MOST_CORES, _MOST_KB = 1 << 16, 1 << 40  # no device has more of anything
# An agent that holds its device ends when it has not heard of this host for so long; it hears six times as often.
_LEASE_S = 30.0
# What the agent can refuse with, when it is not the device that fails but a check on it.
_CHECKS = {
    "no_space", "hash_mismatch", "no_previous", "bad_model", "model_crashed", "out_of_memory", "bad_signature",
    "replayed", "last_key",
}  # fmt: skip
_MISTAKES = {"bad_name", "unknown_model", "bad_key", "unknown_key", "bad_command"}
_FOR_SETUP = {
    "no_runtime": "To install it: edgenas device setup {}",
    "no_cryptography": (
        "To install it: edgenas device setup {}; where that cannot, it says why, and the device checks hashes only "
        "(docs/threat-model.md)"
    ),
}


@dataclass(frozen=True)
class RuntimeState:
    """A TFLite runtime on a device."""

    package: str
    version: str | None  # None: it does not import
    error: str | None  # why not


@dataclass(frozen=True)
class DeviceInfo:
    """What the agent says about its device at `hello`."""

    agent: int
    pid: int
    python: str
    machine: str  # "x86_64", "aarch64", "armv7l"
    system: str
    libc: str  # "glibc 2.36"
    bits: int  # of a pointer: 32 or 64
    cpu: str
    cores: int
    memory_total_kb: int
    memory_available_kb: int
    disk_free_kb: int  # where the work folder is
    boot_id: str | None
    kernel: str
    os: str
    firmware: str | None
    governor: str | None  # of the processor's frequency
    hostname: str
    numpy: str | None
    runtimes: tuple[RuntimeState, ...]
    accelerators: tuple[str, ...]  # seen, but not usable
    cryptography: str | None = None  # its version, to check signatures with

    @property
    def fingerprint(self) -> str:
        """12 hex digits for this kind of device: processor, memory, system, firmware, governor; not its name."""
        memory = round(self.memory_total_kb / (256 * 1024))
        what = [self.cpu, self.cores, memory, self.machine, self.os, self.kernel, self.firmware, self.governor]
        return hashlib.sha256(canonical_json(what).encode()).hexdigest()[:12]

    @property
    def possible(self) -> bool:
        """Whether there can be such a device at all; what it says of itself is anybody's word."""
        sizes_kb = (self.memory_total_kb, self.memory_available_kb, self.disk_free_kb)
        python = re.fullmatch(r"3\.\d{1,3}(\..*)?", self.python)
        sizes = 0 < self.cores <= _MOST_CORES and min(sizes_kb) >= 0 and max(sizes_kb) < _MOST_KB
        return bool(python and self.bits in (32, 64) and sizes)

    def runtime(self, package: str) -> RuntimeState:
        """How a runtime is doing there."""
        for state in self.runtimes:
            if state.package == package:
                return state
        return RuntimeState(package, None, "not installed")


def shares_host(info: DeviceInfo | PhoneInfo) -> bool:
    """Whether the device is this very machine (in a container too), so that the host's work disturbs it."""
    return info.boot_id is not None and info.boot_id == boot_id()


@functools.cache
def agent_program() -> bytes:
    """The agent as one file that Python runs; the same bytes for the same source."""
    folder = Path(__file__).parent / "agent"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in sorted(folder.glob("*.py")):
            archive.writestr(zipfile.ZipInfo(f"agent/{path.name}"), path.read_bytes())
        archive.writestr(zipfile.ZipInfo("__main__.py"), "from agent.main import main\n\nmain()\n")
    return content.getvalue()


def open_agent(connection: Connection) -> "Agent":
    """Start the agent, sent first when this version of it is not there, or not whole.

    Raises:
        DeviceError: unreachable, no Python (no phone has one), or it did not start.
    """
    if connection.device.address.kind == "adb":
        raise DeviceError(
            f"{connection.device.name}: a phone has no Python, so the agent does not run there; models are measured "
            "there with benchmark_model."
        )
    program = agent_program()
    digest = hashlib.sha256(program).hexdigest()
    remote = f"{connection.folder}/agents/agent-{digest[:16]}.pyz"
    python, found = find_python(connection, remote)
    if python is None:
        raise DeviceError(
            f"{connection.device.name}: no Python 3.8 or later was found there (looked for "
            f"{', '.join(candidates(connection))}){found}. Install one on it, such as: sudo apt-get install python3 "
            f"python3-venv; then: edgenas device setup {connection.device.name}"
        )
    if found != digest:
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / "agent.pyz"
            local.write_bytes(program)
            connection.put(local, remote)
    return Agent(connection, connection.start([*alone(connection, python), "-u", remote, connection.folder]))


class Agent:
    """A conversation with the agent on a device; closed by `with`."""

    def __init__(self, connection: Connection, process: Process) -> None:
        self.device = connection.device
        self._process = process
        self._numbers = itertools.count(1)
        self._sending = threading.Lock()
        self._closed = threading.Event()
        self._lease: threading.Thread | None = None
        self._ahead = bytearray()
        self._info: DeviceInfo | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the agent on the device."""
        self._closed.set()
        self._process.close()

    @property
    def info(self) -> DeviceInfo:
        """What the device is, asked once."""
        if self._info is None:
            try:
                info = from_mapping(DeviceInfo, self.call("hello", timeout_s=120), f"{self.device.name} says")
            except InputError as error:
                raise DeviceError(f"The agent's answer makes no sense. {error}") from None
            if not info.possible:
                raise self._nonsense("hello", f"there is no such device: {shown(info)}")
            self._info = info
        return self._info

    def runtime_version(self, package: str) -> str:
        """The version of a runtime there.

        Raises:
            DeviceError: it is missing, or does not import.
        """
        state = self.info.runtime(package)
        if state.version is None:
            raise DeviceError(
                f"{self.device.name}: {package} does not work there: {state.error}. "
                f"To install it: edgenas device setup {self.device.name}"
            )
        return state.version

    def lock(self) -> None:
        """Take the device for measuring until this agent is closed, or has died, or its link has.

        Raises:
            DeviceError: somebody else is measuring there; the text says who.
        """
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a container's user without a name
            user = str(os.getuid())
        self.call("lock", timeout_s=_LEASE_S + 60, who=f"{user}@{socket.gethostname()}", lease_s=_LEASE_S)
        if self._lease is None:
            name = f"edgenas {self.device.name} lease"
            self._lease = threading.Thread(target=self._keep_lease, args=(_LEASE_S / 6,), daemon=True, name=name)
            self._lease.start()

    def _keep_lease(self, every_s: float) -> None:
        while not self._closed.wait(every_s):
            with contextlib.suppress(DeviceError):  # whoever waits for an answer is told
                self._send(b"\n")

    def _send(self, data: bytes) -> None:
        with self._sending:
            self._process.send(data)

    def status(self) -> dict[str, Any]:
        """What the device says of its state now; what it does not know is missing or None."""
        status = self.call("status")
        if not isinstance(status, dict):
            raise self._nonsense("status", f"it sent {shown(status)}, which is no table")
        return status

    def health(self) -> str:
        """How busy, warm and fast the device is now, in a sentence; empty where it cannot be read."""
        status = self.status()
        parts = []
        for key, text in (
            ("cpu_percent", "its processor is {:.0f}% busy"),
            ("load_average", "load {:.1f}"),
            ("temperature_c", "{:.0f} degrees C"),
            ("frequency_mhz", "{:.0f} MHz"),
            ("highest_frequency_mhz", "of at most {:.0f} MHz"),
            ("memory_available_kb", "{:.0f} kB of memory free"),
        ):
            value = status.get(key)
            if isinstance(value, int | float) and not isinstance(value, bool):
                parts.append(text.format(value))
        if status.get("throttled") is True:
            parts.append("its hardware slows it down: too hot, or too little power")
        return f"Now: {', '.join(parts)}." if parts else ""

    def call(
        self,
        op: str,
        timeout_s: float = 60,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
        **params: Any,
    ) -> Any:
        """What an operation of the agent returns.

        Args:
            timeout_s: the longest silence allowed: each line of progress starts it anew, within what `limits` allows.
            on_progress: called with each line of progress.
            params: the operation's own parameters (see `edgenas/device/agent`).

        Raises:
            CheckFailedError: no room, a hash that does not match, a model that does not run.
            DeviceError: the agent or the link is gone, or its answer makes no sense.
            InputError: a name that is unknown there.
        """
        number = next(self._numbers)
        request = json.dumps({"id": number, "op": op, "params": params}, allow_nan=False)
        try:
            self._send(request.encode() + b"\n")
        except DeviceError as error:
            raise self._died(op, error) from None
        for line in self._lines(op, timeout_s, limits.answer_to(op, timeout_s, params)):
            answer = self._answer(op, line)
            if answer.get("id") != number:
                raise self._nonsense(op, f"it answered request {shown(answer.get('id'))}, asked was {number}")
            if answer.get("event") == "progress":
                if on_progress is not None:
                    on_progress({key: value for key, value in answer.items() if key not in ("id", "event")})
            elif answer.get("ok") is True and "result" in answer:
                return answer["result"]
            else:
                raise self._refusal(op, answer.get("error"))
        raise AssertionError("there is a line, or an error")

    def _answer(self, op: str, line: bytes) -> dict[str, Any]:
        try:
            answer = parse_json(line)
        except ValueError:
            raise self._nonsense(op, f"it sent {line[:80]!r}, which is not JSON") from None
        if not isinstance(answer, dict):
            raise self._nonsense(op, f"it sent {line[:80]!r}, which is not an answer")
        return answer

    def _lines(self, op: str, silence_s: float, limit: limits.Answer) -> Iterator[bytes]:
        """What it says, line by line: never more of it, nor for longer, than an answer may take."""
        ends_s, taken, told = time.monotonic() + limit.most_s, 0, False
        while True:
            until_s, searched = min(time.monotonic() + silence_s, ends_s), 0
            while (end := self._ahead.find(b"\n", searched)) < 0:
                searched = len(self._ahead)
                self._within(op, taken + searched, limit)
                try:
                    if (left_s := until_s - time.monotonic()) <= 0:  # it may send bytes, and never a line
                        raise TimeoutError
                    data = self._process.receive(left_s)
                except TimeoutError:
                    late = f"said nothing for {silence_s:g}"
                    if told and until_s == ends_s:
                        late = f"was not done after {limit.most_s:g}"
                    raise DeviceError(f"{self.device.name}: the agent {late} s while asked to {op}.") from None
                if not data:
                    raise self._died(op)
                self._ahead += data
            taken += end + 1
            self._within(op, taken, limit)
            line = bytes(self._ahead[:end])
            del self._ahead[: end + 1]
            yield line
            told = True

    def _within(self, op: str, size_bytes: int, limit: limits.Answer) -> None:
        if size_bytes > limit.most_bytes:
            raise self._nonsense(op, f"it has more than {limit.most_bytes >> 10} kB")

    def _died(self, op: str, cause: DeviceError | None = None) -> DeviceError:
        why = "" if cause is None else f" {cause}"
        with contextlib.suppress(DeviceError):
            last = [line.strip()[:300] for line in self._process.errors().strip().splitlines()[-3:]]
            why += f" Its last words: {' | '.join(last)}" if last else ""
        kind = UnreachableError if isinstance(cause, UnreachableError) else DeviceError
        return kind(f"{self.device.name}: the agent ended while asked to {op}.{why}")

    def _nonsense(self, op: str, what: str) -> DeviceError:
        return DeviceError(f"{self.device.name}: the agent's answer to {op} makes no sense: {what}.")

    def _refusal(self, op: str, error: Any) -> Exception:
        if not isinstance(error, dict) or not all(isinstance(error.get(key), str) for key in ("kind", "message")):
            return self._nonsense(op, "neither a result nor an error")
        kind, text = error["kind"], f"{self.device.name}: {' '.join(error['message'][:2000].split()).rstrip('.')}."
        if kind == "not_active":
            return WentBackError(text)
        if kind in _CHECKS:
            return CheckFailedError(text)
        if kind in _MISTAKES:
            return InputError(text)
        if kind in _FOR_SETUP:
            return DeviceError(f"{text} {_FOR_SETUP[kind].format(self.device.name)}")
        return DeviceError(text)
