"""One bad file among good ones: the good ones are listed, the bad one is named, and the exit code says so."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import edgenas.cli.printing as printing
from edgenas.architecture import Layer
from edgenas.errors import DeviceError
from edgenas.latency.table import Entry, LatencyTable
from edgenas.strategy import Settings
from edgenas.strategy.settings import begin
from tests.latency.conftest import IDENTITY
from tests.terminal import Terminal

DEEP = "x = " + "[" * 9000


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """With two of everything."""
    monkeypatch.chdir(tmp_path)
    user = Terminal(tmp_path)
    layers = {Layer.parse("dense_n2@1x1x8"): Entry(1.0, None, None)}
    for name in ("a", "b"):
        begin(Settings(name, "digits", "board", "t", "tiny", (8, 8, 1)))
        assert user.types("device", "add", name, "ssh://pi@host").returncode == 0
        assert user.types("key", "create", name).returncode == 0
        LatencyTable(IDENTITY, "simulated", ("", 0.0), 0.0, layers).save(Path(f"latency_tables/{name}.json"))
    return user


@pytest.mark.parametrize(
    ("words", "file", "content", "rows", "key"),
    [
        (("study", "list"), "studies/a/study.toml", DEEP, "studies", "study"),
        (("study", "list"), "studies/a/study.db", "no database", "studies", "study"),
        (("device", "list"), "devices/a.toml", DEEP, "devices", "name"),
        (("device", "list"), "devices/a.toml", 'url = "ftp://x"', "devices", "name"),
        (("key", "list"), "config/edgenas/keys/a.pub", "no key", "keys", "name"),
    ],
)
def test_a_list_names_the_bad_one_after_the_good_ones(
    user: Terminal, words: tuple[str, ...], file: str, content: str, rows: str, key: str
) -> None:
    good = user.gets(*words)
    assert {"a", "b"} <= {row[key] for row in good[rows]} and good["unreadable"] == {}
    (user.folder / file).write_text(content)
    done = user.types(*words, "--json")
    answer = json.loads(done.stdout)
    assert [row for row in good[rows] if row[key] != "a"] == answer[rows]
    assert done.returncode == 2 and list(answer["unreadable"]) == ["a"]
    assert answer["unreadable"]["a"].strip() in done.stderr and done.stderr.count("\n") == 1
    shown = user.types(*words)
    assert (shown.returncode, shown.stderr) == (2, done.stderr)
    assert "b" in {line.split()[-1 if rows == "keys" else 0] for line in shown.stdout.splitlines() if line.strip()}


@pytest.mark.parametrize("words", [("study", "list"), ("key", "list")])
def test_where_all_are_bad_it_is_not_said_that_there_are_none(user: Terminal, words: tuple[str, ...]) -> None:
    for name in ("a", "b"):
        (user.folder / "studies" / name / "study.toml").write_text(DEEP)
        (user.folder / "config" / "edgenas" / "keys" / f"{name}.pub").write_text("x")
    user.is_refused(2, "/a", *words)
    user.is_refused(2, "/b", *words)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_bytes(b"\xff" * 100),
        lambda path: path.write_text(path.read_text().replace("dense_n2", "dense_n" + "9" * 5000)),
        lambda path: path.write_text("null"),
        lambda path: path.write_text(" " * (17 << 20)),
    ],
    ids=["levels", "bytes", "digits", "null", "size"],
)
def test_one_bad_table_stops_neither_the_list_nor_a_search(user: Terminal, spoil: Callable[[Path], object]) -> None:
    spoil(user.folder / "latency_tables" / "a.json")
    bad, good = user.gets("table", "list")["tables"]
    assert "latency_tables/a.json" in bad["error"] and (good["table"], good["layers"]) == ("b", 1)
    words = ("search", "--study", "s", "--data", "digits", "--device", "local", "--input", "8x8x1")
    user.is_refused(2, "No latency table fits local", *words)
    user.is_refused(2, "latency_tables/a.json", "table", "show", "a")


def test_a_fault_of_ours_is_no_bad_file() -> None:
    def load(name: str) -> str:
        if name == "off":
            raise DeviceError("off.")
        return {"a": "A"}[name]

    assert printing.each(["off", "a"], load) == (["A"], {"off": "off."})
    with pytest.raises(KeyError):
        printing.each(["a", "x"], load)
