"""The machine that every measurement runs on: the real one, which other tests replace."""

import time
from resource import RUSAGE_SELF, getrusage

import numpy as np
import pytest

from edgenas.device.agent import machine


def test_its_clocks_are_the_system_s_in_microseconds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(time, "perf_counter_ns", lambda: 5_000_700)
    monkeypatch.setattr(time, "thread_time_ns", lambda: 9_500)
    monkeypatch.setattr(time, "monotonic", lambda: 7.5)
    assert (machine.now_us(), machine.on_core_us(), machine.monotonic_s()) == (5000.7, 9.5, 7.5)


def test_lost_cores_are_counted_by_the_system():
    before = getrusage(RUSAGE_SELF).ru_nivcsw
    assert before <= machine.lost_core() <= getrusage(RUSAGE_SELF).ru_nivcsw


def test_memory_is_this_process_s():
    before_kb, rss_kb = machine.anonymous_kb(), machine.rss_kb("VmRSS")
    taken = np.ones(32 << 20, np.uint8)
    after_kb = machine.anonymous_kb()
    assert before_kb is not None and after_kb is not None
    assert after_kb - before_kb == pytest.approx(taken.nbytes / 1024, rel=0.1)
    assert machine.rss_kb("VmHWM") >= machine.rss_kb("VmRSS") > rss_kb


def test_where_the_system_does_not_tell_the_peak_is_known(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "_status_kb", lambda key: None)
    assert machine.anonymous_kb() is None
    assert machine.rss_kb("VmRSS") == getrusage(RUSAGE_SELF).ru_maxrss


def test_filling_the_caches_reads_four_megabytes(monkeypatch: pytest.MonkeyPatch):
    read: list[int] = []

    class Filling(np.ndarray):
        def sum(self) -> None:  # type: ignore[override]
            read.append(self.nbytes)

    monkeypatch.setattr(np, "ones", lambda size: np.zeros(size).view(Filling))
    monkeypatch.setattr(machine, "_filling", [])
    machine.fill_caches()
    machine.fill_caches()
    assert read == [4 << 20] * 2
