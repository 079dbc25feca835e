"""From a device's URL to a logged-in SSH transport: the user's ~/.ssh/config, the pinned host key, keys and passwords.

The host key is checked before anything secret is sent. A password or passphrase is asked for on the terminal and
forgotten; a jump host is reached by the user's own `ssh`, with the user's own trust in it.
"""

import contextlib
import getpass
import logging
import os
import pwd
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paramiko

from edgenas.device.device import Device, fingerprint
from edgenas.errors import DeviceError, InputError, UnreachableError

CONNECT_S = 10.0
_LAST_WORDS_S = 5.0  # a proxy that failed has ended, or is about to
_DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
# What to offer a server so that it shows the pinned key rather than another of its keys.
_ALGORITHMS = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}

# paramiko would print tracebacks of broken links to stderr; what goes wrong is said by DeviceError.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Target:
    """Whom to log in to, after ~/.ssh/config has spoken."""

    host: str
    port: int
    user: str
    identity_files: tuple[Path, ...]
    agent: bool  # whether keys of the SSH agent are tried
    command: str | None  # the ProxyCommand that carries the connection


def resolve(device: Device) -> Target:
    """The device's URL read with ~/.ssh/config: HostName, User, Port, IdentityFile, ProxyJump, ProxyCommand."""
    address = device.address
    path = Path.home() / ".ssh" / "config"
    try:
        config = paramiko.SSHConfig.from_text("\n".join(_lines(path)))
        options: dict[str, Any] = dict(config.lookup(address.host))
    except (OSError, UnicodeDecodeError, paramiko.SSHException, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from None
    host = str(options["hostname"])
    port = address.port or int(options.get("port", 22))
    user = address.user or options.get("user") or getpass.getuser()
    if device.identity_file:
        files = [Path(device.identity_file).expanduser()]
        if not files[0].is_file():
            raise InputError(f"{device.name}: identity_file {device.identity_file!r} does not exist.")
    else:
        named = options.get("identityfile", [str(Path.home() / ".ssh" / name) for name in _DEFAULT_KEYS])
        files = [path for path in (Path(name).expanduser() for name in named) if path.is_file()]
    command = options.get("proxycommand")
    jump = options.get("proxyjump", "none")
    if command is None and jump.lower() != "none":
        command = _jump_command(jump, host, port)
    only_files = str(options.get("identitiesonly", "no")).lower() == "yes"
    return Target(host, port, user, tuple(files), not only_files, command)


def _lines(path: Path, depth: int = 0) -> Iterator[str]:
    """The lines of an SSH config file with its Includes in place."""
    if not path.is_file():
        return
    for line in path.read_text().splitlines():
        include = re.match(r"\s*include[\s=]+(.+)", line, re.IGNORECASE)
        if include is None:
            yield line
        elif depth < 16:
            for pattern in shlex.split(include[1]):
                full = Path(pattern).expanduser()
                folder = Path(full.anchor) if full.is_absolute() else Path.home() / ".ssh"
                for found in sorted(folder.glob(str(full.relative_to(full.anchor)))):
                    yield from _lines(found, depth + 1)


def _jump_command(jump: str, host: str, port: int) -> str:
    """The ProxyCommand that OpenSSH itself makes of a ProxyJump."""
    *before, last = [hop.strip() for hop in jump.split(",")]
    argv = ["ssh"]
    if Path.home() != Path(pwd.getpwuid(os.getuid()).pw_dir):  # ssh itself does not look at $HOME
        argv += ["-F", str(Path.home() / ".ssh" / "config")]
    if before:
        argv += ["-J", ",".join(before)]
    destination = last if last.startswith("ssh://") else f"ssh://{last}"
    return shlex.join([*argv, "-W", f"[{host}]:{port}", "--", destination])


class Wire:
    """The socket to the server, perhaps through a command, that remembers when it last heard something."""

    def __init__(self, device: Device, target: Target) -> None:
        self.heard_at = time.monotonic()
        self._process: subprocess.Popen[bytes] | None = None
        if target.command is not None:
            self._socket = self._through(target.command)
            return
        try:
            self._socket = socket.create_connection((target.host, target.port), CONNECT_S)
        except socket.gaierror as error:
            raise UnreachableError(f"{device.name}: there is no host {target.host!r} ({error.strerror}).") from None
        except OSError as error:
            reason = "no answer" if isinstance(error, TimeoutError) else (error.strerror or str(error)).lower()
            raise UnreachableError(
                f"{device.name} cannot be reached at {target.host} port {target.port}: {reason}. "
                "Is it on, in this network, and does its SSH server run?"
            ) from None
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _through(self, command: str) -> socket.socket:
        ours, theirs = socket.socketpair()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        argv = ["sh", "-c", f"exec {command}"]  # the user's own line from ~/.ssh/config, as OpenSSH runs it
        self._process = subprocess.Popen(
            argv, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=self._stderr, start_new_session=True
        )
        theirs.close()
        return ours

    def complaint(self) -> str:
        """What the proxy command said, if there is one and it spoke."""
        if self._process is None:
            return ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LAST_WORDS_S)
        self._stderr.seek(0)
        text = self._stderr.read(2000).decode(errors="replace").strip().splitlines()
        return f" (the proxy said: {text[-1]})" if text else ""

    def recv(self, count: int) -> bytes:
        data = self._socket.recv(count)
        self.heard_at = time.monotonic()
        return data

    def close(self) -> None:
        self._socket.close()
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


