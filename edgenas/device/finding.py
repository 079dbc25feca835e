"""One thing about a device, with its remedy."""

from dataclasses import dataclass
from typing import Literal

SPACE_KB = 200 * 1024  # wanted free


@dataclass(frozen=True)
class Finding:
    """One thing about a device."""

    level: Literal["ok", "warning", "problem"]
    what: str
    remedy: str | None = None


def no_space(free_kb: int) -> Finding:
    """That a device has too little space."""
    what = f"only {free_kb / 1000:.0f} MB of space are free; 200 MB are wanted"
    return Finding("problem", what, "remove something, or name a folder on another disk as `folder` in its file")
