"""A device made ready: an environment of its own below the work folder, with the runtime in it.

The device's own pip installs it; where the device has no network, the host fetches the wheels and sends them.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from edgenas.device.connecting import connect
from edgenas.device.connection import Completed, Connection
from edgenas.device.device import Device
from edgenas.device.limits import last_line
from edgenas.device.own_pip import own_pip
from edgenas.device.pythons import alone, find_python, own_python
from edgenas.device.remedies import NOEXEC, is_hopeless, remedy_for
from edgenas.device.session import DeviceInfo, open_agent
from edgenas.errors import DeviceError, UnreachableError, cut

_INSTALL_S = 1200
_NEW_GLIBC = (2, 34)  # what LiteRT's aarch64 wheel and tflite-runtime 2.14's ARM wheels need, whatever their tags say
# Welcome, not needed: each is installed apart, and what follows where it cannot be.
_SIGNATURES = {"cryptography": "signatures cannot be checked there, hashes only (docs/threat-model.md)"}
_EXTRAS = {"psutil": "its free memory may not be told"} | _SIGNATURES
# Whether programs may run where our environment is to be; the exit code is 126 where they may not.
_TRY = (
    'export LC_ALL=C; mkdir -p -- "$1" && cd "$1" && echo "#!/bin/sh" > .edgenas-runs && chmod 700 .edgenas-runs && '
    "./.edgenas-runs; code=$?; rm -f .edgenas-runs; exit $code"
)
_PIP = ["-m", "pip", "--disable-pip-version-check", "--no-input"]


def setup(device: Device, progress: Callable[[str], object] = print, offline: bool = False) -> DeviceInfo:
    """Install the runtime on a device, and show that it imports there. Quick when it does already.

    Args:
        progress: told each step in a line.
        offline: send wheels from here without trying the device's own network.

    Raises:
        DeviceError: no Python, no wheel for this device, or the installation failed; the text says what to do.
    """
    with connect(device) as connection:
        info = inspect_agent(connection)
        state = info.runtime(device.runtime.package)
        worked = state.version is not None
        if not worked:
            progress(f"{device.name}: {info.os}, {info.machine}, {info.libc}, Python {info.python}")
            wanted = requirements(device, info)
            python = _environment(connection, progress)
            _install(connection, python, wanted, info, progress, offline)
            info = inspect_agent(connection)
            state = info.runtime(device.runtime.package)
        if state.version is None:
            raise DeviceError(
                f"{device.name}: {device.runtime.package} was installed, but does not run: {state.error}. "
                f"{remedy_for(state.error or '')}".rstrip()
            )
        progress(f"{device.name}: {state.package} {state.version} works.")
        if info.cryptography is None:
            info = _add_extras(connection, info, _SIGNATURES if worked else _EXTRAS, worked, progress, offline)
        return info


def _add_extras(
    connection: Connection,
    info: DeviceInfo,
    extras: Mapping[str, str],
    worked: bool,
    progress: Callable[[str], object],
    offline: bool,
) -> DeviceInfo:
    """Install what is welcome, and say what follows where that fails: the device works without.

    Args:
        worked: whether the runtime worked before: then only an environment of ours is added to.

    Returns:
        what the device says now.
    """
    name, python = connection.device.name, find_python(connection)[0] or "python3"
    if worked and python != own_python(connection):
        for extra, follows in extras.items():
            progress(
                f"{name}: {python} has no {extra}: {follows}. To install it there: {python} -m pip install {extra} (or "
                f"sudo apt-get install python3-{extra}, where the system manages that Python)"
            )
        return info
    for extra, follows in extras.items():
        try:
            _install(connection, python, [extra], info, progress, offline)
        except UnreachableError:
            raise
        except DeviceError as error:
            progress(f"{name}: without {extra}, {follows}: {str(error).removeprefix(f'{name}: ')}")
    return inspect_agent(connection)


def inspect_agent(connection: Connection) -> DeviceInfo:
    """What a fresh agent says of the device."""
    with open_agent(connection) as agent:
        return agent.info


def requirements(device: Device, info: DeviceInfo) -> list[str]:
    """What to install for the device's runtime, as pip names it.

    Raises:
        DeviceError: there is no wheel that would work there.
    """
    package, libc = device.runtime.package, glibc(info)
    python = tuple(int(part) for part in info.python.split(".")[:2])
    arm = info.machine.startswith(("arm", "aarch"))
    where = f"{device.name} ({info.machine}, {info.bits}-bit, {info.libc or 'no glibc'}, Python {info.python})"
    use_tflite = 'Use tflite-runtime: package = "tflite-runtime" under [runtime] in its file.'
    if info.system == "Linux" and libc is None:
        raise DeviceError(f"{where}: {package} needs glibc; on musl (Alpine, OpenWrt) no wheel runs.")
    if package == "ai-edge-litert":
        if info.bits == 32:
            raise DeviceError(f"{where}: ai-edge-litert exists only for 64-bit systems. {use_tflite}")
        if arm and libc is not None and libc < _NEW_GLIBC:
            raise DeviceError(
                f"{where}: ai-edge-litert needs glibc 2.34 here (Debian 12, Ubuntu 22.04), whatever pip says. "
                f"{use_tflite}"
            )
        return ["ai-edge-litert", "numpy"]
    old = arm and libc is not None and libc < _NEW_GLIBC
    last = (3, 10) if old else (3, 11)
    if not (3, 8) <= python <= last:
        raise DeviceError(
            f"{where}: tflite-runtime exists only for CPython 3.8 to 3.{last[1]} here. Install such a Python there, "
            f"make an environment with it (python3.{last[1]} -m venv ~/tflite), and name it in the device's file: "
            '[runtime] python = "~/tflite/bin/python".'
        )
    return ["tflite-runtime==2.13.0" if old else "tflite-runtime>=2.13", "numpy<2"]


def glibc(info: DeviceInfo) -> tuple[int, int] | None:
    """The version of the device's glibc, None where it has another C library."""
    match = re.fullmatch(r"glibc (\d{1,2})\.(\d{1,3})(\D.*)?", info.libc)
    return (int(match[1]), int(match[2])) if match else None


