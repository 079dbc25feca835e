"""`measure` on real cores: its pace, its threads, and what disturbs it."""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.real.test_profiles import PLAN, Figures, converted, here, project  # noqa: F401 - fixtures
from edgenas.device import Runtime
from edgenas.latency.profiling import measuring
from edgenas.latency.profiling.measuring import measure_file
from edgenas.model import MODELS, ConversionPool


@pytest.fixture
def model(project: Path) -> Path:  # noqa: F811
    with ConversionPool(MODELS, "int8") as pool:
        return pool.path(PLAN.reference)


def test_what_is_measured(project: Path, model: Path, figures: Figures):  # noqa: F811
    found = measure_file(model, here(project), runs=1000)
    times = found["latency_ms"]
    for name in ("first", "median", "p90", "p99", "ci95"):
        figures(f"{name}, ms", times[name])
    for name in ("load_ms", "peak_rss_growth_kb", "away", "reference_moved"):
        figures(name, found[name])
    assert 0 < times["median"] <= times["p90"] <= times["p99"]
    assert times["ci95"][0] <= times["median"] <= times["ci95"][1]
    assert found["load_ms"] > 0 and found["peak_rss_growth_kb"] > 0


def test_a_duty_cycle_keeps_its_pace(project: Path, model: Path, figures: Figures):  # noqa: F811
    start = time.monotonic()
    found = measure_file(model, here(project), runs=100, every_ms=20)
    took_s = time.monotonic() - start
    figures("seconds for 100 inferences, one every 20 ms", round(took_s, 2))
    figures("late", found["late"])
    figures("median, ms", found["latency_ms"]["median"])
    assert took_s > 100 * 0.02
    assert found["latency_ms"]["median"] < 20
    assert found["late"] <= 0.1


@pytest.mark.parametrize("threads", [1, 2])
def test_beside_spinners_the_interval_holds_what_it_takes_in_peace(
    project: Path,  # noqa: F811
    model: Path,
    figures: Figures,
    threads: int,
):
    """On the same cores: elsewhere the system might keep one free for it."""
    cores = tuple(range(threads))
    device = dataclasses.replace(here(project), runtime=Runtime(cores=cores))
    quiet = measure_file(model, device, runs=2_000, threads=threads)
    spin = ["taskset", "-c", ",".join(map(str, cores)), sys.executable, "-c", "while True: pass"]
    spinners = [subprocess.Popen(spin) for _ in range(4 * threads)]
    try:
        busy = measure_file(model, device, runs=10_000, threads=threads)
    finally:
        for process in spinners:
            process.kill()
            process.wait()
    for name, found in (("in peace", quiet), ("beside spinners", busy)):
        figures(f"{name}: median, ms", found["latency_ms"]["median"])
        figures(f"{name}: interval, ms", found["latency_ms"]["ci95"])
        figures(f"{name}: it was", found["steadiness"])
    low, high = busy["latency_ms"]["ci95"]
    assert 0.9 * low <= quiet["latency_ms"]["median"] <= 1.1 * high


def test_two_threads_on_two_cores_are_no_disturbance(project: Path, model: Path, figures: Figures):  # noqa: F811
    device = dataclasses.replace(here(project), runtime=Runtime(cores=(0, 1)))
    one, two = (measure_file(model, device, runs=500, threads=threads) for threads in (1, 2))
    figures("median with one thread, ms", one["latency_ms"]["median"])
    figures("with two", two["latency_ms"]["median"])
    figures("away with two", two["away"])
    assert two["away"] <= measuring.MOST_AWAY
