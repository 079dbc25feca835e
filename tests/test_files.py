"""Files that are whole or absent, and strict reading of what a user wrote."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

import edgenas.files as files
from edgenas.errors import InputError
from edgenas.ledger import Ledger

WRITER = """
import os, signal, sys
from pathlib import Path
import edgenas.files as files

path, event, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
files.write_atomically(path, "old" * 100_000)

def killing(function):
    def killed(*arguments):
        global count
        count -= 1
        if count == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)
    return killed

setattr(os, event, killing(getattr(os, event)))
files.write_atomically(path, "new" * 100_000)
"""


@pytest.mark.parametrize(
    ("event", "count", "left"),
    [("fsync", 1, "old"), ("replace", 1, "old"), ("fsync", 2, "new")],
    ids=["written", "synced", "renamed"],
)
def test_killed_while_writing_leaves_one_whole_content(event: str, count: int, left: str, tmp_path: Path) -> None:
    """Killed after each step: a reader finds all of the old or all of the new."""
    path = tmp_path / "file"
    done = subprocess.run([sys.executable, "-c", WRITER, str(path), event, str(count)])
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == left * 100_000


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is synced and renamed, in order, with the file's name."""
    seen: list[tuple[str, str]] = []
    fsync, replace, rename = os.fsync, os.replace, os.rename

    def synced(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        seen.append(("sync", "beside" if ".part" in path.name else path.name))
        fsync(descriptor)

    def renamed(function: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        def rename(source: Any, target: Any) -> None:
            seen.append(("rename", Path(target).name))
            function(source, target)

        return rename

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed(replace))
    monkeypatch.setattr(os, "rename", renamed(rename))
    return seen


def test_a_power_cut_finds_the_content_on_disk_before_its_name(tmp_path: Path, steps: list[tuple[str, str]]) -> None:
    files.write_atomically(tmp_path / "file", "x")
    assert steps == [("sync", "beside"), ("rename", "file"), ("sync", tmp_path.name)]
    steps.clear()
    with files.whole_folder(tmp_path / "bundle") as folder:
        (folder / "a").write_text("x")
        (folder / "b").mkdir()
        (folder / "b" / "c").write_text("x")
    assert sorted(steps[:2]) == [("sync", "a"), ("sync", "c")]
    assert steps[2:] == [("sync", "content"), ("rename", "bundle"), ("sync", tmp_path.name)]
    steps.clear()
    Ledger(tmp_path / "ledger.jsonl").append("event")
    assert steps == [("sync", "ledger.jsonl")]


def test_a_write_that_fails_leaves_the_old_content_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    files.write_atomically(path, "old")

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        files.write_atomically(path, "new")
    assert caught.value.filename == str(path), "not that of the file beside it"
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_whole_folder_takes_its_name_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with pytest.raises(RuntimeError, match="stop"), files.whole_folder(target) as folder:
        (folder / "a").write_text("x")
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []
    with files.whole_folder(target) as folder:
        (folder / "a").write_text("x")
        assert not target.exists()
    assert (target / "a").read_text() == "x"
    assert list(tmp_path.iterdir()) == [target]


@dataclasses.dataclass(frozen=True)
class Inner:
    size: int


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    share: float
    inner: Inner
    kind: Literal["a", "b"] = "a"
    cores: tuple[int, ...] | None = None
    inputs: tuple[int, int] = (1, 2)
    more: dict[str, int] = dataclasses.field(default_factory=dict)
    big: bool = False


HUGE = int("f" * 5000, 16)  # as TOML's 0xff...: Python refuses to write it down
GOOD: dict[str, Any] = {"name": "n", "share": 1, "inner": {"size": 3}}


def test_from_mapping_builds_what_toml_gave(tmp_path: Path) -> None:
    value = files.from_mapping(Outer, GOOD | {"cores": [0, 1], "more": {"x": 1}}, "here")
    assert value == Outer("n", 1.0, Inner(3), cores=(0, 1), more={"x": 1})
    assert isinstance(value.share, float)
    path = tmp_path / "value.toml"
    files.write_toml(path, files.as_mapping(value))
    assert files.from_mapping(Outer, files.read_toml(path, "value"), "here") == value


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"nane": "n"}, r"here: unknown key 'nane'\. Did you mean 'name'"),
        ({"xyz": 1}, r"here: unknown key 'xyz'\. Known: big, cores, inner"),
        ({"inner": {"sise": 1}}, r"here: inner: unknown key 'sise'\. Did you mean 'size'\?"),
        ({"inner": {}}, r"here: inner: the key 'size' is missing"),
        ({"inner": 3}, "here: inner: expected a table, received 3"),
        ({"name": 1}, "here: name: expected str, received 1"),
        ({"share": "1"}, "here: share: expected float, received '1'"),
        ({"share": float("nan")}, "here: share: expected a finite number"),
        ({"share": True}, "here: share: expected float, received True"),
        ({"inner": {"size": True}}, "here: inner: size: expected int, received True"),
        ({"inner": {"size": 1.5}}, "here: inner: size: expected int, received 1.5"),
        ({"kind": "c"}, r"here: kind: expected one of \['a', 'b'\], received 'c'"),
        ({"kind": ["a"]}, "here: kind: expected one of"),
        ({"cores": 1}, "here: cores: expected a list"),
        ({"cores": ["0"]}, "here: cores: expected int"),
        ({"inputs": [1]}, "here: inputs: expected 2 values"),
        ({"more": {"x": "y"}}, r"here: more\.x: expected int"),
        ({"big": 1}, "here: big: expected bool, received 1"),
        ({"inner": {"size": 2**63}}, "here: inner: size: expected a number of at most 64 bits, received 9223"),
        ({"inner": {"size": HUGE}}, "at most 64 bits, received a int that is too large to show"),
        ({"share": HUGE}, "here: share: expected float, received a int that is too large to show"),
        ({"name": [HUGE]}, "here: name: expected str, received a list that is too large to show"),
        ({"name": "a\0b"}, "here: name: expected a text in UTF-8 without NUL, received"),
        ({"name": "a\ud800"}, "here: name: expected a text in UTF-8 without NUL, received"),
        ({"name": ["x" * 10_000]}, r"received \['x{298}\.\.\. \(10004 characters\)"),
        ({"x" * 10_000: 1}, r"unknown key 'x{299}\.\.\."),
    ],
)
def test_from_mapping_is_strict(change: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        files.from_mapping(Outer, GOOD | change, "here")


def test_from_mapping_names_what_is_missing() -> None:
    with pytest.raises(InputError, match="the key 'name' is missing"):
        files.from_mapping(Outer, {"share": 1}, "here")


@pytest.mark.parametrize(
    "content",
    [
        b"a = ", b"\xff\xfe", b"a = 1\na = 2", b"a = " + b"[" * 9000, b"a = " + b"9" * 5000, b"a = 2026-13-45",
        b"#" * 33_000,
    ],
)  # fmt: skip
def test_broken_toml_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"The device file .* cannot be read"):
        files.read_toml(path, "device")
    with pytest.raises(InputError, match="There is no device file"):
        files.read_toml(tmp_path / "y.toml", "device")
    for make in (Path.mkdir, os.mkfifo):
        path.unlink() if path.is_file() else path.rmdir()
        make(path)
        with pytest.raises(InputError, match=r"The device file .* cannot be read: it is no file"):
            files.read_toml(path, "device")


