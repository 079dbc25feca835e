"""From a target to a logged-in SSH transport: the way there, the pinned host key, keys and passwords.

The host key is checked before anything secret is sent. A password or passphrase is asked for on the terminal and
forgotten; a jump host is reached by the user's own `ssh`, with the user's own trust in it.
"""

import contextlib
import getpass
import logging
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

import paramiko
from paramiko.ssh_exception import IncompatiblePeer

from edgenas.device.device import Device, fingerprint
from edgenas.device.identities import Offer, find_identities, unlock
from edgenas.device.limits import last_line
from edgenas.device.target import Target
from edgenas.errors import DeviceError, UnreachableError

CONNECT_S = 10.0
_LAST_WORDS_S = 5.0  # a proxy that failed has ended, or is about to
# What to offer a server so that it shows the pinned key rather than another of its keys.
_ALGORITHMS = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}

# paramiko would print tracebacks of broken links to stderr; what goes wrong is said by DeviceError.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class Wire:
    """The socket to the server, perhaps through a command, that remembers when it last heard something."""

    def __init__(self, device: Device, target: Target) -> None:
        self.heard_at = time.monotonic()
        self._process: subprocess.Popen[bytes] | None = None
        if target.command:
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
    except IncompatiblePeer as error:
        wire.close()
        raise DeviceError(
            f"{device.name}: {target.host} port {target.port} speaks SSH, but paramiko, EdgeNAS's SSH client, lacks "
            f"what it asks for: {error}. {_what_paramiko_has(transport, str(error))}"
        ) from None
    except (paramiko.SSHException, EOFError, OSError) as error:
        complaint = wire.complaint()
        wire.close()
        raise UnreachableError(
            f"{device.name}: {target.host} port {target.port} answers, but not as an SSH server: "
            f"{str(error) or 'the connection was closed'}{complaint}."
        ) from None


def _what_paramiko_has(transport: paramiko.Transport, error: str) -> str:
    """The remedy for a server that shares no algorithm of a kind."""
    security = transport.get_security_options()
    kinds = (
        ("kex", "KexAlgorithms", security.kex),
        ("host key", "HostKey", security.key_types),
        ("ciphers", "Ciphers", security.ciphers),
        ("macs", "MACs", security.digests),
    )
    for word, option, names in kinds:
        if word in error:
            return f"Allow one of these in its sshd_config ({option}): {', '.join(names)}."
    return ""


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
    """Log in as OpenSSH does: with nothing, keys of the SSH agent and of files, a password asked for on the terminal.

    Raises:
        DeviceError: the server takes none of them.
    """
    taken = _methods(transport, target.user)
    if transport.is_authenticated():
        return
    tried: list[str] = []
    if not taken or "publickey" in taken:
        if _with_keys(device, target, transport, tried):
            return
        taken = set()
        with contextlib.suppress(paramiko.SSHException):  # which a server that has seen enough keys may have closed
            taken = _methods(transport, target.user)  # after a key, a password may be asked for on top
    else:
        tried.append(f"no key, for it takes only {', '.join(sorted(taken))}")
    if {"password", "keyboard-interactive"} & taken and sys.stdin.isatty():
        tried.append("a password")
        with contextlib.suppress(paramiko.AuthenticationException):
            transport.auth_password(target.user, getpass.getpass(f"Password of {target.user} on {device.name}: "))
            if transport.is_authenticated():
                return
    said = _said(transport)
    raise DeviceError(
        f"{device.name} refuses the login of {target.user!r} at {target.host}{said and f': {said}'}. Tried: "
        f"{', '.join(tried) or 'no key, for there is none'}. Put your public key on it (ssh-copy-id) or name the "
        "right private key as identity_file. Where the key is right, the log of its SSH server says why (journalctl -u "
        "ssh): an account may be locked, or have a shell that is not there."
    )


def _said(transport: paramiko.Transport) -> str:
    """What the server said beside its last refusal, as PAM does; empty where it said nothing."""
    words: bytes | None = getattr(transport.auth_handler, "banner", None)
    return last_line(words.decode(errors="replace")) if words else ""


def _with_keys(device: Device, target: Target, transport: paramiko.Transport, tried: list[str]) -> bool:
    """Whether one of the keys lets in; what came of each is noted in `tried`."""
    found = find_identities(target)
    for offer in found.offers:
        tried.append(offer.label)
        if _offer(transport, target.user, offer):
            return True
        if not transport.is_active() and (said := _said(transport)):
            raise DeviceError(f"{device.name} closed the connection at the login of {target.user!r}: {said}.")
        if not transport.is_active():  # OpenSSH does so after MaxAuthTries of them, 6 unless told otherwise
            raise DeviceError(
                f"{device.name} closed the connection at the login of {target.user!r}, after {len(tried)} of your "
                f"keys: {', '.join(tried)}. Name the right one as identity_file in the device's file, or in "
                "~/.ssh/config with IdentitiesOnly yes."
            )
    tried += found.unusable
    for path in found.locked:
        if not sys.stdin.isatty():
            tried.append(
                f"{path} (needs its passphrase, and there is no terminal to ask for it: load it into the SSH agent "
                "with ssh-add)"
            )
            continue
        key = unlock(path, getpass.getpass(f"Passphrase of {path}: "))
        if key is None:
            tried.append(f"{path} (that is not the passphrase)")
            continue
        offer = Offer(str(path), key)
        tried.append(offer.label)
        if any(_offer(transport, target.user, each) for each in (*found.certified(offer), offer)):
            return True
    return False


def _offer(transport: paramiko.Transport, user: str, offer: Offer) -> bool:
    extensions: dict[str, bytes] = transport.server_extensions  # type: ignore[attr-defined]
    known = extensions.get("server-sig-algs", b"").decode(errors="replace")
    if "rsa" in offer.key.get_name() and known and "rsa-sha2-" not in known:
        return False  # paramiko would end the connection
    offer.key.public_blob = offer.certificate
    try:
        transport.auth_publickey(user, offer.key)
    except paramiko.SSHException:  # the connection may be gone: the caller looks
        return False
    return transport.is_authenticated()  # not so when the server wants more on top


def _methods(transport: paramiko.Transport, user: str) -> set[str]:
    """How the server would let the user in. Some boards do at once, for asking."""
    try:
        transport.auth_none(user)
    except paramiko.BadAuthenticationType as error:
        return set(error.allowed_types)
    except paramiko.AuthenticationException:
        if not transport.is_active():
            raise
    return set()


def ran_nothing(device: Device, account: str, said: str, exit_code: int) -> DeviceError:
    """The error to raise where the login shell ended without beginning a command; `said` are its last words."""
    return DeviceError(
        f"{device.name}: the login of {account!r} works, but runs no command there. It says: "
        f"{said or 'nothing, as /bin/false does'} (exit code {exit_code}). EdgeNAS needs an account with a shell: sudo "
        f"chsh -s /bin/sh {account}; or name another account in the device's URL."
    )
