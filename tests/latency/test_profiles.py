"""Whole profiles by real agents, in real processes, on a virtual machine: no wrong number enters a table."""

import contextlib
import dataclasses
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgenas.device import Device, Runtime
from edgenas.errors import CheckFailedError, DeviceError
from edgenas.latency.profiling import profiler, siblings
from edgenas.latency.profiling.profiler import profile, table_name
from edgenas.latency.table import LatencyTable
from tests.board import Board
from tests.latency.conftest import here
from tests.latency.made import PLAN, SPACE, MadePool

Make = Callable[..., Board]
Weather = Callable[..., None]
PYTHON = Runtime(python=sys.executable)
# More than a steady device does, and less than makes measuring impossible.
LOST, WANDERS = {"lost_every": 150, "lost_us": 3000}, {"wander": 0.3, "period_us": 2e4}


def measure(devices: Device | list[Device], **more: Any) -> LatencyTable:
    return profile(devices, SPACE, "int8", plan=PLAN, **more)


def same(table: LatencyTable, quiet: LatencyTable) -> None:
    """Every number is what the quiet machine gave, but for its own wandering of half a percent."""
    assert table.reference == (quiet.reference[0], pytest.approx(quiet.reference[1], rel=0.005))
    assert set(table.entries) == set(quiet.entries)
    for layer, entry in table.entries.items():
        us = quiet.entries[layer].us + quiet.empty_us  # what is measured
        assert entry.us + table.empty_us == pytest.approx(us, rel=0.005), str(layer)
    assert table.certificate is not None and quiet.certificate is not None
    for network, known in zip(table.certificate.networks, quiet.certificate.networks, strict=True):
        assert network.truth_ms == pytest.approx(known.truth_ms, rel=0.005)


