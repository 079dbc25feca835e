"""A phone at work: what it is, whether it is ours for measuring, and TFLite's `benchmark_model` on it."""

import contextlib
import getpass
import hashlib
import json
import os
import re
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from edgenas.device.agent.bounding import share_kb
from edgenas.device.connecting import connect
from edgenas.device.connection import Completed, Connection, Process
from edgenas.device.device import Device
from edgenas.errors import DeviceError, InputError
from edgenas.files import canonical_json, user_path

# One line a fact: its name, '=', what the phone says. With the tools of Android 8 alone: it has no `nproc`.
_ASK = """
for name in ro.product.manufacturer ro.product.model ro.board.platform ro.build.fingerprint ro.build.version.release \\
    ro.product.cpu.abi; do echo "$name=$(getprop "$name" | head -n 1)"; done
echo "kernel=$(uname -r)"
cores=0
for cpu in /sys/devices/system/cpu/cpu[0-9]*; do [ -d "$cpu" ] && cores=$((cores + 1)); done
echo "cores=$cores"
while read -r name value unit; do case $name in
    MemTotal:) echo "memory_total_kb=$value" ;;
    MemAvailable:) echo "memory_available_kb=$value" ;;
esac; done < /proc/meminfo
echo "disk_free_kb=$(df -Pk . | { read -r head; read -r disk total used free rest; echo "$free"; })"
echo "boot_id=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)"
echo "governor=$(cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor 2>/dev/null)"
"""
_TEXTS = {
    "ro.product.manufacturer": "manufacturer",
    "ro.product.model": "model",
    "ro.board.platform": "platform",
    "ro.build.fingerprint": "build",
    "ro.build.version.release": "android",
    "ro.product.cpu.abi": "abi",
    "kernel": "kernel",
    "boot_id": "boot_id",
    "governor": "governor",
}
_NUMBERS = ("cores", "memory_total_kb", "memory_available_kb", "disk_free_kb")
_MOST = 1 << 40  # no phone has more of anything
_LONGEST_ANSWER_BYTES, _ANSWER_S = 4096, 30.0
# Descriptor 2 holds the lock: Android's shell gives only 0, 1 and 2 on to what it runs. It is gone with its holder.
_LOCK = """
exec 2<>"$1" || exit 1
flock -n 2; case $? in
    0) printf '%s\\n' "$2" > "$1.owner"; echo held; exec cat > /dev/null ;;
    1) echo "busy $(head -n 1 "$1.owner")" ;;
    *) echo none ;;
esac
"""
# A model is foreign: it gets a part of the phone's memory, and dies first where that is used up, as on boards. What
# counts is memory of its own (-d): Android's allocator reserves more addresses (-v) than there is memory. Linux before
# 4.7 does not hold a process to it. A shell may end when it cannot set a limit: another one tries.
_BOUND = (
    '{ echo 1000 > /proc/self/oom_score_adj; } 2>/dev/null; (ulimit -d "$1") 2>/dev/null && ulimit -d "$1"; '
    'shift; exec "$@"'
)
# The processors that an ELF file can be for, by its number for them, and Android's names for what runs it.
_MACHINES = {
    3: ("x86", "x86_64"),
    40: ("armeabi-v7a", "armeabi", "arm64-v8a"),
    62: ("x86_64",),
    183: ("arm64-v8a",),
    243: ("riscv64",),
}


@dataclass(frozen=True)
class PhoneInfo:
    """What a phone says of itself."""

    manufacturer: str
    model: str
    platform: str  # the system on its chip
    build: str  # Android's fingerprint of what is installed
    android: str  # version
    abi: str  # "arm64-v8a"
    kernel: str
    cores: int
    memory_total_kb: int
    memory_available_kb: int
    disk_free_kb: int  # where the work folder is
    boot_id: str | None  # None: it does not tell
    governor: str | None  # of the processor's frequency

    @property
    def cpu(self) -> str:
        """The phone and its chip."""
        return f"{self.manufacturer} {self.model} ({self.platform}, {self.abi})"

    @property
    def os(self) -> str:
        return f"Android {self.android}"

    @property
    def firmware(self) -> str:
        return self.build

    @property
    def fingerprint(self) -> str:
        """12 hex digits for this kind of phone: model, chip, memory, Android, kernel, governor; not its serial."""
        memory = round(self.memory_total_kb / (256 * 1024))
        what = [self.cpu, self.cores, memory, self.build, self.android, self.kernel, self.governor]
        return hashlib.sha256(canonical_json(what).encode()).hexdigest()[:12]


