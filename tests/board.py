"""A board for tests: a real OpenSSH server on this machine with keys, a home and a port of its own; and bad links."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import pytest

from benchmarks.real.cable import Cable
from edgenas.device import Device, Runtime
from tests.waiting import free_port, really_sleep, until

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
_LOCK = "/tmp/edgenas-device.lock"


def on_virtual_machine(folder: Path) -> None:
    """Agents of EdgeNAS' own environment in a board's folder, which PYTHONPATH does not reach, are on a virtual machine
    from now on.
    """
    (packages,) = folder.glob("venv/lib/python*/site-packages")
    begins = Path(__file__).parent / "virtual" / "sitecustomize.py"
    # Once: lib and lib64 are one folder, and two machines would have two clocks.
    (packages / "tests.pth").write_text(
        f"import runpy, sys; 'agent.machine' in sys.modules or runpy.run_path({str(begins)!r})\n"
    )


class Board:
    """An SSH server below `folder`. Sessions have `folder/home` as their HOME, a TMPDIR of their own and a short PATH.

    Args:
        folder: for all its files.
        environment: of its sessions, besides.
        own_core: it looks like another machine (with a boot id and a lock of its own) and is kept on this core.
        cgroup: a memory control group (version 1) that it runs in.
        cable: it is the host at the end of this cable.
    """

    address = "127.0.0.1"

    def __init__(
        self,
        folder: Path,
        path: str = "/usr/local/bin:/usr/bin:/bin",
        environment: Mapping[str, str] | None = None,
        own_core: int | None = None,
        cgroup: Path | None = None,
        cable: Cable | None = None,
    ) -> None:
        if SSHD is None or shutil.which("ssh-keygen") is None:
            pytest.skip("needs an OpenSSH server (apt-get install openssh-server)")
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir(parents=True, exist_ok=True)
        (folder / "tmp").mkdir(exist_ok=True)
        variables: dict[str, object] = {"HOME": self.home, "PATH": path, "TMPDIR": folder / "tmp"}
        if "EDGENAS_TESTS_LOOPBACK_ONLY" in os.environ:  # a test: agents there are on a virtual machine
            self.weather = folder / "weather.json"
            variables |= {"PYTHONPATH": Path(__file__).parent / "virtual", "EDGENAS_TESTS_WEATHER": self.weather}
        variables |= environment or {}
        if cable is not None:
            self.address = cable.address
        self.port = free_port()
        self.user = getpass.getuser()
        self.user_key = self.make_key("user")
        self.host_key = self.make_key("host")
        shutil.copy(f"{self.user_key}.pub", folder / "authorized_keys")
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress {self.address}\nHostKey {self.host_key}\nPidFile none\n"
            f"AuthorizedKeysFile {folder / 'authorized_keys'}\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nUseDNS no\nPrintMotd no\n"
            f"SetEnv {' '.join(f'{name}={value}' for name, value in variables.items())}\n"
        )
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._prefix: list[str] = [] if cable is None else [*cable.prefix]
        if own_core is not None:
            (folder / "boot_id").write_text(f"{uuid.uuid4()}\n")
            self._hide(folder / "boot_id", "/proc/sys/kernel/random/boot_id")
            (folder / "lock").touch()
            Path(_LOCK).touch()
            self._hide(folder / "lock", _LOCK)
            self._prefix += ["taskset", "-c", str(own_core)]
        if cgroup is not None:
            join = 'echo $$ > "$1/cgroup.procs" && shift && exec "$@"'
            self._prefix += ["sh", "-c", join, "sh", str(cgroup)]
        self.start()

    def make_key(self, name: str, passphrase: str = "") -> Path:
        """A new ed25519 key pair."""
        path = self.folder / name
        path.unlink(missing_ok=True)
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", name, "-f", str(path)]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
        return path

    def start(self) -> None:
        """Start the server and wait until it greets.

        That a port can be connected to is not enough: after a restart, a child of the old server may still hold it.
        """
        log = self.folder / "sshd.log"
        argv = [str(SSHD), "-D", "-f", str(self.folder / "sshd_config"), "-E", str(log)]
        # However this process ends, the server ends with it.
        tied = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        self._process = subprocess.Popen([*self._prefix, *tied, *argv])

        def greets() -> bool:
            with contextlib.suppress(OSError), socket.create_connection((self.address, self.port), 1) as greeted:
                return greeted.recv(4) == b"SSH-"
            return False

        until(greets, f"sshd did not start, see {log}")

    def stop(self) -> None:
        """Stop the listening server."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def regenerate_host_key(self) -> None:
        """What a board does that was installed anew."""
        self.stop()
        self.make_key("host")
        self.start()

    def take_password(self, password: str) -> None:
        """Let the user in with a password only. It stands in a copy of /etc/shadow that this server alone sees."""
        if os.getuid() != 0 or shutil.which("unshare") is None:
            pytest.skip("needs root and unshare, for an /etc/shadow of the server's own")
        argv = ["openssl", "passwd", "-6", "-stdin"]
        secret = subprocess.run(argv, input=password, capture_output=True, text=True, check=True).stdout.strip()
        lines = Path("/etc/shadow").read_text().splitlines()
        shadow = self.folder / "shadow"
        shadow.write_text(
            "".join(f"{self.user}:{secret}:19000::::::\n" if line.startswith(f"{self.user}:") else f"{line}\n"
                    for line in lines)
        )  # fmt: skip
        shadow.chmod(0o600)
        config = self.folder / "sshd_config"
        config.write_text(
            config.read_text().replace(
                "PasswordAuthentication no", "PasswordAuthentication yes\nPubkeyAuthentication no"
            )
        )
        self.stop()
        self._hide(shadow, "/etc/shadow")
        self.start()

    def _hide(self, mine: Path, path: str) -> None:
        """This server alone sees `mine` in the place of a file of the machine's."""
        script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
        self._prefix += ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", str(mine), path]

    def kill(self) -> None:
        """What a power cut does: the server and every session end at once."""
        assert self._process is not None
        processes = psutil.Process(self._process.pid).children(recursive=True)
        for process in [*processes, psutil.Process(self._process.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(10)
        self._process = None

    @property
    def host_key_line(self) -> str:
        return " ".join(Path(f"{self.host_key}.pub").read_text().split()[:2])

    def device(
        self, name: str = "board", folder: str = ".edgenas", runtime: Runtime | None = None, port: int | None = None
    ) -> Device:
        """A device that reaches this board, its key pinned."""
        return Device(
            name=name,
            url=f"ssh://{self.user}@{self.address}:{port or self.port}",
            host_key=self.host_key_line,
            identity_file=str(self.user_key),
            folder=folder,
            runtime=runtime or Runtime(),
        )

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def ssh_with_config(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's SSH configuration of the test's own: what `ssh` finds here reads it. It is empty yet."""
    ssh = shutil.which("ssh")
    if ssh is None:
        pytest.skip("needs OpenSSH's client")
    config = folder / "ssh_config"
    config.touch()
    (folder / "bin").mkdir()
    (folder / "bin" / "ssh").write_text(f'#!/bin/sh\nexec {ssh} -F {config} "$@"\n')
    (folder / "bin" / "ssh").chmod(0o700)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    return config


class Proxy:
    """A TCP link to a board that can be cut or fall silent, at once or after so many bytes to the board."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.cut_after: int | None = None
        self.before_cut: Callable[[], object] = lambda: None  # what is waited for, while nothing passes
        self.pause_s = 0.0  # after each 16 kB to the board: a slow link
        self.stalled = threading.Event()
        self.sent = 0  # bytes to the board
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Drop every connection now."""
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.cut()
        self._listener.close()
        for each in self._sockets:
            each.close()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [near, far]
                threading.Thread(target=self._pump, args=(near, far, True), daemon=True).start()
                threading.Thread(target=self._pump, args=(far, near, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 14):
                if counted:
                    really_sleep(self.pause_s)
                    self.sent += len(data)
                    if self.cut_after is not None and self.sent > self.cut_after:
                        self.before_cut()
                        self.cut()
                        return
                while self.stalled.is_set():
                    really_sleep(0.05)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
