"""Python runs this first in each process of a test: agents get a virtual machine, and nobody leaves loopback."""

import importlib.util
import os
import sys
from pathlib import Path


def _look(event, arguments):
    if event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        if isinstance(address, tuple) and not str(address[0]).startswith(("127.", "::1", "localhost")):
            raise RuntimeError(f"a test reaches for {address[0]}: nothing but loopback is allowed")


def stay_here():
    """From now on this process reaches nothing but this machine: tests need no network."""
    sys.addaudithook(_look)


if os.environ.get("EDGENAS_TESTS_LOOPBACK_ONLY") == "1":
    stay_here()
if any("agent-" in word and word.endswith(".pyz") for word in sys.orig_argv):
    _path = Path(__file__).with_name("machine.py")
    _spec = importlib.util.spec_from_file_location("agent.machine", _path)
    sys.modules["agent.machine"] = _module = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(_module)
