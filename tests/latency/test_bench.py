"""A device that is ours for measuring: what lies on it, whose it is, and what ends it. Its agent is real."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgenas.errors import DeviceError
from edgenas.latency.profiling import bench as benches
from edgenas.latency.profiling import profiler
from edgenas.latency.profiling.bench import Bench
from edgenas.latency.profiling.rounds import Rounds
from edgenas.latency.steadiness import Steadiness
from tests.latency.conftest import here
from tests.latency.made import PLAN, MadePool

Weather = Callable[..., None]


@pytest.fixture
def bench(project: Path) -> Iterator[Bench]:
    with Bench(here(project), 1) as bench:
        yield bench


@pytest.fixture
def models(project: Path) -> list[Path]:
    """Four networks, the last one the reference."""
    pool = MadePool(Path(".edgenas/models"), "int8")
    return [pool.path(network) for network in (*PLAN.calibration[:3], PLAN.reference)]


def there(project: Path) -> set[str]:
    """The models that lie on the device."""
    return {path.name for path in (project / "work" / "bench").glob("*.tflite")}


@pytest.mark.parametrize("roomy", [True, False])
def test_a_device_with_little_space_keeps_the_reference_alone(
    project: Path, models: list[Path], monkeypatch: pytest.MonkeyPatch, roomy: bool
):
    monkeypatch.setattr(benches, "ROOMY_KB", 0 if roomy else 1 << 50)
    with Bench(here(project), 1) as bench:
        first = bench.measure(models[:2], models[-1])
        assert there(project) == ({path.name for path in (*models[:2], models[-1])} if roomy else {models[-1].name})
        again = bench.measure([*models[1:3], models[-1]], models[-1])
        assert len(there(project)) == (4 if roomy else 1), "what is measured again is sent again, the reference stays"
        assert first.ratios[1] is not None and again.ratios[0] is not None
        assert again.ratios[0].value == pytest.approx(first.ratios[1].value, rel=0.005)
        assert bench.reference_us == first.reference_us
    assert not (project / "work" / "bench").exists()


def test_what_is_there_is_not_sent_again(bench: Bench, models: list[Path], monkeypatch: pytest.MonkeyPatch):
    put, sent = bench._connection.put, []
    monkeypatch.setattr(bench._connection, "put", lambda local, remote: (sent.append(remote), put(local, remote)))
    bench.measure(models[:2], models[-1])
    bench.measure(models[:2], models[-1])
    assert len(sent) == 1
    with pytest.raises(DeviceError, match="quiet: nothing was measured yet"):
        _ = Bench(bench.device, 1).reference_us


def test_a_device_that_was_busy_is_asked_once_whether_it_is_at_rest(
    bench: Bench, models: list[Path], monkeypatch: pytest.MonkeyPatch
):
    found, asked = iter([True, True, False, False]), []

    def measure_rounds(*_: Any, tries: int, **__: Any) -> Rounds:
        asked.append(tries)
        return Rounds((), {}, 10.0, 0, 0, 0, 0.0, (), steadiness=Steadiness(next(found)))

    monkeypatch.setattr(benches, "measure_rounds", measure_rounds)
    for _ in range(4):
        bench.measure(models[:1], models[-1])
    assert asked == [3, 1, 1, 3]


def test_what_cannot_be_run_costs_itself_alone(project: Path, models: list[Path], weather: Weather):
    weather(kills={str(models[1].stat().st_size): int(signal.SIGSEGV)})
    bad = project / "bad.tflite"
    bad.write_bytes(b"no model")
    assert models[1].stat().st_size not in {path.stat().st_size for path in (models[0], models[2], models[3])}
    with Bench(here(project), 1) as bench:
        rounds = bench.measure([models[0], models[1], bad, models[2]], models[-1])
    assert [ratio is not None for ratio in rounds.ratios] == [True, False, False, True]
    assert set(rounds.failed) == {1, 2}
    assert "SIGSEGV" in rounds.failed[1] or "signal 11" in rounds.failed[1]
    assert "invalid model" in rounds.failed[2]


def test_an_agent_that_was_killed_is_one_clear_error(bench: Bench, models: list[Path]):
    kin = psutil.Process().children(recursive=True)
    (agent,) = [child for child in kin if any("agent-" in word for word in child.cmdline())]
    agent.kill()
    with pytest.raises(DeviceError, match="the agent ended while asked to") as caught:
        bench.measure(models[:1], models[-1])
    assert "\n" not in str(caught.value)


def test_one_device_has_one_profiler(bench: Bench, project: Path):
    with pytest.raises(DeviceError, match=rf"is being measured by .*@{os.uname().nodename}"):
        profiler.profile(here(project), profiler.MobileSpace("tiny", (28, 28, 1), 10), "int8", threads=2, plan=PLAN)
