"""`measure`: any model, alone, on a device that keeps still."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from edgenas.device import Runtime
from edgenas.errors import CheckFailedError, DeviceError, InputError
from edgenas.latency.profiling import measuring
from edgenas.latency.profiling.measuring import MOST_AWAY, MOST_MOVED, measure_file
from edgenas.latency.table import LatencyTable
from tests.latency.conftest import here
from tests.latency.made import PLAN, MadePool

Weather = Callable[..., None]
GOOD = {
    "times_us": [5.0, 6.0], "lost": [False, True], "reference_us": [9.0, 9.0], "first_us": 9.0, "load_us": 3.0,
    "away": 0.0, "late": 0.0, "peak_rss_growth_kb": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"times_us": [5.0, -6.0]}, {"lost": [False, -7e15]}, {"lost": [None, False]}, {"away": 2.0},
        {"peak_rss_growth_kb": -1}, {"peak_rss_growth_kb": None}, {"peak_rss_growth_kb": 1e30}, {"load_us": "x"},
        {"times_us": [5.0]}, {"reference_us": [9.0]}, {"late": 1.5}, {"first_us": float("nan")},
    ],
)  # fmt: skip
def test_what_no_device_measures_is_refused(wrong: dict[str, object]) -> None:
    measuring._check(GOOD, 2)
    with pytest.raises(DeviceError, match="times or sizes that cannot be"):
        measuring._check(GOOD | wrong, 2)


@pytest.mark.parametrize(
    ("references", "moved"),
    [([9.0] * 9, 0.0), ([10.0] * 6 + [12.0] * 3, 0.2), ([10.0, 11.0] * 6, 1 / 10.5), ([10.0, 10.0, 9.0], 0.1)],
)
def test_how_far_the_reference_has_moved(references: list[float], moved: float) -> None:
    """Its last third against the first, or how far its times spread: the larger."""
    assert measuring._moved({"reference_us": references}) == pytest.approx(moved)


@pytest.fixture
def model(project: Path) -> Path:
    return MadePool(Path(".edgenas/models"), "int8").path(PLAN.reference)


def test_what_is_measured(project: Path, model: Path, quiet: LatencyTable):
    found = measure_file(model, here(project), runs=200)
    times, us = found["latency_ms"], quiet.reference[1]
    for name in ("median", "p90", "p99"):
        assert 1000 * times[name] == pytest.approx(us, rel=0.005)
    assert times["ci95"][0] <= times["median"] <= times["ci95"][1]
    assert times["first"] > 0
    assert found["load_ms"] == pytest.approx(5.0, abs=0.01)
    assert found["peak_rss_growth_kb"] > 0
    assert (found["away"], found["interrupted"], found["late"]) == (0, 0, 0)
    assert found["reference_moved"] < 0.005
    assert not list((project / "work" / "measure").glob("*"))


def test_a_duty_cycle_keeps_its_pace(project: Path, model: Path, quiet: LatencyTable):
    found = measure_file(model, here(project), runs=50, every_ms=20)
    assert found["latency_ms"]["median"] == pytest.approx(quiet.reference[1] / 1000, rel=0.005)
    assert found["late"] == 0


def test_a_model_that_cannot_keep_the_pace_is_said_to(project: Path, model: Path):
    found = measure_file(model, here(project), runs=60, every_ms=0.001)
    # Only the first after each visit of the reference, that is one in 20, finds its time has not come.
    assert found["late"] == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("befalls", "why"),
    [
        ({"lost_every": 20, "lost_us": 100}, r"other processes had its cores for [56]% of the time \(at most 3%"),
        (
            {"wander": 0.8, "period_us": 1e5},
            r"for 0% of the time .* reference model moved by [2-9]\d% \(at most 12%",
        ),
    ],
    ids=["others take its cores", "its speed wanders"],
)
def test_a_disturbed_device_is_refused_with_the_reason(
    project: Path, model: Path, weather: Weather, befalls: dict[str, float], why: str
):
    waits: list[tuple[int, int]] = []
    weather(**befalls)
    with pytest.raises(DeviceError, match=rf"too unsteady to measure.*{why}") as caught:
        measure_file(model, here(project), runs=1000, waiting=lambda attempt, of: waits.append((attempt, of)))
    assert "its processor is" in str(caught.value)
    assert waits == [(attempt, measuring.TRIES) for attempt in range(1, measuring.TRIES)]


@pytest.mark.parametrize(
    "befalls", [{"lost_every": 200, "lost_us": 300}, {"wander": 0.1, "period_us": 1e5}], ids=["lost", "wander"]
)
def test_what_hardly_disturbs_is_told_and_accepted(
    project: Path, model: Path, quiet: LatencyTable, weather: Weather, befalls: dict[str, float]
):
    weather(**befalls)
    found = measure_file(model, here(project), runs=1000)
    if "wander" in befalls:
        assert (found["away"], found["interrupted"]) == (0, 0)
        assert 0.02 < found["reference_moved"] <= MOST_MOVED
    else:
        assert 0.01 < found["away"] <= MOST_AWAY
        assert 0.004 < found["interrupted"] < 0.007
        assert found["latency_ms"]["median"] == pytest.approx(quiet.reference[1] / 1000, rel=0.005)


def test_a_device_that_calms_down_is_measured(project: Path, model: Path, monkeypatch: pytest.MonkeyPatch):
    answers = iter([GOOD | {"away": 0.031}, GOOD | {"reference_us": [9.0, 11.0]}, GOOD | {"away": 0.03}])
    monkeypatch.setattr("edgenas.device.Agent.call", lambda self, op, **more: next(answers) if op == "single" else None)
    monkeypatch.setattr("edgenas.device.Agent.runtime_version", lambda self, package: "2.3.0")
    waits: list[int] = []
    found = measure_file(model, here(project), runs=2, waiting=lambda attempt, of: waits.append(attempt))
    assert (found["away"], waits) == (0.03, [1, 2])


def test_more_threads_than_cores_are_refused(project: Path, model: Path):
    alone = dataclasses.replace(here(project), runtime=Runtime(cores=(0,)))
    with pytest.raises(InputError, match="kept on 1 cores: no room for 2 threads"):
        measure_file(model, alone, threads=2)


def test_threads_cores_and_pace_reach_the_agent(project: Path, model: Path, monkeypatch: pytest.MonkeyPatch):
    asked: dict[str, object] = {}

    def call(self: object, op: str, **params: object) -> object:
        asked.update(params if op == "single" else {})
        return GOOD

    monkeypatch.setattr("edgenas.device.Agent.call", call)
    monkeypatch.setattr("edgenas.device.Agent.runtime_version", lambda self, package: "2.3.0")
    device = dataclasses.replace(here(project), runtime=Runtime(cores=(0, 1)))
    measure_file(model, device, runs=2, threads=2, every_ms=20)
    told = {"runs": 2, "threads": 2, "cores": (0, 1), "every_us": 20_000, "runtime": "ai-edge-litert"}
    assert asked.items() >= told.items()


def test_there_is_no_such_file(project: Path):
    with pytest.raises(InputError, match=r"There is no model nothing\.tflite"):
        measure_file(Path("nothing.tflite"), here(project))


@pytest.mark.parametrize("content", [b"", b"no model" * 100, b"\x1c\x00\x00\x00TFL3" + b"\xff" * 500])
def test_what_is_no_model_is_one_clear_line(project: Path, content: bytes):
    (project / "bad.tflite").write_bytes(content)
    with pytest.raises(CheckFailedError) as caught:
        measure_file(project / "bad.tflite", here(project))
    assert "\n" not in str(caught.value)