def _environment(connection: Connection, progress: Callable[[str], object]) -> str:
    """The interpreter to install for: the one the user named, or that of our own environment."""
    device = connection.device
    if device.runtime.python is not None:
        python = find_python(connection)[0]
        assert python is not None  # the agent ran on it
        return python
    if device.address.kind == "local" and device.runtime.package == "ai-edge-litert":
        raise DeviceError(
            f"{device.name}: ai-edge-litert does not work in EdgeNAS' own environment: "
            f"{sys.executable} -m pip install --force-reinstall ai-edge-litert"
        )
    folder, python = f"{connection.folder}/venv", own_python(connection)
    tried = connection.run(["sh", "-c", _TRY, "sh", connection.folder])
    if tried.returncode != 0:
        said = last_line(tried.stderr) or f"exit code {tried.returncode}"
        remedy = NOEXEC if tried.returncode == 126 else remedy_for(said)
        raise DeviceError(
            f"{device.name}: no environment can be made in {connection.folder}: {said}. {remedy}".rstrip()
        )
    isolated = alone(connection, python)
    if connection.run([*isolated, "-m", "pip", "--version"], 60).returncode != 0:
        progress(f"{device.name}: making an environment in {folder}")
        # In two steps: what pip's own installer says does not come through the other's error.
        make = ["python3", "-I", "-m", "venv", "--clear", "--without-pip", folder]
        for argv in (make, [*isolated, "-m", "ensurepip", "--default-pip"]):
            done = connection.run(argv, 300)
            if done.returncode != 0:
                connection.run(["rm", "-rf", folder])
                remedy = remedy_for(done.stdout + done.stderr)
                raise DeviceError(
                    f"{device.name}: {argv[0]} -m {argv[3]} failed: {_last_lines(done)}. {remedy}".rstrip()
                )
    return python


def _pip(connection: Connection, python: str) -> list[str]:
    """How to begin a command of pip: in our own environment apart from what the user's settings say for others."""
    started = alone(connection, python)
    return own_pip(started) if started != [python] else [python, *_PIP]


