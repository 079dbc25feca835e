"""The precision that the tables say is faster, and only where they say so for sure."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from edgenas.cli.models import _advice
from edgenas.deploy import Bundle
from edgenas.deploy.manifest import TableUsed
from edgenas.device import Device
from edgenas.latency.table import Entry, LatencyTable
from edgenas.workflow import faster_precision

Table = Callable[..., LatencyTable]
pytestmark = pytest.mark.usefixtures("inside")


@pytest.fixture
def searched(
    bundle: Bundle, rewritten: Callable[..., Bundle], table_of: Table, local: Device, tmp_path: Path
) -> Bundle:
    """A bundle that an int8 table says takes 80 us, 48 to 133."""
    (tmp_path / "latency_tables").mkdir()
    table = table_of(local, 80.0)
    low, high = (float(end[0]) for end in table.interval_ms([bundle.architecture]))
    predicted = dataclasses.replace(bundle.manifest.predicted, latency_ms=0.08, latency_interval_ms=(low, high))
    table.save(tmp_path / "latency_tables" / "here-int8.json")
    used = TableUsed("here-int8", "measured", table.identity)
    return rewritten(bundle, tmp_path, table=used, predicted=predicted)


def test_a_table_that_says_so_for_sure_is_named(searched: Bundle, table_of: Table, local: Device) -> None:
    assert faster_precision(searched) is None, "there is no other table"
    table_of(local, 20.0, precision="float32").save(Path("latency_tables/here-float32.json"))
    found = faster_precision(searched)
    assert found is not None
    assert (found.precision, found.table, found.latency_ms) == ("float32", "here-float32", pytest.approx(0.02))
    assert found.latency_interval_ms[1] < 0.048


@pytest.mark.parametrize("change", [{"device": "other"}, {"threads": 2}, {"precision": "int8"}, {"runtime": "other"}])
def test_another_device_or_setting_says_nothing(
    searched: Bundle, table_of: Table, local: Device, change: dict[str, object]
) -> None:
    table_of(local, 20.0, **({"precision": "float32"} | change)).save(Path("latency_tables/other.json"))
    assert faster_precision(searched) is None


def test_a_doubtful_or_overlapping_or_spoiled_table_says_nothing(
    searched: Bundle, table_of: Table, local: Device
) -> None:
    path = Path("latency_tables/other.json")
    table_of(local, 40.0, precision="float32").save(path)
    assert faster_precision(searched) is None, "the intervals overlap"
    dataclasses.replace(table_of(local, 5.0, precision="float32"), certificate=None).save(path)
    assert faster_precision(searched) is None, "nobody checked it"
    path.write_text("{}")
    assert faster_precision(searched) is None


def test_a_mix_of_precisions_is_named_where_it_beats_both(
    bundle: Bundle, rewritten: Callable[..., Bundle], table_of: Table, local: Device, tmp_path: Path
) -> None:
    """The head takes 200 us in int8 and 5 us in float32, its neighbours 5 us and 100 us."""
    (tmp_path / "latency_tables").mkdir()
    int8 = costing(table_of(local, 1.0), [0.64, 5, 200, 5])
    low, high = (float(end[0]) for end in int8.interval_ms([bundle.architecture]))
    predicted = dataclasses.replace(bundle.manifest.predicted, latency_interval_ms=(low, high))
    used = TableUsed("here-int8", "measured", int8.identity)
    searched = rewritten(bundle, tmp_path, table=used, predicted=predicted)
    float32 = table_of(local, 1.0, precision="float32")
    costing(float32, [0.64, 100, 5, 100]).save(Path("latency_tables/here-float32.json"))
    assert faster_precision(searched) is None, "the table of the bundle is gone"
    int8.save(Path("latency_tables/here-int8.json"))
    found = faster_precision(searched)
    assert found is not None
    assert (found.precision, found.table, found.latency_interval_ms) == ("mixed", "here-float32", None)
    assert found.latency_ms == pytest.approx(0.01564 + (256 + 64) * 0.01e-3)
    advice = _advice("shoes", searched, found)
    assert advice.endswith(f"Try: edgenas train shoes --pick {searched.manifest.study.candidate} --precision mixed")
    costing(float32, [0.64, 1, 5, 1]).save(Path("latency_tables/here-float32.json"))
    found = faster_precision(searched)
    assert found is not None
    assert found.precision == "float32", "that is faster throughout"


def costing(table: LatencyTable, costs_us: list[float]) -> LatencyTable:
    """A table with these costs of SMALL's layers."""
    entries = {layer: Entry(us, 0.01, us) for layer, us in zip(table.entries, costs_us, strict=True)}
    return dataclasses.replace(table, entries=entries)


def test_without_a_table_there_is_no_advice(bundle: Bundle) -> None:
    assert faster_precision(bundle) is None
