"""Phones for tests: a private adb server, and stand-ins attached to it, each with a folder that is the phone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgenas.device import Device, Runtime
from edgenas.latency.profiling import rounds
from tests.adb.adbd import Adbd
from tests.waiting import free_port, until

ADB = os.environ.get("ADB") or shutil.which("adb")
TOOL = Path(__file__).with_name("benchmark_model.py")
PROPERTIES = {
    "ro.product.manufacturer": "EdgeNAS",
    "ro.product.model": "Stand-in",
    "ro.board.platform": "host",
    "ro.build.fingerprint": "edgenas/standin/host:14/TEST/1:userdebug/test-keys",
    "ro.build.version.release": "14",
    "ro.product.cpu.abi": "x86_64",
}
GETPROP = '#!/bin/sh\ncat "$PHONE/props/$1" 2>/dev/null || echo\n'
RUN_AS = """#!/bin/sh
app="$PHONE/apps/$1"
[ -d "$app" ] || { echo "run-as: unknown package: $1" >&2; exit 1; }
[ -f "$app.debuggable" ] || { echo "run-as: package not debuggable: $1" >&2; exit 1; }
cd "$app" && shift && exec "$@"
"""
# What Android 8.0 has of what Debian's toybox has (platform/system/core/shell_and_utilities/README.md): nothing newer
# may be needed, so nothing newer is there.
ANDROID_8 = """
acpi base64 basename blockdev bunzip2 bzcat cal cat chcon chgrp chmod chown chroot chrt cksum clear cmp comm cp cpio
cut date dd df diff dirname dmesg dos2unix du echo env expand expr fallocate false file find flock free getenforce
grep groups gunzip gzip head hostname hwclock id ifconfig inotifyd insmod ionice iorenice kill killall ln logname
losetup ls lsmod lsof lspci lsusb md5sum microcom mkdir mkfifo mknod mkswap mktemp modinfo modprobe more mount
mountpoint mv netstat nice nl nohup od paste patch pgrep pidof pkill pmap printenv printf ps pwd readlink realpath
renice restorecon rm rmdir rmmod runcon sed seq setenforce setsid sha1sum sha224sum sha256sum sha384sum sha512sum
sleep sort split stat strings swapoff swapon sync sysctl tac tail tar taskset tee time timeout top touch tr true
truncate tty ulimit umount uname uniq unix2dos uptime usleep uudecode uuencode vmstat wc which whoami xargs xxd yes
zcat
"""


class AdbServer:
    """The real adb server, on a port of its own, with keys of its own."""

    def __init__(self, folder: Path) -> None:
        if ADB is None:
            pytest.skip("needs the adb client (apt-get install adb)")
        self.port = free_port()
        self.environment = os.environ | {"ANDROID_ADB_SERVER_PORT": str(self.port), "HOME": str(folder)}
        self.adb("start-server")

    def adb(self, *arguments: str) -> str:
        """What the client prints."""
        argv = [str(ADB), *arguments]
        done = subprocess.run(argv, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout + done.stderr

    def states(self) -> dict[str, str]:
        """Serial number -> state."""
        return dict(line.split("\t", 1) for line in self.adb("devices").splitlines() if "\t" in line)

    def attach(self, serial: str, state: str = "device") -> None:
        """Connect a phone, anew if need be, and wait for it."""
        self.adb("disconnect", serial)

        def is_there() -> bool:
            self.adb("connect", serial)
            return self.states().get(serial, "").startswith(state)

        until(is_there, f"{serial} is {state}")

    def stop(self) -> None:
        self.adb("kill-server")


class LabPhone:
    """A stand-in for a phone, attached to an adb server.

    Args:
        folder: that is the phone.
        server: to attach it to.
        style: of its benchmark_model's output.
        android: whether its shell and its tools are Android's own, mksh and toybox, and only those of Android 8.
    """

    def __init__(self, folder: Path, server: AdbServer, style: str = "classic", android: bool = False) -> None:
        self.root, self.server = folder, server
        self.home = folder / "data" / "local" / "tmp"
        self.home.mkdir(parents=True)
        self.bin = folder / "bin"
        self.bin.mkdir()
        (folder / "props").mkdir()
        for name, value in PROPERTIES.items():
            (folder / "props" / name).write_text(f"{value}\n")
        for name, script in (("getprop", GETPROP), ("run-as", RUN_AS)):
            (self.bin / name).write_text(script)
            (self.bin / name).chmod(0o755)
        if android:
            self._use_android_s_tools()
        self.tool = folder / "benchmark_model"  # on the host
        self.tool.write_text(f"#!{sys.executable}\n{TOOL.read_text()}")
        environment = {
            "PHONE": str(folder), "PATH": str(self.bin) if android else f"{self.bin}:/usr/bin:/bin", "HOME": "/",
            "TMPDIR": str(self.home), "BENCHMARK_STYLE": style, "TF_CPP_MIN_LOG_LEVEL": "3",
        }  # fmt: skip
        if "EDGENAS_TESTS_LOOPBACK_ONLY" in os.environ:  # a test: models run on a virtual machine
            environment["PYTHONPATH"] = str(Path(__file__).parents[1] / "virtual")
            environment["EDGENAS_TESTS_WEATHER"] = str(folder / "weather.json")
        self.adbd = Adbd(environment, {"ro.product.name": "standin", "ro.product.model": "Stand-in",
                                       "ro.product.device": "host"}, folder)  # fmt: skip
        self.serial = self.adbd.serial
        server.attach(self.serial)

    def _use_android_s_tools(self) -> None:
        shell, toybox = shutil.which("mksh"), shutil.which("toybox")
        if shell is None or toybox is None:
            pytest.skip("needs Android's shell and tools (apt-get install mksh toybox)")
        names = set(subprocess.run([toybox], capture_output=True, text=True, check=True).stdout.split())
        for name in names.intersection(ANDROID_8.split()):
            (self.bin / name).symlink_to(toybox)
        (self.bin / "sh").symlink_to(shell)

    def device(self, name: str = "phone", **changes: Any) -> Device:
        """The phone as a device."""
        runtime = changes.pop("runtime", None) or Runtime("benchmark-model", benchmark_model=str(self.tool))
        return Device(name, f"adb:{self.serial}", runtime=runtime, **({"folder": "edgenas"} | changes))

    def replace(self, tool: str, script: str) -> None:
        """Put a shell script in the place of one of the phone's tools."""
        (self.bin / tool).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / tool).chmod(0o755)

    def install_app(self, package: str, debuggable: bool = True) -> Path:
        """An app's own files."""
        folder = self.root / "apps" / package
        (folder / "files").mkdir(parents=True)
        if debuggable:
            Path(f"{folder}.debuggable").touch()
        return folder

    def plug_in(self) -> None:
        """After it was unplugged."""
        self.adbd.plug_in()
        self.server.attach(self.serial)

    def stop(self) -> None:
        self.server.adb("disconnect", self.serial)
        self.adbd.unplug()


def quicken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have phones measured in two passes: on a virtual machine a third finds the same."""
    monkeypatch.setattr(rounds, "LEAST_PASSES", 2)
    monkeypatch.setattr(rounds, "MOST_PASSES", 2)
