"""What the device is, and how it is doing."""

from __future__ import annotations

import base64
import glob
import importlib
import os
import platform
import re
import shutil
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

from . import machine
from .children import Died, in_child
from .context import Context

VERSION = 1
RUNTIMES = {"ai-edge-litert": "ai_edge_litert", "tflite-runtime": "tflite_runtime"}
# What a device may have that no runtime here can use.
_ACCELERATORS = {
    "/dev/nvidia[0-9]*": "NVIDIA GPU",
    "/dev/nvhost-gpu": "NVIDIA Jetson GPU",
    "/dev/dri/renderD*": "GPU",
    "/dev/mali*": "Mali GPU",
    "/dev/kgsl-3d0": "Adreno GPU",
    "/dev/apex_*": "Coral Edge TPU",
    "/dev/accel/accel*": "neural accelerator",
    "/dev/rknpu*": "Rockchip NPU",
    "/dev/galcore": "Vivante GPU/NPU",
    "/dev/hailo*": "Hailo NPU",
    "/dev/ethosu*": "Arm Ethos-U NPU",
}
# One ReLU as a TFLite model: a runtime that imports can still fail at its first model (with a wrong NumPy, say).
_PROBE = (
    "eNptUj1PwlAUvUBFglgxbYwDQwfnBlAXowNBjCR8GCSulYRqmkAxUAiDP8HJODoyOPgbnBydnE1cHBwc3Nys573eNkR9zUneO/fec989rzkiah"
    "/UNnUyKEfrpFOWMuBSpGBP4IiugDfgJkY0Ax7jRAmcsUW2WGlZJWrSOGW4bhdYAUb2cOK451bXPuuMe56sU4Bb3/fDfQoYjL2LsWflibUFryJH"
    "4fMUQGva4tgLxwQ0oNxsnFRax9Vmw6pX2qX9UrsE3eBeQj8xl9t3XGs4dj2nb1sTezhyBi4tgL8HZuJuwCXnX3Of02hecV810hXchmSTkktyHU"
    "kvQk8V6cvT89eytme8JngWRVYRFc1iwcz/1RDaBXM7CPF6//b9D+ATEP7Wa9WWUR64mMOzu6b0SpeZatRdaKrMi7c5BGrAEffpdxyXfr1p+B+k"
    "+X0yHA9B/5zj7JPQfIBvIpRlTREzgDvwq6J3Z+g5Hpy3u+VOr7eT55xY5N+avD/xBMFaBBu01nmeGPuvyC9431//nDWF+rx2OGcG35KUC95HC7"
    "S1H+kEYqQ="
)
_FIRMWARE = [
    "/proc/device-tree/chosen/bootloader/version",
    "/sys/class/dmi/id/bios_version",
    "/sys/devices/soc0/revision",
]
_CPUFREQ = "/sys/devices/system/cpu/cpu0/cpufreq"
# A Raspberry Pi's flags: the lowest four are what holds now (power too low, frequency capped, throttled, too hot), the
# higher ones what held since it was switched on.
_THROTTLED = "/sys/devices/platform/soc/soc:firmware/get_throttled"
_found_runtimes: list[dict[str, Any]] = []


