"""What every operation is given, and how it fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .children import Stdin


class OperationError(Exception):
    """An operation that failed in a way the host knows by its kind."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class Context:
    """The work folder, the ear on the host, and the way to report progress."""

    def __init__(self, folder: str, stdin: Stdin, progress: Callable[..., Any]) -> None:
        self.folder = folder
        self.stdin = stdin
        self.progress = progress

    @property
    def models(self) -> Path:
        return Path(self.folder) / "models"
