"""What is wrong with a device, a line each with its remedy. Works as far as the device does."""

from typing import Any

from edgenas.device.connecting import connect
from edgenas.device.connection import Connection
from edgenas.device.device import Device
from edgenas.device.finding import SPACE_KB, Finding, no_space
from edgenas.device.phone_setup import phone_findings
from edgenas.device.pythons import find_python
from edgenas.device.remedies import remedy_for
from edgenas.device.session import DeviceInfo, open_agent, shares_host
from edgenas.device.setup import requirements
from edgenas.errors import DeviceError, EdgeNASError

_MEMORY_KB = 128 * 1024
_BUSY_PERCENT = 25.0


def findings(device: Device) -> list[Finding]:
    """Everything that can be said about a device, the problems among it. It does not raise for what it finds."""
    if device.address.kind == "adb":
        return phone_findings(device)
    try:
        with connect(device) as connection:
            python, said = find_python(connection)  # opens the connection
            if python is None:
                return [Finding("ok", f"{device.name} can be reached"), *_without_python(connection, said)]
            with open_agent(connection) as agent:
                info, status = agent.info, agent.status()
    except EdgeNASError as error:
        return [Finding("problem", str(error))]
    found = [_introduction(device, info), _runtime(device, info), _signatures(device, info), *_resources(device, info)]
    found += [busy for busy in [_busy(info, status)] if busy]
    found += [
        Finding("warning", f"{what} is there, but EdgeNAS cannot use it: models run on the CPU")
        for what in info.accelerators
    ]
    return found


def _without_python(connection: Connection, said: str) -> list[Finding]:
    """What a shell alone can tell."""
    name = connection.device.name
    looked_for = connection.device.runtime.python or "python3"
    found = [
        Finding(
            "problem",
            f"no Python 3.8 or later there (looked for {looked_for}){said}",
            f"install one on it: sudo apt-get install python3 python3-venv; then: edgenas device setup {name}",
        )
    ]
    free = connection.run(["df", "-Pk", connection.home]).stdout.splitlines()
    words = free[-1].split() if free else []
    if len(words) >= 4 and words[3].isdigit() and int(words[3]) < SPACE_KB:
        found.append(no_space(int(words[3])))
    return found


def _introduction(device: Device, info: DeviceInfo) -> Finding:
    same = "; it is this very machine: it is measured only while the host is idle" if shares_host(info) else ""
    memory = f"{info.memory_total_kb / 1e6:.1f} GB"
    machine = f"{info.cpu}, {info.machine}, {info.cores} cores, {memory}"
    system = ", ".join(filter(None, [info.os, info.libc, f"Python {info.python}"]))
    return Finding("ok", f"{device.name}: {machine}, {system}{same}")


def _runtime(device: Device, info: DeviceInfo) -> Finding:
    package = device.runtime.package
    state = info.runtime(package)
    if state.version is not None:
        return Finding("ok", f"{package} {state.version} works")
    install = f"edgenas device setup {device.name}"
    if package == "tflite-runtime" and info.numpy is not None and not info.numpy.startswith("1."):
        installed = state.error != "not installed"
        what = f"NumPy {info.numpy} is the wrong one for tflite-runtime, which needs numpy<2"
        return Finding("problem", f"{what} ({state.error})" if installed else what, install)
    try:
        requirements(device, info)
    except DeviceError as error:  # an old glibc, a 32-bit system, a Python without wheels
        return Finding("problem", str(error))
    return Finding("problem", f"{package} does not work there: {state.error}", remedy_for(state.error or "") or install)


def _signatures(device: Device, info: DeviceInfo) -> Finding:
    if info.cryptography is not None:
        return Finding("ok", f"signatures can be checked there (cryptography {info.cryptography})")
    what = "signatures cannot be checked there, hashes only: it has no cryptography"
    return Finding("warning", what, f"edgenas device setup {device.name}")


def _resources(device: Device, info: DeviceInfo) -> list[Finding]:
    found = []
    if info.bits == 32 and device.runtime.package == "tflite-runtime":
        found.append(
            Finding("warning", "a 32-bit system: only tflite-runtime runs there", "a 64-bit system runs models faster")
        )
    if info.disk_free_kb < SPACE_KB:
        found.append(no_space(info.disk_free_kb))
    if 0 < info.memory_available_kb < _MEMORY_KB:
        what = f"only {info.memory_available_kb / 1000:.0f} MB of memory are free"
        found.append(Finding("warning", what, "stop what else runs there"))
    return found


def _busy(info: DeviceInfo, status: dict[str, Any]) -> Finding | None:
    percent, load = status.get("cpu_percent"), status.get("load_average")
    signs = []
    if isinstance(percent, int | float) and percent > _BUSY_PERCENT:
        signs.append(f"its processor is {percent:.0f}% busy")
    if isinstance(load, int | float) and load > 0.5 * info.cores:
        signs.append(f"its load is {load:.1f} on {info.cores} cores")
    if not signs:
        return None
    return Finding("warning", " and ".join(signs), "stop what else runs there before profiling")
