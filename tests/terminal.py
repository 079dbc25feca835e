"""A user at a terminal whose commands run in this process: no interpreter is started for each."""

import contextlib
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgenas.cli import main


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code and its streams."""

    returncode: int
    stdout: str
    stderr: str


class Terminal:
    """Commands in a folder, with the user's own settings below it.

    Args:
        folder: where the user is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def types(self, *words: str) -> Done:
        """The command `edgenas` with these words, as `main` runs it."""
        out, err, code = io.StringIO(), io.StringIO(), 0
        with pytest.MonkeyPatch.context() as patch, contextlib.chdir(self.folder):
            patch.setattr(sys, "argv", ["edgenas", *words])
            patch.setattr(sys, "stdin", io.StringIO())
            patch.setenv("XDG_CONFIG_HOME", str(self.folder / "config"))
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    main()
                except SystemExit as end:
                    code = end.code if isinstance(end.code, int) else 1
        return Done(code, out.getvalue(), err.getvalue())

    def gets(self, *words: str) -> dict[str, Any]:
        """The answer of a command that must succeed."""
        done = self.types(*words, "--json")
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def is_refused(self, code: int, said: str, *words: str) -> None:
        """The command ends with that code and one line on stderr that holds `said`; nothing is on stdout."""
        done = self.types(*words)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert said in done.stderr and "Traceback" not in done.stderr
        assert len([line for line in done.stderr.splitlines() if line.startswith("edgenas: ")]) == 1
