"""An emulated ARM64 board, and a user with a project; a test of a board is skipped where no board can run."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.real.boards.arm64 import Arm64Board
from benchmarks.real.boards.entering import Uncommon, unsupported
from tests.deploy.conftest import bundle  # noqa: F401 - a fixture


class User:
    """A user at a terminal, in a project's folder, with a board."""

    def __init__(self, folder: Path, board: Arm64Board) -> None:
        self.folder = folder
        self.board = board

    def types(self, *words: str) -> tuple[int, dict[str, Any], str]:
        """A command with --json: its exit code, what it answered, and what it said besides."""
        argv = [sys.executable, "-c", "from edgenas.cli import main; main()", *words, "--json"]
        done = subprocess.run(
            argv, cwd=self.folder, capture_output=True, text=True, timeout=580, stdin=subprocess.DEVNULL,
            env=os.environ | {"XDG_CONFIG_HOME": str(self.folder / "config")},
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout or "{}"), done.stderr

    def gets(self, *words: str) -> dict[str, Any]:
        """The answer of a command that must succeed."""
        code, answer, said = self.types(*words)
        assert code == 0, said
        return answer


@pytest.fixture(scope="session")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arm64Board]:
    if reason := unsupported():
        pytest.skip(reason)
    try:
        board = Arm64Board(tmp_path_factory.mktemp("board") / "arm64")
    except Uncommon as reason:
        pytest.skip(str(reason))
    with board:
        yield board


@pytest.fixture(scope="session")
def user(tmp_path_factory: pytest.TempPathFactory, board: Arm64Board) -> User:
    return User(tmp_path_factory.mktemp("project"), board)
