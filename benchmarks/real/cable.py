"""A host of its own for a board: a network namespace at the end of a cable that can be slow, lossy or unplugged.

The namespace lives as long as the process that made it, and the cable as long as the namespace.
"""

import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

# Addresses for tests of network devices (RFC 2544): no network routes them.
_NET = "198.18"


@functools.cache
def unsupported() -> str | None:
    """Why no such host can be made on this machine; None where it can."""
    if os.getuid() != 0:
        return "needs root, for network namespaces"
    missing = [name for name in ("ip", "tc", "nft", "unshare", "nsenter") if shutil.which(name) is None]
    if missing:
        return f"needs {', '.join(missing)} (apt-get install iproute2 nftables util-linux)"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"network namespaces do not work here: {tried.stderr.strip()}"


class Cable:
    """A pair of network devices: one end here, the other one in a namespace of its own; use it with `with`.

    Attributes:
        address: of the host at the other end.
        prefix: what a command begins with that is to run there.
    """

    def __init__(self) -> None:
        if (why := unsupported()) is not None:
            pytest.skip(why)
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up && echo && exec cat"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"\n", "no namespace"
        pid = self._holder.pid
        self.prefix = ["nsenter", f"--net=/proc/{pid}/ns/net", "--"]
        self._end = f"cable{pid}"
        net, last = f"{_NET}.{pid // 32 % 256}", pid % 32 * 8
        self._mine, self.address, self._other = (f"{net}.{last + number}" for number in (1, 2, 3))
        _run("ip", "link", "add", self._end, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        _run("ip", "address", "add", f"{self._mine}/29", "dev", self._end)
        _run("ip", "link", "set", self._end, "up")
        # Unplugged, nothing looks for the host elsewhere: whatever is on the way to the world may answer for it.
        self._nowhere = ["unreachable", f"{net}.{last}/29", "metric", "9999"]
        _run("ip", "route", "replace", *self._nowhere)
        _run(*self.prefix, "ip", "address", "add", f"{self.address}/29", "dev", "eth0")
        _run(*self.prefix, "ip", "link", "set", "eth0", "up")

    def slow_down(self, kbit_per_s: int) -> None:
        """What goes to the other end passes a token bucket."""
        rate = ["rate", f"{kbit_per_s}kbit", "burst", "8kb", "latency", "2s"]
        _run("tc", "qdisc", "replace", "dev", self._end, "root", "tbf", *rate)

    def lose(self, percent: int) -> None:
        """The host at the other end loses so many of the packets that reach it."""
        self._drop("lossy", f"numgen random mod 100 < {percent}")

    def unplug(self) -> None:
        """Nothing passes any more, and nobody is told."""
        _run("ip", "link", "set", self._end, "down")

    def plug_in(self) -> None:
        """After `unplug`."""
        _run("ip", "link", "set", self._end, "up")

    def plug_in_elsewhere(self) -> None:
        """As a host that was started anew, or another one: the far end hears nothing more of what was open before."""
        self._drop("before", f"ip saddr {self._mine}")
        _run("ip", "address", "delete", f"{self._mine}/29", "dev", self._end)
        _run("ip", "address", "add", f"{self._other}/29", "dev", self._end)
        self.plug_in()

    @property
    def sent(self) -> int:
        """Bytes that went to the other end so far."""
        return int(Path(f"/sys/class/net/{self._end}/statistics/tx_bytes").read_text())

    def _drop(self, name: str, which: str) -> None:
        rules = f"table inet {name} {{\n chain input {{\n type filter hook input priority 0;\n {which} drop\n }}\n}}\n"
        _run(*self.prefix, "nft", "-f", "-", said=rules)

    def __enter__(self) -> "Cable":
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.communicate()
        subprocess.run(["ip", "route", "delete", *self._nowhere], capture_output=True, check=False)
        subprocess.run(["ip", "link", "delete", self._end], capture_output=True, check=False)  # or the kernel did


def _run(*argv: str, said: str | None = None) -> None:
    done = subprocess.run(argv, input=said, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
