"""Who may put models on this device: Ed25519 keys that it trusts, and signatures checked against them.

Below `FOLDER/trusted_keys/`: one file a key, `ID.pub`, with the 32 bytes of the public key in hex. A device without any
checks hashes only; with one, a release has to be signed by one of them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from .children import Died, in_child
from .context import Context, OperationError
from .store import entries, make_folder, read, sync

MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
_KEY = re.compile(r"[0-9a-f]{64}")
_ID = re.compile(r"[0-9a-f]{16}")


def key_id(key: bytes) -> str:
    """16 hex digits for a public key of 32 bytes."""
    return hashlib.sha256(key).hexdigest()[:16]


def trust_key(context: Context, key: str) -> dict[str, Any]:
    """From now on, take only what this key (32 bytes in hex) or another trusted one has signed."""
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise OperationError("bad_key", "that is no Ed25519 public key of 32 bytes in hex")
    trusted_keys(context)
    _try_cryptography(context)
    folder = _folder(context)
    make_folder(folder)
    name = key_id(bytes.fromhex(key))
    beside = folder / f".{name}.new"
    beside.write_text(key + "\n")
    sync(beside)
    beside.replace(folder / f"{name}.pub")
    sync(folder)
    return {"key": name, "trusted": sorted(trusted_keys(context))}


def distrust_key(context: Context, key: str, last: bool = False) -> dict[str, Any]:
    """Trust a key, given by its id, no more. Without the last one anything would be taken: that has to be asked for."""
    trusted = trusted_keys(context)
    if not isinstance(key, str) or not _ID.fullmatch(key) or key not in trusted:
        raise OperationError("unknown_key", f"{key!r} is not among the keys trusted here")
    if list(trusted) == [key] and last is not True:
        raise OperationError(
            "last_key",
            f"{key} is the only key that is trusted here: without it anything that comes whole would be taken. Trust "
            "another key first, with edgenas key trust; or take the last one away with: edgenas key distrust --last",
        )
    (_folder(context) / f"{key}.pub").unlink()
    sync(_folder(context))
    return {"key": key, "trusted": sorted(trusted_keys(context))}


def list_keys(context: Context) -> dict[str, Any]:
    """The ids of the keys that are trusted."""
    return {"trusted": sorted(trusted_keys(context))}


def trusted_keys(context: Context) -> dict[str, bytes]:
    """The keys that are trusted, by id.

    What cannot be read is not taken for absent, which would open the device to whatever comes: it stops everything.
    """
    keys = {}
    try:
        kept = [path for path in entries(_folder(context)) if _is_key(path)]
        found = {path: read(path).decode(errors="replace").strip() for path in kept}
    except OSError as error:
        raise OperationError(
            "bad_key",
            f"the keys that this device trusts cannot be read ({error.strerror}: {error.filename}), so it takes "
            f"nothing. Make {_folder(context)} a folder that this user can read, with the keys in it; or remove it "
            "there, and trust the keys anew: edgenas key trust",
        ) from None
    for path, text in found.items():
        if not _KEY.fullmatch(text) or key_id(bytes.fromhex(text)) != path.stem:
            raise OperationError("bad_key", f"{path} on the device is not the key it is named after")
        keys[path.stem] = bytes.fromhex(text)
    return keys


def check_signature(context: Context, folder: Path) -> str | None:
    """The id of the trusted key that signed the manifest in `folder`; None where the device trusts no key."""
    keys = trusted_keys(context)
    if not keys:
        return None
    try:
        content = json.loads((folder / SIGNATURE).read_bytes())
        key, signature = str(content["key"]), base64.b64decode(content["signature"], validate=True)
    except FileNotFoundError:
        raise OperationError(
            "bad_signature", "the bundle is not signed, and this device takes only signed ones"
        ) from None
    except (ValueError, KeyError, TypeError, OSError):
        raise OperationError("bad_signature", f"{SIGNATURE} cannot be read") from None
    if key not in keys:
        raise OperationError(
            "bad_signature",
            f"the bundle is signed by the key {key[:16]!r}, and this device trusts only {', '.join(sorted(keys))}",
        )
    _try_cryptography(context)
    manifest = (folder / MANIFEST).read_bytes()

    def verify(report: Any) -> bool:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(keys[key]).verify(signature, signed_part(manifest))
        except InvalidSignature:
            return False
        return True

    try:
        valid = in_child(context.stdin, verify)
    except (Died, RuntimeError) as error:
        raise OperationError("no_cryptography", f"the signature could not be checked: {error}") from None
    if valid is not True:
        raise OperationError("bad_signature", f"the signature of {MANIFEST} by the key {key} is wrong")
    return key


def signed_part(manifest: bytes) -> bytes:
    """What a signature is over: it can be that of nothing else than a manifest of this kind."""
    return b"edgenas manifest\n" + manifest


def _try_cryptography(context: Context) -> None:
    """Import it in a child first: a wheel can install well and still kill its process."""

    def attempt(report: Any) -> None:
        import cryptography.hazmat.primitives.asymmetric.ed25519  # noqa: F401

    try:
        in_child(context.stdin, attempt)
    except (Died, RuntimeError) as error:
        raise OperationError(
            "no_cryptography", f"this device cannot check signatures: the package cryptography does not work: {error}"
        ) from None


def _is_key(path: Path) -> bool:
    """By its name; the beginning of one that was cut is none."""
    return path.suffix == ".pub" and not path.name.startswith(".")


def _folder(context: Context) -> Path:
    return Path(os.path.realpath(context.folder)) / "trusted_keys"


OPERATIONS = {"trust_key": trust_key, "distrust_key": distrust_key, "list_keys": list_keys}
