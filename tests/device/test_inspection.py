"""What the agent reads of its device, from files that say what a device of each kind says."""

import fnmatch
from collections.abc import Callable
from typing import Any

import pytest

from edgenas.device import Agent
from edgenas.device.agent import inspection, machine

Files = dict[str, str]


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Files:
    """The only files there are."""
    files: Files = {}
    monkeypatch.setattr(inspection, "_read", files.get)
    monkeypatch.setattr(inspection.glob, "glob", lambda pattern: fnmatch.filter(sorted(files), pattern))
    return files


def test_how_a_device_is_doing(files: Files, here: Agent, monkeypatch: pytest.MonkeyPatch):
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        files["/proc/stat"] = "cpu 160 0 0 210 30 0 0 0 9 9\ncpu0 1"

    monkeypatch.setattr(machine, "sleep", sleep)
    frequency = "/sys/devices/system/cpu/cpu0/cpufreq"
    files |= {
        "/proc/stat": "cpu 100 0 0 180 20 0 0 0 7 7\ncpu0 1",
        "/proc/meminfo": "MemTotal:  2000 kB\nMemFree: 300 kB\nMemAvailable:   900 kB",
        "/sys/class/thermal/thermal_zone0/temp": "48000",
        "/sys/class/thermal/thermal_zone1/temp": "61500",
        f"{frequency}/scaling_cur_freq": "1200000",
        f"{frequency}/cpuinfo_max_freq": "1500000",
        "/sys/devices/platform/soc/soc:firmware/get_throttled": "50005",
    }
    status = here.status()
    assert isinstance(status.pop("load_average"), float)
    assert status == {
        "cpu_percent": 60.0, "temperature_c": 61.5, "frequency_mhz": 1200.0, "highest_frequency_mhz": 1500.0,
        "throttled": True, "memory_available_kb": 900,
    }  # fmt: skip
    assert slept == [0.2]
    files.clear()
    files |= {"/proc/stat": "cpu 1 2 3 4", "/proc/cpuinfo": "processor: 0\ncpu MHz\t\t: 2400.5"}
    monkeypatch.setattr(machine, "sleep", slept.append)
    bare = here.status()
    assert (bare["cpu_percent"], bare["temperature_c"], bare["throttled"]) == (None, None, None)
    assert (bare["frequency_mhz"], bare["highest_frequency_mhz"]) == (2400.5, None)


@pytest.mark.parametrize(
    ("flags", "throttled"), [("0", False), ("50000", False), ("8", True), ("1", True), ("?", None)]
)
def test_throttled_is_what_holds_now(files: Files, flags: str, throttled: bool | None):
    files["/sys/devices/platform/soc/soc:firmware/get_throttled"] = flags
    assert inspection._throttled() is throttled


@pytest.mark.parametrize(
    ("group", "folder", "limit", "used", "idle"),
    [
        ("0::/box", "/sys/fs/cgroup/box", "memory.max", "memory.current", "inactive_file"),
        (
            "5:cpu,memory:/box", "/sys/fs/cgroup/memory/box", "memory.limit_in_bytes", "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ],
    ids=["version 2", "version 1"],
)  # fmt: skip
def test_the_limit_of_a_container_counts(files: Files, group: str, folder: str, limit: str, used: str, idle: str):
    files |= {"/proc/meminfo": "MemTotal: 9000 kB\nMemFree: 5000 kB", "/proc/self/cgroup": f"9:pids:/box\n{group}"}
    assert inspection.memory_kb() == (9000, 5000), "no limit"
    files |= {f"{folder}/{limit}": str(4096 << 10), f"{folder}/{used}": str(3000 << 10)}
    assert inspection.memory_kb() == (4096, 1096)
    files[f"{folder}/memory.stat"] = f"anon 5\n{idle} {1000 << 10}\nx 1"
    assert inspection.memory_kb() == (4096, 2096), "what is cached can be had"
    files[f"{folder}/{limit}"] = "max"
    assert inspection.memory_kb() == (9000, 5000)


CPUS: dict[str, tuple[Files, str]] = {
    "x86": ({"/proc/cpuinfo": "processor : 0\nmodel name\t: Fast 3000 \n"}, "Fast 3000"),
    "pi": ({"/proc/cpuinfo": "processor : 0\nCPU part : 0xd08\nModel\t: Raspberry Pi 4\n"}, "Raspberry Pi 4"),
    "arm": (
        {"/proc/cpuinfo": "CPU part : 0xd08\nCPU part : 0xd03", "/proc/device-tree/model": "Board\0"},
        "Board 0xd03 0xd08",
    ),
}


@pytest.mark.parametrize("kind", CPUS)
def test_the_processor_s_name(files: Files, kind: str):
    said, cpu = CPUS[kind]
    files |= said
    assert inspection._cpu() == cpu


def test_what_no_runtime_can_use_is_told(monkeypatch: pytest.MonkeyPatch):
    there = {"/dev/mali*": ["/dev/mali0"], "/dev/hailo*": ["/dev/hailo0", "/dev/hailo1"]}
    found: Callable[[str], Any] = lambda pattern: there.get(pattern, [])  # noqa: E731
    monkeypatch.setattr(inspection.glob, "glob", found)
    assert inspection.accelerators() == [
        "Mali GPU (/dev/mali0)", "Hailo NPU (/dev/hailo0)", "Hailo NPU (/dev/hailo1)",
    ]  # fmt: skip
