"""The border for what others wrote: a parser's failure is one line and exit code 2, a fault of ours is not."""

import errno
import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import edgenas.files as files
from edgenas.architecture import Layer
from edgenas.deploy import Bundle
from edgenas.deploy.manifest import Manifest
from edgenas.errors import CheckFailedError, DeviceError, EdgeNASError, InputError, cut, no_text, reading, shown
from edgenas.latency.table import Entry, LatencyTable
from tests.latency.conftest import IDENTITY
from tests.made import BUNDLE
from tests.terminal import Terminal

CAUSES: list[tuple[Exception, str]] = [
    (ValueError("no TOML\nand more"), "no TOML"),
    (KeyError("x"), "KeyError 'x'"),
    (TypeError("'int' object is not iterable."), "TypeError 'int' object is not iterable"),
    (zlib.error("Error -3"), "Error -3"),
    (sqlite3.DatabaseError("file is not a database"), "file is not a database"),
    (OSError(errno.EISDIR, "Is a directory", "x"), "Is a directory"),
    (EOFError(), "EOFError"),
    (MemoryError(), "it takes more memory than there is"),
    (RecursionError("maximum recursion depth exceeded"), "it has too many levels"),
    (ValueError("x" * 5000), r"x{300}\.\.\. \(5000 characters\)"),
]


@pytest.mark.parametrize(("cause", "said"), CAUSES, ids=lambda value: type(value).__name__)
def test_whatever_a_parser_raises_is_one_line_with_its_cause(cause: Exception, said: str) -> None:
    line = rf"^The table t cannot be read: {said}\. Make it again\.$"
    with pytest.raises(InputError, match=line) as caught, reading("The table t", "Make it again."):
        raise cause
    assert caught.value.__cause__ is cause


def test_what_was_raised_on_purpose_passes() -> None:
    with pytest.raises(CheckFailedError, match=r"^its hash$"), reading("The table t"):
        raise CheckFailedError("its hash")
    line = r"^pi: its answer cannot be read: KeyError 'a'\.$"
    with pytest.raises(DeviceError, match=line), reading("pi: its answer", error=DeviceError):
        raise KeyError("a")
    with pytest.raises(KeyboardInterrupt), reading("The table t"):
        raise KeyboardInterrupt


def test_what_is_not_there_has_words_of_its_own() -> None:
    with pytest.raises(InputError, match=r"^There is none\.$"), reading("The table t", missing="There is none."):
        Path("/nowhere/t").read_bytes()
    with pytest.raises(InputError, match="cannot be read: No such file"), reading("The table t"):
        Path("/nowhere/t").read_bytes()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE])
def test_a_machine_without_room_is_no_fault_of_the_file(number: int) -> None:
    with pytest.raises(OSError, match="no room") as caught, reading("The bundle b"):
        raise OSError(number, "no room")
    assert not isinstance(caught.value, EdgeNASError)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("device.device.from_mapping", ("device", "show", "pi")),
        ("latency.table.table.Layer.parse", ("table", "show", "t")),
        ("latency.table.imports._entry", ("table", "import", "t.csv", "--device", "pi", "--precision", "int8")),
        ("evaluation.data.npz.prepare_arrays", ("data", "check", "d.npz")),
        ("deploy.bundle.refuse_mislabelled", ("predict", str(BUNDLE), "x.png")),
        ("deploy.exporting._write_android", ("export", str(BUNDLE), "app", "--format", "android")),
        ("deploy.c_array._identifier", ("export", str(BUNDLE), "app", "--format", "c-array")),
    ],
)
def test_a_fault_of_ours_behind_the_border_is_still_one(
    place: str, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted where the bytes of a good file have become values."""
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "pi.toml").write_text('url = "local:"\n')
    entries = {Layer.parse("dense_n2@1x1x8"): Entry(1.0, None, None)}
    LatencyTable(IDENTITY, "simulated", ("", 0.0), 0.0, entries).save(tmp_path / "latency_tables" / "t.json")
    (tmp_path / "t.csv").write_text("dense_n2@1x1x8,0.1\n")
    np.savez(tmp_path / "d.npz", x=np.arange(40 * 64, dtype=np.uint8).reshape(40, 8, 8), y=np.repeat([0, 1], 20))
    monkeypatch.setattr(f"edgenas.{place}", _fault)
    done = Terminal(tmp_path).types(*words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("edgenas: A fault of EdgeNAS itself: KeyError: 'planted'")


def _fault(*_: object, **__: object) -> None:
    raise KeyError("planted")


@pytest.mark.parametrize("raised", [RecursionError, MemoryError, LookupError, EOFError, zlib.error, AssertionError])
def test_a_manifest_that_its_parser_chokes_on(raised: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def chokes(content: bytes) -> object:
        raise raised("odd")

    monkeypatch.setattr(files, "parse_json", chokes)
    with pytest.raises(InputError, match=r"The manifest .*manifest\.json cannot be read: .*Train the bundle again\."):
        Bundle.load(BUNDLE)


def test_a_manifest_of_values_that_no_manifest_has() -> None:
    with pytest.raises(InputError, match="expected a table, received"):
        files.from_mapping(Manifest, ["x"], "here")


HUGE = int("f" * 5000, 16)


def deep(levels: int) -> list[object]:
    value: list[object] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("show", "value", "said"),
    [
        (shown, "x", "'x'"),
        (shown, [1, None], "[1, None]"),
        (shown, "ab" * 500, "'" + "ab" * 149 + "a... (1002 characters)"),
        (shown, HUGE, "a int that is too large to show"),
        (shown, [HUGE], "a list that is too large to show"),
        (shown, deep(100_000), "a list that is too large to show"),
        (cut, "x" * 300, "x" * 300),
    ],
    ids=["text", "list", "long", "number", "in a list", "levels", "cut"],
)
def test_foreign_values_in_messages_have_bounds(show: Callable[[object], str], value: object, said: str) -> None:
    assert show(value) == said


def test_a_text_that_is_none_is_shown_by_its_line() -> None:
    with pytest.raises(UnicodeEncodeError) as caught:
        "name = 1\npath = caf\udce9\nmore = 2".encode()
    assert str(no_text(caught.value)) == r"'path = caf\udce9' is no text in UTF-8. Give it another name."