def _install(
    connection: Connection,
    python: str,
    wanted: list[str],
    info: DeviceInfo,
    progress: Callable[[str], object],
    offline: bool,
) -> None:
    name = connection.device.name
    refused = ""
    if not offline:
        progress(f"{name}: installing {' '.join(wanted)} with its own pip")
        argv = [*_pip(connection, python), "install", "--retries", "1", "--timeout", "15", "--only-binary=:all:"]
        done = connection.run([*argv, *wanted], _INSTALL_S)
        if done.returncode == 0:
            return
        refused = f"Its own pip said: {_last_lines(done)}. "
        if is_hopeless(done.stdout + done.stderr):
            remedy = remedy_for(done.stdout + done.stderr)
            raise DeviceError(f"{name}: {' '.join(wanted)} could not be installed. {refused}{remedy}")
        progress(f"{name}: its own pip could not install it; sending wheels from here")
    with tempfile.TemporaryDirectory() as folder:
        downloaded = _download(Path(folder), wanted, info)
        if downloaded.returncode != 0:
            raise DeviceError(
                f"{name}: {' '.join(wanted)} could not be installed. {refused}"
                f"The host's pip, fetching wheels for it, said: {_last_lines(downloaded)}"
            )
        try:
            _send_wheels(connection, python, Path(folder), wanted, progress)
        except UnreachableError:
            raise
        except DeviceError as error:
            raise DeviceError(f"{error} {refused}".rstrip()) from None


def _download(folder: Path, wanted: list[str], info: DeviceInfo) -> Completed:
    """Fetch wheels for the device's Python, machine and glibc, with the host's pip."""
    major, minor = info.python.split(".")[:2]
    tag = f"cp{major}{minor}"
    argv = [*own_pip([sys.executable]), "download", "--quiet", "--only-binary=:all:", "--dest", str(folder)]
    argv += ["--python-version", f"{major}.{minor}", "--implementation", "cp"]
    for abi in (tag, "abi3", "none"):
        argv += ["--abi", abi]
    for platform in platforms(info):
        argv += ["--platform", platform]
    try:
        done = subprocess.run([*argv, *wanted], capture_output=True, text=True, timeout=_INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        return Completed(1, "", f"nothing after {_INSTALL_S} s")
    return Completed(done.returncode, done.stdout, done.stderr)


def platforms(info: DeviceInfo) -> list[str]:
    """The platform tags of wheels that the device can take, best first."""
    machine = info.machine
    if info.bits == 32:  # a 32-bit system on a 64-bit kernel says "aarch64" or "x86_64"
        machine = "armv7l" if machine.startswith(("arm", "aarch")) else "i686"
    newest = (glibc(info) or (2, 17))[1]
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(newest, 4, -1)]
    return [*tags, *(f"{old}_{machine}" for old in ("manylinux2014", "manylinux2010", "manylinux1", "linux"))]


def _send_wheels(
    connection: Connection, python: str, folder: Path, wanted: list[str], progress: Callable[[str], object]
) -> None:
    name, remote = connection.device.name, f"{connection.folder}/wheels"
    wheels = sorted(folder.glob("*.whl"))
    try:
        for wheel in wheels:
            progress(f"{name}: sending {wheel.name} ({wheel.stat().st_size / 1e6:.1f} MB)")
            connection.put(wheel, f"{remote}/{wheel.name}")
        argv = [*_pip(connection, python), "install", "--no-index", "--find-links", remote, *wanted]
        done = connection.run(argv, _INSTALL_S)
        if done.returncode != 0:
            remedy = remedy_for(done.stdout + done.stderr)
            raise DeviceError(f"{name}: the wheels sent could not be installed: {_last_lines(done)}. {remedy}".rstrip())
    finally:
        connection.run(["rm", "-rf", remote])


def _last_lines(done: Completed) -> str:
    """The end of what a program complained about, in one line."""
    lines = [line.strip() for line in (done.stderr.strip() or done.stdout.strip()).splitlines()]
    telling = [line for line in lines if line.upper().startswith("ERROR")] or lines
    return cut(" | ".join(telling[-2:])).rstrip(".") or f"exit code {done.returncode}"
