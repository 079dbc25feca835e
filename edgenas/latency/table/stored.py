"""A latency table's file: its content as plain values, whole, with a checksum over all of it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgenas.files as files
from edgenas.errors import InputError, reading, shown
from edgenas.latency.table.calibration import Calibration
from edgenas.latency.table.certificate import Certificate
from edgenas.latency.table.parts import Identity

SCHEMA = 2
_LARGEST_BYTES = 16 << 20  # a layer takes 100 bytes: more than a hundred thousand of them
_AGAIN = "Profile the device again."


@dataclass(frozen=True)
class Reference:
    """The network that every round measured too; ("", 0) where the table was imported."""

    notation: str
    us: float


@dataclass(frozen=True)
class Stored:
    """What a table's file holds. Its fields are the file's keys, in their order.

    Attributes:
        entries: us, half_width, cold_us and resident_kb of an `Entry`, by the notation of its layer.
    """

    schema: int
    identity: Identity
    source: str
    reference: Reference
    empty_us: float
    calibration: Calibration
    certificate: Certificate | None
    provenance: dict[str, Any]
    entries: dict[str, tuple[float, float | None, float | None, float | None]]

    @property
    def checksum(self) -> str:
        """SHA-256 of everything in it."""
        return _checksum(files.as_mapping(self))

    def write(self, path: Path) -> None:
        """Write it, whole or not at all."""
        content = files.as_mapping(self)
        files.write_atomically(path, _as_text(content | {"checksum": _checksum(content)}))


def read(path: Path) -> Stored:
    """What is in a table's file.

    Raises:
        InputError: missing, damaged, of another schema, or with values of other types.
    """
    with reading(f"The latency table {path}", _AGAIN):
        text = files.read_small(path, _LARGEST_BYTES).decode()
        content = json.loads(text)
        checksum = content.pop("checksum")
        # Nothing but what was written: neither other values, nor the same ones in another form.
        good = _checksum(content) == checksum and _as_text(content | {"checksum": checksum}) == text
    if not good:
        raise InputError(f"The latency table {path} is damaged: its checksum does not match. {_AGAIN}")
    if content.get("schema") != SCHEMA:
        raise InputError(f"The latency table {path} has schema {shown(content.get('schema'))}, expected {SCHEMA}.")
    return files.from_mapping(Stored, content, str(path))


def _checksum(content: dict[str, Any]) -> str:
    return files.sha256(files.canonical_json(content).encode())


def _as_text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, allow_nan=False) + "\n"
