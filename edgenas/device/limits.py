"""How much of this host a device may take: time, memory, disk. What it says is anybody's word, whatever the way to it.

Every way to a device keeps to these; there are no others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgenas.errors import cut

MOST_OUTPUT_BYTES = 16 << 20  # of what one command prints
MOST_ERRORS_BYTES = 1 << 20  # the end of what a process writes to stderr: the rest is dropped
MOST_CHATTER_BYTES = 1 << 20  # of what a shell's profile prints before the command begins
LARGEST_FILE_BYTES = 1 << 30  # of a device, where nobody knows better
LARGEST_PACKET_BYTES = 256 << 10  # of SSH, as in OpenSSH
MOST_UNREAD_BYTES = 8 << 20  # that wait on a channel: four times what the other end is allowed to send unasked
LONGEST_PATH = 4096
UNANSWERED_S = 20.0  # a request to begin a command
UNREAD_S = 60.0  # what is sent to a process that does not read

_ENDING = 4096  # characters, with the last line in them
_SHORT_BYTES, _LISTING_BYTES, _FIGURES_BYTES = 64 << 10, 4 << 20, 8 << 20
_LONGEST_WORK_S = 12 * 3600.0


@dataclass(frozen=True)
class Answer:
    """What one answer of the agent may take: all of its lines together, from the request on."""

    most_bytes: int
    most_s: float


def answer_to(op: str, silence_s: float, params: Mapping[str, Any]) -> Answer:
    """What the answer to an operation may take.

    What tells of its progress works for as long as it tells: `silence_s` is between two lines. Everything else has
    `silence_s` for all of it.
    """
    if op in ("measure", "single", "kernels", "infer"):
        asleep_s = params.get("runs", 0) * (params.get("every_us") or 0) / 1e6  # as behind a camera
        return Answer(_FIGURES_BYTES, _LONGEST_WORK_S + 2 * asleep_s)
    return Answer(_LISTING_BYTES if op == "deployed" else _SHORT_BYTES, silence_s)


def keep_end(kept: bytearray, data: bytes, most_bytes: int = MOST_ERRORS_BYTES) -> None:
    """Add to what a process wrote, and drop its beginning where it is too much."""
    kept += data
    del kept[:-most_bytes]


def last_line(text: str) -> str:
    """The last line of what a program complained about, to be repeated in an error; empty where it said nothing."""
    lines = text[-_ENDING:].strip().splitlines()
    return cut(lines[-1].strip()).rstrip(".") if lines else ""