def test_what_is_no_file_is_not_replaced_by_one(tmp_path: Path) -> None:
    """A pipe, a folder, a device such as /dev/stdout."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "pipe", tmp_path / "folder"):
        before = path.stat()
        with pytest.raises(InputError, match=rf"{path} is no file, and is not replaced by one"):
            files.write_atomically(path, "x")
        assert (path.stat().st_ino, path.stat().st_mode) == (before.st_ino, before.st_mode)
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("link", "dangling"):
        files.write_atomically(tmp_path / name, "new")
        assert (tmp_path / name).read_text() == "new"


def test_a_text_that_is_none_leaves_the_old_content(tmp_path: Path) -> None:
    files.write_atomically(tmp_path / "x", "old")
    with pytest.raises(InputError, match=r"'caf\\udce9' is no text in UTF-8"):
        files.write_atomically(tmp_path / "x", "caf\udce9")
    assert (tmp_path / "x").read_text() == "old"


def test_a_path_below_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.user_path("~/x") == tmp_path / "x"
    assert files.user_path("a/~") == Path("a/~")
    with pytest.raises(InputError, match="The path '~nobody-here' cannot be read"):
        files.user_path("~nobody-here")


def test_a_folder_whose_name_is_taken_meanwhile(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with pytest.raises(InputError, match="There is already something at"), files.whole_folder(target):
        target.mkdir()
        (target / "x").write_text("other")
    assert [path.name for path in tmp_path.rglob("*")] == ["bundle", "x"]


@pytest.mark.parametrize("name", ["pi", "pi-4.local", "A_1", "0", "x" * 63])
def test_names(name: str) -> None:
    assert files.check_name("device", name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "-x", ".x", "a/b", "a b", "a\n", "ä", "x" * 64, "a;b", "$(x)"])
def test_bad_names(name: str) -> None:
    with pytest.raises(InputError, match="is no name for a device"):
        files.check_name("device", name)


def test_json_of_somebody_else_holds_finite_numbers_only() -> None:
    text = '{"a": [1, -2.5, 1e3, null, true], "b": "NaN"}'
    assert files.parse_json(text) == files.parse_json(text.encode()) == json.loads(text)
    for wrong in ("NaN", "[-Infinity]", '{"a": 1e999}', f"[1{'0' * 400}]", "[" * 100_000, "x", ""):
        with pytest.raises(ValueError):
            files.parse_json(wrong)


def test_canonical_json_refuses_nan() -> None:
    assert files.canonical_json({"b": 1, "a": [1.5]}) == '{"a":[1.5],"b":1}'
    with pytest.raises(ValueError, match="JSON"):
        files.canonical_json(float("nan"))


def test_the_users_own_files_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = files.find_shipped("devices", "local", ".toml")
    assert shipped is not None
    assert files.find_shipped("devices", "nowhere", ".toml") is None
    own = tmp_path / "devices" / "local.toml"
    own.parent.mkdir()
    own.write_text("")
    found = files.find_shipped("devices", "local", ".toml")
    assert found is not None
    assert found.resolve() == own.resolve()
