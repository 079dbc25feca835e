"""What stands behind a table's predictions is said wherever they are shown."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from edgenas.latency.table import LatencyTable
from edgenas.latency.table.finding import backing
from edgenas.space import MobileSpace
from tests.latency.conftest import SPACE, certificate


@pytest.fixture
def table(
    simulate: Callable[[MobileSpace], LatencyTable], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> LatencyTable:
    """Its certificate's networks take 1 ms."""
    monkeypatch.chdir(tmp_path)
    return dataclasses.replace(simulate(SPACE), source="measured")


def said(table: LatencyTable, limit_ms: float | None = None) -> str:
    table.save(Path("latency_tables") / "t.json")
    return str(backing("t", limit_ms))


def test_a_good_table_is_silent_and_says_how_good_it_is_near_a_limit(table: LatencyTable) -> None:
    good = dataclasses.replace(table, certificate=certificate([0.01] * 9 + [0.2]))
    assert said(good) == ""
    words = (
        "Near the limit on latency 10 test networks were predicted with a mean error of 2.9%, 90% of them within 10%."
    )
    assert said(good, 1.1) == words
    assert "No network of the certificate lies near the limit" in said(good, 3.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"certificate": certificate([0.01] * 8 + [0.2] * 2)}, "fails its own certificate: only 80% of its 10 test"),
        ({"certificate": certificate([0.06] * 10)}, "fails its own certificate: its mean error is 6.0%"),
        ({"certificate": None}, "has no certificate: nobody checked its predictions"),
        ({"source": "imported"}, "the table is imported"),
        ({"source": "simulated"}, "the table is simulated"),
    ],
)
def test_a_doubtful_table_says_why(table: LatencyTable, change: dict[str, object], words: str) -> None:
    told = said(dataclasses.replace(table, **change), 1.0)  # type: ignore[arg-type]
    assert told.startswith("Latencies are NO PROMISE: ")
    assert words in told


def test_a_table_that_is_gone_backs_nothing(table: LatencyTable) -> None:
    assert "NO PROMISE: There is no latency table 'gone'" in str(backing("gone", 1.0))
