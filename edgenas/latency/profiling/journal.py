"""What a profiling session has measured so far, so that a session that is cut goes on where it was."""

import shutil
from pathlib import Path
from typing import Any

from edgenas.latency.profiling.rounds import Ratio
from edgenas.ledger import Ledger


def _same(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether two sessions are of one kind of device, which may reserve a little more memory, as in `differences`."""
    close = abs(before["memory_mb"] - now["memory_mb"]) <= 0.05 * max(before["memory_mb"], now["memory_mb"])
    others = [key for key in before.keys() | now.keys() if key not in ("memory_mb", "fingerprint")]
    return close and all(before.get(key) == now.get(key) for key in others)


class Journal:
    """One JSON line a batch; a session of another identity starts anew.

    Args:
        folder: of the session.
        identity: everything that the session's numbers depend on.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self._path = folder / "measured.jsonl"
        self.ratios: dict[str, Ratio] = {}
        self.sessions: list[dict[str, Any]] = []
        ledger = Ledger(self._path)
        begun = ledger.entries("session")
        if begun and not _same(begun[0]["identity"], identity):
            shutil.rmtree(folder)
            begun = []
        ledger.append("session", identity=identity)
        self.begun = len(begun) + 1
        for entry in ledger.entries("batch"):
            self._take(entry["lines"], entry["session"])

    def add(self, lines: list[dict[str, Any]], session: dict[str, Any]) -> None:
        """Keep a batch: a line a model, and what holds for all of them."""
        Ledger(self._path).append("batch", lines=lines, session=session)
        self._take(lines, session)

    def _take(self, lines: list[dict[str, Any]], session: dict[str, Any]) -> None:
        for line in lines:
            self.ratios[line["key"]] = Ratio(line["value"], line["half_width"], line["cold"], line["resident_kb"])
        self.sessions.append(session)
