"""A training on disk: whole after each round, so that a break costs one round at most."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import edgenas.files as files

_STATE, _NOTES = "state.npz", "notes.json"


class Checkpoint:
    """The last state of a training.

    Args:
        folder: of its own; None: nothing is kept.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def save(self, steps: int, variables: Sequence[Any], notes: Any = None) -> None:
        """Keep the values of variables after so many steps, in place of those before.

        Args:
            variables: with a method `numpy`.
            notes: plain JSON data, kept with them.
        """
        if self._folder is None:
            return
        target = self._folder / f"step-{steps}"
        with files.whole_folder(target) as folder:
            np.savez(folder / _STATE, *(each.numpy() for each in variables))
            files.write_atomically(folder / _NOTES, json.dumps(notes))
        for old in self._folder.glob("step-*"):
            if old != target:
                shutil.rmtree(old)

    def restore(self, variables: Sequence[Any]) -> tuple[int, Any]:
        """Give variables their values of the last whole round; how many steps there were, and the notes.

        (0, None) where there is nothing.
        """
        found = sorted(self._folder.glob("step-*"), key=lambda path: int(path.name[5:])) if self._folder else []
        if not found:
            return 0, None
        with np.load(found[-1] / _STATE, allow_pickle=False) as arrays:
            for index, variable in enumerate(variables):
                variable.assign(arrays[f"arr_{index}"])
        return int(found[-1].name[5:]), json.loads((found[-1] / _NOTES).read_text(encoding="utf-8"))
