"""Ed25519 keys (RFC 8032) that sign bundles, and the devices that trust them.

A private key lies in the user's own configuration, never in a project; a public one can go anywhere.
"""

import base64
import contextlib
import json
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import edgenas.files as files
from edgenas.device import Device, connect, open_agent
from edgenas.device.agent.signatures import key_id, signed_part
from edgenas.device.agent.store import entries
from edgenas.errors import DeviceError, InputError, near, reading

_LARGEST_BYTES = 64 << 10  # of a key's file, of 200 bytes
DEFAULT = "default"  # the key that signs unless another one is named
_WORD = "edgenas-ed25519"
_PUBLIC = re.compile(_WORD + r" ([0-9a-f]{64})( .*)?")


@dataclass(frozen=True)
class PublicKey:
    """What a device needs to check signatures.

    Attributes:
        key: its 32 bytes.
        name: what its owner calls it.
    """

    key: bytes
    name: str

    @property
    def id(self) -> str:
        """16 hex digits, as devices name it."""
        return key_id(self.key)

    @property
    def line(self) -> str:
        """As it stands in a `.pub` file."""
        return f"{_WORD} {self.key.hex()} {self.name}"

    @classmethod
    def load(cls, name: str) -> Self:
        """By the name of one of the user's own keys, or by the path of a `.pub` file.

        Raises:
            InputError: there is none, or it is not a public key.
        """
        path = Path(name) if name.endswith(".pub") else _folder() / f"{files.check_name('key', name)}.pub"
        if not os.path.lexists(path):
            raise InputError(f"There is no key {name!r}. {near(name, key_names())} To make one: edgenas key create")
        with reading(f"The key {path}"):
            match = _PUBLIC.fullmatch(files.read_small(path, _LARGEST_BYTES).decode().strip())
        if match is None:
            raise InputError(f"{path} is no public key: expected a line '{_WORD} HEX NAME'.")
        return cls(bytes.fromhex(match[1]), (match[2] or "").strip() or path.stem)


@dataclass(frozen=True)
class SigningKey:
    """A private key of the user's."""

    public: PublicKey
    _private: Ed25519PrivateKey

    def sign(self, manifest: bytes) -> bytes:
        """The content of `manifest.sig` for the bytes of a `manifest.json`."""
        signature = base64.b64encode(self._private.sign(signed_part(manifest))).decode()
        return json.dumps({"key": self.public.id, "signature": signature}).encode() + b"\n"

    @classmethod
    def load(cls, name: str = DEFAULT) -> Self:
        """The user's key of this name.

        Raises:
            InputError: there is none, others can read it, or it is no Ed25519 key.
        """
        public = PublicKey.load(name)
        path = _private_path(name)
        private = _read_private(path)
        if _raw(private) != public.key:
            raise InputError(f"{path} and {path.with_suffix('.pub')} are no pair of Ed25519 keys.")
        return cls(public, private)


def create_key(name: str = DEFAULT) -> PublicKey:
    """Make a pair of keys in the user's configuration (`~/.config/edgenas/keys`).

    Cut in the middle, there is a private key without its public one, which follows from it: the same call makes up for
    it.

    Raises:
        InputError: the name is taken: a key is never overwritten.
    """
    path = _private_path(name)
    if path.with_suffix(".pub").exists():
        raise InputError(f"There is a key {name!r} already, and devices may trust it: choose another name.")
    if not path.exists():
        _write_private(path, Ed25519PrivateKey.generate())
    public = PublicKey(_raw(_read_private(path)), name)
    files.write_atomically(path.with_suffix(".pub"), public.line + "\n")
    return public


def _write_private(path: Path, private: Ed25519PrivateKey) -> None:
    """Put a new private key at `path`, whole or not at all; what another process has put there meanwhile stays."""
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as file:  # only its owner can read it
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(file.name)
    files.sync_folder(path.parent)


def _read_private(path: Path) -> Ed25519PrivateKey:
    with reading(f"The private key {path}"):
        if path.stat().st_mode & 0o077:
            raise InputError(f"Others can read the private key {path}, so it is not used: chmod 600 {path}")
        private = serialization.load_pem_private_key(files.read_small(path, _LARGEST_BYTES), None)
    if not isinstance(private, Ed25519PrivateKey):
        raise InputError(f"{path} is no Ed25519 key.")
    return private


def key_names() -> list[str]:
    """The names of the user's own keys, sorted.

    Raises:
        InputError: they cannot be read: that is not the same as none, and nothing is left unsigned for it.
    """
    try:
        return sorted(path.stem for path in entries(_folder()) if path.suffix == ".pub")
    except OSError as error:
        raise InputError(f"Your keys in {_folder()} cannot be read: {error}. Make it a folder of yours.") from None


def default_key() -> SigningKey | None:
    """The key that signs unless another one is named; None where the user has made none."""
    return SigningKey.load() if DEFAULT in key_names() else None


def trust_key(device: Device, key: PublicKey) -> list[str]:
    """Have a device take only what this key, or another one that it trusts, has signed; the ids of all of them.

    Raises:
        DeviceError: unreachable, or it cannot check signatures.
    """
    return _ask(device, "trust_key", key=key.key.hex())


def distrust_key(device: Device, key: str, last: bool = False) -> list[str]:
    """Have a device trust a key, given by its id, no more; the ids of those that it still trusts.

    Args:
        last: take it away even where it is the only one: the device takes from then on whatever comes whole.

    Raises:
        CheckFailedError: it is the only one.
        DeviceError: unreachable.
        InputError: it does not trust that key.
    """
    return _ask(device, "distrust_key", key=key, last=last)


def trusted_keys(device: Device) -> list[str]:
    """The ids of the keys that a device trusts; none: it takes what comes whole.

    Raises:
        DeviceError: unreachable.
    """
    return _ask(device, "list_keys")


def _ask(device: Device, op: str, **params: Any) -> list[str]:
    with connect(device) as connection, open_agent(connection) as agent:
        answer = agent.call(op, **params)
    with reading(f"{device.name}: its answer to {op!r}", error=DeviceError):
        return [str(key)[:16] for key in answer["trusted"]]


def _folder() -> Path:
    return files.user_path(os.environ.get("XDG_CONFIG_HOME") or "~/.config") / "edgenas" / "keys"


def _private_path(name: str) -> Path:
    return _folder() / f"{files.check_name('key', name)}.pem"


def _raw(private: Ed25519PrivateKey) -> bytes:
    return private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
