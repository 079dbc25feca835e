"""The root file system of an ARM64 board: Debian's own packages, unpacked and never installed.

It is built once and kept in a cache: whole, or absent. The machine's package manager is only read: the private apt
below has folders of its own, and takes from the machine where its Debian is fetched from and which keys are trusted.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.real.boards.entering import ENTER, Uncommon, enter

PACKAGES = (
    "base-files", "coreutils", "dash", "findutils", "grep", "sed", "libc-bin", "libstdc++6", "openssh-server",
    "python3-venv",
)  # fmt: skip
LEFT_OUT = ("doc", "man", "locale", "info", "lintian", "bash-completion", "zoneinfo", "i18n", "perl")  # of /usr/share
USER, USER_ID = "pi", 1000
PASSWD = (
    "root:*:0:0:root:/root:/bin/sh\n"
    "sshd:*:101:65534::/run/sshd:/usr/sbin/nologin\n"
    f"{USER}:*:{USER_ID}:{USER_ID}::/home/{USER}:/bin/sh\n"
    "nobody:*:65534:65534::/nonexistent:/usr/sbin/nologin\n"
)
GROUP = f"root:*:0:\n{USER}:*:{USER_ID}:\nnogroup:*:65534:\n"


@dataclass(frozen=True)
class RootFileSystem:
    """What a board is made of.

    Attributes:
        root: of the file system.
        qemu: the emulator, a program of this machine.
    """

    root: Path
    qemu: Path


@functools.cache
def root_file_system() -> RootFileSystem:
    """The root file system, built now where it is not in the cache yet."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    recipe = hashlib.sha256(b"".join(path.read_bytes() for path in (Path(__file__), ENTER)))
    recipe.update(_debian().encode())
    kept = cache / f"arm64-{recipe.hexdigest()[:16]}"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            with tempfile.TemporaryDirectory(prefix="part-", dir=cache) as part:
                _build(Path(part) / "whole")
                (Path(part) / "whole").rename(kept)
    return RootFileSystem(kept / "root", kept / "qemu")


def cache_folder() -> Path:
    """Where it is kept: EDGENAS_TESTS_CACHE, or `edgenas-tests` in the user's cache folder."""
    if own := os.environ.get("EDGENAS_TESTS_CACHE"):
        return Path(own).resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgenas-tests"


def _debian() -> str:
    """The code name of this machine's Debian, which the board's will be.

    Raises:
        Uncommon: it has none.
    """
    with contextlib.suppress(OSError):
        lines = Path("/etc/os-release").read_text().splitlines()
        known = dict(line.replace('"', "").split("=", 1) for line in lines if "=" in line)
        if known.get("ID") == "debian" and "VERSION_CODENAME" in known:
            return known["VERSION_CODENAME"]
    raise Uncommon("the board is made of Debian's packages, and this machine has no Debian to fetch them with")


def _build(folder: Path) -> None:
    root = folder / "root"
    for place in ("dev", "proc", "sys", "tmp", "run/sshd", "root", f"home/{USER}", "etc/board", "var/log"):
        (root / place).mkdir(parents=True)
    for place in ("bin", "sbin", "lib"):  # Debian's packages expect the merged /usr, and do not bring the links
        (root / "usr" / place).mkdir(parents=True)
        (root / place).symlink_to(f"usr/{place}")
    with _private_apt() as apt:
        _run(apt, "apt-get", "-qq", "update")
        _run(apt, "apt-get", "-qq", "--yes", "--download-only", "install", *PACKAGES)
        for package in sorted((apt / "cache" / "archives").glob("*.deb")):
            _unpack(package, root)
        _run(apt, "apt-get", "-qq", "download", f"qemu-user-static:{_native()}")
        (apt / "qemu").mkdir()
        _unpack(next(apt.glob("qemu-user-static_*.deb")), apt / "qemu")
        shutil.copy(apt / "qemu" / "usr" / "bin" / "qemu-aarch64-static", folder / "qemu")
    (root / "etc" / "passwd").write_text(PASSWD)
    (root / "etc" / "group").write_text(GROUP)
    (root / "etc" / "hosts").write_text("127.0.0.1 localhost\n")
    (root / "etc" / "nsswitch.conf").write_text("passwd: files\ngroup: files\nshadow: files\nhosts: files\n")
    _compile_python(RootFileSystem(root, folder / "qemu"))


