"""`measure`: any model, alone, on a device that keeps still."""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgenas.device import Device, Runtime
from edgenas.errors import CheckFailedError, DeviceError, InputError
from edgenas.latency.profiling import measuring
from edgenas.latency.profiling.measuring import measure_file
from edgenas.latency.profiling.planning import Plan
from edgenas.model import MODELS, ConversionPool

pytestmark = pytest.mark.slow


@pytest.fixture
def model(project: Path, small_plan: Plan) -> Path:
    with ConversionPool(MODELS, "int8") as pool:
        return pool.path(small_plan.reference)


GOOD = {
    "times_us": [5.0, 6.0], "lost": [False, True], "reference_us": [9.0, 9.0], "first_us": 9.0, "load_us": 3.0,
    "away": 0.0, "late": 0.0, "peak_rss_growth_kb": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"times_us": [5.0, -6.0]}, {"lost": [False, -7e15]}, {"lost": [None, False]}, {"away": 2.0},
        {"peak_rss_growth_kb": -1}, {"peak_rss_growth_kb": None}, {"peak_rss_growth_kb": 1e30}, {"load_us": "x"},
    ],
)  # fmt: skip
def test_what_no_device_measures_is_refused(wrong: dict[str, object]) -> None:
    measuring._check(GOOD, 2)
    with pytest.raises(DeviceError, match="times or sizes that cannot be"):
        measuring._check(GOOD | wrong, 2)


def here(project: Path) -> Device:
    return Device("here", "local:", folder=str(project / "work"))


def test_what_is_measured(project: Path, model: Path):
    found = measure_file(model, here(project), runs=200)
    times = found["latency_ms"]
    assert 0 < times["median"] <= times["p90"] <= times["p99"]
    assert times["ci95"][0] <= times["median"] <= times["ci95"][1]
    assert times["first"] > 0
    assert found["load_ms"] > 0
    assert found["peak_rss_growth_kb"] > 0
    assert found["away"] <= measuring.MOST_AWAY
    assert found["reference_moved"] <= measuring.MOST_MOVED
    assert not list((project / "work" / "measure").glob("*"))


def test_a_duty_cycle_keeps_its_pace(project: Path, model: Path):
    start = time.monotonic()
    found = measure_file(model, here(project), runs=50, every_ms=20)
    assert time.monotonic() - start > 50 * 0.02
    assert found["latency_ms"]["median"] < 20
    assert found["late"] <= 0.1


def test_a_model_that_cannot_keep_the_pace_is_said_to(project: Path, model: Path):
    found = measure_file(model, here(project), runs=50, every_ms=0.001)
    assert found["late"] > 0.5


@pytest.mark.parametrize("threads", [1, 2])
def test_a_disturbed_device_is_refused_with_the_reason(
    project: Path, model: Path, monkeypatch: pytest.MonkeyPatch, threads: int
):
    monkeypatch.setattr(measuring, "LONGEST_WAIT_S", 0.1)
    monkeypatch.setattr(measuring, "TRIES", 2)
    # On the same cores: elsewhere the system might keep one free for it.
    cores = tuple(range(threads))
    spin = ["taskset", "-c", ",".join(map(str, cores)), sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(spin) for _ in range(4 * threads)]
    device = dataclasses.replace(here(project), runtime=Runtime(cores=cores))
    try:
        with pytest.raises(DeviceError, match=r"too unsteady to measure.*other processes had its cores for") as caught:
            measure_file(model, device, runs=2_000, threads=threads)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert "its processor is" in str(caught.value)


def test_two_threads_on_two_cores_are_no_disturbance(project: Path, model: Path):
    device = dataclasses.replace(here(project), runtime=Runtime(cores=(0, 1)))
    assert measure_file(model, device, runs=200, threads=2)["away"] <= measuring.MOST_AWAY
    alone = dataclasses.replace(device, runtime=Runtime(cores=(0,)))
    with pytest.raises(InputError, match="kept on 1 cores: no room for 2 threads"):
        measure_file(model, alone, threads=2)


@pytest.mark.parametrize("content", [b"", b"no model" * 100, b"\x1c\x00\x00\x00TFL3" + b"\xff" * 500])
def test_what_is_no_model_is_one_clear_line(project: Path, content: bytes):
    (project / "bad.tflite").write_bytes(content)
    with pytest.raises(CheckFailedError) as caught:
        measure_file(project / "bad.tflite", here(project))
    assert "\n" not in str(caught.value)
