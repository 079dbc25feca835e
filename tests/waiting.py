"""Waiting for something to happen, and ports: what tests need of a real machine without resting on how busy it is."""

import itertools
import os
import socket
import time
from collections.abc import Callable

_LONGEST_S = 120  # whoever waits so long waits for nothing
really_sleep = time.sleep  # conftest.py counts the others


def until(happened: Callable[[], object], what: str = "") -> None:
    """Wait until something has happened, however long a busy machine takes for it.

    Raises:
        AssertionError: it has not happened after two minutes.
    """
    end = time.monotonic() + _LONGEST_S
    while not happened():
        assert time.monotonic() < end, f"it did not happen: {what or happened}"
        really_sleep(0.01)


# Each worker has ports of its own, below those that the system gives to whoever asks for any.
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw9").removeprefix("gw") or 9)
_first = 12_000 + 1_500 * _worker
_begin = os.getpid() % 1_500  # another run may be under way
_ports = itertools.cycle([_first + (_begin + number) % 1_500 for number in range(1_500)])


def free_port() -> int:
    """A TCP port on loopback that nothing listens on, and that nobody else is told."""
    while True:
        port = next(_ports)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
