"""Phones that do not keep still: measured all the same, and said to be disturbed; refused where nothing can be told."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgenas.device.agent import machine
from edgenas.errors import DeviceError
from edgenas.latency.profiling import phone_measuring
from edgenas.latency.profiling.benchmark_output import Timing
from edgenas.latency.profiling.measuring import measure_file
from edgenas.latency.profiling.phone import PhoneBench, Visit
from edgenas.latency.profiling.rounds import median_interval
from edgenas.latency.steadiness import Steadiness
from edgenas.latency.table import LatencyTable
from tests.adb.lab import LabPhone
from tests.latency.made import PLAN, MadePool
from tests.latency.test_phone import batch, timing

Make = Callable[..., LabPhone]


@pytest.fixture
def model(project: Path) -> Path:
    return MadePool(Path(".edgenas/models"), "int8").path(PLAN.reference)


# What counts


@pytest.mark.parametrize(
    ("references", "busy", "counts"),
    [((100, 111), False, False), ((100, 111), True, True), ((150, 100), True, True), ((100, 151), True, False)],
)
def test_a_reference_of_a_busy_phone_may_move_by_half(references: tuple[float, float], busy: bool, counts: bool):
    one = batch({"m0": [timing(10)], "reference": [timing(us) for us in references]})
    assert one.visit_all([0], busy) is counts
    assert one.drifted == (not counts)
    assert one.ratios[0] == ([10 / np.mean(references)] if counts else [])


@pytest.mark.parametrize("busy", [False, True])
def test_disturbed_visits_of_a_busy_phone_count(busy: bool):
    one = batch({"m0": [timing(10, disturbed=True)], "reference": [timing(100)] * 2})
    assert one.visit_all([0], busy) is busy
    assert (one.ratios[0], one.interrupted, one.drifted) == ([0.1] if busy else [], 1, 0)
    one = batch({"m0": [timing(10)], "reference": [timing(100, disturbed=True), timing(100)]})
    assert one.visit_all([0], busy) is busy
    assert (one.ratios[0], one.interrupted, one.drifted) == ([0.1] if busy else [], 0, 0 if busy else 1)


def test_what_is_said_of_a_busy_phone():
    one = batch({"m0": [timing(10, disturbed=True), timing(10)] * 2, "reference": [timing(us) for us in (
        100, 120, 100, 100, 100, 100, 100, 100)]})  # fmt: skip
    one.visit_all([0], busy=False)
    for _ in range(3):
        one.visit_all([0], busy=True)
    found = one.result(busy=True, health="Now: load 4.")
    assert found.steadiness == Steadiness(True, 0.5, 0.25, "Now: load 4.")
    assert found.slowed == 0, "but for a quarter of its visits: the eighth one is 120"
    one.references_us[:] = [140.0] * 9 + [100.0]
    assert one.result().slowed == pytest.approx(0.4)


class Visits:
    """Visits to a model and its reference on a bench, scripted by pass: how much the reference moves in each.

    Attributes:
        slept: the waits, in seconds.
        told: the waits, as they are told.
    """

    def __init__(self, bench: PhoneBench, monkeypatch: pytest.MonkeyPatch, *moves: float) -> None:
        self.slept: list[float] = []
        self.told: list[tuple[int, int]] = []
        self._references = iter([us for move in moves for us in (100.0, 100.0 * (1 + move))])
        monkeypatch.setattr(machine, "sleep", self.slept.append)
        monkeypatch.setattr(bench, "_progress", lambda what, *wait: self.told.append(wait))
        monkeypatch.setattr(bench, "visit", self._visit)

    def _visit(self, model: str) -> Visit:
        return timing(10.0 if model == "m" else next(self._references))


def test_a_bench_takes_a_phone_for_busy_and_asks_once_later(phone: LabPhone, monkeypatch: pytest.MonkeyPatch):
    with PhoneBench(phone.device(), 1) as bench:
        monkeypatch.setattr(bench.phone, "health", lambda: "It is hot.")
        visits = Visits(bench, monkeypatch, *[0.3] * 3, *[0.2] * 3)
        found = bench.measure_there(["m"], "r")
        assert found.ratios[0] is not None and found.ratios[0].value == pytest.approx(10 / 110)
        assert (visits.slept, visits.told) == ([2, 4], [(1, 3), (2, 3)])
        assert found.steadiness == Steadiness(True, 0, 0.5, "It is hot.")
        visits = Visits(bench, monkeypatch, 0.3, *[0.2] * 3)
        assert bench.measure_there(["m"], "r").steadiness == Steadiness(True, 0, 0.25, "It is hot.")
        assert visits.slept == []
        visits = Visits(bench, monkeypatch, 0, 0, 0)
        assert bench.measure_there(["m"], "r").steadiness == Steadiness(False, 0, 0, "")
        visits = Visits(bench, monkeypatch, 0.3, *[0] * 3)
        assert not bench.measure_there(["m"], "r").steadiness.disturbed
        assert visits.slept == [2], "it was at rest: it is waited for again"
        visits = Visits(bench, monkeypatch, *[0.6] * 11)
        with pytest.raises(DeviceError, match=r"phone is too unsteady to measure: 1 models .* 100% had .* It is hot\."):
            bench.measure_there(["m"], "r")


@pytest.mark.parametrize(
    ("median_us", "avg_us", "typical_us"),
    [(83, 283, 83), (83, 84.5, 84.5), (10, 40, 10), (9, 40, 40), (0, 40, 40), (300, 900, 300), (None, 40, 40)],
)
def test_a_few_long_inferences_do_not_make_a_typical_one(median_us: float | None, avg_us: float, typical_us: float):
    """The average is the finer clock of quick models, unless it has those in it."""
    assert Timing(50, avg_us, 0, 1e4, avg_us, 0, median_us).typical_us == typical_us


# One model


Found = tuple[list[Visit], list[float]]
LOST: Found = ([timing(10)] * 2 + [timing(90, disturbed=True)] * 3, [100.0] * 6)
MOVED: Found = ([timing(10)] * 5, [100.0, 100.0, 140.0, 100.0, 100.0, 100.0])


def interleaved(monkeypatch: pytest.MonkeyPatch, *tries: Found) -> list[int]:
    """The processes and references of each try; the waits to come."""
    left = iter(tries)

    def found(*_: object) -> object:
        visits, references = next(left)
        return [visit.found for visit in visits], references

    monkeypatch.setattr(phone_measuring, "_interleaved", found)
    monkeypatch.setattr("edgenas.device.Phone.health", lambda self: "It is hot.")
    return []


@pytest.mark.parametrize(
    ("found", "lost", "moved"), [(LOST, 0.6, 0.0), (MOVED, 0.0, 0.4)], ids=["others take its cores", "it jumps"]
)
def test_a_disturbed_phone_is_measured_after_three_tries_and_said_to_be(
    phone: LabPhone, model: Path, monkeypatch: pytest.MonkeyPatch, found: Found, lost: float, moved: float
):
    waits = interleaved(monkeypatch, MOVED, LOST, found)
    said = measure_file(model, phone.device(), waiting=lambda attempt, of: waits.append(attempt))
    assert waits == [1, 2]
    assert (said["steadiness"], said["busy_with"]) == ("disturbed", "It is hot.")
    assert (said["interrupted"], said["reference_moved"]) == (lost, moved)
    low, high = median_interval(np.full(5, 0.01))
    assert said["latency_ms"]["median"] == 0.01, "by the processes that nothing took the core from"
    assert said["latency_ms"]["ci95"] == [round(low / (1 + moved), 4), round(high * (1 + moved), 4)]


def test_a_phone_that_calms_down_is_steady(phone: LabPhone, model: Path, monkeypatch: pytest.MonkeyPatch):
    calm: Found = ([timing(10)] * 3 + [timing(90, disturbed=True)] * 2, [100.0, 111.9])
    waits = interleaved(monkeypatch, MOVED, calm)
    said = measure_file(model, phone.device(), waiting=lambda attempt, of: waits.append(attempt))
    assert (said["steadiness"], said["busy_with"], waits) == ("steady", None, [1])
    assert (said["interrupted"], said["latency_ms"]["ci95"]) == (0.4, [0.01, 0.01])


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (([timing(10)] * 5, [100.0, 151.0]), r"0% of the processes .* moved by 51% \(at most 50% is accepted\)"),
        (([timing(10, disturbed=True)] * 5, [100.0] * 6), r"100% of the processes .* moved by 0% \(at most 50%"),
    ],
)
def test_a_phone_that_tells_nothing_is_refused_with_the_reason(
    phone: LabPhone, model: Path, monkeypatch: pytest.MonkeyPatch, found: Found, why: str
):
    waits = interleaved(monkeypatch, *[found] * 3)
    with pytest.raises(DeviceError, match=rf"phone is too unsteady to measure.*{why}.* It is hot\."):
        measure_file(model, phone.device(), waiting=lambda attempt, of: waits.append(attempt))
    assert waits == [1, 2]


def test_a_benchmark_model_that_loses_its_core(make_phone: Make, model: Path, quiet: LatencyTable):
    """On the virtual machine, through adb: a fifth of its inferences take ten times as long."""
    phone = make_phone(style="percentiles")
    (phone.root / "weather.json").write_text(json.dumps({"lost_every": 5, "lost_us": 1000.0}))
    with PhoneBench(phone.device(), 1) as bench:
        found = bench.measure([model], model)
        assert found.steadiness.disturbed and found.steadiness.interrupted == 1
        assert found.ratios[0] is not None and found.ratios[0].value == pytest.approx(1, abs=0.01)
        assert found.visits_us[0] == pytest.approx(quiet.reference[1], abs=1)
