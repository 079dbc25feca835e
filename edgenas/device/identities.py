"""The keys to offer at a login, of files and of the SSH agent, in OpenSSH's order; what cannot be used is named.

A public key or a locked file stands for the agent's key of the same name; a certificate is signed for by its key.
"""

import io
import socket
from base64 import b64decode
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from paramiko.pkey import PublicBlob

from edgenas.device.target import Target

_AGENT_S = 15.0
_MOST_KEYS, _MOST_BYTES = 2048, 256 << 10  # OpenSSH believes no agent that has or says more
_LIST, _LISTED, _SIGN, _SIGNED = b"\x0b", b"\x0c", b"\x0d", b"\x0e"  # the agent's protocol
_FLAGS = {"rsa-sha2-256": 2, "rsa-sha2-512": 4}
_CERTIFICATE = "-cert-v01@openssh.com"
_CLIENT = "paramiko, EdgeNAS's SSH client,"
_CLASSES: tuple[tuple[type, type[paramiko.PKey]], ...] = (
    (ed25519.Ed25519PrivateKey, paramiko.Ed25519Key),
    (ec.EllipticCurvePrivateKey, paramiko.ECDSAKey),
    (rsa.RSAPrivateKey, paramiko.RSAKey),
)
_SUPPORTED = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")


class Offer(NamedTuple):
    """A key to try, perhaps as the one that a certificate speaks of."""

    label: str
    key: paramiko.PKey
    certificate: PublicBlob | None = None


@dataclass
class Identities:
    """What there is to offer."""

    offers: list[Offer] = field(default_factory=list)
    locked: list[Path] = field(default_factory=list)  # files that need a passphrase
    unusable: list[str] = field(default_factory=list)  # files that cannot be used, each with the reason
    certificates: dict[bytes, list[tuple[Path, PublicBlob]]] = field(default_factory=lambda: defaultdict(list))

    def certified(self, offer: Offer) -> list[Offer]:
        """The same key with each certificate that speaks of it."""
        found = self.certificates.get(offer.key.asbytes(), [])
        return [Offer(f"{path} (a certificate)", offer.key, blob) for path, blob in found]


@dataclass(frozen=True)
class _File:
    path: Path
    key: paramiko.PKey | None
    public: bytes | None  # the public half as it goes over the wire
    trouble: str = ""  # why there is no key
    locked: bool = False


def find_identities(target: Target) -> Identities:
    """What OpenSSH would offer: the agent's keys that a file names, the agent's others, then what files alone have."""
    found = Identities()
    files = [_read(path) for path in target.identity_files]
    for path in target.certificate_files or [Path(f"{file.path}-cert.pub") for file in files]:
        _note_certificate(path, found)
    named = {file.public for file in files}
    named |= {blob.key_blob for some in found.certificates.values() for _, blob in some}
    held: dict[bytes, _AgentKey] = {}
    if target.agent:
        try:
            held = {key.asbytes(): key for key in _agent_keys(target.agent)}
        except OSError as error:
            found.unusable.append(f"the SSH agent at {target.agent} ({_words(error)})")
    agent = sorted(held.values(), key=lambda key: key.asbytes() not in named)
    plain = [Offer(key.label, key) for key in agent if not target.only_files or key.asbytes() in named]
    for file in files:
        if file.public is not None and file.public in held:
            continue
        if file.key is not None:
            plain.append(Offer(str(file.path), file.key))
        elif file.locked:
            found.locked.append(file.path)
        elif file.trouble:
            found.unusable.append(f"{file.path} ({file.trouble})")
    if target.certificate_files:
        found.offers = [*(with_it for offer in plain for with_it in found.certified(offer)), *plain]
    else:
        found.offers = [each for offer in plain for each in (offer, *found.certified(offer))]
    return found


def _load(data: bytes, passphrase: bytes | None = None) -> paramiko.PKey:
    """A private key from the content of its file, in any form that OpenSSH reads.

    Raises:
        TypeError: it needs a passphrase.
        ValueError: no private key, or not its passphrase.
        UnsupportedAlgorithm: of a kind that paramiko lacks.
    """
    try:
        key = serialization.load_ssh_private_key(data, passphrase)
    except ValueError:
        key = serialization.load_pem_private_key(data, passphrase)  # type: ignore[assignment]
    for kind, made in _CLASSES:
        if isinstance(key, kind):
            text = key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
            )
            return made.from_private_key(io.StringIO(text.decode()))
    raise UnsupportedAlgorithm(type(key).__name__)


def unlock(path: Path, passphrase: str) -> paramiko.PKey | None:
    """The private key of a locked file; None where that is not its passphrase."""
    try:
        return _load(path.read_bytes(), passphrase.encode())
    except (OSError, TypeError, ValueError, UnsupportedAlgorithm, paramiko.SSHException):  # TypeError: an empty one
        return None