def handshake(device: Device, target: Target, wire: Wire) -> paramiko.Transport:
    """An encrypted transport; the server's host key is still to be judged."""
    try:
        transport = paramiko.Transport(wire)  # type: ignore[arg-type]
        transport.banner_timeout = transport.auth_timeout = transport.channel_timeout = 15
        if device.host_key is not None:
            pinned = device.host_key.split()[0]
            security = transport.get_security_options()
            first = _ALGORITHMS.get(pinned, (pinned,))
            offered = [name for name in security.key_types if name not in first]
            with contextlib.suppress(ValueError):  # a kind that paramiko does not know
                security.key_types = (*first, *offered)
        transport.start_client(timeout=CONNECT_S)
        return transport
    except (paramiko.SSHException, EOFError, OSError) as error:
        complaint = wire.complaint()
        wire.close()
        raise UnreachableError(
            f"{device.name}: {target.host} port {target.port} answers, but not as an SSH server: "
            f"{str(error) or 'the connection was closed'}{complaint}."
        ) from None


def key_line(transport: paramiko.Transport) -> str:
    """The server's host key as OpenSSH writes it."""
    key = transport.get_remote_server_key()
    return f"{key.get_name()} {key.get_base64()}"


def check_host_key(device: Device, transport: paramiko.Transport) -> None:
    """Raise DeviceError unless the server shows the pinned key."""
    shown = key_line(transport)
    if device.host_key is None:
        raise DeviceError(
            f"{device.name}: its host key is not known yet ({fingerprint(shown)}). "
            f"Compare and accept it: edgenas device trust {device.name}"
        )
    if shown.split()[:2] != device.host_key.split()[:2]:
        raise DeviceError(
            f"{device.name}: its host key has CHANGED: expected {fingerprint(device.host_key)}, received "
            f"{fingerprint(shown)}. If the device was installed anew, accept the new key: edgenas device trust "
            f"{device.name}. If not, someone may be standing between you and it."
        )


def authenticate(device: Device, target: Target, transport: paramiko.Transport) -> None:
    """Log in with the keys of the files, of the SSH agent, or a password asked for on the terminal.

    Raises:
        DeviceError: the server takes none of them.
    """
    tried: list[str] = []
    locked: list[Path] = []
    for label, key in _keys(target, locked):
        tried.append(label)
        if _offer(transport, target.user, key):
            return
        if not transport.is_active():  # OpenSSH does so after MaxAuthTries of them, 6 unless told otherwise
            raise DeviceError(
                f"{device.name} closed the connection at the login of {target.user!r}, after {len(tried)} of your "
                f"keys: {', '.join(tried)}. Name the right one as identity_file in the device's file, or in "
                "~/.ssh/config with IdentitiesOnly yes."
            )
    for path in locked:
        tried.append(f"{path} (locked by a passphrase)")
        unlocked = _unlock(device, path)
        if unlocked is not None and _offer(transport, target.user, unlocked):
            return
    if _takes_passwords(transport, target.user) and sys.stdin.isatty():
        tried.append("a password")
        with contextlib.suppress(paramiko.AuthenticationException):
            transport.auth_password(target.user, getpass.getpass(f"Password of {target.user} on {device.name}: "))
            if transport.is_authenticated():
                return
    raise DeviceError(
        f"{device.name} refuses the login of {target.user!r} at {target.host}. Tried: "
        f"{', '.join(tried) or 'no key, for there is none'}. Put your public key on it (ssh-copy-id) or name the "
        "right private key as identity_file."
    )


def _keys(target: Target, locked: list[Path]) -> Iterator[tuple[str, paramiko.PKey]]:
    """The keys to offer, in order; files that need a passphrase are noted in `locked` for later."""
    for path in target.identity_files:
        try:
            yield str(path), paramiko.PKey.from_path(path)
        except TypeError:  # what `cryptography` raises for a key with a passphrase
            locked.append(path)
        except (OSError, ValueError, paramiko.SSHException, paramiko.pkey.UnknownKeyType) as error:
            raise InputError(f"{path} is not a private key that can be used: {error}.") from None
    if target.agent and os.environ.get("SSH_AUTH_SOCK"):
        with contextlib.suppress(paramiko.SSHException):
            for key in paramiko.Agent().get_keys():
                yield f"the SSH agent's {key.comment or key.get_name()}", key


def _offer(transport: paramiko.Transport, user: str, key: paramiko.PKey) -> bool:
    try:
        transport.auth_publickey(user, key)
    except paramiko.AuthenticationException:
        return False
    return transport.is_authenticated()  # not so when the server wants a password on top


def _unlock(device: Device, path: Path) -> paramiko.PKey | None:
    if not sys.stdin.isatty():
        raise DeviceError(
            f"{device.name}: the key {path} needs its passphrase, and there is no terminal to ask for it. "
            "Load it into the SSH agent first: ssh-add."
        )
    try:
        passphrase = getpass.getpass(f"Passphrase of {path}: ").encode()
        return paramiko.PKey.from_path(path, passphrase)  # type: ignore[arg-type]  # it fails on the str it asks for
    except (ValueError, paramiko.SSHException):
        raise DeviceError(f"{device.name}: that is not the passphrase of {path}.") from None


def _takes_passwords(transport: paramiko.Transport, user: str) -> bool:
    try:
        transport.auth_none(user)
    except paramiko.BadAuthenticationType as error:
        return bool({"password", "keyboard-interactive"} & set(error.allowed_types))
    except paramiko.SSHException:
        return False
    return False
