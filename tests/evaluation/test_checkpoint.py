"""A training's state on disk: whole, with its notes, and the newest alone."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgenas.evaluation import checkpoint as checkpoint_module
from edgenas.evaluation.checkpoint import Checkpoint


class Variable:
    """What `Checkpoint` needs of one."""

    def __init__(self, value: Any) -> None:
        self.value = np.asarray(value)

    def numpy(self) -> np.ndarray[Any, Any]:
        return self.value

    def assign(self, value: np.ndarray[Any, Any]) -> None:
        assert (value.shape, value.dtype) == (self.value.shape, self.value.dtype)
        self.value = value


def variables(value: float) -> list[Variable]:
    """Twelve: by name the last would come before the third."""
    return [Variable(np.full((number, 2), value + number, np.float32)) for number in range(11)] + [Variable(int(value))]


def same(one: list[Variable], other: list[Variable]) -> bool:
    return all(np.array_equal(a.value, b.value) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("notes", [{"name": "fold 1", "steps": [100]}, None])
def test_what_was_saved_last_comes_back(tmp_path: Path, notes: Any) -> None:
    kept = Checkpoint(tmp_path / "new" / "one")
    kept.save(900, variables(1), "of the first")
    kept.save(1000, variables(7), notes)
    found = variables(0)
    assert Checkpoint(tmp_path / "new" / "one").restore(found) == (1000, notes)
    assert same(found, variables(7))
    assert [path.name for path in (tmp_path / "new" / "one").iterdir()] == ["step-1000"]


@pytest.mark.parametrize("folder", ["new", ".", None])
def test_where_there_is_nothing_nothing_changes(tmp_path: Path, folder: str | None) -> None:
    found = variables(3)
    assert Checkpoint(None if folder is None else tmp_path / folder).restore(found) == (0, None)
    assert same(found, variables(3))


def test_without_a_folder_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Checkpoint(None).save(100, variables(1))
    assert list(tmp_path.iterdir()) == []


def test_a_break_while_it_is_written_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, found = Checkpoint(tmp_path), variables(0)
    kept.save(100, variables(1), "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # the state is there, the notes are not
        patch.setattr(checkpoint_module.files, "write_atomically", _break_off)
        kept.save(200, variables(2), "half")
    assert kept.restore(found) == (100, "whole") and same(found, variables(1))


def test_a_break_before_the_old_one_is_removed_leaves_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, found = Checkpoint(tmp_path), variables(0)
    kept.save(900, variables(1), "old")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint_module, "shutil", SimpleNamespace(rmtree=_break_off))
        kept.save(1000, variables(2), "new")
    assert {path.name for path in tmp_path.iterdir()} == {"step-900", "step-1000"}
    assert kept.restore(found) == (1000, "new") and same(found, variables(2))
    kept.save(1100, variables(3))
    assert [path.name for path in tmp_path.iterdir()] == ["step-1100"]


def _break_off(*_: Any) -> None:
    raise KeyboardInterrupt
