"""The ledger loses nothing but a torn line."""

import multiprocessing
from pathlib import Path

import pytest

from edgenas.errors import InputError
from edgenas.ledger import Ledger


def test_lines_come_back_in_order(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "a" / "ledger.jsonl")
    assert ledger.entries() == []
    ledger.append("one", value=1)
    ledger.append("two", name="ä\n")
    ledger.append("one", value=2)
    assert [entry["event"] for entry in ledger.entries()] == ["one", "two", "one"]
    assert [entry["value"] for entry in ledger.entries("one")] == [1, 2]
    assert ledger.entries("two")[0]["name"] == "ä\n"
    assert ledger.entries()[0]["time"].endswith("+00:00")


@pytest.mark.parametrize("keep", range(1, 60, 7))
def test_a_torn_line_hides_no_other(tmp_path: Path, keep: int) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append("first")
    whole = ledger.path.read_bytes()
    ledger.append("torn", text="ä" * 30)
    ledger.path.write_bytes(ledger.path.read_bytes()[: len(whole) + keep])
    assert [entry["event"] for entry in ledger.entries()] == ["first"]
    ledger.append("last")
    assert [entry["event"] for entry in ledger.entries()] == ["first", "last"]


@pytest.mark.parametrize(
    "line", ["[" * 100_000, '{"event": "x", "n": NaN}', '{"event": "x", "n": 1e999}', "\ud800", '"x"']
)
def test_a_line_that_nobody_wrote_hides_no_other(tmp_path: Path, line: str) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append("first")
    with ledger.path.open("ab") as file:
        file.write(line.encode(errors="surrogatepass") + b"\n")
    ledger.append("last")
    assert [entry["event"] for entry in ledger.entries()] == ["first", "last"]


def test_a_value_that_is_no_json_leaves_the_file_alone(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append("first")
    before = ledger.path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        ledger.append("second", accuracy=float("nan"))
    assert ledger.path.read_bytes() == before


def _append(path: Path, writer: int) -> None:
    for turn in range(50):
        Ledger(path).append("line", writer=writer, turn=turn, text="x" * 500)


def test_writers_side_by_side_tear_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append, args=(path, writer)) for writer in range(3)]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
        assert each.exitcode == 0
    found = sorted((entry["writer"], entry["turn"]) for entry in Ledger(path).entries("line"))
    assert found == [(writer, turn) for writer in range(3) for turn in range(50)]


def test_timed_writes_only_what_ended_well(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    with ledger.timed("work", seed=1) as more:
        more["found"] = 3
    with pytest.raises(RuntimeError), ledger.timed("work"):
        raise RuntimeError
    (entry,) = ledger.entries()
    assert (entry["seed"], entry["found"]) == (1, 3)
    assert entry["wall_s"] >= 0


def test_what_is_no_file_is_no_ledger(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").symlink_to("/dev/zero")
    with pytest.raises(InputError, match=r"ledger.jsonl cannot be read: it is no file. Put it back from a copy."):
        Ledger(tmp_path / "ledger.jsonl").entries()
