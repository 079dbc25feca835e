"""Programs of an ARM64 root file system, in private namespaces in which this machine's kernel can run them."""

import functools
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import BinaryIO

ENTER = Path(__file__).with_name("enter.sh")
CPU = "cortex-a72"  # a Raspberry Pi 4's
# Its user namespace has no users until this process has mapped them; the shell gets its rights by starting a program.
_WHEN_MAPPED = 'echo; read -r mapped && exec unshare --mount --pid --fork --kill-child --propagation private "$@"'
_TRY = 'mount -t binfmt_misc binfmt_misc "$1" && mount -t proc proc "$1"'
_CPU_INFO = (
    "processor\t: {core}\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\n"
    "CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n"
)
MODEL = f"QEMU, {CPU}"


class Uncommon(Exception):  # noqa: N818 - nothing is wrong with a machine that cannot do it
    """This machine cannot run an emulated board; the text says why."""


@functools.cache
def unsupported() -> str | None:
    """Why this machine cannot run an emulated board; None where it can."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return "needs Linux on x86-64"
    if os.getuid() != 0:
        return "needs root, for namespaces with several users"
    needed = ("unshare", "mount", "apt-get", "dpkg-deb", "tar")
    if missing := [program for program in needed if shutil.which(program) is None]:
        return f"needs {', '.join(missing)}"
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        try:
            process = _enter(["sh", "-c", _TRY, "sh", folder], log)
        except OSError as error:
            return f"no user namespace with several users can be made here: {error}"
        with process:
            code = process.wait(20)
        log.seek(0)
        said = log.read().decode(errors="replace").strip()
    return None if code == 0 else f"namespaces with a binfmt_misc and a /proc of their own do not work here: {said}"


def enter(
    root: Path, qemu: Path, board: Path, argv: list[str], log: BinaryIO, writable: bool = False
) -> subprocess.Popen[bytes]:
    """Start a program of `root`; it and all that it started end when its stdin is closed, or this process ends.

    Args:
        root: a root file system of ARM64.
        qemu: the emulator.
        board: a folder for what differs from board to board; what is missing is made.
        argv: the program.
        log: for what it and the namespaces print.
        writable: let it change the root file system.
    """
    for place in ("home", "ssh"):
        (board / place).mkdir(exist_ok=True)
    _describe_processor(board, os.cpu_count() or 1)
    mode = "rw" if writable else "ro"
    return _enter(["sh", str(ENTER), str(root), str(board), str(qemu), mode, *argv], log)


def _enter(argv: list[str], log: BinaryIO) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        ["unshare", "--user", "sh", "-c", _WHEN_MAPPED, "sh", *argv],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if process.stdout.readline() != b"\n":
            raise PermissionError("unshare --user is refused")
        for kind in ("uid_map", "gid_map"):
            Path(f"/proc/{process.pid}/{kind}").write_text("0 0 65536\n")
        process.stdin.write(b"\n")
        process.stdin.flush()
    except OSError:
        process.kill()
        process.communicate()
        raise
    process.stdout.close()
    return process


def _describe_processor(board: Path, cores: int) -> None:
    """What the kernel of a board says of its processor; the host's would be an x86's."""
    (board / "cpu").write_text(CPU)
    listed = "".join(_CPU_INFO.format(core=core) for core in range(cores))
    (board / "cpuinfo").write_text(f"{listed}Model\t: {MODEL}\n")
    cpus = board / "sys" / "devices" / "system" / "cpu"
    for core in range(cores):
        topology = cpus / f"cpu{core}" / "topology"
        topology.mkdir(parents=True, exist_ok=True)
        (topology / "core_id").write_text(f"{core}\n")
        for name in ("physical_package_id", "cluster_id"):
            (topology / name).write_text("0\n")
        for name in ("core_siblings_list", "package_cpus_list"):
            (topology / name).write_text(f"0-{cores - 1}\n")
    for name in ("possible", "present", "online"):
        (cpus / name).write_text(f"0-{cores - 1}\n")
    (cpus / "kernel_max").write_text(f"{cores - 1}\n")