def read_info(text: str, name: str) -> PhoneInfo:
    """What a phone answered when asked what it is; nothing of it is believed unchecked.

    Raises:
        DeviceError: something is missing, or is no text or number that a phone can have.
    """
    said: dict[str, str] = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals:
            said[key] = value.strip()
    try:
        texts = {field: _text(said[key]) for key, field in _TEXTS.items()}
        numbers = {key: int(said[key]) for key in _NUMBERS}
        if not all(0 <= number < _MOST for number in numbers.values()):
            raise ValueError("a number that no phone has")
        if not (numbers["cores"] and numbers["memory_total_kb"] and texts["abi"]):
            raise ValueError("no cores, no memory or no ABI")
    except (KeyError, ValueError) as error:
        raise DeviceError(f"{name}: what it says of itself makes no sense: {error}.") from None
    boot_id, governor = texts.pop("boot_id") or None, texts.pop("governor") or None
    return PhoneInfo(**texts, **numbers, boot_id=boot_id, governor=governor)  # type: ignore[arg-type]


def _text(value: str) -> str:
    if len(value) > 300 or not value.isprintable():
        raise ValueError(f"the text {value[:40]!r}")
    return value


class Phone:
    """A phone that is reached by adb; closed by `with`.

    Args:
        connection: to it.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.device = connection.device
        self._info: PhoneInfo | None = None
        self._tool: tuple[str, str] | None = None
        self._lock: Process | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others measure on it."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def info(self) -> PhoneInfo:
        """What it is, asked once."""
        if self._info is None:
            done = self.connection.run(["sh", "-c", _ASK])
            self._info = read_info(done.stdout, self.device.name)
        return self._info

    def runtime_version(self, package: str = "benchmark-model") -> str:
        """The first 16 hex digits of benchmark_model's SHA-256: it prints no version of its own.

        Raises:
            InputError: there is no such file on the host.
            DeviceError: unreachable.
        """
        return host_tool(self.device)[1][:16]

    @property
    def tool(self) -> str:
        """The path of benchmark_model there; sent first when this version of it is not there.

        Raises:
            InputError: there is no such file on the host.
            DeviceError: it is for another processor, or the phone does not run it.
        """
        if self._tool is None:
            local, digest = host_tool(self.device)
            check_machine(self.device, local, self.info.abi)
            remote = tool_path(self.connection, digest)
            if tool_state(self.connection, remote) != (digest, True):
                self.connection.put(local, remote)
                self.connection.run(["chmod", "755", remote])
            found, executable = tool_state(self.connection, remote)
            if found != digest or not executable:
                raise DeviceError(
                    f"{self.device.name}: {remote} cannot be executed there. Name a folder where programs may run as "
                    "`folder` in its file, such as /data/local/tmp/edgenas."
                )
            self._tool = remote, digest
        return self._tool[0]

    def benchmark(self, model: str, flags: list[str], timeout_s: float) -> Completed:
        """Run benchmark_model on a model that is there, in a process of its own that gets a quarter of the memory.

        Args:
            model: its path there.
            flags: besides the model, the delegate and the cores.
            timeout_s: of the whole run.

        Raises:
            TooSlowError: it took too long; it was ended, as far as the phone can be reached.
            DeviceError: the link broke.
        """
        cores = self.device.runtime.cores
        bound = [] if cores is None else ["taskset", f"{sum(1 << core for core in cores):x}"]
        delegate = {
            "gpu": ["--use_gpu=true"],
            "nnapi": ["--use_nnapi=true"],
            "none": ["--use_xnnpack=false"],
        }.get(self.device.runtime.delegate or "xnnpack", ["--use_xnnpack=true"])
        argv = [*bound, self.tool, f"--graph={model}", *delegate, *flags]
        return self.connection.run(["sh", "-c", _BOUND, "sh", str(self.most_kb), *argv], timeout_s)

    @property
    def most_kb(self) -> int:
        """The memory that a model may take."""
        return share_kb(self.info.memory_total_kb)

    def lock(self) -> None:
        """Take the phone for measuring until this is closed, or the connection has ended.

        Raises:
            DeviceError: somebody else is measuring there; the text says who.
        """
        if self._lock is not None:
            return
        path = self.connection.path("edgenas-device.lock")  # one for the phone, whatever the work folder
        note = {"who": _who(), "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        process = self.connection.start(["sh", "-c", _LOCK, "sh", path, json.dumps(note)])
        try:
            answer = self._answer(process)
        except BaseException:
            process.close()
            raise
        if answer == "held":
            self._lock = process
            return
        process.close()
        if answer.startswith("busy"):
            raise DeviceError(f"{self.device.name}: the device is being measured by {_holder(answer)}.")
        raise DeviceError(f"{self.device.name}: its Android has no flock, so nobody can say who measures there.")

    def _answer(self, process: Process) -> str:
        said, deadline = b"", time.monotonic() + _ANSWER_S
        while b"\n" not in said and len(said) < _LONGEST_ANSWER_BYTES:
            try:
                if (left_s := deadline - time.monotonic()) <= 0:  # a byte now and then is no answer
                    raise TimeoutError
                data = process.receive(left_s)
            except TimeoutError:
                why = f"it said nothing for {_ANSWER_S:g} s when asked for its lock"
                raise DeviceError(f"{self.device.name}: {why}.") from None
            if not data:
                self.connection.run(["true"])  # says what is wrong with the link, if anything is
                raise DeviceError(f"{self.device.name}: its lock could not be taken: {process.errors().strip()[-200:]}")
            said += data
        return said.partition(b"\n")[0].decode(errors="replace").strip()

    def health(self) -> str:
        """How busy and warm the phone is now, in a sentence; empty where it cannot be read."""
        script = "cat /proc/loadavg; cat /sys/class/thermal/thermal_zone0/temp"
        with contextlib.suppress(DeviceError):
            lines = self.connection.run(["sh", "-c", script]).stdout.splitlines()
            parts = []
            if lines and (load := re.match(r"\d+\.\d+", lines[0])):
                parts.append(f"load {load[0]}")
            if len(lines) > 1 and re.fullmatch(r"\d{4,6}", lines[1].strip()):
                parts.append(f"{int(lines[1]) / 1000:.0f} degrees C")
            return f"Now: {', '.join(parts)}." if parts else ""
        return ""


def open_phone(device: Device, stack: contextlib.ExitStack) -> Phone:
    """A phone, reached and let go with `stack`.

    Raises:
        DeviceError: unreachable.
    """
    return stack.enter_context(Phone(stack.enter_context(connect(device))))


def host_tool(device: Device) -> tuple[Path, str]:
    """The user's benchmark_model on the host, and its SHA-256.

    Raises:
        InputError: there is no such file.
    """
    path = user_path(device.runtime.benchmark_model or "")
    try:
        with path.open("rb") as file:
            return path, hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            f"Device {device.name!r}: benchmark_model {str(path)!r} cannot be read ({error.strerror}). Name TFLite's "
            "benchmark_model, built for the phone's ABI, under [runtime] in its file; docs/phones.md says where it "
            "comes from."
        ) from None


def tool_path(connection: Connection, digest: str) -> str:
    """Where the benchmark_model of this SHA-256 lies on the phone."""
    return f"{connection.folder}/tools/benchmark_model-{digest[:16]}"


def tool_state(connection: Connection, remote: str) -> tuple[str | None, bool]:
    """SHA-256 of a file on the phone, None where there is none; and whether it can be executed."""
    script = 'sha256sum < "$1" && [ -x "$1" ] && echo executable'
    lines = connection.run(["sh", "-c", script, "sh", remote], 60).stdout.splitlines()
    return (lines[0].split()[0] if lines and lines[0].split() else None), lines[1:] == ["executable"]


def check_machine(device: Device, tool: Path, abi: str) -> None:
    """Raise `DeviceError` where a program is for another processor than the phone's."""
    with tool.open("rb") as file:
        head = file.read(20)
    runs_on = _MACHINES.get(int.from_bytes(head[18:20], "little")) if head[:4] == b"\x7fELF" else None
    if runs_on is not None and abi not in runs_on:
        raise DeviceError(
            f"{device.name}: {tool} is a program for {runs_on[0]}, and the phone is {abi}: get the benchmark_model for "
            f"{abi}, and name it under [runtime] in its file."
        )


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _holder(answer: str) -> str:
    try:
        note = json.loads(answer.partition(" ")[2])
        return f"{str(note['who'])[:200]} since {str(note['since'])[:40]}"
    except (ValueError, KeyError, TypeError):
        return "somebody else"
