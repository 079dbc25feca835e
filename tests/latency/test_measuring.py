"""`measure`: any model, alone, on a device that keeps still."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgenas.cli.main import cli
from edgenas.device import Runtime
from edgenas.errors import CheckFailedError, DeviceError, InputError
from edgenas.latency.profiling import measuring
from edgenas.latency.profiling.bench import Bench
from edgenas.latency.profiling.measuring import MOST_AWAY, MOST_MOVED, measure_file
from edgenas.latency.profiling.rounds import median_interval
from edgenas.latency.steadiness import Steadiness
from edgenas.latency.table import LatencyTable
from tests.latency.conftest import here
from tests.latency.made import PLAN, MadePool
from tests.opened import opened, with_signatures

Weather = Callable[..., None]
GOOD = {
    "times_us": [5.0, 6.0], "lost": [False, True], "reference_us": [9.0, 9.0], "first_us": 9.0, "load_us": 3.0,
    "away": 0.0, "late": 0.0, "peak_rss_growth_kb": 0, "inputs": [{"shape": [1, 32, 32, 3]}],
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


def answers(monkeypatch: pytest.MonkeyPatch, said: list[dict[str, Any]]) -> None:
    """What the agent says of a model, try by try."""
    left = iter(said)
    monkeypatch.setattr("edgenas.device.Agent.call", lambda self, op, **more: next(left) if op == "single" else None)
    monkeypatch.setattr("edgenas.device.Agent.health", lambda self: "It is hot.")
    monkeypatch.setattr("edgenas.device.Agent.runtime_version", lambda self, package: "2.3.0")


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
    ("befalls", "lost"),
    [
        ({"lost_every": 20, "lost_us": 100}, 0.05),
        ({"lost_every": 2, "lost_us": 3000}, 0.5),
        ({"wander": 0.8, "period_us": 1e5}, 0),
    ],
    ids=["others take its cores", "others have them nearly all the time", "its speed wanders"],
)
def test_a_disturbed_device_is_measured_after_three_tries_and_said_to_be(
    project: Path, model: Path, quiet: LatencyTable, weather: Weather, befalls: dict[str, float], lost: float
):
    waits: list[tuple[int, int]] = []
    weather(**befalls)
    found = measure_file(model, here(project), runs=1000, waiting=lambda attempt, of: waits.append((attempt, of)))
    assert waits == [(1, 3), (2, 3)]
    assert found["steadiness"] == "disturbed" and found["busy_with"].startswith("Now: ")
    assert found["interrupted"] == pytest.approx(lost, abs=0.002)
    times, us = found["latency_ms"], quiet.reference[1]
    low, high = (1000 * end for end in times["ci95"])
    if lost:  # what is left are whole inferences, and the reference kept still
        assert found["away"] > MOST_AWAY and found["reference_moved"] < 0.002
        for name in ("median", "p90", "p99"):
            assert 1000 * times[name] == pytest.approx(us, rel=0.005)
        assert high - low < 0.005 * us
    else:  # it is 1.4 times as slow in the middle, and twice it was as fast as it can be
        assert found["away"] == 0 and found["reference_moved"] > 2 * MOST_MOVED
        assert 1000 * times["median"] == pytest.approx(1.4 * us, rel=0.06)
        assert low <= us, "that is what it takes where nothing slows it down"
        assert low > 0.8 * us and high > 1.4 * us


@pytest.mark.parametrize(("lost", "measured"), [(89, True), (90, True), (91, False)])
def test_where_nine_inferences_in_ten_lost_their_core_nothing_is_told(
    project: Path, model: Path, monkeypatch: pytest.MonkeyPatch, lost: int, measured: bool
):
    answer = GOOD | {"times_us": [60.0] * lost + [5.0] * (100 - lost), "lost": [True] * lost + [False] * (100 - lost)}
    answers(monkeypatch, [answer | {"away": 0.42}] * 3)
    waits: list[int] = []
    if measured:
        found = measure_file(model, here(project), runs=100, waiting=lambda attempt, of: waits.append(attempt))
        assert found["latency_ms"].items() >= {"median": 0.005, "p99": 0.005, "ci95": [0.005, 0.005]}.items()
        assert (found["steadiness"], found["busy_with"]) == ("disturbed", "It is hot.")
        assert found["interrupted"] == lost / 100
    else:
        with pytest.raises(DeviceError) as caught:
            measure_file(model, here(project), runs=100, waiting=lambda attempt, of: waits.append(attempt))
        assert str(caught.value) == (
            "quiet is too unsteady to measure: in the last of 3 tries 91% of the inferences lost their core to another "
            "process, which had it for 42% of the time. It is hot. Stop what else runs there, or let it cool, and try "
            "again."
        )
    assert waits == [1, 2]


@pytest.mark.parametrize(
    ("references", "wider"),
    [
        ([9.0, 9.0], 0.0),
        ([10.0] * 7 + [12.0] * 2, 0.2),  # as far as it has moved
        ([10.0] + [14.0] * 9 + [15.0], 0.4),  # down to what it would take while the reference is at its fastest
    ],
)
def test_the_interval_of_a_disturbed_device_is_wider_by_what_the_reference_moved(references: list[float], wider: float):
    times = [1000.0, 1100.0, 1200.0]
    answer = {"times_us": [*times, 9000.0], "lost": [False] * 3 + [True], "reference_us": references}
    taken, (low, high) = measuring.times_of(answer | {"steadiness": Steadiness(True)})
    assert list(taken) == [1.0, 1.1, 1.2]
    assert (low, high) == pytest.approx((1.0 / (1 + wider), 1.2 * (1 + wider)))
    taken, interval = measuring.times_of(answer | {"steadiness": Steadiness(False)})
    assert (list(taken), interval) == ([1.0, 1.1, 1.2, 9.0], median_interval(taken)), "of a steady one all counts"


def test_on_the_command_line(project: Path, model: Path, monkeypatch: pytest.MonkeyPatch):
    here(project).save()
    words = ["measure", str(model), "quiet", "--runs", "10"]
    ten = {"times_us": [5.0] * 10, "lost": [False] * 10}
    answers(monkeypatch, [GOOD | ten, *[GOOD | ten | {"away": 0.5}] * 6])
    said = CliRunner().invoke(cli, words).stdout
    assert "busy" not in said
    assert said.startswith("measured    args_0 1x32x32x3, 1 thread, 10 inferences one after the other\n")
    assert "the first 0.009 (the device is busy)" in CliRunner().invoke(cli, words).stdout.replace("\n", " ")
    told = json.loads(CliRunner().invoke(cli, [*words, "--json"]).stdout)
    assert (told["steadiness"], told["busy_with"]) == ("disturbed", "It is hot.")


def test_what_is_measured_is_said_on_the_command_line(project: Path, monkeypatch: pytest.MonkeyPatch):
    here(project).save()
    (project / "m.tflite").write_bytes(with_signatures("small", "large", sizes=(1, -1, -1, 1)))
    words = ["measure", "m.tflite", "quiet", "--runs", "10", "--shape", "image=1x24x16x1", "--signature", "large"]
    one = GOOD | {"times_us": [5.0] * 10, "lost": [False] * 10, "inputs": [{"shape": [1, 24, 16, 1]}]}
    answers(monkeypatch, [one] * 2)
    said = CliRunner().invoke(cli, [*words, "--every-ms", "100"]).stdout
    assert said.startswith("measured    image 1x24x16x1, signature large, 1 thread, 10 inferences every 100 ms\n")
    assert json.loads(CliRunner().invoke(cli, [*words, "--json"]).stdout)["measured"] == {
        "signature": "large", "inputs": {"image": [1, 24, 16, 1]}, "threads": 1, "runs": 10, "every_ms": None,
    }  # fmt: skip


def test_a_profile_takes_no_more_threads_than_cores_either(project: Path):
    alone = dataclasses.replace(here(project), runtime=Runtime(cores=(0,)))
    for device, threads, words in (
        (here(project), 1500, "expected 1 to .* received 1500"),
        (alone, 2, "on 1 core: no"),
    ):
        with pytest.raises(InputError, match=words), Bench(device, threads):
            pass


@pytest.mark.parametrize(
    "befalls", [{"lost_every": 200, "lost_us": 300}, {"wander": 0.1, "period_us": 1e5}], ids=["lost", "wander"]
)
def test_what_hardly_disturbs_is_told_and_accepted(
    project: Path, model: Path, quiet: LatencyTable, weather: Weather, befalls: dict[str, float]
):
    weather(**befalls)
    found = measure_file(model, here(project), runs=1000)
    assert (found["steadiness"], found["busy_with"]) == ("steady", None)
    if "wander" in befalls:
        assert (found["away"], found["interrupted"]) == (0, 0)
        assert 0.02 < found["reference_moved"] <= MOST_MOVED
    else:
        assert 0.01 < found["away"] <= MOST_AWAY
        assert 0.004 < found["interrupted"] < 0.007
        assert found["latency_ms"]["median"] == pytest.approx(quiet.reference[1] / 1000, rel=0.005)


def test_a_device_that_calms_down_is_measured(project: Path, model: Path, monkeypatch: pytest.MonkeyPatch):
    answers(monkeypatch, [GOOD | {"away": 0.031}, GOOD | {"reference_us": [9.0, 11.0]}, GOOD | {"away": 0.03}])
    waits: list[int] = []
    found = measure_file(model, here(project), runs=2, waiting=lambda attempt, of: waits.append(attempt))
    assert (found["away"], waits) == (0.03, [1, 2])
    assert (found["steadiness"], found["busy_with"]) == ("steady", None)
    assert found["latency_ms"]["p99"] == pytest.approx(0.006, rel=0.01), "what lost its core counts: it was little"


def test_more_threads_than_cores_are_refused(project: Path, model: Path):
    alone = dataclasses.replace(here(project), runtime=Runtime(cores=(0,)))
    with pytest.raises(InputError, match="kept on 1 core: no room for 2 threads"):
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


def test_a_model_that_is_open_is_measured_at_the_sizes_that_are_said(project: Path):
    (project / "open.tflite").write_bytes(opened())
    times = []
    for height in (48, 24):
        found = measure_file(project / "open.tflite", here(project), runs=30, shapes={"args_0": (1, height, 40, 1)})
        assert found["measured"] == {
            "signature": None, "inputs": {"args_0": [1, height, 40, 1]}, "threads": 1, "runs": 30, "every_ms": None,
        }  # fmt: skip
        times.append(found["latency_ms"]["median"])
    assert times[0] == pytest.approx(2 * times[1], rel=0.005)


def test_what_is_asked_for_reaches_the_agent_and_is_held_to(project: Path, monkeypatch: pytest.MonkeyPatch):
    path = project / "m.tflite"
    path.write_bytes(with_signatures("small", "large"))
    asked: dict[str, object] = {}
    said: list[list[Any]] = [[1, 16, 16, 1]]

    def call(self: object, op: str, **params: object) -> object:
        asked.update(params if op == "single" else {})
        return GOOD | {"inputs": [{"shape": shape} for shape in said]}

    monkeypatch.setattr("edgenas.device.Agent.call", call)
    monkeypatch.setattr("edgenas.device.Agent.runtime_version", lambda self, package: "2.3.0")
    found = measure_file(path, here(project), runs=2, signature="large")
    assert asked["signature"] == "large" and "sizes" not in asked
    assert found["measured"]["signature"] == "large"
    path.write_bytes(opened())
    measure_file(path, here(project), runs=2, shapes={"args_0": (1, 16, 16, 1)})
    assert asked["sizes"] == [[0, [1, 16, 16, 1]]]
    wrong: list[list[Any]]
    for wrong in ([[1, 1, 1, 1]], [], [["x"]], [[1, 16, 16, 1], [1]]):
        said[:] = wrong
        with pytest.raises(DeviceError, match=r"asked to measure at 1x16x16x1, it says .*nothing was kept"):
            measure_file(path, here(project), runs=2, shapes={"args_0": (1, 16, 16, 1)})


def test_what_is_not_said_is_asked_for_before_a_device_is(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measuring, "connect", lambda device: pytest.fail("no device is asked"))
    for name, content in (("open", opened()), ("two", with_signatures("small", "large"))):
        (project / f"{name}.tflite").write_bytes(content)
    here(project).save()
    for words, error in (
        (["open.tflite"], "its input 'args_0' is open (?x?x?x1), and what it takes depends on its sizes. Say which: "
         "--shape args_0=1x224x224x1"),
        (["two.tflite"], "has 2 signatures: small, large. Say which: --signature NAME"),
        (["open.tflite", "--shape", "args_0=1x8x8x1", "--kernels"], "leave out --shape and --signature, or --kernels"),
        (["open.tflite", "--shape", "1x8x8x1"], "expected NAME=SIZExSIZE... such as image=1x224x224x3"),
        (["open.tflite", "--shape", "args_0=1x-8x8x1"], "expected NAME=SIZExSIZE"),
    ):  # fmt: skip
        done = CliRunner().invoke(cli, ["measure", *words, "quiet"])
        assert getattr(done.exception, "exit_code", done.exit_code) == 2
        assert error in f"{done.output} {done.exception}"


def test_there_is_no_such_file(project: Path):
    with pytest.raises(InputError, match=r"There is no model nothing\.tflite"):
        measure_file(Path("nothing.tflite"), here(project))


@pytest.mark.parametrize("content", [b"", b"no model" * 100, b"\x1c\x00\x00\x00TFL3" + b"\xff" * 500])
def test_what_is_no_model_is_one_clear_line(project: Path, content: bytes):
    (project / "bad.tflite").write_bytes(content)
    with pytest.raises(CheckFailedError) as caught:
        measure_file(project / "bad.tflite", here(project))
    assert "\n" not in str(caught.value)