def _unpack(package: Path, root: Path) -> None:
    left_out = [f"--exclude=./usr/share/{name}" for name in LEFT_OUT]
    content = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE)
    # `dpkg-deb --extract` would put folders in the place of the links of a merged /usr.
    argv = ["tar", "--extract", "--keep-directory-symlink", "--directory", str(root), *left_out]
    subprocess.run(argv, stdin=content.stdout, check=True)
    assert content.stdout is not None
    content.stdout.close()
    assert content.wait() == 0


def _compile_python(system: RootFileSystem) -> None:
    """What Debian does when it installs Python; without it every start of an emulated Python takes a minute."""
    with tempfile.TemporaryDirectory() as folder, Path(folder, "log").open("w+b") as log:
        argv = ["/usr/bin/python3", "-m", "compileall", "-q", "-j", "0", "/usr/lib"]
        process = enter(system.root, system.qemu, Path(folder), argv, log, writable=True)
        code = process.wait(400)
        assert process.stdin is not None
        process.stdin.close()
        assert code == 0, Path(folder, "log").read_text()


@contextlib.contextmanager
def _private_apt() -> Iterator[Path]:
    """A folder in which an apt for ARM64 has all that is its own, and nothing is installed."""
    with tempfile.TemporaryDirectory() as name:
        apt = Path(name)
        for place in ("state/lists/partial", "cache/archives/partial", "log", "none"):
            (apt / place).mkdir(parents=True)
        (apt / "status").touch()
        (apt / "sources.list").write_text(_sources())
        machine = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
        # Proxies and the like are the machine's; what it does after an update is for its own sake.
        kept = [line for line in machine.splitlines() if "-Invoke" not in line and not line.startswith("DPkg::")]
        own = {
            "APT::Architecture": "arm64", "APT::Install-Recommends": "false", "APT::Sandbox::User": "root",
            "Dir::State": apt / "state", "Dir::State::status": apt / "status", "Dir::Cache": apt / "cache",
            "Dir::Log": apt / "log", "Dir::Etc::sourcelist": apt / "sources.list",
            **{f"Dir::Etc::{part}": apt / "none" for part in ("sourceparts", "preferencesparts", "parts")},
            **{f"Dir::Etc::{file}": "/dev/null" for file in ("preferences", "main")},
        }  # fmt: skip
        kept += [f'{key} "{value}";' for key, value in own.items()]
        kept += ["#clear APT::Architectures;", f'APT::Architectures {{ "arm64"; "{_native()}"; }};']
        (apt / "apt.conf").write_text("\n".join(kept) + "\n")
        yield apt


def _sources() -> str:
    """Where this machine fetches its Debian from, as lines of a sources.list."""
    release = _debian()
    argv = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]
    found = {tuple(line.split()) for line in subprocess.check_output(argv, text=True).splitlines()}
    suites = (release, f"{release}-updates", f"{release}-security")
    debian = sorted(target for target in found if target[1:] in [(suite, "main") for suite in suites])
    if not debian:
        raise Uncommon(f"apt's sources on this machine have no Debian {release}")
    keys = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    trusted = f" [signed-by={keys}]" if keys.exists() else ""
    return "".join(f"deb{trusted} {' '.join(target)}\n" for target in debian)


def _native() -> str:
    return subprocess.check_output(["dpkg", "--print-architecture"], text=True).strip()


def _run(apt: Path, *argv: str) -> None:
    environment = {**os.environ, "APT_CONFIG": str(apt / "apt.conf"), "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(argv, cwd=apt, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stdout}{done.stderr}"
