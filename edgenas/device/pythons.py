"""Which Python a device has for the agent and for runtimes, and how it is started."""

import sys

from edgenas.device.connection import Connection
from edgenas.errors import cut

_FIND = (
    'file=$1 look=$2 own=$3; shift 3; for python in "$@"; do alone=; [ "$python" = "$own" ] && alone=-I; '
    '"$python" $alone -c "$look" "$file" && echo "$python" && exit 0; done; exit 3'
)
# A board that lost its power may have kept the agent's name and not its content; Python would run an empty file, and be
# content.
LOOK = """
import hashlib, os, sys
if sys.version_info < (3, 8):
    sys.exit(sys.executable + " is Python %d.%d" % sys.version_info[:2])
try:
    if not os.path.isfile(sys.argv[1]):
        raise OSError
    with open(sys.argv[1], "rb") as file:
        print(hashlib.sha256(file.read()).hexdigest())
except OSError:
    print("-")
"""


def find_python(connection: Connection, path: str = "/") -> tuple[str | None, str]:
    """The interpreter to use on the device, None if there is none; and the SHA-256 of the file `path` there, or "-".

    Where there is no interpreter, that is what those that were looked for said, to be added to a sentence.
    """
    own = own_python(connection)
    done = connection.run(["sh", "-c", _FIND, "sh", path, LOOK, own, *candidates(connection)])
    lines = done.stdout.splitlines()
    if done.returncode == 0 and len(lines) >= 2:
        return lines[-1], lines[-2]
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return None, f"; it says: {cut(' | '.join(said[-3:]))}" if said else ""


def alone(connection: Connection, python: str) -> list[str]:
    """How to start an interpreter: that of our own environment keeps apart from what the user's PYTHONPATH, PYTHONHOME
    and home folder hold for others; a Python that the user named runs as the user has it."""
    return [python, "-I"] if python == own_python(connection) else [python]


def own_python(connection: Connection) -> str:
    """The interpreter of the environment that `device setup` makes on the device."""
    return f"{connection.folder}/venv/bin/python"


def candidates(connection: Connection) -> list[str]:
    """The interpreters to look for, best first."""
    device = connection.device
    if device.runtime.python is not None:
        python = device.runtime.python
        return [connection.path(python) if "/" in python else python]
    own = own_python(connection)
    if device.address.kind == "local" and device.runtime.package == "ai-edge-litert":
        return [sys.executable, own]  # EdgeNAS itself is installed with this runtime
    return [own, "python3"]
