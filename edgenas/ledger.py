"""What was computed, when, and at what cost: an append-only file of JSON lines.

A line is written with one `write` and synced. A line torn by a crash is set apart by the next append and left out
when reading, so one torn line never hides the others.
"""

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import edgenas.files as files
from edgenas.errors import reading

_LARGEST_BYTES = 1 << 30


class Ledger:
    """The ledger at `path`; the file and its folder are made by the first append."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, event: str, **fields: Any) -> None:
        """Add one line: the event's name, the time (UTC) and the fields (plain JSON data)."""
        moment = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line = files.canonical_json({"event": event, "time": moment, **fields}) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size_bytes = os.fstat(descriptor).st_size
            torn = size_bytes > 0 and os.pread(descriptor, 1, size_bytes - 1) != b"\n"
            os.write(descriptor, (b"\n" if torn else b"") + line.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def entries(self, event: str | None = None) -> list[dict[str, Any]]:
        """All whole lines in order, or those of one event."""
        if not self.path.exists():
            return []
        found = []
        with reading(f"The ledger {self.path}", "Put it back from a copy."):
            content = files.read_small(self.path, _LARGEST_BYTES)
        for line in content.decode(errors="replace").splitlines():
            try:
                entry = files.parse_json(line)
            except ValueError:
                continue  # a line torn by a crash
            if isinstance(entry, dict) and (event is None or entry.get("event") == event):
                found.append(entry)
        return found

    @contextmanager
    def timed(self, event: str, **fields: Any) -> Iterator[dict[str, Any]]:
        """Append `event` when the block ends well, with `wall_s` and what the block put into the mapping."""
        more: dict[str, Any] = {}
        start = monotonic()
        yield more
        self.append(event, wall_s=round(monotonic() - start, 3), **fields, **more)