def kept() -> set[str]:
    """What a session that was broken off has kept."""
    (path,) = Path(".edgenas/profiles").glob("*/measured.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["key"] for row in rows if row["event"] == "batch" for line in row["lines"]}


def test_a_quiet_profile(quiet: LatencyTable):
    assert (quiet.source, quiet.doubt) == ("measured", None)
    assert quiet.identity.kernel == os.uname().release
    assert set(quiet.entries) == set(PLAN.layers)
    for entry in quiet.entries.values():  # with the caches full of other data it all takes half as long again
        assert entry.cold_us is not None
        assert entry.cold_us - 1.5 * entry.us == pytest.approx(0, abs=0.01 * (entry.us + quiet.empty_us))
    told = {"sessions": 1, "interrupted": 0, "drifted": 0, "unsettled": 0, "disturbed": 0}
    assert quiet.provenance.items() >= told.items()
    summary = quiet.certificate_summary()
    assert summary is not None
    assert (summary["networks"], summary["within_5_percent"], summary["spearman"]) == (3, 1.0, pytest.approx(1.0))
    assert summary["mape"] < 0.003
    assert summary["noise_floor"] < 0.002
    assert quiet.interval_factor(0.9) < 1.005


@pytest.mark.parametrize(
    ("befalls", "lost"),
    [
        ({"wander": 0.3, "period_us": 2e6}, False),
        ({"lost_every": 997, "lost_us": 5000}, True),
    ],
    ids=["its speed wanders by 30%", "it loses its core now and then"],
)
def test_what_befalls_a_device_spoils_no_number(
    project: Path, quiet: LatencyTable, weather: Weather, befalls: dict[str, float], lost: bool
):
    weather(**befalls)
    table = measure(here(project))
    assert (table.provenance["interrupted"] > 0) is lost
    assert table.provenance["disturbed"] == 0
    assert table.doubt is None
    # The whole machine is slower now and then; what is kept are shares of the reference's time.
    speed = table.reference[1] / quiet.reference[1]
    assert 0.995 < speed < 1.3
    assert table.certificate is not None and quiet.certificate is not None
    for layer, entry in table.entries.items():
        us = quiet.entries[layer].us + quiet.empty_us
        assert (entry.us + table.empty_us) / speed == pytest.approx(us, rel=0.01), str(layer)


@pytest.mark.parametrize(
    ("befalls", "batches", "slower", "within"),
    [
        (LOST, 1 / 3, 1.0, 0.001),
        (WANDERS, 2 / 3, 1.15, 0.015),
        ({"lost_every": 300, "lost_us": 300} | WANDERS, 2 / 3, 1.15, 0.02),
    ],
    ids=["others take its core", "its speed jumps", "both"],
)
def test_a_device_that_does_not_keep_still_has_a_table_that_says_so(
    project: Path,
    quiet: LatencyTable,
    weather: Weather,
    befalls: dict[str, float],
    batches: float,
    slower: float,
    within: float,
):
    told: list[tuple[str, int, int]] = []
    weather(**befalls)
    table = measure(here(project), progress=lambda *what: told.append(what))
    assert table.provenance["disturbed"] == pytest.approx(batches, abs=0.001)
    waits = [line for line in told if line[0] == "waiting: quiet is disturbed"]
    assert waits == [("waiting: quiet is disturbed", wait, 3) for wait in (1, 2)] * (len(waits) // 2)
    speed = table.reference[1] / quiet.reference[1]
    assert speed == pytest.approx(slower, rel=0.02)
    for layer, entry in table.entries.items():
        us = quiet.entries[layer].us + quiet.empty_us
        assert (entry.us + table.empty_us) / speed == pytest.approx(us, rel=within), str(layer)
    assert table.certificate is not None and quiet.certificate is not None
    for network, known in zip(table.certificate.networks, quiet.certificate.networks, strict=True):
        assert network.truth_ms / speed == pytest.approx(known.truth_ms, rel=within)
    assert table.doubt is None


def test_the_certificate_is_of_the_noise_that_the_table_was_measured_under(
    project: Path, quiet: LatencyTable, weather: Weather
):
    """Four times as slow and back within a visit: nothing keeps such numbers right, and the table says so itself."""
    weather(wander=3.0, period_us=4e3)
    table = measure(here(project))
    assert table.provenance["disturbed"] == pytest.approx(2 / 3, abs=0.001)
    summary = table.certificate_summary()
    assert summary is not None and 0.05 < summary["mape"] < 0.15
    assert table.doubt is not None and "the table fails its own certificate" in table.doubt
    assert table.interval_factor(0.9) > 1.05 > quiet.interval_factor(0.9)


def test_a_device_that_leaves_nothing_alone_says_why_and_goes_on_in_peace(
    project: Path, quiet: LatencyTable, weather: Weather
):
    waits: list[str] = []
    weather(lost_every=10, lost_us=3000)
    with pytest.raises(DeviceError) as caught:
        measure(here(project), progress=lambda what, done, total: waits.append(what))
    why = r"quiet is too unsteady to measure: 17 models are .*; 4\d% of all visits lost their core to another process"
    assert re.match(why, str(caught.value))
    assert "goes on where it was" in str(caught.value)
    assert waits.count("waiting: quiet is disturbed") == 2
    weather()
    same(measure(here(project)), quiet)


def test_a_board_killed_and_restarted_goes_on(
    project: Path, quiet: LatencyTable, make_board: Make, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(profiler, "BATCH", 20)
    board = make_board()
    device = board.device("quiet", runtime=PYTHON)

    def cut(what: str, done: int, total: int) -> None:
        if what == "profiling" and done >= 16:  # those are measured
            with contextlib.suppress(AssertionError):  # it is dead already
                board.kill()

    with pytest.raises(DeviceError):
        measure(device, progress=cut)
    before = kept()
    assert len(before) == 16
    board.start()
    asked: list[int] = []
    table = measure(device, progress=lambda what, done, total: asked.append(done) if what == "profiling" else None)
    same(table, quiet)
    assert table.provenance["sessions"] == 2
    assert asked[0] >= 16 and asked == sorted(asked), "what was measured is not measured again"


def test_a_board_that_does_not_behave_like_its_siblings_is_left_out(
    project: Path, quiet: LatencyTable, make_board: Make
):
    """It says the same of itself, but its depthwise convolutions are slow: its runtime lacks the fast kernels."""
    odd = make_board()
    odd.weather.write_text(json.dumps({"kinds": {"DEPTHWISE_CONV_2D": 3.0}}))
    boards = [make_board(), odd, make_board()]
    devices = [board.device(name, runtime=PYTHON) for board, name in zip(boards, "abc", strict=True)]
    table = measure([*devices, dataclasses.replace(devices[0], name="d", url="ssh://root@127.0.0.1:1")])
    same(table, quiet)
    assert table.provenance["devices"] == ["a", "c"]
    assert "does not behave like a" in table.provenance["left_out"]["b"]
    assert "cannot be reached" in table.provenance["left_out"]["d"]
    assert siblings.differences(table.identity, quiet.identity) == ()
    assert LatencyTable.load(table_name(devices[2], SPACE, "int8", 1)).entries == table.entries


def test_a_damaged_file_is_named_and_made_anew(project: Path, quiet: LatencyTable):
    layer = PLAN.layers[3]
    path = MadePool(Path(".edgenas/models"), "int8").path(layer)
    path.write_bytes(b"no model")
    with pytest.raises(CheckFailedError, match=rf"{re.escape(str(layer))} does not run on the device: .*valid"):
        measure(here(project))
    assert str(layer) not in kept() and str(PLAN.layers[2]) in kept()
    path.unlink()
    same(measure(here(project)), quiet)
