"""What is wrong with the host or a device, one line each with its remedy."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from edgenas.device import Device, Finding, find_adb, findings
from edgenas.errors import DeviceError
from edgenas.latency.table import table_names

_LEAST_FREE_BYTES = 2 << 30


def examine(device: str | None = None) -> list[Finding]:
    """Findings on the host, or on a device by its name."""
    return _host() if device is None else findings(Device.load(device))


def _host() -> list[Finding]:
    found = [
        Finding("ok", f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
        if (3, 11) <= sys.version_info[:2] <= (3, 13)
        else Finding("problem", f"Python {platform.python_version()}", "EdgeNAS runs on Python 3.11 to 3.13.")
    ]
    found += [_import(name, what) for name, what in _PARTS.items()]
    found.append(_adb())
    free = shutil.disk_usage(Path.cwd()).free
    found.append(
        Finding("ok", f"{free >> 30} GB free here")
        if free > _LEAST_FREE_BYTES
        else Finding("warning", f"only {free >> 20} MB free here", "Data caches and checkpoints need about 2 GB.")
    )
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    found.append(
        Finding("ok", f"{cores} cores, load {load:.1f}")
        if load < cores
        else Finding("warning", f"busy: load {load:.1f} on {cores} cores", "A busy host profiles 'local' badly: wait.")
    )
    names = table_names()
    found.append(
        Finding("ok", f"latency tables: {', '.join(names)}")
        if names
        else Finding("warning", "no latency table yet", "edgenas profile local --space tiny --input 28x28x1")
    )
    return found


_PARTS = {
    "tensorflow": "trains and converts",
    "ai_edge_litert.interpreter": "runs models on this machine",
    "optuna": "searches",
    "paramiko": "reaches boards over SSH",
    "cryptography.hazmat.primitives.asymmetric.ed25519": "signs bundles",
}


def _adb() -> Finding:
    """Only phones need it."""
    try:
        return Finding("ok", f"{find_adb()} reaches phones")
    except DeviceError as error:
        return Finding("ok", "no adb client: only phones need one", str(error))


def _import(module: str, what: str) -> Finding:
    """Whether a part really imports: in a process of its own, since a broken wheel can kill its process."""
    code = f"import {module} as part; print(getattr(part, '__version__', ''))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    name = module.split(".")[0]
    if done.returncode == 0:
        return Finding("ok", f"{name} {done.stdout.strip()} {what}".replace("  ", " "))
    last = (done.stderr.strip().splitlines() or [f"it ended with signal {-done.returncode}"])[-1]
    return Finding(
        "problem", f"{name} does not import: {last}", "Install EdgeNAS anew: pip install --force-reinstall edgenas"
    )
