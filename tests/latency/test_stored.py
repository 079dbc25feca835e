"""A table's file: what was not written by EdgeNAS, or is no measurement, is refused before it is used."""

import json
from pathlib import Path
from typing import Any

import pytest

import edgenas.files as files
from edgenas.errors import InputError
from edgenas.latency.table import LatencyTable, stored
from tests.latency.test_table import SPACE, Simulate, few


@pytest.fixture(scope="module")
def table(simulate: Simulate) -> LatencyTable:
    return simulate(SPACE)


def test_a_table_in_another_form_is_none_that_was_written(table: LatencyTable, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    few(table).save(path)
    for text in (path.read_text() + " ", json.dumps(json.loads(path.read_text()))):
        path.write_text(text)
        with pytest.raises(InputError, match="is damaged: its checksum does not match"):
            LatencyTable.load(path)


def test_a_table_of_any_size_is_not_read(table: LatencyTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.json"
    few(table).save(path)
    monkeypatch.setattr(stored, "_LARGEST_BYTES", path.stat().st_size)
    assert LatencyTable.load(path) == few(table)
    monkeypatch.setattr(stored, "_LARGEST_BYTES", path.stat().st_size - 1)
    with pytest.raises(InputError, match="cannot be read: it is larger than"):
        LatencyTable.load(path)


NETWORK = {"notation": "input_8x8x1 dense_n2", "measured_ms": 1.0, "repeated_ms": 1.0, "predicted_ms": 1.0}


def resealed(content: dict[str, Any], path: Path) -> Path:
    """Someone who wrote a table by hand and computed its checksum."""
    content = {key: value for key, value in content.items() if key != "checksum"}
    content["checksum"] = files.sha256(files.canonical_json(content).encode())
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"schema": 1}, "has schema 1, expected 2"),
        ({"source": "guessed"}, "one of .*simulated.*, received 'guessed'"),
        ({"entries": {"dense_n2@1x1x8": [0, 0, 1, 1]}}, "positive, finite times only"),
        ({"entries": {"dense_n2@1x1x8": [-1.0, 0, 1, 1]}}, "positive, finite times only"),
        ({"entries": {"dens_n2@1x1x8": [1.0, 0, 1, 1]}}, "Unknown kind of block 'dens'"),
        ({"entries": {"dense_n2@1x1x8": 1.0}}, "entries.dense_n2@1x1x8: expected a list, received 1.0"),
        ({"entries": {"dense_n2@1x1x8": [1.0, None, None]}}, "expected 4 values"),
        ({"entries": {"dense_n2@1x1x8": [1.0, 1e16, None, None]}}, "finite numbers only: dense_n2@1x1x8 has 1e[+]16"),
        ({"entries": {"dense_n2@1x1x8": ["1.0", 0, 1, 1]}}, "expected float, received '1.0'"),
        ({"entries": {"dense_n2@1x1x8": [10**400, 0, 1, 1]}}, "expected float, received 1000.* characters"),
        ({"entries": {"head_c8_relu6@1x1x8+1x1x8": [1.0, 0, 1, 1]}}, "cannot be read: Expected one input, received 2"),
        ({"entries": ["dense_n2@1x1x8"]}, "entries: expected a table"),
        ({"entries": None}, "entries: expected a table"),
        ({"identity": {"device": "x"}}, "the key 'fingerprint' is missing"),
        ({"calibration": {"scal": 1.0}}, "unknown key 'scal'"),
        ({"calibration": {"coefficients": {"sum": "x"}}}, "expected float"),
        ({"reference": {}}, "reference: the key 'notation' is missing"),
        ({"certificate": []}, "expected a table"),
        ({"certificate": {"networks": [NETWORK | {"notation": "x"}], "intervals": []}}, "Unknown kind of block 'x'"),
        (
            {"certificate": {"networks": [], "intervals": [NETWORK | {"predicted_ms": 0}]}},
            "positive, finite times only",
        ),
        ({"calibration": {"networks": [NETWORK | {"predicted_ms": -1}]}}, "positive, finite times only"),
        ({"calibration": {"cache_kb": 1e300}}, "finite numbers only: the calibration has 1e[+]300"),
        ({"empty_us": -1e300}, "finite numbers only: the empty model"),
    ],
)
def test_a_table_written_by_hand_is_checked(
    table: LatencyTable, tmp_path: Path, change: dict[str, Any], text: str
) -> None:
    path = tmp_path / "table.json"
    few(table).save(path)
    resealed(json.loads(path.read_text()) | change, path)
    with pytest.raises(InputError, match=text):
        LatencyTable.load(path)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_none_is_refused(table: LatencyTable, tmp_path: Path, number: str) -> None:
    path = tmp_path / "table.json"
    few(table).save(path)
    path.write_text(path.read_text().replace("12.5", number))
    with pytest.raises(InputError, match="cannot be read"):
        LatencyTable.load(path)
