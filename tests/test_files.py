"""Files that are whole or absent, and strict reading of what a user wrote."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

import pytest

import edgenas.files as files
from edgenas.errors import InputError

WRITER = """
import sys
from pathlib import Path
import edgenas.files as files

path = Path(sys.argv[1])
turn = 0
while True:
    turn += 1
    files.write_atomically(path, str(turn % 10) * 300_000)
    if turn == 1:
        print("ready", flush=True)
"""


def test_killed_while_writing_leaves_one_whole_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for turn in range(6):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        with writer, writer.stdout:
            writer.stdout.readline()
            time.sleep(0.05 + 0.013 * turn)
            writer.send_signal(signal.SIGKILL)
        content = path.read_text()
        assert len(content) == 300_000
        assert len(set(content)) == 1


def test_a_write_that_fails_leaves_the_old_content_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    files.write_atomically(path, "old")

    def fail(descriptor: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        files.write_atomically(path, "new")
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
    ],
)
def test_from_mapping_is_strict(change: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        files.from_mapping(Outer, GOOD | change, "here")


def test_from_mapping_names_what_is_missing() -> None:
    with pytest.raises(InputError, match="the key 'name' is missing"):
        files.from_mapping(Outer, {"share": 1}, "here")


@pytest.mark.parametrize("content", [b"a = ", b"\xff\xfe", b"a = 1\na = 2"])
def test_broken_toml_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"The device file .* cannot be read"):
        files.read_toml(path, "device")
    with pytest.raises(InputError, match="There is no device file"):
        files.read_toml(tmp_path / "y.toml", "device")


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