def _read(path: Path) -> _File:
    data, trouble, locked = b"", "", False
    try:
        data = path.read_bytes()
        key = _load(data)
        return _File(path, key, key.asbytes())
    except FileNotFoundError:
        pass  # most of the default names; there may be a .pub all the same
    except OSError as error:
        trouble = _words(error)
    except TypeError:
        locked = True
    except UnsupportedAlgorithm:
        trouble = f"of a kind, or locked with a cipher, that {_CLIENT} lacks"
    except (ValueError, paramiko.SSHException):
        trouble = "not a private key that can be read"
    public = _public(data) or _public_file(Path(f"{path}.pub"))
    kind = paramiko.Message(public).get_binary().decode(errors="replace") if public else ""
    if public and kind not in _SUPPORTED:
        trouble, locked = f"a key of the kind {kind}, which {_CLIENT} lacks", False
    elif public and not locked and (not trouble or (data and b"PRIVATE" not in data)):
        trouble = "only a public key, and the SSH agent does not have its private half"
    return _File(path, None, public, trouble, locked)


def _public_file(path: Path) -> bytes | None:
    try:
        return _public(path.read_bytes())
    except OSError:
        return None


def _public(data: bytes) -> bytes | None:
    """The public half that a file shows: a line of a .pub file, or what OpenSSH's private keys say even when locked."""
    try:
        if data.startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----"):
            content = paramiko.Message(b64decode(b"".join(data.split(b"-----")[2].split())))
            content.get_bytes(len(b"openssh-key-v1\0"))
            for _ in ("cipher", "key derivation", "its options"):
                content.get_binary()
            content.get_int()  # how many keys
            return content.get_binary()
        kind, text = data.split()[:2]
        blob = b64decode(text, validate=True)
        return blob if paramiko.Message(blob).get_binary() == kind else None
    except (ValueError, IndexError):
        return None


def _note_certificate(path: Path, found: Identities) -> None:
    data, form = b"", serialization.Encoding.OpenSSH
    try:
        data = path.read_bytes()
        certificate = serialization.load_ssh_public_identity(data)
        if not isinstance(certificate, serialization.SSHCertificate):
            raise ValueError("a key")
        line = certificate.public_key().public_bytes(form, serialization.PublicFormat.OpenSSH)
        found.certificates[b64decode(line.split()[1])].append((path, PublicBlob.from_string(data.decode())))
    except FileNotFoundError:
        pass
    except OSError as error:
        found.unusable.append(f"{path} ({_words(error)})")
    except (ValueError, UnsupportedAlgorithm):
        lacks = _CERTIFICATE.encode() in data
        reason = f"a certificate of a kind that {_CLIENT} lacks" if lacks else "not a certificate"
        found.unusable.append(f"{path} ({reason})")


class _AgentKey(paramiko.PKey):
    """A key, or a certificate with its key, that the SSH agent holds and signs with."""

    def __init__(self, address: str, blob: bytes, comment: str) -> None:
        self.public_blob = None
        self._address, self._blob = address, blob
        self._name = paramiko.Message(blob).get_binary().decode(errors="replace")
        self.label = f"the SSH agent's {comment or self._name}"

    def get_name(self) -> str:
        return self._name

    def asbytes(self) -> bytes:
        return self._blob

    def sign_ssh_data(self, data: bytes, algorithm: str | None = None) -> paramiko.Message:
        """The agent's signature. Where it refuses, an empty one: the server refuses it, an error ends the link."""
        request = paramiko.Message()
        request.add_byte(_SIGN)
        request.add_string(self._blob)
        request.add_string(data)
        request.add_int(_FLAGS.get((algorithm or "").removesuffix(_CERTIFICATE), 0))
        try:
            answer = _ask_agent(self._address, request.asbytes())
        except OSError:
            return paramiko.Message()
        return paramiko.Message(answer.get_binary() if answer.get_bytes(1) == _SIGNED else b"")


def _agent_keys(address: str) -> list[_AgentKey]:
    answer = _ask_agent(address, _LIST)
    if answer.get_bytes(1) != _LISTED:
        return []
    blobs = [(answer.get_binary(), answer.get_binary()) for _ in range(min(answer.get_int(), _MOST_KEYS))]
    return [_AgentKey(address, blob, comment.decode(errors="replace")) for blob, comment in blobs if blob]


def _ask_agent(address: str, request: bytes) -> paramiko.Message:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(_AGENT_S)
        link.connect(address)
        link.sendall(len(request).to_bytes(4, "big") + request)
        with link.makefile("rb") as answer:
            if len(head := answer.read(4)) < 4:
                raise ConnectionError("no answer")
            return paramiko.Message(answer.read(min(int.from_bytes(head, "big"), _MOST_BYTES)))


def _words(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
