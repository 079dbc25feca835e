"""What a profiling session has measured so far, so that a session that is cut goes on where it was."""

import shutil
from pathlib import Path
from typing import Any

import edgenas.files as files
from edgenas.errors import InputError
from edgenas.latency.profiling.rounds import Ratio
from edgenas.latency.profiling.siblings import differences
from edgenas.latency.table import Identity
from edgenas.ledger import Ledger


class Journal:
    """One JSON line a batch; a session with another device, or another reference, starts anew.

    Args:
        folder: of the session.
        identity: what the numbers depend on.
        reference: the network that they are relative to.
    """

    def __init__(self, folder: Path, identity: Identity, reference: str) -> None:
        self._path = folder / "measured.jsonl"
        self.ratios: dict[str, Ratio] = {}
        self.sessions: list[dict[str, Any]] = []
        ledger = Ledger(self._path)
        begun = ledger.entries("session")
        if begun and not _goes_on(begun[0], identity, reference):
            shutil.rmtree(folder)
            begun = []
        ledger.append("session", identity=files.as_mapping(identity), reference=reference)
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


def _goes_on(begun: dict[str, Any], identity: Identity, reference: str) -> bool:
    """Whether a session that was begun measured the same, as siblings are the same."""
    try:
        before = files.from_mapping(Identity, begun["identity"], "the session that was begun")
    except (InputError, KeyError):  # another version's
        return False
    same = before.device == identity.device and not differences(before, identity)
    return same and begun.get("reference") == reference