def hello(context: Context) -> dict[str, Any]:
    """Everything about the device that does not change while it runs."""
    if not _found_runtimes:
        _found_runtimes.extend(_runtime(context, package, module) for package, module in RUNTIMES.items())
    return {
        "agent": VERSION,
        "pid": os.getpid(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "libc": " ".join(part for part in platform.libc_ver() if part),
        "bits": struct.calcsize("P") * 8,
        "cpu": _cpu(),
        "cores": os.cpu_count() or 1,
        "memory_total_kb": memory_kb()[0],
        "memory_available_kb": memory_kb()[1],
        "disk_free_kb": shutil.disk_usage(context.folder).free // 1024,
        "boot_id": boot_id(),
        "kernel": platform.release(),
        "os": _os_name(),
        "firmware": _first_of(_FIRMWARE),
        "governor": _first_of([f"{_CPUFREQ}/scaling_governor"]),
        "hostname": socket.gethostname(),
        "numpy": _version("numpy"),
        "cryptography": _version("cryptography"),
        "runtimes": _found_runtimes,
        "accelerators": accelerators(),
    }


def status(context: Context) -> dict[str, Any]:
    """How busy and how warm the device is now; what cannot be read is None."""
    busy, total = _cpu_times()
    machine.sleep(0.2)
    busy_later, total_later = _cpu_times()
    percent = 100 * (busy_later - busy) / (total_later - total) if total_later > total else None
    try:
        load = os.getloadavg()[0]
    except OSError:
        load = None
    return {
        "load_average": load,
        "cpu_percent": percent,
        "temperature_c": _temperature_c(),
        "frequency_mhz": _frequency_mhz(),
        "highest_frequency_mhz": _mhz(_read(f"{_CPUFREQ}/cpuinfo_max_freq")),
        "throttled": _throttled(),
        "memory_available_kb": memory_kb()[1],
    }


def boot_id() -> str | None:
    """What tells one boot of one machine from every other, in containers too; None where it cannot be read."""
    if sys.platform == "darwin":
        argv = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
        return subprocess.run(argv, stdout=subprocess.PIPE, check=False).stdout.decode().strip() or None
    return _read("/proc/sys/kernel/random/boot_id")


def memory_kb() -> tuple[int, int]:
    """All memory and what a program could still take; 0 where it cannot be read. A container's limit counts."""
    text = _read("/proc/meminfo") or ""
    values = {key: int(value) for key, value in re.findall(r"(\w+):\s+(\d+) kB", text)}
    if values:
        total, available = values.get("MemTotal", 0), values.get("MemAvailable", values.get("MemFree", 0))
        limit, left = _container_memory_kb()
        return (total if limit is None else min(total, limit)), (available if left is None else min(available, left))
    try:
        import psutil
    except ImportError:
        return 0, 0
    memory = psutil.virtual_memory()
    return memory.total // 1024, memory.available // 1024


def _container_memory_kb() -> tuple[int | None, int | None]:
    """The limit of this process' control group and what is left of it; None where there is none."""
    for line in (_read("/proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            folder, limit, used, idle = f"/sys/fs/cgroup{path}", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            folder, idle = f"/sys/fs/cgroup/memory{path}", "total_inactive_file"
            limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        numbers = [_read(f"{folder}/{name}") for name in (limit, used)]
        if all(number and number.isdigit() for number in numbers):
            most, taken = (int(str(number)) for number in numbers)
            cached = re.search(rf"^{idle} (\d+)$", _read(f"{folder}/memory.stat") or "", re.MULTILINE)
            free = most - taken + (int(cached[1]) if cached else 0)
            return most // 1024, max(0, free) // 1024
    return None, None


def accelerators() -> list[str]:
    """Hardware that EdgeNAS cannot use, as "what (where)"."""
    found = []
    for pattern, what in _ACCELERATORS.items():
        for path in sorted(glob.glob(pattern)):  # noqa: PTH207
            found.append(f"{what} ({path})")
    return found


def _runtime(context: Context, package: str, module: str) -> dict[str, Any]:
    """Whether a runtime really runs a model: a wheel can install well and still die at import, or later."""

    def attempt(report: Any) -> str:
        content = zlib.decompress(base64.b64decode(_PROBE))
        interpreter = importlib.import_module(module + ".interpreter").Interpreter(model_content=content)
        interpreter.allocate_tensors()
        interpreter.invoke()
        return _version(package) or "unknown"

    if _version(package) is None:
        return {"package": package, "version": None, "error": "not installed"}
    try:
        return {"package": package, "version": in_child(context.stdin, attempt), "error": None}
    except (RuntimeError, Died) as error:
        return {"package": package, "version": None, "error": str(error)}


def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    text = _read("/proc/cpuinfo") or ""
    for key in ("model name", "Model", "Hardware", "cpu model"):
        match = re.search(rf"^{key}\s*:\s*(.+)$", text, re.MULTILINE)
        if match:
            return match[1].strip()
    parts = sorted(set(re.findall(r"^CPU part\s*:\s*(\S+)", text, re.MULTILINE)))
    model = (_read("/proc/device-tree/model") or "").strip("\0")
    return " ".join([model, *parts]).strip() or platform.processor() or platform.machine()


def _os_name() -> str:
    match = re.search(r'^PRETTY_NAME="?([^"\n]+)', _read("/etc/os-release") or "", re.MULTILINE)
    return match[1] if match else platform.platform()


def _cpu_times() -> tuple[int, int]:
    """Ticks that all cores were busy, and all ticks."""
    line = (_read("/proc/stat") or "").partition("\n")[0].split()[1:]
    ticks = [int(tick) for tick in line[:8]]
    return sum(ticks) - sum(ticks[3:5]), sum(ticks)


def _temperature_c() -> float | None:
    values = [_read(path) for path in glob.glob("/sys/class/thermal/thermal_zone*/temp")]  # noqa: PTH207
    degrees = [int(value) / 1000 for value in values if value and value.lstrip("-").isdigit()]
    return max(degrees) if degrees else None


def _frequency_mhz() -> float | None:
    value = _mhz(_read(f"{_CPUFREQ}/scaling_cur_freq"))
    if value:
        return value
    match = re.search(r"^cpu MHz\s*:\s*([\d.]+)", _read("/proc/cpuinfo") or "", re.MULTILINE)
    return float(match[1]) if match else None


def _mhz(khz: str | None) -> float | None:
    return int(khz) / 1000 if khz and khz.isdigit() else None


def _throttled() -> bool | None:
    """Whether the hardware slows the processor down now; None where it does not tell."""
    flags = _read(_THROTTLED)
    try:
        return None if flags is None else int(flags, 16) & 0xF != 0
    except ValueError:
        return None


def _first_of(paths: list[str]) -> str | None:
    """What the first file that can be read holds."""
    found = (_read(path) for path in paths)
    return next((text.strip("\0 ")[:80] for text in found if text), None)


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return None


OPERATIONS = {"hello": hello, "status": status}
