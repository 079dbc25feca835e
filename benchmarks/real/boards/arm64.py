"""An ARM64 board, emulated: its processor, loader and paths are real to all that runs there, its times are not."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from benchmarks.real.boards.entering import CPU, enter
from benchmarks.real.boards.rootfs import USER, USER_ID, root_file_system
from tests.board import Board
from tests.waiting import free_port

_START_S = 60


class Arm64Board(Board):
    """Debian on an ARM64 processor behind a real OpenSSH server of its own, in private namespaces.

    Its root file system is read-only but for the user's home, which is `folder/home` here. It ends with this process
    at the latest, and leaves nothing outside its folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.user = USER
        self.port = free_port()
        self._system = root_file_system()
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        os.chown(self.home, USER_ID, USER_ID)
        (folder / "ssh").mkdir()
        self.user_key = self.make_key("user")
        self.host_key = self.make_key("host")
        shutil.copy(f"{self.user_key}.pub", folder / "ssh" / "authorized_keys")
        (folder / "ssh" / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey /etc/board/host\nPidFile none\n"
            "AuthorizedKeysFile /etc/board/authorized_keys\nStrictModes no\nUsePAM no\nPermitRootLogin no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nUseDNS no\nPrintMotd no\n"
            f"SetEnv QEMU_CPU={CPU}\n"
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start the board and wait until its server greets."""
        shutil.copy(self.host_key, self.folder / "ssh" / "host")
        log = self.folder / "sshd.log"
        argv = ["/usr/sbin/sshd", "-D", "-e", "-f", "/etc/board/sshd_config"]
        with log.open("ab") as file:
            self._process = enter(self._system.root, self._system.qemu, self.folder, argv, file)
        end = time.monotonic() + _START_S
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as greeted:
                if greeted.recv(4) == b"SSH-":
                    return
            time.sleep(0.2)
        self.stop()
        raise AssertionError(f"the board did not start: {log.read_text()}")

    def stop(self) -> None:
        """Switch the board off: every process of it ends at once, and its mounts are gone."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(20)
            self._process = None

    kill = stop
