"""What to do about what a device says: its own words name the cause, and are always shown beside this."""

import re

_FOLDER = 'name another folder as `folder` in its file, such as folder = "/opt/edgenas"'
# By what the device's programs say; where they speak another language, their own words have to do.
_REMEDIES = {
    "read-only file system": (
        f"Its disk is mounted read-only, as a worn SD card is: mount it writable there, or {_FOLDER}."
    ),
    "no space left on device": f"Make room there, or {_FOLDER}, on another disk.",
    "disk quota exceeded": f"Make room there, or {_FOLDER}, on another disk.",
    "failed to map segment from shared object": (
        f"No program may run where that lies (it is mounted noexec): {_FOLDER}, where the account may write and "
        "programs may run."
    ),
    "externally-managed-environment": (
        "The device's system manages that Python (PEP 668), and pip leaves it alone. Leave `python` out of the "
        "device's file, and setup makes an environment of its own; or name an environment's: python3 -m venv ~/tflite "
        'there, then python = "~/tflite/bin/python" under [runtime].'
    ),
    "no module named pip": "Install pip for that Python: sudo apt-get install python3-pip python3-venv.",
    "no module named ensurepip": "Install it there: sudo apt-get install python3-venv.",
    "no module named venv": "Install it there: sudo apt-get install python3-venv.",
}
NOEXEC = _REMEDIES["failed to map segment from shared object"]
# Where the device's own pip says one of these, wheels that are sent to it meet the same.
_HOPELESS = ("externally-managed-environment", "no module named pip", "read-only file system")


def remedy_for(said: str) -> str:
    """What to do, in sentences; empty where it is nothing that is known."""
    words = " ".join(said.lower().split())
    library = re.search(r"(lib[a-z0-9_+-]+)\.so\.(\d+)", words)
    if library is not None and "no such file" in words:
        package = f"{library[1]}{library[2]}"
        return f"The device lacks a system library; on Debian and its kin: sudo apt-get install {package}"
    return next((remedy for known, remedy in _REMEDIES.items() if known in words), "")


def is_hopeless(said: str) -> bool:
    """Whether another way to install the same would end the same."""
    return any(known in said.lower() for known in _HOPELESS)
